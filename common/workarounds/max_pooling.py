"""Keras 3.15.1's max pooling under XLA on a GPU, whose gradient is a scatter.

It took 0.33 ms of the 5.05 that an H100 was busy with a step of ResNet-18 (tests/benchmarks/README.md, "On a GPU"), and
a scatter adds in no fixed order, so a run does not repeat to the bit. The maximum of the window's places, one shifted
and strided slice each, is the same function; its gradient goes to the same place and has an order.
"""

import functools
from typing import TypeAlias

import keras
from keras import layers, ops

from common.workarounds.grouped_convolution import has_accelerator

Tensor: TypeAlias = keras.KerasTensor


@keras.saving.register_keras_serializable(package="keras_studies")
class MaxPooling2D(layers.MaxPooling2D):
    """A `MaxPooling2D` without padding that JAX computes by slices on a GPU."""

    def call(self, inputs: Tensor) -> Tensor:
        """Images (batch, rows, columns, channels) to the maximum of each window."""
        if keras.backend.backend() == "jax" and has_accelerator():
            return by_slices(inputs, self.pool_size, self.strides)
        return super().call(inputs)


def by_slices(inputs: Tensor, window: tuple[int, int], strides: tuple[int, int]) -> Tensor:
    """The maximum of each window of images (b, h, w, c); of several equal ones the first gets the gradient."""
    rows, columns = (
        [slice(first, first + (side - size) // stride * stride + 1, stride) for first in range(size)]
        for side, size, stride in zip(inputs.shape[1:3], window, strides, strict=True)
    )
    return functools.reduce(larger, (inputs[:, row, column] for row in rows for column in columns))


def larger(one: Tensor, other: Tensor) -> Tensor:
    """The larger of two by place; what is not a number stays, so that a run that diverges is found out."""
    return ops.where(ops.logical_or(ops.isnan(one), ops.greater_equal(one, other)), one, other)
