"""Principal components: the best that a linear encoder and decoder can do."""

import numpy as np
from sklearn.decomposition import PCA

from common.data import pipeline
from common.data.splits import Dataset, Split


def matrix(split: Split) -> np.ndarray:
    """All images of a split: float64 (n, h * w * c) from 0 to 1."""
    batches = [images.numpy() for images, _ in pipeline.evaluation(split, 1000)]
    images = np.concatenate(batches).reshape(len(split), -1).astype(np.float64)  # in float32 small errors are noise
    images /= 255
    return images


def curves(data: Dataset) -> dict[str, np.ndarray]:
    """The share of the variance that the first components hold, and what they leave of the images.

    By the number of components, from 1 to all: `variance`, cumulative and of the training images, on which they are
    fitted; `test_loss`, the mean squared error of the test images rebuilt from so many. The components are
    orthonormal, so that error is what the remaining ones hold.
    """
    train, test = matrix(data.train), matrix(data.test)
    pca = PCA(svd_solver="covariance_eigh").fit(train)
    held = np.square(pca.transform(test)).mean(axis=0)
    total = np.square(test - pca.mean_).sum(axis=1).mean()
    return {
        "variance": np.cumsum(pca.explained_variance_ratio_),
        "test_loss": np.maximum(total - np.cumsum(held), 0) / test.shape[1],
    }


def losses(curves: dict[str, np.ndarray], k: int) -> dict[str, float]:
    """What the table says of principal components: how many are needed, and the error of k of them."""
    return {
        "components for 95 % of the variance": int(np.searchsorted(curves["variance"], 0.95)) + 1,
        "components for 99 % of the variance": int(np.searchsorted(curves["variance"], 0.99)) + 1,
        "PCA test loss": float(curves["test_loss"][min(k, len(curves["test_loss"])) - 1]),
    }
