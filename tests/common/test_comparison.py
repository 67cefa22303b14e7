"""Paired differences against SciPy, by simulation, and from records with outcomes."""

import numpy as np
import pytest
from made_groups import group
from scipy import stats

from common.comparison import LEAST_P, Side, compare, difference, holm
from common.outcomes import packed

STUDIES = 600
LABELS = np.array([0, 1, 2, 3] * 10)


@pytest.mark.parametrize("each", [[1.0, 2.0], [0.5, -0.2, 0.9], [3.0, 3.5, 2.5, 3.1, 2.8]])
def test_over_seeds_it_is_the_t_test_of_scipy(each):
    found, theirs = difference(each), stats.ttest_1samp(each, 0)
    assert found.mean == pytest.approx(np.mean(each))
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert (found.images, found.chance) == (None, "seeds")


def test_over_images_alone_it_is_the_t_test_of_the_images():
    images = np.random.default_rng(0).normal(1.0, 20.0, 500)
    found = difference([images.mean()] * 3, images)
    theirs = stats.ttest_1samp(images, 0)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert found.chance == "seeds and test images"


def test_the_p_value_is_the_level_at_which_the_interval_reaches_zero():
    rng = np.random.default_rng(1)
    images, each = rng.normal(1.0, 20.0, 500), [1.0, 2.2, 0.3]
    found = difference(each, images)
    t = stats.t.ppf(1 - found.p / 2, 2) * np.std(each, ddof=1) / 3**0.5
    z = stats.t.ppf(1 - found.p / 2, 499) * np.std(images, ddof=1) / 500**0.5
    assert np.hypot(t, z) == pytest.approx(np.mean(each), rel=1e-6)


def test_without_spread_there_is_no_doubt_and_without_a_gap_no_find():
    assert difference([1.0, 1.0]).p == LEAST_P
    assert difference([0.0, 0.0]).p == 1.0
    assert difference([-1.0, 1.0]).p == 1.0


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 8.0])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(n, spread):
    """Images, seeds (so many times the standard error of the images) and their interaction, all by chance."""
    rng, images, true = np.random.default_rng([n, int(2 * spread)]), 200, 3.0
    held = 0
    for _ in range(STUDIES):
        by_image = rng.normal(0, 20, images)
        by_seed = rng.normal(0, spread * 20 / images**0.5, (n, 1))
        values = true + by_image + by_seed + rng.normal(0, 30, (n, images))
        found = difference(list(values.mean(1)), values.mean(0))
        held += found.low <= true <= found.high
    assert held / STUDIES >= 0.95 - 3 * (0.95 * 0.05 / STUDIES) ** 0.5


def test_holm_is_his_rule():
    # By hand: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def run(right, phase_right=None, labels=LABELS):
    """A run of two phases that gets these test images right after the last one, and those after the first."""
    predicted = np.where(right, labels, (labels + 1) % 4)
    first = right if phase_right is None else phase_right
    phases = {
        name: {"images_per_second": 1, "validation": {"accuracy": 0}, "test": {"accuracy": float(np.mean(own))}}
        for name, own in (("head", first), ("full", right))
    }
    metrics = {"test": {"accuracy": float(np.mean(right))}, "reported": "best", "phases": phases}
    return {"metrics": metrics, "outcomes": packed(labels, predicted, {"head/best": first})}


def random_right(share, seed):
    return np.random.default_rng(seed).random(len(LABELS)) < share


def test_the_same_test_images_are_compared_one_by_one():
    ours, theirs = ([random_right(share, [seed, k]) for seed in range(3)] for k, share in enumerate((0.8, 0.5)))
    found = compare(Side(group("p", "a", *map(run, ours)).records), Side(group("p", "b", *map(run, theirs)).records))
    by_seed = [100 * (np.mean(a) - np.mean(b)) for a, b in zip(ours, theirs, strict=True)]
    by_image = 100 * np.mean([a.astype(int) - b for a, b in zip(ours, theirs, strict=True)], axis=0)
    assert found.each == pytest.approx(by_seed)
    assert found == difference(found.each, by_image)
    assert found.images == len(LABELS)


@pytest.mark.parametrize("why", ["other images", "no outcomes", "one of three"])
def test_other_test_images_are_not(why):
    ours = [run(random_right(0.8, seed)) for seed in range(3)]
    theirs = [
        run(random_right(0.5, 10 + seed), labels=LABELS[::-1] if why == "other images" else LABELS) for seed in range(3)
    ]
    for record in theirs[: 1 if why == "one of three" else 3]:
        if why != "other images":
            del record["outcomes"]
    found = compare(Side(group("p", "a", *ours).records), Side(group("p", "b", *theirs).records))
    assert found.images is None
    assert found == difference(found.each)


def test_phases_are_compared_by_image_too():
    last, first = [random_right(0.8, seed) for seed in range(2)], [random_right(0.5, 5 + seed) for seed in range(2)]
    records = group("p", "a", *(run(a, b) for a, b in zip(last, first, strict=True))).records
    found = compare(Side(records, "full test accuracy (%)"), Side(records, "head test accuracy (%)"))
    by_image = 100 * np.mean([a.astype(int) - b for a, b in zip(last, first, strict=True)], axis=0)
    assert found == difference(found.each, by_image)
    assert found.each == pytest.approx([100 * (np.mean(a) - np.mean(b)) for a, b in zip(last, first, strict=True)])


def test_losses_are_compared_over_seeds_alone():
    records = [run(random_right(0.5, seed)) for seed in range(3)]
    sides = []
    for losses in ((1.0, 1.2, 1.1), (0.9, 1.0, 1.2)):
        own = [{**r, "metrics": r["metrics"] | {"test": {"loss": x}}} for r, x in zip(records, losses, strict=True)]
        sides.append(Side(group("p", "a", *own).records, "test loss"))
    found = compare(*sides)
    assert found.each == pytest.approx([0.1, 0.2, -0.1])
    assert found == difference(found.each)
    assert sides[0].right(0) is None


def test_a_phase_is_compared_in_the_state_that_its_runs_report():
    best, last = random_right(0.8, 0), random_right(0.3, 1)
    record = run(best, best)
    record["outcomes"] = packed(LABELS, LABELS, {"head/best": best, "head/last": last})
    record["metrics"]["reported"] = "last"
    np.testing.assert_array_equal(Side([{**record, "config": {"seed": 0}}], "head test accuracy (%)").right(0)[1], last)


def test_one_seed_has_no_difference():
    records = group("p", "a", run(random_right(0.5, 0))).records
    assert compare(Side(records), Side(records)) is None
