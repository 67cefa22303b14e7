"""What the backbones are made of: convolutions with batch normalisation, as in PyTorch.

Every convolution with a stride pads symmetrically (Keras's padding="same" would shift each by a pixel).
"""

import functools

import keras
from keras import layers, ops

from common.normalisation import BatchNormalization

Tensor = keras.KerasTensor
# torch's momentum of 0.1 is the weight of the new value, Keras's the weight of the old one.
BATCH_NORM_MOMENTUM = 0.9


def conv_norm(x: Tensor, channels: int, kernel: int, stride: int, conv: str, norm: str, groups: int = 1) -> Tensor:
    """Add a convolution without bias, with symmetric padding by half the kernel, and batch normalisation."""
    # He et al. 2015 (arXiv:1502.01852) by fan-out, as in torchvision and timm (depthwise: that of one channel). A new
    # initialiser for each layer: one that is called twice returns the same numbers.
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    if 1 < groups == channels == x.shape[-1]:
        convolution = layers.DepthwiseConv2D(
            kernel, stride, padding(stride), use_bias=False, depthwise_initializer=initializer, name=conv
        )
    else:
        kind = layers.Conv2D if groups == 1 else GroupedConv2D
        convolution = kind(
            channels,
            kernel,
            stride,
            padding(stride),
            groups=groups,
            use_bias=False,
            kernel_initializer=initializer,
            name=conv,
        )
    if stride > 1 and kernel > 1:
        x = pad(x, kernel // 2, conv)
    return BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, name=norm)(convolution(x))


def padding(stride: int) -> str:
    """Keras's word for padding by half the kernel, if that is done by a layer of its own at a stride."""
    return "same" if stride == 1 else "valid"  # "same" is symmetric if there is no stride


def pad(x: Tensor, pixels: int, name: str) -> Tensor:
    """Put zeros around images (batch, h, w, channels)."""
    return layers.ZeroPadding2D(pixels, name=f"{name}.pad")(x)


@keras.saving.register_keras_serializable(package="keras_studies")
class GroupedConv2D(layers.Conv2D):
    """A grouped `Conv2D` that also trains on a CPU.

    TensorFlow has no CPU gradient kernel for grouped convolutions, so Keras compiles them with XLA, whose CPU gradient
    is unusable: 12 s for one step of one layer (batch 8, 56x56x128, 32 groups, 2 cores), 0.1 s here. JAX uses XLA too.
    Without an accelerator, the kernel is therefore expanded to a dense one, with zeros between the groups: the same
    function and gradient, at the cost of a layer without groups.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Convolve `inputs` (batch, rows, columns, channels) with `kernel` (h, w, channels / groups, filters)."""
        if has_accelerator():
            return super().convolution_op(inputs, kernel)
        return super().convolution_op(inputs, dense_kernel(kernel, self.groups))


def dense_kernel(kernel: Tensor, groups: int) -> Tensor:
    """Return the ungrouped kernel (h, w, groups * i, o) of the same function as `kernel` (h, w, i, o)."""
    _, _, inputs, outputs = kernel.shape
    group_of_input = ops.arange(groups * inputs) // inputs
    group_of_output = ops.arange(outputs) // (outputs // groups)
    same_group = ops.equal(group_of_input[:, None], group_of_output[None, :])
    spread = ops.tile(kernel, (1, 1, groups, 1))
    return spread * ops.cast(same_group, spread.dtype)


@functools.cache
def has_accelerator() -> bool:
    """Whether Keras's backend computes on anything else than a CPU."""
    return any(not device.startswith("cpu") for device in keras.distribution.list_devices())
