"""A record beside what came out when it was run again: the same, or how far off."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from common.config import flat
from common.environment import counting
from common.measured import measured

# On one core, or with oneDNN's kernels for AVX2, four demos stay within 0.004. That of a ResNet-18 with random weights
# and three epochs stays within no tolerance: what large networks make of rounding at first is as far as another seed.
TOLERANCE = 0.02
TIMES = ("seconds", "images_per_second")
# Facts of environment.json that bits depend on.
SURROUNDINGS = (
    "processor",
    "cpus",
    "devices",
    "gpus",
    "seeds_together",
    "backend",
    "precision",
    "versions",
    "op_determinism",
    "onednn",
    "onednn_max_cpu_isa",
)


@dataclass(frozen=True)
class Row:
    """One number, or the status, as it was recorded and as it came out; `near`: within the tolerance."""

    name: str
    recorded: object
    replayed: object
    near: bool


@dataclass(frozen=True)
class Comparison:
    """What came out of a record."""

    rows: tuple[Row, ...]
    """What the table shows."""
    compared: int
    """All values of metrics, history and outcomes."""
    unequal: tuple[str, ...]
    """Names of those that are not the same to the bit."""
    reasons: tuple[str, ...]
    """Why they need not be."""

    @property
    def is_same(self) -> bool:
        """Whether it is the same, as far as it must be."""
        return not self.unequal or (bool(self.reasons) and all(row.near for row in self.rows))


def differing(one: Mapping, other: Mapping) -> list[str]:
    """Keys whose values are not equal, or which one of the two lacks."""
    absent = object()
    return [key for key in {**one, **other} if one.get(key, absent) != other.get(key, absent)]


def compare(record: Mapping, again: Mapping, tolerance: float) -> Comparison:
    """A record beside what came out of its replay."""
    values = [leaves(each) for each in (record, again)]
    unequal = differing(*values)
    return Comparison(
        rows=tuple(rows(record, again, tolerance)),
        compared=len(values[0] | values[1]),
        unequal=tuple(unequal),
        reasons=tuple(reasons(record["environment"], again["environment"])),
    )


def leaves(record: Mapping) -> dict[str, object]:
    """Every value that a run computed, by a dotted name; times and speeds are left out."""
    parts = flat({key: record[key] for key in ("metrics", "history", "outcomes") if key in record})
    return {key: value for key, value in parts.items() if key.rpartition(".")[2] not in TIMES}


def reasons(recorded: Mapping, here: Mapping) -> list[str]:
    """Why the bits of two runs of one code need not be equal; none where they must be."""
    found = []
    if not recorded.get("processor"):
        found.append("the record names no processor")
    if not recorded.get("op_determinism"):
        found.append("its operations were not deterministic")
    if len({start.get("processor") for start in recorded.get("starts", ())}) > 1:
        found.append("it went on on another processor")
    if went_on_with_other_versions(recorded):
        found.append("it went on with other versions")
    others = [key for key in SURROUNDINGS if relevant(recorded, key) != relevant(here, key)]
    return found + [f"{key} not as recorded" for key in others]


def relevant(environment: Mapping, key: str) -> object:
    """A fact of an environment, as far as bits depend on it."""
    found = environment.get(key)
    return counting(found or {}, environment["backend"]) if key == "versions" else found


def went_on_with_other_versions(environment: Mapping) -> bool:
    """Whether the starts of a run had different versions; older code did not write them down."""
    starts = [start["versions"] for start in environment.get("starts", ()) if "versions" in start]
    own = [counting(versions, environment["backend"]) for versions in starts]
    return any(versions != own[0] for versions in own)


def rows(record: Mapping, again: Mapping, tolerance: float) -> Iterator[Row]:
    """The rows of the table: the status, every metric, and of each column of the history its worst epoch."""
    metrics = record["metrics"], again["metrics"]
    statuses = [each["status"] for each in metrics]
    yield Row("status", statuses[0], statuses[1], statuses[0] == statuses[1])
    if "diverged" in statuses:
        return
    counts = [each["images"] for each in metrics]
    for split in differing(*counts):
        yield Row(f"{split} images", counts[0].get(split), counts[1].get(split), False)
    values = [measured(each) for each in metrics]
    for metric in values[0] | values[1]:
        if metric.unit != "images/s":
            one, other = (each.get(metric) for each in values)
            far = distance(one, other, 100.0 if metric.unit == "%" else None)
            yield Row(metric.name, one, other, far <= tolerance)
    yield from worst_epochs(record["history"], again["history"], tolerance)


def worst_epochs(recorded: Sequence[Mapping], replayed: Sequence[Mapping], tolerance: float) -> Iterator[Row]:
    """Of each column of two histories the row that differs most; their epochs alone where those are not the same."""
    places = [[(row["phase"], row["epoch"]) for row in history] for history in (recorded, replayed)]
    if places[0] != places[1]:
        yield Row("epochs", len(places[0]), len(places[1]), False)
        return
    for column in dict.fromkeys(key for row in (*recorded, *replayed) for key in row):
        if column in ("phase", "epoch", *TIMES):
            continue
        pairs = [(one.get(column), other.get(column)) for one, other in zip(recorded, replayed, strict=True)]
        far = [distance(one, other, 1.0 if "accuracy" in column else None) for one, other in pairs]
        worst = far.index(max(far)) if any(far) else -1
        where = f"epoch {worst + 1} of {len(far)}" if any(far) else f"all {len(far)} epochs"
        yield Row(f"history {column}, {where}", pairs[worst][0], pairs[worst][1], far[worst] <= tolerance)


def distance(one: float | None, other: float | None, whole: float | None) -> float:
    """How far two numbers are apart, as a share of `whole`; without one, of the larger of them."""
    if one == other:
        return 0.0
    if one is None or other is None:
        return float("inf")
    return abs(one - other) / (whole or max(abs(one), abs(other)))


def show(name: str, comparison: Comparison, tolerance: float) -> None:
    """Print the table, and the verdict on one line."""
    console = Console(markup=False)
    table = Table("", "recorded", "replayed", "difference")
    for row in comparison.rows:
        table.add_row(row.name, text(row.recorded), text(row.replayed), difference(row))
    console.print(table)
    console.print(verdict(name, comparison, tolerance), highlight=False, soft_wrap=True)


def text(value: object) -> str:
    """A cell of the table."""
    return "–" if value is None else f"{value:.6g}" if isinstance(value, int | float) else str(value)


def difference(row: Row) -> str:
    """The last cell of a row."""
    if row.recorded == row.replayed:
        return "none"
    if isinstance(row.recorded, int | float) and isinstance(row.replayed, int | float):
        return f"{row.replayed - row.recorded:+.2g}"
    return "not the same"


def verdict(name: str, comparison: Comparison, tolerance: float) -> str:
    """What came of a record, on one line."""
    why = "; ".join(comparison.reasons)
    if not comparison.unequal:
        return f"{name}: the same, bit for bit ({comparison.compared:,} values)"
    unequal = f"{len(comparison.unequal):,} of {comparison.compared:,} values differ"
    if comparison.is_same:
        return f"{name}: the same within {tolerance:g}, where bits need not be: {why} ({unequal})"
    if not comparison.reasons:
        return f"{name}: NOT THE SAME, and it should be bit for bit: {unequal}, first {comparison.unequal[0]}"
    far = ", ".join(row.name for row in comparison.rows if not row.near)
    return f"{name}: NOT THE SAME within {tolerance:g}: {far} (bits need not be: {why})"
