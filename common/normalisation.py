"""Batch normalisation in one pass on TensorFlow, and what it does while a network is fine-tuned."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_studies")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer for images, with TensorFlow's fused kernel where that is the backend.

    Keras composes it of elementwise operations, each a trip through memory. With the kernel, MobileNetV2 at 96 pixels
    trains 1.6 times as fast on 2 cores (tests/benchmarks/batch_normalisation.py). XLA fuses by itself, so other
    backends keep Keras's own. Input (b, h, w, c); the same function, gradients and moving statistics to rounding.
    Where devices share a batch, the statistics are those of the whole batch, for which there is no kernel.
    """

    keep_statistics = False  # normalise by the moving statistics in training too, and leave them as they are

    def fine_tune(self, trained: bool, regime: str) -> None:
        """Set whether scale and offset are trained, and by which statistics the layer normalises meanwhile.

        `regime` is that of `--batch-norm`. keep: the moving statistics, as they are; layer: those of the batch if the
        layer is trained; follow: those of the batch, and the moving ones follow, even if the layer is frozen. Takes
        effect at the next compile.
        """
        self.keep_statistics = regime == "keep"
        self.trainable = trained or regime == "follow"
        for variable in (self.gamma, self.beta):
            variable.trainable = trained

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise by the statistics of the batch in training, by the moving ones else or if frozen or kept."""
        training = training and not self.keep_statistics
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            self.synchronized = True
            return super().call(inputs, training=training, mask=mask)
        if not (training and self.trainable):
            outputs, *_ = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                self.gamma.value,
                self.beta.value,
                self.moving_mean.value,
                self.moving_variance.value,
                epsilon=self.epsilon,
                is_training=False,
            )
            return outputs
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
        )
        # The kernel gives the unbiased variance; Keras keeps the biased one.
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        variance *= (count - 1) / count
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs
