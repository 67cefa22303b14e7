"""TensorFlow 2.21's convolutions of images of a few pixels, which oneDNN computes slowly.

The last stage of a ResNet has 2 x 2 pixels if the image has 64. There, products of matrices for the output and both
gradients are 1.4 to 2.6 times as fast on 2 cores (tests/benchmarks/convolutions.py).
"""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import keras
from keras import layers

from common.workarounds.grouped_convolution import is_tensorflow_on_cpu

if TYPE_CHECKING:
    import tensorflow as tf

Tensor: TypeAlias = keras.KerasTensor
MOST_PIXELS = 9  # of an output; with 4 x 4 oneDNN is the faster one in float32


@keras.saving.register_keras_serializable(package="keras_studies")
class Conv2D(layers.Conv2D):
    """A `Conv2D` that TensorFlow computes as a product on a CPU if its output has few pixels and its kernel is square.

    Equal to Keras's up to rounding. In all other cases Keras's own code runs.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Convolve `inputs` (batch, rows, columns, channels) with `kernel` (h, w, channels, filters)."""
        pixels = self.compute_output_shape(inputs.shape)[1:3]
        few = None not in pixels and pixels[0] * pixels[1] <= MOST_PIXELS
        if few and self.can_be_product() and is_tensorflow_on_cpu():
            zeros = kernel.shape[0] // 2 if self.padding == "same" else 0
            return as_product(inputs, kernel, self.strides[0], zeros)
        return super().convolution_op(inputs, kernel)

    def can_be_product(self) -> bool:
        """Whether `as_product` computes this layer's function."""
        size, stride = self.kernel_size, self.strides
        square = size[0] == size[1] > 1 and stride[0] == stride[1] and self.data_format == "channels_last"
        around = self.padding == "valid" or (size[0] % 2 == 1 and stride == (1, 1))
        return square and around and self.groups == 1 and self.dilation_rate == (1, 1)


def as_product(images: "tf.Tensor", kernel: "tf.Tensor", stride: int, zeros: int) -> "tf.Tensor":
    """Convolve images (b, h, w, c), with `zeros` around them, with a square kernel (k, k, c, f)."""
    import tensorflow as tf

    size, _, channels, filters = kernel.shape
    height, width = images.shape[1:3]
    rows, columns = ((side + 2 * zeros - size) // stride + 1 for side in (height, width))
    exact = tf.float64 if images.dtype == tf.float64 else tf.float32  # a sum in bfloat16 would round at each step
    taps = list(itertools.product(range(size), repeat=2))

    @tf.custom_gradient
    def convolved(
        images: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        framed = tf.pad(images, ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0)))
        windows = [framed[:, i : i + stride * rows : stride, j : j + stride * columns : stride] for i, j in taps]
        patches = tf.reshape(tf.concat(windows, axis=-1), (-1, len(taps) * channels))

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = tf.reshape(upstream, (-1, filters))
            by_tap = tf.matmul(upstream[None], tf.reshape(kernel, (-1, channels, filters)), transpose_b=True)
            gap = (0, stride - 1)  # the stride puts zeros between the pixels
            by_tap = tf.reshape(by_tap, (len(taps), -1, rows, 1, columns, 1, channels))
            by_tap = tf.pad(by_tap, ((0, 0), (0, 0), (0, 0), gap, (0, 0), gap, (0, 0)))
            by_tap = tf.reshape(by_tap, (len(taps), -1, stride * rows, stride * columns, channels))
            placed = [
                tf.pad(tf.cast(part, exact), ((0, 0), (i, size - 1 - i), (j, size - 1 - j), (0, 0)))
                for part, (i, j) in zip(tf.unstack(by_tap), taps, strict=True)
            ]
            by_images = tf.add_n(placed)[:, zeros : zeros + height, zeros : zeros + width]
            return tf.cast(by_images, images.dtype), tf.reshape(
                tf.matmul(patches, upstream, transpose_a=True), kernel.shape
            )

        outputs = tf.matmul(patches, tf.reshape(kernel, (-1, filters)))
        return tf.reshape(outputs, (-1, rows, columns, filters)), gradients

    return convolved(images, tf.convert_to_tensor(kernel))
