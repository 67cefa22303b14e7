"""Batch normalisation in one pass on TensorFlow, with a choice of statistics for fine-tuning."""

from typing import Any

import keras

from common.workarounds import batch_norm_kernel


@keras.saving.register_keras_serializable(package="keras_studies")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer for images (b, h, w, c), with TensorFlow's fused kernel if TensorFlow is the backend.

    Other backends use Keras's code, and so do devices that share a batch, by whose whole it is normalised. Moving
    statistics are as Keras has them.
    """

    keep_statistics = False  # use the moving statistics in training too, and do not update them

    def fine_tune(self, trained: bool, regime: str) -> None:
        """Set whether scale and offset are trained, and which statistics the layer uses in training.

        `regime` is the value of `--batch-norm`. keep: the moving statistics, not updated. layer: those of the batch if
        the layer is trained. follow: those of the batch even if the layer is frozen, and the moving ones are updated.
        Takes effect at the next compile.
        """
        self.keep_statistics = regime == "keep"
        self.trainable = trained or regime == "follow"
        for variable in (self.gamma, self.beta):
            variable.trainable = trained

    def get_config(self) -> dict[str, Any]:
        """As Keras has it; but on how many devices a model was trained, which `synchronized` says, is not kept."""
        return super().get_config() | {"synchronized": False}

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise with the batch's statistics in training, unless the layer is frozen or keeps its moving ones."""
        training = training and not self.keep_statistics
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            self.synchronized = True
            return super().call(inputs, training=training, mask=mask)
        if not (training and self.trainable):
            return batch_norm_kernel.by_moving_statistics(self, inputs)
        outputs, mean, variance = batch_norm_kernel.by_batch_statistics(self, inputs)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs
