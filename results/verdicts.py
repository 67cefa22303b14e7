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
TOO_UNCERTAIN = "one published run is too uncertain for this margin"


@dataclass(frozen=True)
class Verdict:
    """reproduced, higher, lower or undecided; and of an undecided one what would settle it."""

    word: str
    remedy: str = ""


def judge(values: Sequence[float], published: float, margin: float, looks: int = 1) -> Verdict:
    """How the mean of our runs stands to a published number.

    Args:
        values: a metric by seed.
        published: the source's number, of one run.
        margin: difference within which one calls it reproduced.
        looks: how often one may look at the growing number of runs; each look gets its share of the error.
    """
    n = len(values)
    if n < 2:
        return Verdict("undecided", "one run has no spread: two seeds at least")
    gap, deviation, error = statistics.fmean(values) - published, statistics.stdev(values), ERROR / looks
    if is_within(gap, deviation, n, margin, error):
        return Verdict("reproduced")
    if is_apart(gap, deviation, n, error):
        return Verdict("higher" if gap > 0 else "lower")
    return Verdict("undecided", remedy(gap, deviation, n, margin, error))


@functools.cache
def quantile(share: float, freedom: int) -> float:
    """Of Student's t."""
    from scipy.stats import t as student  # here, as it takes a second

    return float(student.ppf(share, freedom))


def standard_error(deviation: float, n: int) -> float:
    """Standard error of the difference between the mean of n runs and one run of the source."""
    return deviation * math.sqrt(1 + 1 / n)


def is_within(gap: float, deviation: float, n: int, margin: float, error: float) -> bool:
    """Whether the interval of the difference, at twice the error, lies within the margin."""
    reach = quantile(1 - error, n - 1) * standard_error(deviation, n)
    return abs(gap) + reach <= margin


def is_apart(gap: float, deviation: float, n: int, error: float) -> bool:
    """Whether the interval of the difference leaves out zero."""
    return abs(gap) > quantile(1 - error / 2, n - 1) * standard_error(deviation, n)


def remedy(gap: float, deviation: float, n: int, margin: float, error: float) -> str:
    """What would settle it, if mean and deviation stay as they are."""
    for more in range(n + 1, MOST_SEEDS + 1):
        if is_within(gap, deviation, more, margin, error) or is_apart(gap, deviation, more, error):
            return f"about {more} seeds would settle it"
    return TOO_UNCERTAIN
