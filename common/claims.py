"""A source's statements without a number of their own, each judged by our runs.

A judge takes the runs of a task and says what it found. Most are one of these:

    greater(Pair({"network": "cnn"}, {"network": "mlp"}))       # test accuracy of the one above that of the other
    rising("head", "last_block", "full", of={"dataset": "cifar10"})  # test accuracy from phase to phase
    more(Pair(...), number)                                     # a number of a run's record, as `greater`
    positive(number, of={"preset": "base"})                     # a number of each run is above 0
    always(statement, of={"preset": "base"})                    # something is true of each run
    alike(Pair({"case": 4}, {"case": 2}), margin=0.01)           # both sides differ by less than a margin

Numbers are judged by their 95 % interval over seeds, and over test images if both sides saw the same ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol

from common.comparison import LEVEL, Difference, Side, compare, difference, holm
from common.measured import TEST_ACCURACY
from common.selection import Fields, Group, Runs

NOT_AFTER_HOLM = "no part fails after Holm's correction"
Word = Literal["holds", "fails", "undecided", "not comparable", "not tested"]


@dataclass(frozen=True)
class Finding:
    """What runs say of a claim."""

    word: Word
    told: str = ""
    """The metrics that it rests on, with n, for a reader."""
    p: float = 1.0
    """p-value of no difference or, of what is alike, of a difference of exactly the margin; 0 for what is counted."""


NOT_TESTED = Finding("not tested")
Judge = Callable[[Runs], Finding]


@dataclass(frozen=True)
class Claim:
    """A statement of a source."""

    source: str
    """Its id."""
    text: str
    """The statement, as a sentence without a full stop."""
    judge: Judge
    """Says what the runs of one protocol find, those that diverged among them."""


class Matching(Protocol):
    """Puts groups of runs side by side, as `common.report.Pair` does."""

    def matches(self, runs: Runs) -> list[tuple[Group, Group]]:
        """Every two groups to compare."""
        ...


def greater(pair: Matching, metric: str = TEST_ACCURACY.name) -> Judge:
    """The metric of one side is above the other's, in every two settings that the pair puts side by side."""

    def judge(runs: Runs) -> Finding:
        settings = pair.matches(runs.completed)
        return by_setting(settings, [compared(*sides(both, metric)) for both in settings])

    return judge


def more(pair: Matching, number: Callable[[Mapping], float], unit: str = "") -> Judge:
    """A number of each run's record is above the other side's, in every two settings that a pair puts side by side."""

    def judge(runs: Runs) -> Finding:
        settings, found = pair.matches(runs.completed), []
        for both in settings:
            one, other = ({run["config"]["seed"]: number(run) for run in group.records} for group in both)
            found.append(of_each([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())], unit))
        return by_setting(settings, found)

    return judge


def rising(*phases: str, of: Fields) -> Judge:
    """The test accuracy of phases rises from each to the next, in every setting of a selection."""

    def judge(runs: Runs) -> Finding:
        settings, found = [(group,) for group in runs.completed.chosen(of).groups], []
        for (group,) in settings:
            each = [Side(group.completed, f"{phase} {TEST_ACCURACY.name}") for phase in phases]
            found.append(combined([compared(after, before) for before, after in pairwise(each)]))
        return by_setting(settings, found)

    return judge


def positive(number: Callable[[Mapping], float | None], of: Fields, unit: str = "") -> Judge:
    """A number of each run's record is above 0 on the mean over seeds, in every setting of a selection.

    The number is None for a record that lacks what it needs.
    """

    def judge(runs: Runs) -> Finding:
        settings, found = [(group,) for group in runs.completed.chosen(of).groups], []
        for (group,) in settings:
            found.append(of_each([value for value in map(number, group.records) if value is not None], unit))
        return by_setting(settings, found)

    return judge


def always(statement: Callable[[Mapping], bool | None], of: Fields, once: Sequence[str] = ()) -> Judge:
    """Something is true of each run's record. It is None of a record that lacks what it needs.

    Fails if it is true of none, and is undecided if it is true of some. Of runs that agree in all the config fields
    that `once` names, the first alone counts: if the statement is about the images, they say the same.
    """

    def judge(runs: Runs) -> Finding:
        found: dict[tuple, bool] = {}
        for place, record in enumerate(runs.chosen(of).completed):
            if (value := statement(record)) is not None:
                found.setdefault(tuple(record["config"].get(name) for name in once) or (place,), value)
        each = list(found.values())
        if not each:
            return NOT_TESTED
        word: Word = "holds" if all(each) else "undecided" if any(each) else "fails"
        return Finding(word, f"true of {sum(each)} of {len(each)} runs", 0.0)

    return judge


def alike(pair: Matching, margin: float, metric: str = TEST_ACCURACY.name) -> Judge:
    """The metric of both sides differs by less than a margin, in every two settings that the pair puts side by side."""

    def judge(runs: Runs) -> Finding:
        settings = pair.matches(runs.completed)
        return by_setting(settings, [near(*sides(both, metric), margin) for both in settings])

    return judge


def at_source_size(fields: Fields, judge: Judge) -> Judge:
    """Runs of these fields, the source's own size, decide alone if they can; else all runs that the judge looks at."""

    def judged(runs: Runs) -> Finding:
        found = judge(runs.where(fields))
        return found if found.word in ("holds", "fails") else judge(runs)

    return judged


