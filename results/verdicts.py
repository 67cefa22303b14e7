"""How a measured metric stands to a published number, and what would settle an open case.

The published number is one run of the source, so the difference has the variance of our runs times 1 + 1/n, if the
source's runs vary as ours do. If both sides saw all test images, these add nothing; if ours are a part, the chance of
that choice is added once a side, whatever n is. Student's t with n - 1 degrees of freedom. Equivalence by two one-sided
tests: Schuirmann 1987, doi:10.1007/BF01068419.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from common.comparison import LEVEL, quantile

MOST_TRIED = 100  # seeds up to which it is worked out what would settle a case
TOO_UNCERTAIN = "one published run is too uncertain for this margin"


@dataclass(frozen=True)
class Gap:
    """The mean of our runs minus the published number, with the interval that decides on higher and lower."""

    mean: float
    reach: float | None = None
    """Half the width of the interval; None for a single run."""
    level: float = 1 - LEVEL
    """Of the interval."""


@dataclass(frozen=True)
class Verdict:
    """reproduced, higher, lower or undecided; of an undecided one what would settle it; and what it rests on."""

    word: str
    remedy: str = ""
    gap: Gap | None = None
    """None if it rests on no numbers."""
    beyond_seeds: bool = False
    """Whether no number of seeds would settle it."""


@dataclass(frozen=True)
class Distance:
    """Our mean minus a published number, and the chance in it."""

    mean: float
    deviation: float
    """Of our runs over seeds."""
    images: float
    """Standard error by the choice of test images; 0 if both sides saw the same ones."""
    margin: float
    error: float = LEVEL

    def reach(self, n: int, error: float) -> float:
        """Half the width of the interval after n runs that misses the true difference with this probability."""
        return quantile(1 - error / 2, n - 1) * math.hypot(self.deviation * math.sqrt(1 + 1 / n), self.images)

    def is_within(self, n: int) -> bool:
        """Whether the interval, at twice the error, lies within the margin."""
        return abs(self.mean) + self.reach(n, 2 * self.error) <= self.margin

    def is_apart(self, n: int) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.reach(n, self.error)

    def seeds_needed(self, n: int) -> int | None:
        """How many runs would settle it after n, if mean and deviation stay as they are; None if no number would."""
        more = range(n + 1, MOST_TRIED + 1)
        return next((number for number in more if self.is_within(number) or self.is_apart(number)), None)


def judge(values: Sequence[float], published: float, margin: float, looks: int = 1, images: float = 0.0) -> Verdict:
    """How the mean of our runs stands to a published number.

    Args:
        values: a metric by seed.
        published: the source's number, of one run.
        margin: difference within which one calls it reproduced.
        looks: how often one may look at the growing number of runs; each look gets its share of the error.
        images: standard error of the difference by the choice of test images, in the metric's unit.
    """
    n, gap = len(values), statistics.fmean(values) - published
    if n < 2:
        return Verdict("undecided", "one run has no spread: two seeds at least", Gap(gap))
    distance = Distance(gap, statistics.stdev(values), images, margin, LEVEL / looks)
    found = Gap(gap, distance.reach(n, distance.error), 1 - distance.error)
    if distance.is_within(n):
        return Verdict("reproduced", gap=found)
    if distance.is_apart(n):
        return Verdict("higher" if gap > 0 else "lower", gap=found)
    needed = distance.seeds_needed(n)
    if needed is None:
        return Verdict("undecided", TOO_UNCERTAIN, found, beyond_seeds=True)
    return Verdict("undecided", f"about {needed} seeds would settle it", found)
