"""The convolutional classifier, the embedding network, and the loss that the latter is trained with."""

from typing import TYPE_CHECKING, Any, Literal

import keras
from keras import layers, ops

from common.data.splits import Dataset
from common.initialisation import dense, kernel_and_bias
from common.workarounds.max_pooling import MaxPooling2D

if TYPE_CHECKING:
    from tasks.rotation_contrastive.train import RotationConfig


def image_input(data: Dataset) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input of either network, uint8 (b, h, w, c), and its pixels from -1 to 1."""
    inputs = keras.Input((data.train.size, data.train.size, data.train.channels), dtype="uint8", name="image")
    return inputs, layers.Rescaling(1 / 127.5, offset=-1.0, name="scale", dtype="float32")(inputs)


def convolutions(
    x: keras.KerasTensor, filters: tuple[int, ...], dropout: float, seed: int, initialisation: Literal["keras", "torch"]
) -> keras.KerasTensor:
    """A block for each number of filters: convolution 3x3, ReLU, maximum over 2x2, dropout."""
    for number, count in enumerate(filters, start=1):
        initial = kernel_and_bias(initialisation, 9 * x.shape[-1])
        x = layers.Conv2D(count, 3, padding="same", activation="relu", name=block(number), **initial)(x)
        x = MaxPooling2D(2)(x)
        x = layers.Dropout(dropout, seed=(seed + number) % 2**32)(x)
    return layers.Flatten()(x)


def block(number: int) -> str:
    """Name of the layer of a block that has weights; blocks count from 1."""
    return f"block{number}"


def classifier(config: "RotationConfig", data: Dataset) -> keras.Model:
    """uint8 images (b, h, w, c) to float32 logits (b, classes)."""
    inputs, x = image_input(data)
    x = convolutions(x, (32, 64, 128), config.dropout, config.seed, config.initialisation)
    x = dense(x, 256, config.initialisation, activation="relu", name="hidden")
    x = layers.Dropout(config.dropout, seed=config.seed)(x)
    return keras.Model(inputs, dense(x, len(data.class_names), config.initialisation, dtype="float32", name="head"))


def embedder(config: "RotationConfig", data: Dataset) -> keras.Model:
    """uint8 images (b, h, w, c) to points of the plane, float32 (b, 2)."""
    inputs, x = image_input(data)
    x = convolutions(x, (32, 10), config.dropout, config.seed, config.initialisation)
    for units in (1000, 500, 100, 10):
        x = dense(x, units, config.initialisation, activation="relu")
    return keras.Model(inputs, dense(x, 2, config.initialisation, dtype="float32", name="embedding"))


class ContrastiveLoss(keras.losses.Loss):
    """Draws pairs of one class together and pushes others apart, up to a margin (Hadsell et al. 2006, section 2.1).

    The pairs are each image of the batch with the one after it, the last with the first: in a batch that was shuffled a
    permutation as good as any, in which no image meets itself. A batch of one image has no pair and a loss of 0.
    For a pair at the distance d, in one class (S = 1) or not (S = 0), source 003 has the loss
    ``S d^2 + (1 - S) max(margin - d^2, 0)``: unlike Hadsell's, its margin is one of squared distances.
    """

    def __init__(self, margin: float = 2.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.margin = margin

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Losses (b,), float, of labels, int (b,) or (b, 1), and embeddings, float (b, k)."""
        labels = ops.reshape(y_true, (-1,))
        same = ops.cast(ops.equal(labels, ops.roll(labels, 1)), y_pred.dtype)
        squares = ops.sum(ops.square(y_pred - ops.roll(y_pred, 1, axis=0)), axis=-1)
        return same * squares + (1 - same) * ops.relu(self.margin - squares)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}