def on_equal_terms(fields: Fields, judge: Judge) -> Judge:
    """Judged by runs of these fields alone; what others say is shown, but the sides are not comparable."""

    def judged(runs: Runs) -> Finding:
        found = judge(runs.where(fields))
        if found == NOT_TESTED and (shown := judge(runs)) != NOT_TESTED:
            return replace(shown, word="not comparable", p=1.0)
        return found

    return judged


def about(name: str, judge: Judge) -> Judge:
    """A judge whose finding says what it is about, beside others of one claim."""

    def labelled(runs: Runs) -> Finding:
        found = judge(runs)
        return replace(found, told=f"{name}: {found.told}" if found.told else "")

    return labelled


def every(*judges: Judge) -> Judge:
    """All of several statements."""

    def judge(runs: Runs) -> Finding:
        return combined([judge(runs) for judge in judges])

    return judge


def sides(both: tuple[Group, Group], metric: str) -> tuple[Side, Side]:
    """A metric of two groups."""
    one, other = both
    return Side(one.completed, metric), Side(other.completed, metric)


def compared(one: Side, other: Side) -> Finding:
    """Whether one side is above the other."""
    unit = " points" if one.metric.endswith("(%)") else ""
    found = compare(one, other)
    shared = one.values.keys() & other.values.keys()
    return judged(found, unit) if found else of_one([one.values[seed] - other.values[seed] for seed in shared], unit)


def near(one: Side, other: Side, margin: float) -> Finding:
    """Whether two sides differ by less than a margin: fails if their interval lies beyond it."""
    finding, found = compared(one, other), compare(one, other)
    if found is None:
        return finding
    beyond = compare(one, other, math.copysign(margin, found.mean))
    assert beyond is not None  # as `found` is not
    if -margin < found.low and found.high < margin:
        return replace(finding, word="holds", p=beyond.p)
    return replace(finding, word="fails" if found.low > margin or found.high < -margin else "undecided", p=beyond.p)


def judged(found: Difference, unit: str) -> Finding:
    """Whether a difference is above 0."""
    word: Word = "holds" if found.low > 0 else "fails" if found.high < 0 else "undecided"
    told = f"{found.mean:+.3g}{unit} ({found.low:.3g} to {found.high:.3g}; n = {len(found.each)})"
    return Finding(word, told, found.p)


def of_each(each: Sequence[float], unit: str = "") -> Finding:
    """Whether the mean of a number by seed is above 0."""
    return judged(difference(each), unit) if len(each) > 1 else of_one(each, unit)


def of_one(each: Sequence[float], unit: str) -> Finding:
    """What a single run says, or none."""
    return Finding("undecided", f"{each[0]:+.3g}{unit} (n = 1)", 1.0) if each else NOT_TESTED


def named(found: Mapping[str, Finding]) -> Finding:
    """One finding of several by their names, which tells what was found of each."""
    return combined([replace(one, told=one.told and f"{name}: {one.told}") for name, one in found.items()])


def tally(found: Mapping[str, Finding]) -> Finding:
    """One finding of several by their names, which tells how many hold, and what was found of each other one."""
    both = combined(list(found.values()))
    if both.word == "not tested":
        return both
    holding = [name for name, one in found.items() if one.word == "holds"]
    others = {name: one for name, one in found.items() if name not in holding}
    rest = [f"{name}: {', '.join(filter(None, [one.word, one.told]))}" for name, one in others.items()]
    if both.word == "undecided" and any(one.word == "fails" for one in others.values()):
        rest.append(NOT_AFTER_HOLM)
    return replace(both, told="; ".join([f"{len(holding)} of {len(found)} hold", *rest]))


def by_setting(settings: Sequence[Sequence[Group]], found: Sequence[Finding]) -> Finding:
    """One finding of several settings; each is named by what it does not share with all the others.

    A setting is a group of runs, or the groups that are compared: then it is named by what these have in common.
    """
    said = [in_common([[group.preset, *group.said()] for group in groups]) for groups in settings]
    shared = in_common(said)
    if len({tuple(words) for words in said}) < len(said):  # then what differs is what is compared
        said = [[group.preset, *group.said()] for group, *_ in settings]
        shared = in_common(said)
    names = [", ".join(word for word in words if word not in shared) or "as the preset" for words in said]
    if len(names) == 1:
        return combined(found)
    pairs = zip(names, found, strict=True)
    return combined([replace(one, told=f"{name}: {one.told}") if one.told else one for name, one in pairs])


def in_common(lists: Sequence[Sequence[str]]) -> list[str]:
    """The words that are in all of these, in the order of the first."""
    return [word for word in lists[0] if all(word in other for other in lists)] if lists else []


def combined(found: Sequence[Finding]) -> Finding:
    """One finding of several: it holds if all hold, and fails if one fails after Holm's correction for how many.

    That all hold by chance is less likely than that one does; that one of many fails by chance is more likely.
    """
    words = {one.word for one in found}
    parts = [one.told for one in found if one.told]
    told = "; ".join([*parts, "the rest is not tested"] if parts and "not tested" in words else parts)
    if "fails" in words:
        tested = [one for one in found if one.word != "not tested"]
        p = min(p for one, p in zip(tested, holm([one.p for one in tested]), strict=True) if one.word == "fails")
        return Finding("fails", told, p) if p < LEVEL else Finding("undecided", f"{told}; {NOT_AFTER_HOLM}", p)
    if len(words) == 1:
        return Finding(words.pop(), told, max(one.p for one in found))
    return Finding("undecided", told, 1.0) if words else NOT_TESTED
