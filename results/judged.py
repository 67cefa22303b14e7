"""The claims of a task's source, judged by its runs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.claims import NOT_TESTED, Claim, Finding
from common.selection import Runs
from common.words import counts

WORDS = ("holds", "fails", "undecided", "not comparable", "not tested")


@dataclass(frozen=True)
class Judged:
    """A claim and what the runs say of it."""

    claim: Claim
    finding: Finding
    older: bool = False
    """Tested under an older protocol alone."""


def counted(claims: Sequence[Judged]) -> str:
    """How many claims hold, fail and so on, in words."""
    found = Counter[str](one.finding.word for one in claims)
    return counts({word: found[word] for word in WORDS})


def judge(claims: Iterable[Claim], by_protocol: Sequence[Runs], current: int) -> list[Judged]:
    """Each claim by the runs of the newest protocol that test it."""
    return [judge_one(claim, by_protocol, current) for claim in claims]


def judge_one(claim: Claim, by_protocol: Sequence[Runs], current: int) -> Judged:
    """One claim. Runs of code that is in no commit do not count."""
    for runs in by_protocol:
        runs = Runs(tuple(group for group in runs.groups if group.is_committed))
        finding = claim.judge(runs)
        if finding.word != "not tested":
            return Judged(claim, finding, runs.groups[0].protocol < current)
    return Judged(claim, NOT_TESTED)
