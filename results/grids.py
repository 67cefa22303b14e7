"""A task's tables as its report lays them out, filled with what was measured and published."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from common.comparison import Side
from common.measured import TEST_ACCURACY, Metric, measured
from common.published import References, reference
from common.report import Part, Report, Table
from common.selection import Fields, Group, Runs
from common.words import in_words
from results.rows import is_of_test_images, verdict_on

NOTHING = "–"
OLDER = "†"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Cell:
    """A cell as a reader sees it, and what its table's caption needs of it."""

    text: str = NOTHING
    verdict: str = ""
    n: int = 0
    """Seeds, if it was measured."""
    older: bool = False
    """Measured under an older protocol alone."""
    images: int = 0
    """Test images, if it is a metric of theirs."""
    error: float = 0.0
    """Standard error of a test accuracy in points, by the number of images alone."""
    merit: float = -math.inf
    """The mean, or its negative if low values are better."""
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table for a reader."""

    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    seeds: int
    """Of most cells; the others say their own."""

    def text(self, cell: Cell) -> str:
        """What stands in a cell but for the verdict."""
        if not cell.n:
            return cell.text
        count = f" (n = {cell.n})" if cell.n != self.seeds else ""
        return f"{cell.text}{count}{OLDER if cell.older else ''}"


@dataclass(frozen=True)
class Source:
    """Where the cells of a task's tables come from."""

    report: Report
    runs: Runs
    references: References
    complaints: list[str]


def grids(source: Source) -> list[Grid]:
    """Every table of a report of which anything was measured or published."""
    made = (fill(table, source) for table in source.report.tables)
    return [grid for grid in made if any(cell.text != NOTHING for _, cells in grid.rows for cell in cells)]


def fill(table: Table, source: Source) -> Grid:
    """One table."""
    rows = [
        (name, [cell(table, row, column, source) for column in table.columns.values()])
        for name, row in table.rows.items()
    ]
    if table.best:
        rows = in_bold(rows, list(table.columns).index(table.best))
    if all(part.shows != "published" for part in (*table.rows.values(), *table.columns.values())):
        rows = [(name, [replace(one, verdict="") for one in own]) for name, own in rows]
    cells = [one for _, own in rows for one in own]
    counts = Counter(one.n for one in cells if one.n)
    seeds = max(counts, key=lambda n: (counts[n], n), default=0)
    return Grid(caption(table, cells, seeds), table.corner, list(table.columns), rows, seeds)


def cell(table: Table, row: Part, column: Part, source: Source) -> Cell:
    """What a row and a column ask for together."""
    fields = {**table.of, **row.fields, **column.fields}
    metric = row.metric if column.shows == "measured" and row.metric else column.metric or row.metric
    shows = column.shows if column.shows != "measured" else row.shows
    if column.over:
        before = {**table.of, **row.fields, **column.over}
        if shows == "published":
            return published_change(fields, before, metric, row.change, source)
        return measured_change(fields, before, metric, row.change, source, f"{table.caption}: {metric}")
    if shows == "setting":
        return Cell(in_words(metric, setting(fields, metric, source.runs), {metric: "{}"}))
    if shows == "published":
        found = reference(source.references, fields, metric)
        return Cell(found["published"]) if found else Cell()
    group = chosen(fields, source, f"{table.caption}: {metric}")
    return measured_cell(group, metric, source) if group else Cell()


def changed(after: float, before: float, kind: str) -> float:
    """How far a number is above another, in its unit or in percent of that."""
    return 100 * (after - before) / before if kind == "%" else after - before


def published_change(fields: Fields, before: Fields, metric: str, kind: str, source: Source) -> Cell:
    """How far a published number is above another."""
    ends = [reference(source.references, own, metric) for own in (fields, before)]
    if None in ends:
        return Cell()
    after, other = (Decimal(end["published"]) for end in ends if end)
    digits = 1 if kind == "%" else -int((after - other).as_tuple().exponent)
    return Cell(signed(f"{changed(float(after), float(other), kind):+.{digits}f}", kind))


def measured_change(fields: Fields, before: Fields, metric: str, kind: str, source: Source, place: str) -> Cell:
    """How far a metric is above that of other runs, seed by seed."""
    groups = [group for own in (fields, before) if (group := chosen(own, source, place))]
    if len({group.protocol for group in groups}) > 1:
        return Cell()  # one arm has been run again, the other not yet
    found = [Side(group.completed, metric) for group in groups]
    seeds = sorted(set.intersection(*(set(side.values) for side in found))) if len(found) == 2 else []
    if not seeds or (kind == "%" and any(found[1].values[seed] == 0 for seed in seeds)):
        return Cell()
    each = [changed(found[0].values[seed], found[1].values[seed], kind) for seed in seeds]
    digits = 1 if kind == "%" or metric.endswith("(%)") else significant(max(map(abs, each)))
    deviation = f" ± {statistics.stdev(each):.{digits}f}" if len(each) > 1 else ""
    older = not all(group.is_current for group in groups)
    return Cell(signed(f"{statistics.fmean(each):+.{digits}f}{deviation}", kind), n=len(each), older=older)


