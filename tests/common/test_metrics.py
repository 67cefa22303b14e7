import json
import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from common.metrics import cross_entropy, evaluate


def one_hot(predicted, classes):
    return np.eye(classes)[predicted]


def test_hand_computed_scores_of_three_classes():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    predicted = np.array([0, 0, 0, 1, 1, 1, 0, 1])  # class 2 is never predicted
    result = evaluate(labels, one_hot(predicted, 3), ["a", "b", "c"])

    assert result["n"] == 8
    assert result["accuracy"] == pytest.approx(5 / 8)
    assert result["confusion"] == [[3, 1, 0], [1, 2, 0], [0, 1, 0]]
    assert [entry["class"] for entry in result["per_class"]] == ["a", "b", "c"]
    assert [entry["support"] for entry in result["per_class"]] == [4, 3, 1]
    assert [entry["precision"] for entry in result["per_class"]] == pytest.approx([3 / 4, 2 / 4, 0])
    assert [entry["recall"] for entry in result["per_class"]] == pytest.approx([3 / 4, 2 / 3, 0])
    assert [entry["f1"] for entry in result["per_class"]] == pytest.approx([6 / 8, 4 / 7, 0])
    assert result["macro_precision"] == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    assert result["macro_recall"] == pytest.approx((3 / 4 + 2 / 3 + 0) / 3)
    assert result["macro_f1"] == pytest.approx((6 / 8 + 4 / 7 + 0) / 3)
    assert result["weighted_precision"] == pytest.approx((4 * 3 / 4 + 3 * 2 / 4) / 8)
    assert result["weighted_recall"] == pytest.approx((4 * 3 / 4 + 3 * 2 / 3) / 8)
    assert result["weighted_f1"] == pytest.approx((4 * 6 / 8 + 3 * 4 / 7) / 8)
    assert "top5_accuracy" not in result


def test_hand_computed_loss():
    scores = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]) + np.array([[3], [-3]])
    assert cross_entropy(np.array([0, 2]), scores) == pytest.approx((math.log(2) + math.log(10)) / 2)


def test_loss_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 10, 500), rng.normal(0, 5, (500, 10)).astype(np.float32)
    powers = np.exp(scores.astype(np.float64))
    expected = log_loss(labels, powers / powers.sum(axis=1, keepdims=True), labels=range(10))
    assert cross_entropy(labels, scores) == pytest.approx(expected)


def test_loss_of_a_certain_prediction_is_the_distance_of_its_scores():
    """It was cut off at 16 nats, and then lay below the validation loss of training."""
    scores = np.array([[0, 200], [0, 200]], np.float32)
    assert cross_entropy(np.array([0, 1]), scores) == pytest.approx(100)


def test_a_class_without_images_has_no_score_and_counts_in_no_mean():
    labels = np.array([0, 0, 1, 1])
    result = evaluate(labels, one_hot([0, 2, 1, 1], 4), ["a", "b", "c", "d"])  # c predicted only, d nowhere
    assert result["confusion"] == [[1, 0, 1, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    absent = {"precision": None, "recall": None, "f1": None, "support": 0}
    assert result["per_class"][2:] == [{"class": "c", **absent}, {"class": "d", **absent}]
    assert result["macro_recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["weighted_recall"] == pytest.approx(3 / 4)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_one_class_only():
    result = evaluate(np.zeros(3, int), np.ones((3, 1)), ["only"])
    assert result["confusion"] == [[3]]
    assert (result["accuracy"], result["macro_f1"]) == (1, 1)


def test_top5_accuracy_with_more_than_ten_classes():
    # The classes rank 0, 1, 2, ... in every row, so a label below 5 is among the first 5.
    row = np.arange(11, 0, -1) / np.arange(1, 12).sum()
    labels = np.array([0, 4, 5, 10])
    result = evaluate(labels, np.tile(row, (4, 1)), [str(i) for i in range(11)])
    assert result["top5_accuracy"] == 0.5
    assert result["accuracy"] == 0.25
    assert "top5_accuracy" not in evaluate(labels % 10, np.full((4, 10), 0.1), [str(i) for i in range(10)])


def test_a_hundred_classes_agree_with_counting():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 99, 3000)  # class 99 has no images
    probabilities = rng.dirichlet(np.full(100, 0.05), 3000)
    probabilities[np.arange(2000), labels[:2000]] += 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = np.argmax(probabilities, axis=1)
    result = evaluate(labels, probabilities, [f"class {i}" for i in range(100)])

    confusion = np.zeros((100, 100), int)
    for true, guess in zip(labels, predicted, strict=True):
        confusion[true, guess] += 1
    hits, support, guesses = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = hits / np.maximum(guesses, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(guesses + support, 1)
    assert result["confusion"] == confusion.tolist()
    for name, scores in (("precision", precision), ("recall", recall), ("f1", f1)):
        *found, last = [entry[name] for entry in result["per_class"]]
        assert found == pytest.approx(scores[:99])
        assert last is None
        assert result[f"macro_{name}"] == pytest.approx(scores[:99].mean())
        assert result[f"weighted_{name}"] == pytest.approx((scores * support).sum() / 3000)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("label_dtype", [np.uint8, np.int32, np.int64])
def test_any_precision_gives_plain_json(dtype, label_dtype):
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(100), 500).astype(dtype)
    labels = (np.arange(500) % 100).astype(label_dtype)
    result = evaluate(labels, probabilities, [str(i) for i in range(100)])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert np.sum(result["confusion"]) == 500
    assert np.sum(result["confusion"], axis=1).tolist() == [5] * 100


@pytest.mark.parametrize(
    ("labels", "probabilities", "names", "message"),
    [
        (np.zeros((2, 1), int), np.ones((2, 1)), ["a"], r"labels must have the shape \(n,\).*\(2, 1\)"),
        (np.zeros(0, int), np.ones((0, 1)), ["a"], "1 or more"),
        (np.zeros(2), np.ones((2, 1)), ["a"], "integers, not float64"),
        (np.zeros(2, int), np.ones(2), ["a"], r"\(2, classes\).*\(2,\)"),
        (np.zeros(2, int), np.ones((3, 1)), ["a"], r"2 labels, not \(3, 1\)"),
        (np.zeros(2, int), np.ones((2, 1)), ["a", "b"], "2 class names for 1 columns"),
        (np.array([0, 2]), one_hot([0, 1], 2), ["a", "b"], "label 2 is out of range: 2 classes"),
        (np.array([0, -1]), one_hot([0, 1], 2), ["a", "b"], "label -1 is out of range"),
        (np.array([0, 1]), np.array([[1, 0], [np.nan, 0]]), ["a", "b"], "not finite in 1 of 2 rows"),
        (np.array([0, 1]), np.array([[np.inf, 0], [1, 0]]), ["a", "b"], "not finite in 1 of 2 rows"),
        (np.array([0, 1]), np.array([[3.0, -2.0], [1, 0]]), ["a", "b"], "are these logits"),
        (np.array([0, 1]), np.array([[0.5, 0.6], [1, 0]]), ["a", "b"], "are these logits"),
    ],
)
def test_wrong_input_is_one_clear_line(labels, probabilities, names, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(labels, probabilities, names)
    assert "\n" not in str(caught.value)
