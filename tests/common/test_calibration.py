"""Calibration in closed form, and against torchmetrics (fixtures/calibration_errors.npz)."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from common.calibration import TEMPERATURES, calibration_error, reliability, scaled, temperature
from common.metrics import cross_entropy

FIXTURE = Path(__file__).parent / "fixtures" / "calibration_errors.npz"
CASES = ("too confident", "too modest", "many classes", "on the edges")
# Four predictions at 0.9, of which two are right, and six at 0.6, of which three are.
TWO_BINS = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 6), np.array([0, 0, 1, 1, 1, 1, 1, 0, 0, 0])


def two_classes(gap, images, right):
    """Probabilities of two classes whose scores differ by `gap`, and labels of which these are predicted right."""
    probabilities = softmax(np.tile([gap, 0.0], (images, 1)), axis=1)
    return probabilities, (np.arange(images) >= right).astype(int)


def test_what_is_right_as_often_as_it_says_has_no_error():
    confidences = np.repeat([0.6, 0.7, 0.8, 0.9], 10)
    labels = np.concatenate([np.arange(10) >= right for right in (6, 7, 8, 9)]).astype(int)
    bins = reliability(np.stack([confidences, 1 - confidences], axis=1), labels)
    assert calibration_error(bins) == pytest.approx(0, abs=1e-15)
    assert sum(own.count for own in bins) == 40


def test_an_example_by_hand():
    bins = reliability(*TWO_BINS)
    assert [(own.count, own.accuracy) for own in bins if own.count] == [(6, 0.5), (4, 0.5)]
    assert [own.confidence for own in bins if own.count] == pytest.approx([0.6, 0.9])
    assert calibration_error(bins) == pytest.approx(0.6 * 0.1 + 0.4 * 0.4)


@pytest.mark.parametrize("case", CASES)
def test_the_error_is_torchmetrics(case):
    with np.load(FIXTURE) as saved:
        probabilities, labels, error = (saved[f"{case}/{part}"] for part in ("probabilities", "labels", "error"))
    assert probabilities.dtype == np.float32
    assert calibration_error(reliability(probabilities, labels)) == pytest.approx(float(error), abs=1e-6)


@pytest.mark.parametrize(("gap", "right"), [(4.0, 80), (0.5, 90), (2.0, 55)])
def test_the_temperature_of_two_classes_has_a_closed_form(gap, right):
    """The likelihood is highest if the top probability is the share of right predictions."""
    probabilities, labels = two_classes(gap, 100, right)
    found = temperature(probabilities, labels)
    assert found == pytest.approx(gap / np.log(right / (100 - right)), rel=1e-4)
    assert scaled(probabilities, found)[:, 0] == pytest.approx(right / 100, rel=1e-4)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_factor_of_the_scores_is_recovered(factor):
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(20_000, 5))
    labels = (scores + draw.gumbel(size=scores.shape)).argmax(axis=1)  # a draw from the scores' softmax
    probabilities = softmax(factor * scores, axis=1).astype(np.float32)
    found = temperature(probabilities, labels)
    assert found == pytest.approx(factor, rel=0.03)
    after = cross_entropy(labels, np.log(scaled(probabilities, found)))
    assert after <= cross_entropy(labels, np.log(probabilities)) + 1e-9
    assert calibration_error(reliability(scaled(probabilities, found), labels)) < 0.02
    np.testing.assert_array_equal(scaled(probabilities, found).argmax(axis=1), probabilities.argmax(axis=1))


def test_without_a_best_temperature_it_goes_to_an_end():
    right, wrong = two_classes(1.0, 10, 10), two_classes(1.0, 10, 4)
    assert temperature(*wrong) == pytest.approx(TEMPERATURES[1], rel=0.01)
    assert scaled(right[0], temperature(*right))[:, 0] == pytest.approx(1, abs=1e-12)


def test_a_probability_of_zero_counts_as_the_smallest_float32():
    probabilities = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    found = temperature(probabilities, np.array([0, 1, 1]))
    gap = -np.log(float(np.finfo(np.float32).smallest_subnormal))
    assert found == pytest.approx(min(gap / np.log(2), TEMPERATURES[1]), rel=0.01)  # two of three are right
    assert np.isfinite(scaled(probabilities, found)).all()
