"""The report of permuted_cnn: its claim judged, and its figures drawn, by runs made by hand."""

import made_groups
import numpy as np
import pytest
from scipy import stats

from common.comparison import Side
from tasks.permuted_cnn import report


def trained(network, block, *runs, epochs=20, padding="valid"):
    """Runs of a network on images whose blocks are permuted."""
    config = {"dataset": "notmnist", "network": network, "block": block, "epochs": epochs, "padding": padding}
    shown = ["dataset", "network", "block", *["epochs"] * (epochs != 20), *["padding"] * (padding == "same")]
    label = " ".join(f"{key}={config[key]}" for key in shown)
    known = {key: value for key, value in config.items() if value != "unknown"}
    return made_groups.group("permuted", label, *runs, **known)


def accurate(*percent, images=1000):
    return [made_groups.scored(test={"accuracy": each / 100, "n": images}) for each in percent]


def judged(*groups):
    (claim,) = report.REPORT.claims
    return claim.judge(made_groups.runs(*groups))


@pytest.mark.parametrize(
    ("permuted", "word"),
    [
        ((70, 71, 70.5), "holds"),  # 30 % of errors for 10 %
        ((86, 87, 86.5), "fails"),  # it drops, but not a lot
        ((92, 93, 92.5), "fails"),
        ((80, 81, 79), "undecided"),
    ],
)
def test_accuracy_drops_a_lot_if_errors_at_least_double(permuted, word):
    found = judged(trained("cnn", None, *accurate(90, 91, 90.5)), trained("cnn", 1, *accurate(*permuted)))
    assert found.word == word
    ratios = (100 - np.array(permuted)) / (100 - np.array([90, 91, 90.5]))
    low, high = stats.ttest_1samp(ratios, 0).confidence_interval(0.95)
    assert f"{ratios.mean():.2f} times as many ({low:.2f} to {high:.2f}; n = 3)" in found.told


def test_the_p_value_of_the_errors_is_against_twice_as_many():
    plain, permuted = (
        Side(made_groups.group("p", "", *accurate(*own)).records) for own in ((90, 91, 90.5), (86, 87, 86))
    )
    ratios = (100 - np.array([86, 87, 86])) / (100 - np.array([90, 91, 90.5]))
    found = report.times_the_errors(permuted, plain)
    assert found.p == pytest.approx(stats.ttest_1samp(ratios, 2).pvalue, rel=1e-6)


def test_a_seed_without_errors_on_images_as_they_are_has_no_ratio():
    def told(*plain):
        sides = (Side(made_groups.group("p", "", *accurate(*own)).records) for own in ((70, 70, 70), plain))
        return report.times_the_errors(*sides)

    assert told(100, 90, 85).told.endswith("; n = 2)")
    assert told(100, 100, 100).word == "not tested"


def test_the_claim_is_about_the_network_of_the_source_alone():
    others = [trained("mlp", block, *accurate(90, 91)) for block in (None, 1)]
    others += [
        trained("cnn", block, *accurate(90, 91), padding=padding)
        for block in (None, 1)
        for padding in ("same", "unknown")
    ]
    assert judged(*others).word == "not tested"
    single = judged(*others, trained("cnn", None, *accurate(90)), trained("cnn", 1, *accurate(70)))
    assert (single.word, single.told) == (
        "undecided",
        "accuracy: +20 points (n = 1); errors: 3.00 times as many (n = 1)",
    )


def by_epoch(*accuracies):
    return {"history": [{"loss": 1.0, "val_accuracy": accuracy} for accuracy in accuracies]}


def test_curves_tell_permuted_by_the_style_and_enlarge_the_end(drawn, tmp_path):
    report.curves(made_groups.runs(trained("cnn", 2, by_epoch(0.5, 0.5))), tmp_path / "p.png")
    assert drawn == []  # blocks are the other figure's
    found = [
        trained("cnn", None, by_epoch(0.2, 0.8, 0.92, 0.945)),
        trained("cnn", 1, by_epoch(0.1, 0.6, 0.864, 0.88), by_epoch(0.1, 0.6, 0.862, 0.9)),
        trained("cnn", 1, by_epoch(0.1, 0.1, 0.1, 0.1), padding="unknown"),
    ]
    report.curves(made_groups.runs(*found[:2]), tmp_path / "p.png")
    _, whole, end = drawn[0].axes
    assert {line.get_label(): line.get_linestyle() for line in whole.get_lines()} == {
        "convolutions, images as they are (n = 1)": "-",
        "convolutions, pixels permuted (n = 2)": "--",
    }
    assert (*end.get_xlim(), *end.get_ylim()) == (3, 4, 86, 95)
    assert len(whole.collections) == 1  # a band of the two seeds alone
    report.curves(made_groups.runs(*found), tmp_path / "p.png")
    assert "convolutions, padded, pixels permuted (n = 1)" in [
        line.get_label() for line in drawn[1].axes[1].get_lines()
    ]


def test_locality_has_a_point_a_block_and_nothing_leads_to_the_images_as_they_are(drawn, tmp_path):
    found = [
        trained("cnn", 2, *accurate(10), epochs=30),
        trained("cnn", None, *accurate(90), epochs=5),
        trained("cnn", 1, *accurate(50), epochs=5),
        trained("cnn", 7, *accurate(75), epochs=5),
        trained("mlp", 4, *accurate(20, 40), epochs=5),
    ]
    report.locality(made_groups.runs(*found), tmp_path / "p.png")
    blocks, whole, control = drawn[0].axes[0].containers
    assert np.round(blocks[0].get_xydata()).tolist() == [[0, 50], [3, 75]]
    assert np.round(whole[0].get_xydata()).tolist() == [[5, 90]]
    assert np.round(control[0].get_xydata()).tolist() == [[2, 30]]
    legend = drawn[0].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["convolutions (n = 1)", "perceptron (n = 2)"]


def test_intervals_hold_test_images_and_several_seeds():
    alone = report.mean_and_reach(made_groups.runs(trained("cnn", 1, *accurate(80, images=400))))
    assert alone == (pytest.approx(80), pytest.approx(1.966 * 2, rel=1e-3))  # 2 points, and t of 399
    mean, reach = report.mean_and_reach(made_groups.runs(trained("cnn", 1, *accurate(70, 90, images=10**9))))
    low, high = stats.ttest_1samp([70, 90], 0).confidence_interval(0.95)
    assert (mean - reach, mean + reach) == pytest.approx((low, high), rel=1e-3)
