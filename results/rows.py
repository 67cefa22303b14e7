"""Rows of the tables: metrics over seeds beside the published numbers, and paired differences; and their CSV."""

import csv
import io
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from common.measured import Metric, measured
from common.published import References
from common.report import Report
from common.selection import Group, Runs
from results.pairs import Compared
from results.records import looks_at, natural
from results.verdicts import Gap, Verdict, judge

COLUMNS = ("preset", "setting", "metric", "mean", "std", "n", "published", "source", "verdict", "note")
VERDICTS = ("reproduced", "higher", "lower", "undecided", "diverged", "not comparable", "not measured")
NOT_COMPARABLE = "not comparable:"
DIFFERENCE = "difference in"
PART = re.compile(r"([\d,]+) of ([\d,]+) test images")  # a note of older runs on a copy that is not whole


@dataclass(frozen=True)
class Row:
    """A metric of a setting, measured, published or both; numbers with the digits that every table shows."""

    preset: str
    setting: str
    metric: str
    mean: str = ""
    std: str = ""
    """Sample standard deviation over seeds (n - 1); empty for one seed."""
    n: int | None = None
    """Seeds; 0: all runs diverged; None: not run."""
    published: str = ""
    source: str = ""
    verdict: str = ""
    notes: tuple[str, ...] = ()
    margin: float = 0.0
    """Of the published number; 0 if none was written down."""
    gap: Gap | None = None
    """To the published number."""
    paired: bool = False
    """A difference between two settings, seed by seed."""
    detail: bool = False
    """Left to the full table by a README, unless a source has published it."""
    beyond_seeds: str = ""
    """Why no number of seeds would decide it; empty if one may, or if it is decided."""
    arm: bool = False
    """Beside a published number that stands beside another setting too, and is counted there."""

    @property
    def note(self) -> str:
        """Its notes as one text."""
        return "; ".join(self.notes)


def tabulate(runs: Runs, references: References, report: Report, compared: Sequence[Compared] = ()) -> list[Row]:
    """Every row of a task's table: of each setting that was run or published, then differences, sorted by setting."""
    missing = dict(references)
    rows = [row for group in runs.groups for row in rows_of(group, missing, report.metrics)]
    rows += [beside(Row(*key), reference) for key, reference in missing.items()]
    rows += [row_of(one) for one in compared]
    return sorted(rows, key=lambda row: (row.preset, natural(row.setting)))


def rows_of(group: Group, missing: References, own: Sequence[Metric]) -> list[Row]:
    """The rows of one setting, for which what is published of it is taken out of `missing`."""
    place = (group.preset, group.setting)
    told = notes(group)
    if not group.completed:
        published = [key for key in missing if key[:2] == place] or [(*place, "status")]
        return [beside(Row(*key, n=0, notes=told), missing.pop(key, None)) for key in published]
    values = defaultdict(list)
    for record in group.completed:
        for metric, value in measured(record["metrics"], own).items():
            values[metric].append(value)
    rows = []
    for metric, each in values.items():
        mean, deviation, n = mean_and_deviation(each, metric)
        row = Row(*place, metric.name, mean, deviation, n, notes=told, detail=metric.detail)
        rows.append(beside(row, missing.pop((*place, metric.name), None), each, group))
    return rows


def mean_and_deviation(each: Sequence[float], metric: Metric) -> tuple[str, str, int]:
    """Mean, sample standard deviation and number of the values of one metric, as a row has them."""
    digits = metric.decimals(each)
    deviation = f"{statistics.stdev(each):.{digits}f}" if len(each) > 1 else ""
    return f"{statistics.fmean(each):z.{digits}f}", deviation, len(each)


def notes(group: Group) -> tuple[str, ...]:
    """What a reader of a group's metrics should know, each thing once."""
    told = [note for record in group.completed for note in record["metrics"].get("notes", ())]
    ends = [record["metrics"].get("diverged", {}).get("reason", "") for record in group.records]
    seeds = [f"seeds are added until decided: {n} looks share the error"] if (n := looks_at(group.records)) > 1 else []
    every = dict.fromkeys([*doubts([group]), *seeds, *(told if group.completed else ends)])
    return tuple(note for note in every if note)


def doubts(groups: Sequence[Group]) -> list[str]:
    """What to know of groups: runs left out, differences beyond settings and seeds, a mixed precision."""
    every = sum(len(group.records) for group in groups)
    done = [record for group in groups for record in group.completed]
    lost = every - len(done)
    found = [f"{lost} of {every} runs diverged{' and are left out' * (lost < every)}"] if lost else []
    for fact in ("backend", "precision", "commit"):
        values = sorted({str(record["environment"].get(fact)) for record in done})
        if len(values) > 1:
            found.append(f"runs differ in {fact}: {', '.join(v[:10] if fact == 'commit' else v for v in values)}")
        elif fact == "precision" and any(value.startswith("mixed_") for value in values):
            found.append(f"trained in {values[0]}")
    return found


