"""Where a published number stands on the scoreboard, and what is said of all of them."""

from collections import Counter

import pytest
from scipy import stats

from common.report import Report
from common.selection import Runs
from results import scoreboard
from results.judged import WORDS
from results.rows import VERDICTS, Row
from results.task import Task
from results.verdicts import judge


def row(values, published, margin, **more):
    gap = judge(values, published, margin).gap if values else None
    return Row("p", "k=2", "test loss", "1", n=len(values), published="1", margin=margin, gap=gap, **more)


def margins(place):
    """From percent of the width back to margins."""
    return place / 100 * 2 * scoreboard.EDGE - scoreboard.EDGE


def test_mean_and_interval_are_those_of_scipy_in_margins():
    values, published, margin = [4.0, 5.0, 6.5], 5.5, 2.0
    found = scoreboard.mark(row(values, published, margin))
    scale = stats.tstd(values) * (1 + 1 / 3) ** 0.5
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3 - published, scale=scale)
    assert margins(found.place) == pytest.approx((sum(values) / 3 - published) / margin, abs=0.001)
    assert [margins(end) for end in found.line] == pytest.approx([low / margin, high / margin], abs=0.001)
    assert found.told == f"−0.2 margins, 95 % interval −{-low / margin:.1f} to +{high / margin:.1f}"
    assert (found.beyond, found.open) == ("", [])


@pytest.mark.parametrize(("gap", "text", "side"), [(40.0, "+20.0", "right"), (-40.0, "−20.0", "left")])
def test_what_lies_far_away_stands_beside_the_edge_with_its_number(gap, text, side):
    found = scoreboard.mark(row([gap - 0.1, gap + 0.1], 0.0, 2.0))
    assert abs(margins(found.place)) == pytest.approx(6.5, abs=0.001)
    assert (margins(found.place) > 0) == (gap > 0)
    assert found.beyond == text
    assert found.open == [side]
    assert len(set(found.line)) == 1  # nothing of it lies on the scale


def test_a_wide_interval_is_cut_at_both_edges():
    found = scoreboard.mark(row([-9.0, 9.0], 0.0, 1.0))
    assert (found.line, found.open) == ((0.0, 100.0), ["left", "right"])


def test_a_single_run_has_a_place_and_no_line():
    found = scoreboard.mark(row([1.5], 1.0, 0.5))
    assert (margins(found.place), found.line) == (pytest.approx(1, abs=0.001), None)
    assert found.told == "+1.0 margins, one run, no interval"


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (row([1.0, 2.0], 1.0, 0.0), "no margin was written down"),
        (row([], 1.0, 1.0), "every run diverged"),
        (
            Row("p", "", "m", "1", n=2, published="1", notes=("not comparable: other data",)),
            "not comparable: other data",
        ),
    ],
)
def test_no_point_is_made_up(one, told):
    found = scoreboard.mark(one)
    assert (found.place, found.line, found.told) == (None, None, told)


def test_names_are_in_words_whether_run_or_not():
    words = {"trained": {True: "encoder trained", False: "encoder frozen"}, "k": "{} numbers"}
    rows = [
        Row("p", "k=2 trained=False", "test loss", published="1", verdict="not measured"),
        Row("p", "k=2 trained=False", "train loss", published="1", verdict="not measured"),
        Row("p", "k=2 trained=True", "test loss", mean="1"),
    ]
    (found,) = scoreboard.boards([Task("t", Report(words=words), Runs(), [], rows, [], [], [], 1)])
    assert found.settings == []
    (setting,) = found.missing
    assert setting.name == "p, 2 numbers, encoder frozen"
    assert [mark.row.metric for mark in setting.marks] == ["test loss", "train loss"]
    assert found.told == "2 are not measured"


def test_counts_are_said_in_words():
    assert scoreboard.sentence(Counter({"reproduced": 2, "lower": 1, "not measured": 40}), VERDICTS) == (
        "2 are reproduced, 1 is lower and 40 are not measured"
    )
    assert scoreboard.sentence(Counter({"holds": 2, "fails": 1}), WORDS) == "2 hold and 1 fails"
    assert scoreboard.sentence(Counter({"holds": 1}), WORDS) == "1 holds"
