"""Two sides compared seed by seed: the difference of a metric, its 95 % interval and its p-value.

There are two kinds of chance: the seed of a training, and which images a test set happens to hold. If both sides saw
the same test images, and records say which were right, the interval of an accuracy has both. Its reach is the root of
the two squared reaches, Student's t each (Zou and Donner 2008, doi:10.1002/sim.3095). Chance that belongs to one image
and one seed counts twice: it is a little wide.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from common.measured import TEST_ACCURACY, by_name
from common.outcomes import unpacked

LEVEL = 0.05  # the chance of an interval that misses, of a false verdict, and of one among several (Holm)
LEAST_P = 1e-9  # of a difference without any spread


@dataclass(frozen=True)
class Side:
    """Runs of one setting and the metric that is compared; `full test accuracy (%)` is that of phase `full`."""

    records: Sequence[Mapping]
    metric: str = TEST_ACCURACY.name

    @cached_property
    def values(self) -> dict[int, float]:
        """The metric by seed, of the runs that have it."""
        found = {record["config"]["seed"]: by_name(record["metrics"]) for record in self.records}
        return {seed: metrics[self.metric] for seed, metrics in found.items() if self.metric in metrics}

    def right(self, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Labels of the test images of one run, int64 (n,), and which were right, bool (n,); None if not recorded."""
        record = next(record for record in self.records if record["config"]["seed"] == seed)
        if not self.metric.endswith(TEST_ACCURACY.name) or "outcomes" not in record:
            return None
        labels, predicted, states = unpacked(record["outcomes"])
        phase = self.metric.removesuffix(TEST_ACCURACY.name).strip()
        if not phase or phase == list(record["metrics"]["phases"])[-1]:
            return labels, predicted == labels
        return labels, states[f"{phase}/{record['metrics']['reported']}"]


@dataclass(frozen=True)
class Difference:
    """One side minus the other."""

    each: tuple[float, ...]
    """By seed."""
    low: float
    high: float
    """Ends of the 95 % interval of the mean."""
    p: float
    """Of a difference of zero: the level at which the interval just reaches it."""
    images: int | None
    """Test images, if the interval has their chance too."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.each)

    @property
    def chance(self) -> str:
        """What the interval holds, in words."""
        return "seeds and test images" if self.images else "seeds"


def compare(one: Side, other: Side, margin: float = 0.0) -> Difference | None:
    """The difference less a margin, over the seeds that both have; None for fewer than two."""
    seeds = sorted(one.values.keys() & other.values.keys())
    if len(seeds) < 2:
        return None
    each = [one.values[seed] - other.values[seed] - margin for seed in seeds]
    return difference(each, by_image(one, other, seeds))


def by_image(one: Side, other: Side, seeds: Iterable[int]) -> np.ndarray | None:
    """The difference for each test image in points, a mean over seeds (n,); None if they were not the same images."""
    rows = []
    for seed in seeds:
        ours, theirs = one.right(seed), other.right(seed)
        if ours is None or theirs is None or not np.array_equal(ours[0], theirs[0]):
            return None
        rows.append(100.0 * (ours[1].astype(float) - theirs[1]))
    return np.mean(rows, axis=0)


def difference(each: Sequence[float], images: np.ndarray | None = None) -> Difference:
    """The mean of differences by seed (two or more), and by test image if there are any."""
    errors = [(statistics.stdev(each) / math.sqrt(len(each)), len(each) - 1)]
    if images is not None:
        errors.append((float(np.std(images, ddof=1)) / math.sqrt(len(images)), len(images) - 1))

    def reach(level: float) -> float:
        return math.hypot(*(quantile(1 - level / 2, freedom) * error for error, freedom in errors))

    mean = statistics.fmean(each)
    images_seen = len(images) if images is not None else None
    return Difference(tuple(each), mean - reach(LEVEL), mean + reach(LEVEL), p_value(abs(mean), reach), images_seen)


def p_value(gap: float, reach: Callable[[float], float]) -> float:
    """The level at which an interval just reaches a gap."""
    from scipy.optimize import brentq  # here, as it takes a second

    if gap == 0:
        return 1.0
    if reach(LEAST_P) <= gap:
        return LEAST_P
    return float(brentq(lambda level: reach(level) - gap, LEAST_P, 1.0, xtol=1e-12))


@cache
def quantile(share: float, freedom: int) -> float:
    """Of Student's t."""
    from scipy.special import stdtrit  # scipy.stats has it too, but takes a second to load

    return float(stdtrit(freedom, share))


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for how many they are (Holm 1979): 5 % is then the chance of one false find among them all."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted
