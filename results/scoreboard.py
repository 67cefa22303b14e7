"""Every published number on one scale: how far our mean lies from it, in margins, with the interval of the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from common.words import VERBS, agreeing
from results import tables
from results.pairs import MINUS
from results.rows import VERDICTS, Row, verdicts
from results.task import Task

LIMIT = 6  # margins; what lies further away is drawn beside the edge, with its number
EDGE = 7  # margins at the ends of the scale
TICKS = (-6, -3, -1, 0, 1, 3, 6)


@dataclass(frozen=True)
class Mark:
    """A published number beside what was measured; places are percent of the scale's width."""

    row: Row
    measured: str
    place: float | None = None
    """Of the mean; None if there is none, or no margin to measure by."""
    beyond: str = ""
    """The number of a mean that lies outside the scale."""
    line: tuple[float, float] | None = None
    """Ends of the interval, as far as it lies on the scale; None of a single run."""
    open: Sequence[str] = ()
    """Sides at which mean or interval go beyond the scale: left, right."""
    told: str = ""
    """Difference and interval in words or, without a place, why it has none."""


@dataclass(frozen=True)
class Setting:
    """The numbers of one setting."""

    name: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Board:
    """The published numbers of one task."""

    task: str
    told: str
    """How many have which verdict."""
    settings: Sequence[Setting]
    """Those that were run."""
    missing: Sequence[Setting]
    """Those that were not."""


def boards(tasks: Iterable[Task]) -> list[Board]:
    """Every published number, by task and setting."""
    return [board(task) for task in tasks if any(row.published for row in task.rows)]


def board(task: Task) -> Board:
    """The published numbers of one task."""
    published = [row for row in task.rows if row.published]
    run = [row for row in published if row.n is not None]
    missing = [row for row in published if row.n is None and not row.arm]
    return Board(task.name, sentence(verdicts(published), VERDICTS), settings(task, run), settings(task, missing))


def settings(task: Task, rows: Sequence[Row]) -> list[Setting]:
    """Rows on end that are of one setting, together."""
    by_setting = groupby(rows, key=lambda row: tables.about(row, (), task.report.words))
    return [Setting(name, [mark(row) for row in own]) for name, own in by_setting]


def mark(row: Row) -> Mark:
    """A row as a mark on the scale."""
    measured = tables.with_spread(row)
    if row.gap is None:
        return Mark(row, measured, told="every run diverged" if row.n == 0 else row.note)
    if not row.margin:
        return Mark(row, measured, told="no margin was written down")
    mean = row.gap.mean / row.margin
    reach = (row.gap.reach or 0.0) / row.margin
    low, high = mean - reach, mean + reach
    place, beyond = at(mean)
    if row.gap.reach is None:
        line, told = None, "one run, no interval"
    else:
        line = (percent(low), percent(high))
        told = f"{100 * row.gap.level:.3g} % interval {signed(low)} to {signed(high)}"
    sides = [side for side, is_open in (("left", low < -EDGE), ("right", high > EDGE)) if is_open]
    return Mark(row, measured, place, beyond, line, sides, f"{signed(mean)} margins, {told}")


def at(margins: float) -> tuple[float, str]:
    """Where a mean stands and, if that is outside the scale, its number."""
    if abs(margins) <= LIMIT:
        return percent(margins), ""
    return percent((LIMIT + EDGE) / 2 * (1 if margins > 0 else -1)), signed(margins)


def percent(margins: float) -> float:
    """A number of margins as a place on the scale, or the end of it."""
    return round(50 * (1 + max(-1.0, min(1.0, margins / EDGE))), 2)


def signed(margins: float) -> str:
    """A number of margins as a reader sees it."""
    return f"{margins:+z.1f}".replace("-", MINUS)


def ticks() -> list[tuple[float, str]]:
    """Places and texts of the scale's numbers."""
    return [(percent(tick), f"{tick:+d}".replace("-", MINUS) if tick else "0") for tick in TICKS]


def band() -> tuple[float, float]:
    """Where one margin to either side begins, and its width."""
    return percent(-1), round(percent(1) - percent(-1), 2)


def sentence(counts: Mapping[str, int], words: Iterable[str]) -> str:
    """Counts as a part of a sentence: 2 are reproduced, 1 is lower and 3 are not measured."""
    each = [said(counts[word], word) for word in words if counts[word]]
    return " and ".join(filter(None, [", ".join(each[:-1]), *each[-1:]]))


def said(number: int, word: str) -> str:
    """How many of what are what a word says."""
    if word in VERBS:
        return f"{number} {agreeing(number, word)}"
    return f"{number} {'is' if number == 1 else 'are'} {word}"