def test_images(group: Group) -> tuple[int, int] | None:
    """How many test images the runs of a group saw, and of how many, if that was a part; the latter 0 if unknown."""
    records = group.completed
    if whole := records[0]["metrics"].get("test_images_of"):
        return records[0]["metrics"]["test"]["n"], whole
    told = [
        match for record in records for note in record["metrics"].get("notes", ()) if (match := PART.fullmatch(note))
    ]
    if told:
        seen, every = (int(number.replace(",", "")) for number in told[0].groups())
        return seen, every
    return (records[0]["metrics"]["test"]["n"], 0) if group.config.get("limit_test") else None


def is_of_test_images(metric: str) -> bool:
    """Whether a metric, by its name in the tables, was measured on test images, in whatever phase."""
    return "test" in metric.split()


def beside(
    row: Row,
    reference: Mapping[str, str] | None,
    values: Sequence[float] = (),
    group: Group | None = None,
) -> Row:
    """A row with the published number beside the measured values, if there are any."""
    if reference is None:
        return row
    if group is None:
        found = Verdict("not measured" if row.n is None else "diverged")
    else:
        found = verdict(row.metric, reference, values, group)
    return replace(
        row,
        published=reference["published"],
        source=reference["source"],
        verdict=found.word,
        margin=float(reference["margin"] or 0),
        gap=found.gap,
        notes=tuple(filter(None, [*reference["note"].split("; "), found.remedy, *row.notes])),
        beyond_seeds=found.remedy if found.beyond_seeds else "",
        arm=bool(reference.get("arm")),
    )


def verdict(metric: str, reference: Mapping[str, str], values: Sequence[float], group: Group) -> Verdict:
    """How the values of a metric over the seeds of a group stand to the published number.

    If they are of a part of the test images (so many of so many), the choice of images counts, once a side. It is known
    of an accuracy alone.
    """
    if reference["note"].startswith(NOT_COMPARABLE):
        return Verdict("not comparable")
    published, margin = float(reference["published"]), float(reference["margin"] or 0)
    looks, part = looks_at(group.records), test_images(group)
    if part is None or not is_of_test_images(metric):
        return judge(values, published, margin, looks)
    if not metric.endswith("accuracy (%)"):
        why = f"on {part[0]:,} test images, whose chance is known of an accuracy alone"
        return Verdict("undecided", why, beyond_seeds=True)
    sides = ((statistics.fmean(values), part[0]), (published, part[1] or part[0]))
    images = math.sqrt(sum(share * (100 - share) / n for share, n in sides))
    return judge(values, published, margin, looks, images)


def verdict_on(group: Group, metric: Metric, values: Sequence[float], references: References) -> str:
    """The verdict on a metric of a group; empty if none is published."""
    reference = references.get((group.preset, group.setting, metric.name))
    return verdict(metric.name, reference, values, group).word if reference else ""


def row_of(compared: Compared) -> Row:
    """The row of a difference; its note has the 95 % interval of the mean, and what it holds."""
    found, metric = compared.found, compared.metric
    groups = [compared.one] if compared.one is compared.other else [compared.one, compared.other]
    digits = metric.decimals([abs(value) for value in found.each])
    mean, deviation, n = mean_and_deviation(found.each, replace(metric, digits=digits))
    told = [f"95 % interval {found.low:z.{digits}f} to {found.high:z.{digits}f}, over {found.chance}, paired by seed"]
    looks = looks_at(compared.one.records + compared.other.records)
    shared = f", {looks} looks share the error" if looks > 1 else ""
    told += [f"p = {compared.p:.2g} among {compared.among} differences (Holm){shared}"]
    return Row(
        compared.one.preset,
        compared.label,
        f"{DIFFERENCE} {metric.name.replace('(%)', '(points)')}",
        mean,
        deviation,
        n,
        verdict=compared.verdict,
        notes=(*told, *doubts(groups)),
        paired=True,
    )


def verdicts(rows: Iterable[Row]) -> Counter[str]:
    """How many published numbers have which verdict, each counted once."""
    return Counter(row.verdict for row in rows if row.published and not row.arm)


def csv_text(rows: Sequence[Row]) -> str:
    """The table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    return text.getvalue()
