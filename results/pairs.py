"""Rows of differences: two settings compared seed by seed, and each phase of a run with the one before it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from common.comparison import LEVEL, Difference, Side, compare, holm
from common.measured import TEST_ACCURACY, TEST_LOSS, Metric
from common.report import Pair, title
from common.selection import Group, Runs
from results.records import looks_at

MINUS = "\N{MINUS SIGN}"
MOST_DIGITS = 6  # of a difference


@dataclass(frozen=True)
class Compared:
    """One setting or phase minus another."""

    one: Group
    other: Group
    label: str
    """As the full table has it."""
    words: str
    """For a reader."""
    metric: Metric
    found: Difference
    p: float = 1.0
    """After Holm's correction."""
    among: int = 1
    """Differences of its task and protocol, of committed code or not, which the correction is for."""

    @property
    def is_current(self) -> bool:
        """Whether its runs followed today's protocol."""
        return self.one.is_current

    @property
    def verdict(self) -> str:
        """higher, lower or undecided."""
        if self.p >= LEVEL:
            return "undecided"
        return "higher" if self.found.mean > 0 else "lower"

    @property
    def told(self) -> str:
        """The mean with its interval, as a reader sees it."""
        digits = 1 if self.metric.unit else self.metric.decimals([abs(value) for value in self.found.each])
        shown = (self.found.mean, self.found.low, self.found.high)
        # Neither the mean nor an end of its interval must look like zero if it is not.
        while digits < MOST_DIGITS and any(0 < abs(value) < 0.5 * 10**-digits for value in shown):
            digits += 1
        ends = f"{self.found.low:z.{digits}f} to {self.found.high:z.{digits}f}"
        seen = "" if self.found.images else ", seeds alone"
        older = "" if self.is_current else ", older protocol"
        what = f"{self.found.mean:+z.{digits}f} ({ends}; n = {len(self.found.each)}{seen}{older})"
        return what.replace("-", MINUS)


def comparisons(runs: Runs, pairs: Sequence[Pair]) -> list[Compared]:
    """Every difference of a task, with p-values that allow for how many its protocol has."""
    found = [one for pair in pairs for one in between(runs, pair)]
    found += [one for group in runs.groups for one in between_phases(group)]
    adjusted = []
    for family in sorted(set(map(family_of, found)), reverse=True):
        own = [one for one in found if family_of(one) == family]
        values = holm([min(1.0, one.found.p * looks_at(one.one.records + one.other.records)) for one in own])
        adjusted += [replace(one, p=p, among=len(own)) for one, p in zip(own, values, strict=True)]
    return adjusted


def family_of(compared: Compared) -> tuple[int, bool]:
    """Protocol, and whether the code is in a commit: one's trials must not change what is recorded."""
    return compared.one.protocol, compared.one.is_committed and compared.other.is_committed


def for_readers(compared: Sequence[Compared]) -> list[Compared]:
    """Without those of an older protocol that are compared under today's too."""
    current = {one.words for one in compared if one.is_current}
    return [one for one in compared if one.is_current or one.words not in current]


def between(runs: Runs, pair: Pair) -> Iterator[Compared]:
    """Differences of every two settings that a pair puts side by side, if they share two seeds at least.

    A difference is one of test accuracies or, if neither side has any, of test losses.
    """
    for one, other in pair.matches(runs):
        accuracies = [bool(Side(group.completed).values) for group in (one, other)]
        if accuracies[0] != accuracies[1]:
            continue
        metric = TEST_ACCURACY if accuracies[0] else TEST_LOSS
        found = compare(Side(one.completed, metric.name), Side(other.completed, metric.name))
        if found:
            yield Compared(one, other, title(one, other), sentence(one, other, pair), metric, found)


def between_phases(group: Group) -> Iterator[Compared]:
    """Differences in test accuracy between each phase of a setting and the one before it."""
    if len(group.completed) < 2:
        return
    for before, after in pairwise(group.completed[0]["metrics"].get("phases", ())):
        later, earlier = (Side(group.completed, f"{phase} {TEST_ACCURACY.name}") for phase in (after, before))
        found = compare(later, earlier)
        if found:
            shared = ", ".join([group.preset, *group.said(spoken(group))])
            words = f"{shared}: {after.replace('_', ' ')} minus {before.replace('_', ' ')}"
            yield Compared(group, group, f"{group.setting}: {after} minus {before}", words, TEST_ACCURACY, found)


def sentence(one: Group, other: Group, pair: Pair) -> str:
    """What is compared, for a reader: what both have in common, then the two."""
    shared = [key for key in spoken(one) if one.parts[key] == other.parts.get(key)]
    sides = []
    for group, name in zip((one, other), pair.words, strict=True):
        own = group.said(key for key in spoken(group) if key not in shared)
        sides.append(name or ", ".join([group.preset, *own] if one.preset != other.preset or not own else own))
    preset = [one.preset] if one.preset == other.preset else []
    return f"{', '.join([*preset, *one.said(shared)])}: {sides[0]} minus {sides[1]}"


def spoken(group: Group) -> Sequence[str]:
    """The parts of a label that a reader needs; the protocol is said in a note."""
    return [key for key in group.parts if key != "protocol"]
