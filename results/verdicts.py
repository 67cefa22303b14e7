"""How a measured metric stands to a published number, and what would settle an open case.

The published number is one run of the source, so the difference has the variance of our runs times 1 + 1/n, if the
source's runs vary as ours do. Both sides saw all test images, so these add nothing. Student's t with n - 1 degrees of
freedom. Equivalence by two one-sided tests: Schuirmann 1987, doi:10.1007/BF01068419.
"""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ERROR = 0.05  # of a false "reproduced" at a gap of the margin, and of a false "higher" or "lower" at no gap
MOST_SEEDS = 100


@dataclass(frozen=True)
class Gap:
    """The mean of our runs minus the published number, with the interval that decides on higher and lower."""

    mean: float
    reach: float | None = None
    """Half the width of the interval; None for a single run."""
    level: float = 1 - ERROR
    """Of the interval."""


@dataclass(frozen=True)
class Verdict:
    """reproduced, higher, lower or undecided; of an undecided one what would settle it; and what it rests on."""

    word: str
    remedy: str = ""
    gap: Gap | None = None
    """None if it rests on no numbers."""


def judge(values: Sequence[float], published: float, margin: float, looks: int = 1) -> Verdict:
    """How the mean of our runs stands to a published number.

    Args:
        values: a metric by seed.
        published: the source's number, of one run.
        margin: difference within which one calls it reproduced.
        looks: how often one may look at the growing number of runs; each look gets its share of the error.
    """
    n, gap = len(values), statistics.fmean(values) - published
    if n < 2:
        return Verdict("undecided", "one run has no spread: two seeds at least", Gap(gap))
    deviation, error = statistics.stdev(values), ERROR / looks
    found = Gap(gap, reach(deviation, n, error), 1 - error)
    if is_within(gap, deviation, n, margin, error):
        return Verdict("reproduced", gap=found)
    if is_apart(gap, deviation, n, error):
        return Verdict("higher" if gap > 0 else "lower", gap=found)
    return Verdict("undecided", remedy(gap, deviation, n, margin, error), found)


@functools.cache
def quantile(share: float, freedom: int) -> float:
    """Of Student's t."""
    from scipy.stats import t as student  # here, as it takes a second

    return float(student.ppf(share, freedom))


def standard_error(deviation: float, n: int) -> float:
    """Standard error of the difference between the mean of n runs and one run of the source."""
    return deviation * math.sqrt(1 + 1 / n)


def reach(deviation: float, n: int, error: float) -> float:
    """Half the width of the interval of the difference that leaves out the truth with this chance."""
    return quantile(1 - error / 2, n - 1) * standard_error(deviation, n)


def is_within(gap: float, deviation: float, n: int, margin: float, error: float) -> bool:
    """Whether the interval of the difference, at twice the error, lies within the margin."""
    return abs(gap) + reach(deviation, n, 2 * error) <= margin


def is_apart(gap: float, deviation: float, n: int, error: float) -> bool:
    """Whether the interval of the difference leaves out zero."""
    return abs(gap) > reach(deviation, n, error)


def remedy(gap: float, deviation: float, n: int, margin: float, error: float) -> str:
    """What would settle it, if mean and deviation stay as they are."""
    for more in range(n + 1, MOST_SEEDS + 1):
        if is_within(gap, deviation, more, margin, error) or is_apart(gap, deviation, more, error):
            return f"about {more} seeds would settle it"
    return "one published run is too uncertain for this margin"
