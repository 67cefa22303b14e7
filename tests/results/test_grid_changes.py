"""A column of a table may show how far a metric is above that of other runs."""

import pytest
from made_groups import group, runs, scored

from common.report import Part, Report, Table
from results.grids import NOTHING, Source, fill

ROWS = {"loss": Part(metric="test loss", change="%"), "accuracy": Part(metric="test accuracy (%)")}
AFTER, BEFORE = {"arm": "b", "depth": 2}, {"arm": "a"}
COLUMNS = {
    "source": Part(AFTER, shows="published", over=BEFORE),
    "ours": Part(AFTER, over=BEFORE),
}
PUBLISHED = {
    ("p", "arm=a", "test loss"): "1.4385",
    ("p", "arm=b depth=2", "test loss"): "1.2444",
    ("p", "arm=a", "test accuracy (%)"): "45.46",
    ("p", "arm=b depth=2", "test accuracy (%)"): "62.69",
}


def filled(before, after, published=PUBLISHED, protocols=(2, 2)):
    def arm(setting, values, protocol, **fields):
        own = [scored(test={"loss": loss, "accuracy": share, "n": 100}) for loss, share in values]
        return group("p", setting, *({**run, "protocol": protocol} for run in own), **fields)

    first, second = protocols
    found = runs(arm("arm=a", before, first, arm="a"), arm("arm=b depth=2", after, second, arm="b", depth=2))
    references = {key: {"published": value, "margin": "", "note": ""} for key, value in published.items()}
    grid = fill(Table("A table", ROWS, COLUMNS, of={"preset": "p"}), Source(Report(), found, references, []))
    return {name: [grid.text(cell) for cell in cells] for name, cells in grid.rows}


def test_a_change_is_in_points_or_percent_seed_by_seed_and_of_what_is_published():
    found = filled([(1.0, 0.4), (2.0, 0.5)], [(0.9, 0.6), (1.6, 0.7)])
    # -10 and -20 %, of which the mean is -15 and the sample deviation 7.07; +20 points twice.
    assert found == {
        "loss": ["−13.5 %", "(−15.0 ± 7.1) %"],
        "accuracy": ["+17.23", "+20.0 ± 0.0"],
    }


@pytest.mark.parametrize("lacking", list(PUBLISHED))
def test_a_change_needs_both_ends(lacking):
    part = {key: value for key, value in PUBLISHED.items() if key != lacking}
    found = filled([(1.0, 0.4)], [(0.9, 0.6)], part)
    row = "loss" if "loss" in lacking[2] else "accuracy"
    assert found[row][0] == NOTHING
    assert filled([], [(0.9, 0.6)])["loss"][1] == NOTHING


def test_arms_of_two_protocols_have_no_change():
    found = filled([(1.0, 0.4), (2.0, 0.5)], [(0.9, 0.6), (1.6, 0.7)], protocols=(2, 1))
    assert [found[row][1] for row in found] == [NOTHING, NOTHING]


def test_nothing_has_no_change_in_percent():
    found = filled([(0.0, 0.0), (2.0, 0.5)], [(0.9, 0.6), (1.6, 0.7)])
    assert found["loss"][1] == NOTHING
    assert found["accuracy"][1] == "+40.0 ± 28.3"
