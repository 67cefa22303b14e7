"""Seeds are added to a sweep until its published numbers are decided: what to train at each look, and how they stand.

The verdicts are those of the tables. The runs of such a submission are marked with the number of looks, so that
every table divides the error by it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from common.published import References, read_references
from common.report import Report
from common.selection import Group, Runs
from common.words import Word
from results import collect, records, rows
from results.rows import Row
from results.tables import about, with_spread
from slurm.sweeps import LOOKS


@dataclass(frozen=True)
class Look:
    """How the settings of a sweep stand."""

    rows: tuple[Row, ...]
    """The published numbers; of a setting without any, a row with its label alone."""
    unsettled: frozenset[str]
    """Settings that more seeds may decide, by the names of their runs without the seed."""


def until_decided(
    most: int,
    settings: Collection[str],
    train: Callable[[int, Collection[str]], int],
    judge: Callable[[], Look],
) -> int:
    """Train and judge, look by look, until nothing is left that more seeds may decide; returns an exit code.

    `train` makes the runs of this many seeds of these settings, and returns an exit code; any but 0 ends it.
    """
    for seeds in LOOKS[: LOOKS.index(most) + 1]:
        if code := train(seeds, settings):
            return code
        settings = judge().unsettled
        if not settings:
            break
    return 0


@dataclass(frozen=True)
class Published:
    """What the rows of a task are made of."""

    task: str
    root: Path
    """The repository."""
    references: References
    report: Report

    @classmethod
    def of(cls, task: str, root: Path) -> "Published":
        """Read a task's published numbers and its report. Raises ConfigError for files that cannot be used."""
        folder = root / "tasks" / task
        return cls(task, root, read_references(folder / "reference.csv"), collect.load_report(folder / "report.py"))

    def kept(self) -> set[str]:
        """Names of the runs of which there is a record: those need not be made."""
        paths = sorted((self.root / "results" / "records" / self.task).glob("*.json"))
        return set(records.usable(records.read_record, paths, "", []))

    def look(self, folder: Path, settings: Collection[str], complaints: list[str]) -> Look:
        """Judge the finished runs in a folder of runs, and the records. Adds complaints, a line each."""
        runs = collect.load(self.task, folder, self.root, False, complaints).runs
        return standing(runs, settings, self.references, self.report)


def standing(runs: Runs, settings: Collection[str], references: References, report: Report) -> Look:
    """How the published numbers of these settings stand, each look at a share of the error."""
    ours = [marked(group) for group in runs.groups if not names(group).isdisjoint(settings)]
    places = {(group.preset, group.setting): names(group) for group in ours}
    known = {key: reference for key, reference in references.items() if key[:2] in places}
    table = [row for row in rows.tabulate(Runs(tuple(ours)), known, report) if row.published]
    published = {(row.preset, row.setting) for row in table}
    without = [Row(*place, metric="") for place in places if place not in published]
    unsettled = (places[row.preset, row.setting] for row in table if is_unsettled(row))
    return Look((*table, *without), frozenset().union(*unsettled))


def marked(group: Group) -> Group:
    """A group as the tables judge it once one of its runs is of such a submission."""
    return replace(group, records=tuple({**record, "looks": len(LOOKS)} for record in group.records))


def names(group: Group) -> set[str]:
    """Names of a group's runs without the seed."""
    return {records.run_of_seeds(record) for record in group.records}


def is_unsettled(row: Row) -> bool:
    """Whether more seeds may decide a row."""
    return row.verdict == "undecided" and not row.beyond_seeds


def table(look: Look, words: Mapping[str, Word]) -> Table:
    """A look for the terminal; `words` are those of the task."""
    view = Table("setting", "metric", "measured", "published", "verdict", box=None, pad_edge=False, header_style="dim")
    for row in look.rows:
        reason = f": {row.beyond_seeds}" if row.beyond_seeds else ""
        verdict = f"{row.verdict}{reason}" if row.published else "none published"
        view.add_row(about(row, (), words), row.metric, with_spread(row), row.published, verdict)
    return view
