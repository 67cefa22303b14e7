"""What a finished training gave, for metrics.json and for the figures of a run."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.data.splits import Dataset
from common.outcomes import packed
from common.runs import Run


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of a split: labels int64 (n,), probabilities float32 (n, classes)."""

    labels: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Result:
    """Metrics and history of a training; of a classifier also what it says of each split, in its reported state."""

    metrics: dict
    """For metrics.json."""
    rows: list[dict]
    """Of history.csv."""
    predictions: Mapping[str, Predictions]
    """By split."""
    confusion: Mapping[str, np.ndarray]
    """Counts by split: int64 (classes, classes), a row a true class."""
    reports_trained_loss: bool = True
    """Whether metrics and history have the same loss; smoothed labels have another one."""
    are_probabilities: bool = True
    """False if the loss does not train the predictions as probabilities, as a hinge does not."""


def brief(metrics: Mapping) -> dict:
    """What `phases` holds of a state on a split."""
    return {key: metrics[key] for key in ("n", "accuracy", "loss", "macro_f1") if key in metrics}


def is_right(predictions: Predictions) -> np.ndarray:
    """Which images are taken for what they are: bool (n,)."""
    return predictions.probabilities.argmax(axis=1) == predictions.labels


def write_predictions(
    run: Run, data: Dataset, predictions: Mapping[str, Predictions], right: Mapping[str, np.ndarray]
) -> None:
    """Write predictions.npz of the reported state, and outcomes.json of all states."""
    labels = {f"{name}_labels": own.labels for name, own in predictions.items()}
    probabilities = {f"{name}_probabilities": own.probabilities for name, own in predictions.items()}
    names = {f"{name}_files": np.array(own) for name in predictions if (own := data.names(getattr(data, name)))}
    run.write_predictions(data.class_names, labels | probabilities | names)
    test = predictions["test"]
    run.write_outcomes(packed(test.labels, test.probabilities.argmax(axis=1), right))
