"""A resize that antialiases if it shrinks, as images from files are resized.

Keras 3.15.1's `Resizing(antialias=True)` cannot be compiled by XLA with TensorFlow, whose kernel for it XLA lacks.
Without antialiasing most pixels are skipped: of 96x96 pixels shrunk to 32x32, eight in nine.
"""

from typing import TypeAlias

import keras
from keras import layers, ops

Tensor: TypeAlias = keras.KerasTensor


@keras.saving.register_keras_serializable(package="keras_studies")
class Resizing(layers.Resizing):
    """Keras's bilinear `Resizing` of images (b, h, w, c); if a side gets smaller, by antialiased triangles, as PIL."""

    def call(self, images: Tensor) -> Tensor:
        """Images (b, h, w, c) to images (b, height, width, c)."""
        number, height, width, channels = ops.shape(images)
        if height <= self.height and width <= self.width:
            return super().call(images)
        return ops.image.scale_and_translate(
            images,
            (number, self.height, self.width, channels),
            (self.height / height, self.width / width),
            (0.0, 0.0),
            spatial_dims=(1, 2),
            method="linear",
            antialias=True,
        )