def signed(number: str, kind: str) -> str:
    """A change with a proper minus sign; the percent sign of a spread stands behind brackets."""
    text = number.replace("-", "\N{MINUS SIGN}")
    if kind != "%":
        return text
    return f"({text}) %" if "±" in text else f"{text} %"


def setting(fields: Fields, name: str, runs: Runs) -> object:
    """The value of a config field in a selection, or in what it selects."""
    if name in fields:
        return fields[name]
    return next((group.config[name] for group in runs.where(fields).groups if name in group.config), NOTHING)


def chosen(fields: Fields, source: Source, place: str) -> Group | None:
    """The group of a cell: of the newest protocol that has one. A second one like it is complained of."""
    found = [g for g in source.runs.where(fields).groups if not set(g.parts) - set(fields) - {"protocol"}]
    newest = max((group.protocol for group in found), default=0)
    found = sorted((g for g in found if g.protocol == newest), key=lambda group: -len(group.records))
    if len(found) > 1:
        source.complaints.append(f"ambiguous: {place}: {len(found)} settings fit; shown is {found[0].setting!r}")
    return found[0] if found else None


def measured_cell(group: Group, name: str, source: Source) -> Cell:
    """A metric of a group."""
    older = not group.is_current
    if not group.completed:
        return Cell("diverged", n=len(group.records), older=older)
    each = [measured(record["metrics"], source.report.metrics) for record in group.completed]
    found = [(metric, value) for own in each for metric, value in own.items() if metric.name == name]
    if not found:
        return Cell()
    metric, values = found[0][0], [value for _, value in found]
    mean = statistics.fmean(values)
    images = min(r["metrics"]["test"]["n"] for r in group.completed) if is_of_test_images(name) else 0
    share = mean / 100
    return Cell(
        with_deviation(metric, values),
        verdict_on(group, metric, values, source.references),
        len(values),
        older,
        images,
        100 * math.sqrt(share * (1 - share) / images) if images and name.endswith(TEST_ACCURACY.name) else 0.0,
        -mean if metric.better == "lower" else mean,
    )


def with_deviation(metric: Metric, values: Sequence[float]) -> str:
    """Mean and, of several values, standard deviation: percentages with one decimal, losses with three digits."""
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    if abs(mean) >= 10_000 or 0 < abs(mean) < 0.0001:
        power = math.floor(math.log10(abs(mean)))
        spread = f" ± {deviation / 10**power:.2f}" if len(values) > 1 else ""
        text = f"{mean / 10**power:.2f}{spread}"
        return f"{f'({text})' if spread else text} × 10{power_of(power)}"
    digits = 1 if metric.unit else significant(mean) if metric.better else metric.decimals(values)
    return f"{mean:z.{digits}f}{f' ± {deviation:.{digits}f}' if len(values) > 1 else ''}"


def power_of(exponent: int) -> str:
    """An exponent in raised digits."""
    return str(exponent).translate(SUPERSCRIPTS)


def significant(value: float, digits: int = 3) -> int:
    """Decimals that show so many digits of a value."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits


def in_bold(rows: Sequence[tuple[str, list[Cell]]], column: int) -> list[tuple[str, list[Cell]]]:
    """The same rows with the best cell of one column marked, unless they followed different protocols."""
    if len({cells[column].older for _, cells in rows if cells[column].n}) > 1:
        return list(rows)
    best = max(cells[column].merit for _, cells in rows)
    return [
        (name, [replace(c, bold=i == column and c.merit == best > -math.inf) for i, c in enumerate(cells)])
        for name, cells in rows
    ]


def caption(table: Table, cells: Sequence[Cell], seeds: int) -> str:
    """The table's caption, with what its numbers are: seeds, test images and their standard error."""
    told = [table.caption]
    if seeds:
        one = "One seed, if no n is given" if any(cell.n and cell.n > 1 for cell in cells) else "One seed"
        told.append(f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else one)
    images = sorted({cell.images for cell in cells if cell.images})
    if images:
        counted = " or ".join(f"{n:,}" for n in images)
        errors = [cell.error for cell in cells if cell.error]
        ends = dict.fromkeys(f"{end(errors):.1f}" for end in (min, max)) if errors else ()
        error = f" (standard error of an accuracy: {' to '.join(ends)} points)" if errors else ""
        told.append(f"{counted} test images{error}")
    if any(cell.older for cell in cells):
        told.append(f"{OLDER} measured under an older protocol")
    return ". ".join(told) + "."
