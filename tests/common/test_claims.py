"""Claims are judged by runs made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from made_groups import group, runs, scored
from scipy import stats

from common.claims import (
    NOT_TESTED,
    Finding,
    about,
    alike,
    always,
    at_source_size,
    combined,
    every,
    greater,
    more,
    on_equal_terms,
    positive,
    rising,
    tally,
)
from common.report import Pair
from common.selection import Runs

PAIR = Pair({"kind": "a"}, {"kind": "b"})


def accurate(*shares):
    return [scored(test={"accuracy": share, "loss": 1 - share}) for share in shares]


def both(ours, theirs):
    return runs(
        group("p", "kind=a", *accurate(*ours), kind="a"),
        group("p", "kind=b", *accurate(*theirs), kind="b"),
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ((0.8, 0.81, 0.79), (0.5, 0.52, 0.5), "holds"),
        ((0.5, 0.52, 0.5), (0.8, 0.81, 0.79), "fails"),
        ((0.5, 0.6, 0.4), (0.5, 0.5, 0.5), "undecided"),
        ((0.5, 0.6), (0.5, 0.6), "undecided"),
        ((0.8,), (0.5,), "undecided"),
    ],
)
def test_one_side_is_above_the_other(ours, theirs, word):
    found = greater(PAIR)(both(ours, theirs))
    assert found.word == word
    gaps = 100 * (np.array(ours) - theirs)
    assert found.told.startswith(f"{gaps.mean():+.3g} points (")
    assert found.told.endswith(f"n = {len(ours)})")
    if len(ours) > 1:
        low, high = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
        assert f"({low:.3g} to {high:.3g}; n = " in found.told
    lower = greater(PAIR, "test loss")(both(ours, theirs))
    assert lower.word == {"holds": "fails", "fails": "holds"}.get(word, word)


@pytest.mark.parametrize(
    ("at_size", "word"),
    [
        ((0.8, 0.81, 0.79), "holds"),
        ((0.2, 0.21, 0.19), "fails"),
        ((0.5,), "fails"),  # one seed leaves it open, so the small runs speak too
        ((), "fails"),
    ],
)
def test_runs_of_the_sources_size_decide_alone_if_they_can(at_size, word):
    def arm(kind, size, *shares):
        return group("p", f"kind={kind} size={size}", *accurate(*shares), kind=kind, size=size)

    small = [arm("a", 64, 0.3, 0.31, 0.29), arm("b", 64, 0.6, 0.6, 0.6)]
    large = [arm("a", 224, *at_size), arm("b", 224, *[0.5] * len(at_size))] if at_size else []
    assert at_source_size({"size": 224}, greater(PAIR))(runs(*small, *large)).word == word


def test_sides_on_other_terms_are_shown_and_not_compared():
    def arm(kind, size, *shares):
        return group("p", f"kind={kind} size={size}", *accurate(*shares), kind=kind, size=size)

    small, large = ([arm("a", size, 0.6, 0.61, 0.62), arm("b", size, 0.3, 0.31, 0.3)] for size in (64, 224))
    judge = on_equal_terms({"size": 224}, greater(PAIR))
    assert judge(runs(*small, *large)) == greater(PAIR)(runs(*large))
    shown = judge(runs(*small))
    assert (shown.word, shown.p) == ("not comparable", 1.0)
    assert shown.told == greater(PAIR)(runs(*small)).told
    assert judge(runs()) == NOT_TESTED


def test_of_several_settings_each_is_named_by_what_it_does_not_share():
    shares = {
        ("small", "a"): (0.5, 0.6),
        ("small", "b"): (0.4, 0.4),
        ("big", "a"): (0.9, 0.8),
        ("big", "b"): (0.1, 0.1),
    }
    there = runs(
        *(
            group("p", f"kind={kind} net={net} size=32", *accurate(*own), kind=kind, net=net, size=32)
            for (net, kind), own in shares.items()
        )
    )
    small, big = (Runs(tuple(own for own in there.groups if own.config["net"] == net)) for net in ("small", "big"))
    assert greater(PAIR)(there).told == f"net small: {greater(PAIR)(small).told}; net big: {greater(PAIR)(big).told}"
    assert greater(PAIR)(small).told.startswith("+15 points")

    def accuracy(record):
        return record["metrics"]["test"]["accuracy"]

    without = runs(*there.groups[:2], *(replace(own, setting=f"kind={own.config['kind']}") for own in there.groups[2:]))
    assert greater(PAIR)(without).told.startswith("net small, size 32: +15 points")
    assert "; as the preset: +75 points" in greater(PAIR)(without).told
    of = {"kind": "a", "net": ..., "size": 32}
    assert positive(accuracy, of)(there).told.startswith("net small: +0.55 (")
    assert "; net big: +0.85 (" in positive(accuracy, of)(there).told
    assert more(PAIR, accuracy)(there).told.startswith("net small: +0.15 (")
    assert alike(PAIR, margin=1000)(there).told == greater(PAIR)(there).told


def test_what_was_not_run_is_not_tested():
    assert greater(PAIR)(runs()) == NOT_TESTED
    assert positive(lambda record: 1.0, of={"kind": "c"})(both((0.5,), (0.5,))) == NOT_TESTED
    assert positive(lambda record: None, of={"kind": "a"})(both((0.5,), (0.5,))) == NOT_TESTED
    assert always(lambda record: None, of={"kind": "a"})(both((0.5,), (0.5,))) == NOT_TESTED
    assert every()(runs()) == NOT_TESTED


def test_two_sides_are_alike_if_the_interval_lies_within_the_margin():
    for ours, word in (((0.5, 0.51, 0.52), "holds"), ((0.5, 0.6, 0.4), "undecided"), ((0.9, 0.91, 0.92), "fails")):
        found = alike(PAIR, margin=5)(both(ours, (0.51, 0.52, 0.51)))
        assert found.word == word, ours
        assert "; n = 3)" in found.told
        gaps = 100 * (np.array(ours) - (0.51, 0.52, 0.51))
        assert found.p == pytest.approx(stats.ttest_1samp(gaps, np.copysign(5, gaps.mean())).pvalue)
    assert alike(PAIR, margin=5)(both((0.5,), (0.5,))).word == "undecided"
    assert alike(PAIR, margin=5)(runs()) == NOT_TESTED


def test_a_side_that_diverged_is_left_out():
    there = both((0.8, 0.81), (0.5, 0.51))
    lost = group("p", "kind=b x=1", {"metrics": {"status": "diverged"}}, kind="b", x=1)
    assert greater(PAIR)(runs(*there.groups, lost)) == greater(PAIR)(there)

    def accuracy(record):
        return record["metrics"]["test"]["accuracy"]

    left = group("p", "kind=a x=1", *accurate(0.9, 0.8), kind="a", x=1)
    assert more(PAIR, accuracy)(runs(*there.groups, left, lost)) == more(PAIR, accuracy)(there)


def test_a_tally_counts_what_holds_and_tells_the_rest():
    holds, fails = Finding("holds", "+1"), Finding("fails", "-1", 0.001)
    assert tally({"a": holds, "b": holds}) == Finding("holds", "2 of 2 hold")
    assert tally({"a": holds, "b": fails, "c": NOT_TESTED}) == Finding(
        "fails", "1 of 3 hold; b: fails, -1; c: not tested", 0.002
    )
    unsure = tally({"a": holds, "b": Finding("fails", "-1", 0.04)})
    assert unsure.word == "undecided"
    assert unsure.told == "1 of 2 hold; b: fails, -1; no part fails after Holm's correction"
    assert tally({"a": NOT_TESTED}) == tally({}) == NOT_TESTED


def test_one_part_of_many_fails_only_after_holms_correction():
    fails, holds = Finding("fails", "-1", 0.02), Finding("holds", "+1", 0.03)
    assert combined([fails]).word == combined([fails, holds]).word == "fails"
    assert combined([fails, holds]).p == pytest.approx(0.04)
    assert combined([fails, replace(holds, p=1e-9)]).p == pytest.approx(0.02)  # of what fails, not of what is sure
    assert combined([replace(fails, p=0.001), fails]).p == pytest.approx(0.002)  # the surest
    assert combined([fails, holds, holds]).word == "undecided"
    assert combined([replace(fails, p=0.001), *[holds] * 20]).word == "fails"
    assert combined([Finding("fails", "true of 0 of 3 runs", 0.0), *[holds] * 20]).word == "fails"
    assert combined([holds, holds]).word == "holds"
    assert combined([fails, *[NOT_TESTED] * 20]).word == "fails"
    undecided = combined([fails, holds, holds])
    assert undecided.told == "-1; +1; +1; no part fails after Holm's correction"
    named = every(
        *(about(name, lambda runs, one=one: one) for name, one in zip("abc", (fails, holds, holds), strict=True))
    )
    assert (named(runs()).word, named(runs()).p) == (undecided.word, undecided.p)


def test_a_number_is_above_zero():
    every_run = both((0.5, 0.6, 0.7), (0.1, 0.2, 0.3))

    def above(least):
        return positive(lambda record: record["metrics"]["test"]["accuracy"] - least, of={"kind": "a"}, unit=" of 1")

    assert above(0.1)(every_run).word == "holds"
    assert above(0.6)(every_run).word == "undecided"
    assert above(2.0)(every_run).word == "fails"
    assert " of 1 (" in above(0.1)(every_run).told


def test_a_statement_is_true_of_each_run():
    every_run = both((0.5, 0.6), (0.1, 0.2))

    def over(least):
        return always(lambda record: record["metrics"]["test"]["accuracy"] > least, of={"kind": "a"})

    assert [over(least)(every_run).word for least in (0.4, 0.55, 0.9)] == ["holds", "undecided", "fails"]
    assert over(0.55)(every_run).told == "true of 1 of 2 runs"
    lost = {"metrics": {"status": "diverged"}}  # it has no accuracy
    assert over(0.55)(runs(group("p", "kind=a", *accurate(0.5, 0.6), lost, kind="a"))).told == "true of 1 of 2 runs"


def test_of_runs_that_agree_in_what_a_statement_is_about_one_counts():
    runs_of_two = runs(*(group("p", f"net={net} data=d", *accurate(0.5, 0.6), net=net, data="d") for net in "ab"))
    of = {"net": ..., "data": "d"}

    def over(least, **more):
        return always(lambda record: record["metrics"]["test"]["accuracy"] > least, of, **more)(runs_of_two).told

    assert over(0.55) == "true of 2 of 4 runs"
    assert over(0.55, once=("data", "seed")) == "true of 1 of 2 runs"
    assert over(0.55, once=("data",)) == "true of 0 of 1 runs"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("holds", "holds"), "holds"),
        (("holds", "fails"), "fails"),
        (("holds", "undecided"), "undecided"),
        (("holds", "not tested"), "undecided"),
        (("undecided", "fails"), "fails"),
        (("not tested", "not tested"), "not tested"),
    ],
)
def test_all_of_several_statements(words, told):
    assert every(*(lambda runs, word=word: Finding(word, p=0.001) for word in words))(runs()).word == told


def test_accuracy_rises_from_phase_to_phase():
    def run(*shares):
        phases = {
            name: {"images_per_second": 1, "validation": {"accuracy": share}, "test": {"accuracy": share}}
            for name, share in zip(("head", "block", "full"), shares, strict=True)
        }
        return {"metrics": {"phases": phases, "test": {"accuracy": shares[-1]}}}

    own = runs(group("p", "kind=a", run(0.5, 0.6, 0.71), run(0.5, 0.61, 0.7), run(0.49, 0.6, 0.7), kind="a"))
    assert rising("head", "block", "full", of={"kind": "a"})(own).word == "holds"
    assert rising("full", "block", "head", of={"kind": "a"})(own).word == "fails"
    assert rising("head", "full", of={"kind": "b"})(own) == NOT_TESTED


def test_runs_that_are_not_as_their_preset_says_do_not_count():
    odd = group("p", "kind=a rate=9", *accurate(0.1, 0.1), kind="a", rate=9)
    usual = group("p", "kind=a", *accurate(0.8, 0.9), kind="a", rate=1)
    found = always(lambda record: record["metrics"]["test"]["accuracy"] > 0.5, of={"kind": "a"})(runs(odd, usual))
    assert found.told == "true of 2 of 2 runs"


def test_a_number_of_each_run_is_compared_seed_by_seed_and_named():
    def number(record):
        return record["metrics"]["test"]["accuracy"] ** 2

    assert more(PAIR, number)(both((0.8, 0.9, 0.8), (0.2, 0.3, 0.2))).word == "holds"
    assert more(PAIR, number)(both((0.2, 0.3, 0.2), (0.8, 0.9, 0.8))).word == "fails"
    assert more(PAIR, number)(both((0.8,), (0.2,))).told == "+0.6 (n = 1)"
    assert about("squares", more(PAIR, number))(both((0.8,), (0.2,))).told == "squares: +0.6 (n = 1)"
    assert about("squares", more(PAIR, number))(runs()) == NOT_TESTED


def test_alike_fails_on_either_side():
    """Far below is as unlike as far above."""
    pair, far, near = Pair({"kind": "a"}, {"kind": "b"}), (0.1, 0.11, 0.12), (0.51, 0.52, 0.51)

    def own(shares, kind):
        return group("p", f"kind={kind}", *(scored(test={"accuracy": share}) for share in shares), kind=kind)

    assert stats.ttest_1samp(100 * (np.array(far) - near), -5, alternative="less").pvalue < 0.025
    for ours, theirs in ((far, near), (near, far)):
        assert alike(pair, margin=5)(runs(own(ours, "a"), own(theirs, "b"))).word == "fails"


def test_that_all_hold_is_as_sure_as_the_least_sure():
    """Intersection-union test (Berger 1982): the largest p-value."""
    assert combined([Finding("holds", "", 0.01), Finding("holds", "", 0.03)]).p == 0.03


def test_a_run_that_diverged_counts_for_no_number():
    diverged = {"metrics": {"status": "diverged"}}
    there = group("p", "kind=a", *(scored(test={"accuracy": a}) for a in (0.5, 0.6, 0.7)), diverged, kind="a")
    found = positive(lambda record: record["metrics"].get("test", {"accuracy": -9.0})["accuracy"], of={"kind": "a"})
    assert found(runs(there)).word == "holds"
    assert found(runs(there)).told.endswith("n = 3)")


def test_each_phase_is_compared_with_the_one_before():
    """Up by 30 points, then down by 10, in every seed."""

    def run(more):
        phases = {
            name: {"images_per_second": 1, "validation": {"accuracy": share}, "test": {"accuracy": share + more}}
            for name, share in (("head", 0.5), ("block", 0.8), ("full", 0.7))
        }
        return {"metrics": {"phases": phases, "test": {"accuracy": 0.7}}}

    own = runs(group("p", "kind=a", *map(run, (0, 0.001, 0.002)), kind="a"))
    assert rising("head", "block", "full", of={"kind": "a"})(own).word == "fails"
