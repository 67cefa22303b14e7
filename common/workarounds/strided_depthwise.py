"""TensorFlow 2.21's depthwise convolution with a stride, whose gradient oneDNN computes slowly in bfloat16.

On a processor with bfloat16 instructions, the gradients of MobileNetV2's four took half of a training step at 96
pixels. In float32, casts included, these layers are 4 to 15 times as fast (tests/benchmarks/convolutions.py).
"""

from typing import TypeAlias

import keras
from keras import layers, ops

from common.workarounds.grouped_convolution import is_tensorflow_on_cpu

Tensor: TypeAlias = keras.KerasTensor


@keras.saving.register_keras_serializable(package="keras_studies")
class DepthwiseConv2D(layers.DepthwiseConv2D):
    """A `DepthwiseConv2D` that TensorFlow computes in float32 on a CPU if it has a stride, and no bias or activation.

    Inputs and outputs keep the layer's dtype. In all other cases Keras's own code runs.
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Convolve each channel of `inputs` (batch, rows, columns, channels) with its own kernel."""
        plain = not self.use_bias and self.activation is keras.activations.linear and self.dilation_rate == (1, 1)
        strided = self.strides != (1, 1) and self.data_format == "channels_last"
        if not (plain and strided and is_tensorflow_on_cpu()):
            return super().call(inputs)
        images, kernel = ops.cast(inputs, "float32"), ops.cast(self.kernel, "float32")
        return ops.cast(ops.depthwise_conv(images, kernel, self.strides, self.padding), inputs.dtype)
