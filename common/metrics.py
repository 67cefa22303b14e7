"""Classification metrics of one model on one split, as a dict for ``metrics.json``."""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

# Probabilities that others have computed, in 16 bits say, do not add up to exactly 1.
SUM_TOLERANCE = 0.01
BY_CLASS = ("precision", "recall", "f1")


def evaluate(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> dict:
    """Compare predicted class probabilities with the true labels.

    Args:
        labels: true classes, integers of shape ``(n,)``, each from 0 to ``classes - 1``.
        probabilities: floats of shape ``(n, classes)``; each row adds up to 1, to within 0.01.
        class_names: the name of each class, in the order of the columns of ``probabilities``.

    Returns:
        A dict of plain Python numbers, lists and strings. All but ``n``, ``support`` and ``confusion`` are
        fractions from 0 to 1:

        - ``n``: number of images; ``accuracy``;
        - ``macro_precision``, ``macro_recall``, ``macro_f1``: plain means over the classes that have images;
        - ``weighted_precision``, ``weighted_recall``, ``weighted_f1``: means weighted by support;
        - ``per_class``: one ``{"class", "precision", "recall", "f1", "support"}`` per class, in class order;
        - ``confusion``: image counts, one list per true class, one column per predicted class;
        - ``top5_accuracy``: with more than 10 classes only.

        A class without predictions scores 0 where its precision would be 0 / 0. The scores of a class without images
        are None: zero would say that its images were missed.

    Raises:
        ValueError: wrong shapes, no images, labels that are not integers or out of range, values that are not finite
            or not probabilities, or the wrong number of class names.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    _check(labels, probabilities, class_names)
    labels, probabilities = labels.astype(np.int64), probabilities.astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    classes, present = np.arange(len(class_names)), np.unique(labels)

    result: dict[str, object] = {"n": len(labels), "accuracy": float(np.mean(predicted == labels))}
    if len(classes) > 10:
        result["top5_accuracy"] = float(top_k_accuracy_score(labels, probabilities, k=5, labels=classes))
    for average in ("macro", "weighted"):
        scores = precision_recall_fscore_support(labels, predicted, labels=present, average=average, zero_division=0)
        for name, score in zip(BY_CLASS, scores, strict=False):
            result[f"{average}_{name}"] = float(score)
    by_class = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    result["per_class"] = [
        {"class": str(name), **_scores(own, images), "support": int(images)}
        for name, *own, images in zip(class_names, *by_class, strict=True)
    ]
    result["confusion"] = confusion(labels, predicted, len(classes)).tolist()
    return result


def _scores(values: Sequence[float], images: int) -> dict[str, float | None]:
    """The scores of a class by name, each None if it has no images."""
    return {name: float(value) if images else None for name, value in zip(BY_CLASS, values, strict=True)}


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Image counts (classes, classes), rows by true and columns by predicted class; both inputs are integers (n,)."""
    # scikit-learn's confusion_matrix warns about a single class, even if `labels` names it.
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def cross_entropy(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean cross-entropy (nats) of labels, integers (n,), given scores (logits), floats (n, classes).

    It takes scores, since a float32 probability is 0 if its score is about 100 below the highest.
    """
    scores = scores.astype(np.float64)
    return float(np.mean(logsumexp(scores, axis=1) - scores[np.arange(len(labels)), labels]))


def _check(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> None:
    """Raise ValueError unless the three arguments of ``evaluate`` fit together."""
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels must have the shape (n,) with n of 1 or more, not {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise ValueError(
            f"probabilities must have the shape ({len(labels)}, classes) to go with {len(labels)} labels, "
            f"not {probabilities.shape}"
        )
    classes = probabilities.shape[1]
    if len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for {classes} columns of probabilities")
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(f"label {outside[0]} is out of range: {classes} classes take labels 0 to {classes - 1}")
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise ValueError(f"probabilities are not finite in {np.sum(~finite)} of {len(labels)} rows")
    # Logits by mistake would give the right accuracy and a meaningless loss.
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise ValueError("probabilities must be 0 or more and add up to 1 in each row; are these logits?")
