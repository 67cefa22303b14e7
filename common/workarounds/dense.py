"""A dense layer whose gradient TensorFlow 2.21 computes faster."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import keras
from keras import ops

if TYPE_CHECKING:
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_studies")
class Dense(keras.layers.Dense):
    """Keras's layer, whose gradient by its input is another of TensorFlow's kernels.

    That gradient is a product with the transposed kernel. For MatMul TensorFlow takes oneDNN's older `gemm`, which is
    slow at that in float32 on processors with AVX-512 where a kernel has hundreds of inputs and of units; for a batch
    of products, here of one, it takes oneDNN's `matmul`, which is not. The autoencoder trains 1.1 times as fast
    (tests/benchmarks/autoencoder_limit.py). The same function and gradients to rounding. Other backends, dtypes and
    inputs than (b, n) have Keras's own.
    """

    def call(self, inputs: keras.KerasTensor, training: bool | None = None) -> keras.KerasTensor:
        """Inputs (b, n) to outputs (b, units)."""
        plain = keras.backend.standardize_dtype(inputs.dtype) == "float32" and len(inputs.shape) == 2
        if not plain or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training)
        outputs = product(inputs, self.kernel)
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return self.activation(outputs)


def product(inputs: "tf.Tensor", kernel: "tf.Tensor | tf.Variable | keras.Variable") -> "tf.Tensor":
    """The matrix product of float32 tensors of TensorFlow's, (b, n) and (n, units)."""
    import tensorflow as tf

    @tf.custom_gradient
    def multiplied(
        inputs: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def gradients(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            below = tf.raw_ops.BatchMatMulV2(x=above[None], y=kernel[None], adj_y=True)[0]
            return below, tf.matmul(inputs, above, transpose_a=True)

        return tf.matmul(inputs, kernel), gradients

    return multiplied(inputs, tf.convert_to_tensor(kernel))
