"""TensorFlow 2.21's fused kernel of batch normalisation.

Keras 3.15.1 composes the layer from elementwise operations, each of which passes over memory. With the kernel,
MobileNetV2 at 96 pixels trains 1.6 times as fast on 2 cores (tests/benchmarks/batch_normalisation.py). Function and
gradients are the same, up to rounding. XLA fuses by itself. If devices share a batch, the statistics are those of the
whole batch, for which there is no kernel.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def by_moving_statistics(layer: "keras.layers.BatchNormalization", inputs: Any) -> Any:
    """Images (b, h, w, c), normalised by the moving mean and variance."""
    import tensorflow as tf

    outputs, *_ = tf.compat.v1.nn.fused_batch_norm(
        inputs,
        layer.gamma.value,
        layer.beta.value,
        layer.moving_mean.value,
        layer.moving_variance.value,
        epsilon=layer.epsilon,
        is_training=False,
    )
    return outputs


def by_batch_statistics(layer: "keras.layers.BatchNormalization", inputs: Any) -> tuple[Any, Any, Any]:
    """Images (b, h, w, c), normalised by their own mean and variance; and these two, float32 (c,)."""
    import tensorflow as tf

    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        inputs, layer.gamma.value, layer.beta.value, epsilon=layer.epsilon, is_training=True
    )
    # The kernel returns the unbiased variance; Keras uses the biased one.
    count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
    return outputs, mean, variance * ((count - 1) / count)
