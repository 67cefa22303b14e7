"""The autoencoder, and the classifier on top of its encoder."""

from typing import TYPE_CHECKING

import keras
from keras import layers, ops

from common.data.splits import Dataset
from common.initialisation import dense
from common.workarounds.dense import Dense

if TYPE_CHECKING:
    from tasks.autoencoder_sweep.train import SweepConfig


class Autoencoder(keras.Model):
    """A model of images that is trained to give them back: its target is its input, not the labels."""

    def compute_loss(
        self,
        x: keras.KerasTensor | None = None,
        y: keras.KerasTensor | None = None,
        y_pred: keras.KerasTensor | None = None,
        sample_weight: keras.KerasTensor | None = None,
        training: bool = True,
    ) -> keras.KerasTensor:
        return super().compute_loss(x=x, y=pixels(x), y_pred=y_pred, sample_weight=sample_weight, training=training)


def pixels(images: keras.KerasTensor) -> keras.KerasTensor:
    """uint8 images (b, h, w, c) as float32 (b, h * w * c) from 0 to 1."""
    flat = ops.reshape(images, (ops.shape(images)[0], images.shape[1] * images.shape[2] * images.shape[3]))
    return ops.cast(flat, "float32") / 255


def image_input(data: Dataset) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input of either network, and its pixels from 0 to 1."""
    inputs = keras.Input((data.train.size, data.train.size, data.train.channels), dtype="uint8", name="image")
    return inputs, layers.Rescaling(1 / 255, dtype="float32", name="pixels")(layers.Flatten()(inputs))


def encode(x: keras.KerasTensor, config: "SweepConfig") -> keras.KerasTensor:
    """Pixels to the bottleneck: hidden units with ReLU, then k numbers without."""
    x = dense(x, config.hidden, config.initialisation, Dense, activation="relu", name="encoder_hidden")
    if config.dropout:
        x = layers.Dropout(config.dropout, seed=config.seed, name="encoder_dropout")(x)
    return dense(x, config.k, config.initialisation, Dense, name="bottleneck")


ENCODER = ("encoder_hidden", "bottleneck")  # the layers of `encode` that have weights


def autoencoder(config: "SweepConfig", data: Dataset) -> Autoencoder:
    """uint8 images (b, h, w, c) to their reconstruction, float32 (b, h * w * c) from 0 to 1."""
    inputs, x = image_input(data)
    size = x.shape[-1]
    if config.input_dropout:
        x = layers.Dropout(config.input_dropout, seed=(config.seed + 2) % 2**32, name="input_dropout")(x)
    x = encode(x, config)
    x = dense(x, config.hidden, config.initialisation, Dense, activation="relu", name="decoder_hidden")
    if config.dropout:
        x = layers.Dropout(config.dropout, seed=(config.seed + 1) % 2**32, name="decoder_dropout")(x)
    return Autoencoder(
        inputs,
        dense(x, size, config.initialisation, Dense, activation="sigmoid", dtype="float32", name="reconstruction"),
    )


def classifier(config: "SweepConfig", data: Dataset) -> keras.Model:
    """uint8 images (b, h, w, c) to float32 logits (b, classes): one linear layer on top of the encoder."""
    inputs, x = image_input(data)
    x = encode(x, config)
    logits = dense(x, len(data.class_names), config.initialisation, dtype="float32", name="head")
    model = keras.Model(inputs, logits)
    for name in ENCODER:
        model.get_layer(name).trainable = config.train_encoder
    return model
