"""How far a classifier's probabilities can be believed: reliability, calibration error, temperature scaling.

Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017 (arXiv:1706.04599).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from common.metrics import cross_entropy

BINS = 15
TEMPERATURES = (0.01, 100.0)  # the range that is searched


@dataclass(frozen=True)
class Bin:
    """Predictions whose top probability lies in `low` <= p < `high`; of the last bin it is exactly 1."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean top probability; 0 without predictions."""
    accuracy: float
    """Share of right predictions; 0 without predictions."""


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """Sort predictions into 15 bins of equal width by their top probability, and a bin of those that are exactly 1.

    `probabilities` are floats (n, classes), `labels` integers (n,). The bins are those of torchmetrics, which counts a
    top probability of exactly 1 apart; so a float32 result of the two agrees.
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1).astype(top.dtype)
    place = np.searchsorted(edges, top, side="right") - 1
    counts = np.bincount(place, minlength=BINS + 1)
    confidences, accuracies = (
        np.bincount(place, values.astype(np.float64), BINS + 1) / np.maximum(counts, 1) for values in (top, right)
    )
    highs = np.append(edges[1:], 1)
    columns = (edges, highs, counts, confidences, accuracies)
    return [Bin(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean over all predictions of |accuracy - confidence| of their bin, 0 to 1."""
    return sum(own.count * abs(own.accuracy - own.confidence) for own in bins) / sum(own.count for own in bins)


def temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimises the cross-entropy of these labels (section 4.2 of the source), 0.01 to 100.

    `probabilities` are floats (n, classes), `labels` integers (n,). Above 1 the classifier was too confident. If none
    is best it is far to one side: small if every prediction is right, 100 if most are wrong.
    """
    scores = logarithms(probabilities)
    bounds = np.log(TEMPERATURES)
    found = minimize_scalar(lambda log: cross_entropy(labels, scores / np.exp(log)), bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, classes) after temperature scaling, of the same type; the predicted class stays."""
    return softmax(logarithms(probabilities) / temperature, axis=1).astype(probabilities.dtype)


def logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms, float64, which are scores but for a constant a row; a float32 that is 0 counts as the smallest."""
    least = float(np.finfo(np.float32).smallest_subnormal)
    return np.log(np.maximum(probabilities.astype(np.float64), least))
