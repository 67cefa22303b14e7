"""How well classes part in an embedding, and where they lie: numbers for what the scatter plot shows."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NEIGHBOURS = 20


def centroids(points: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, list[float]]:
    """The mean point of each class that has one, by its name, from embeddings, float (n, k), and labels, int (n,)."""
    own = {name: points[labels == label] for label, name in enumerate(class_names)}
    return {name: part.mean(axis=0, dtype=np.float64).tolist() for name, part in own.items() if len(part)}


def scores(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Test accuracies (%) of two classifiers of embeddings, fitted on those of the training images.

    `train` and `test` are embeddings, float (n, k), and labels, int (n,).
    """
    classifiers = {
        f"{NEIGHBOURS}-NN accuracy (%)": KNeighborsClassifier(min(NEIGHBOURS, len(train[0]))),
        "linear probe accuracy (%)": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    }
    return {name: 100 * float(model.fit(*train).score(*test)) for name, model in classifiers.items()}
