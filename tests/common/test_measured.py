"""Names, units and digits of metrics."""

import pytest

from common.measured import METRICS, SPEED, TEST_ACCURACY, TEST_LOSS, Metric, by_name, declared, loss, measured, percent


@pytest.mark.parametrize(
    ("metric", "values", "digits"),
    [
        (Metric("components"), (154, 155), 0),  # counts are whole
        (Metric("parts"), (1.5, 2.5), 2),
        (TEST_ACCURACY, (80, 80), 2),
        (SPEED, (80, 80), 1),
        (TEST_LOSS, (3.9e-6, 1e-7), 7),
        (TEST_LOSS, (9.2e-4, 9.2e-4), 5),
        (TEST_LOSS, (0, 0), 5),
        (TEST_LOSS, (0.5, 1.39), 4),
        (TEST_LOSS, (49155560.3, 1), 0),
    ],
)
def test_metrics_have_the_digits_that_they_need(metric, values, digits):
    assert metric.decimals(values) == digits


def test_a_declared_name_may_stand_for_many():
    own = (percent("F1 of * (%)", detail=True), loss("PCA loss"))
    assert declared("F1 of sad (%)", own) == percent("F1 of sad (%)", detail=True)
    assert declared("PCA loss", own).better == "lower"
    assert declared("F1 of sad", own) is None


def test_phases_of_what_is_no_classifier_have_losses():
    phases = {
        name: {"images_per_second": 9, "validation": {"loss": value}, "test": {"loss": value / 2}}
        for name, value in (("first", 0.5), ("second", 0.25))
    }
    found = measured({"test": {"loss": 0.125}, "phases": phases})
    assert by_name({"phases": phases})["first validation loss"] == 0.5
    assert {metric.name: metric.better for metric in found if "loss" in metric.name} == dict.fromkeys(
        ("test loss", "first validation loss", "first test loss", "second validation loss", "second test loss"), "lower"
    )


def test_everything_measured_has_a_direction_but_what_no_one_declares():
    phases = {
        name: {"images_per_second": 9, "validation": {"accuracy": a}, "test": {"accuracy": a / 2}}
        for name, a in (("head", 0.25), ("full", 0.5))
    }
    metrics = {"test": {"accuracy": 0.25, "loss": 2.0}, "by_name": {"parts": 3, "PCA loss": 1}, "phases": phases}
    found = measured(metrics, (loss("PCA loss"),))
    assert [metric.name for metric in found if metric.better is None] == ["parts"]
    assert {metric.name for metric in found if metric.better == "lower"} == {"test loss", "PCA loss"}
    names = by_name(metrics)
    assert names == {metric.name: value for metric, value in found.items()}
    assert names["test accuracy (%)"] == 25
    assert names["full test accuracy (%)"] == 25
    assert names["head images/s"] == 9


def test_one_phase_has_a_speed_and_no_accuracies_of_its_own():
    assert measured({"phases": {"train": {"images_per_second": 7}}}) == {SPEED: 7.0}


def test_every_metric_stands_under_its_own_name():
    metrics = {
        "test": {"accuracy": 0.1, "macro_f1": 0.2, "weighted_f1": 0.3, "loss": 0.4},
        "validation": {"accuracy": 0.5, "loss": 0.6},
        "train": {"accuracy": 0.7, "loss": 0.8},
        "running": {"loss": 0.9},
    }
    named = {
        "test accuracy (%)": 10,
        "test macro F1 (%)": 20,
        "test weighted F1 (%)": 30,
        "test loss": 0.4,
        "validation accuracy (%)": 50,
        "validation loss": 0.6,
        "train accuracy (%)": 70,
        "train loss": 0.8,
        "running train loss": 0.9,
    }
    assert by_name(metrics) == pytest.approx(named)
    assert {m.name: m.better for m in METRICS.values()} == {n: "lower" if "loss" in n else "higher" for n in named}
