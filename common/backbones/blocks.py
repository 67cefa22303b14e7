"""What the backbones are made of: convolutions with batch normalisation, as in PyTorch.

Every convolution with a stride pads symmetrically (Keras's padding="same" would shift each by a pixel).
"""

from typing import TypeAlias

import keras
from keras import layers

from common.normalisation import BatchNormalization
from common.workarounds.few_pixels import Conv2D
from common.workarounds.grouped_convolution import GroupedConv2D
from common.workarounds.strided_depthwise import DepthwiseConv2D

Tensor: TypeAlias = keras.KerasTensor
# torch's momentum of 0.1 is the weight of the new value, Keras's the weight of the old one.
BATCH_NORM_MOMENTUM = 0.9


def conv_norm(x: Tensor, channels: int, kernel: int, stride: int, conv: str, norm: str, groups: int = 1) -> Tensor:
    """Add a convolution without bias, with symmetric padding by half the kernel, and batch normalisation."""
    # He et al. 2015 (arXiv:1502.01852) by fan-out, as in torchvision and timm (depthwise: that of one channel). A new
    # initialiser for each layer: one that is called twice returns the same numbers.
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    if 1 < groups == channels == x.shape[-1]:
        convolution = DepthwiseConv2D(
            kernel, stride, padding(stride), use_bias=False, depthwise_initializer=initializer, name=conv
        )
    else:
        kind = Conv2D if groups == 1 else GroupedConv2D
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
