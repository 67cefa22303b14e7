"""ResNets as in torchvision, whose modules give the layers their names; a bottleneck's stride sits in its 3x3 (v1.5).

Sources: He et al. 2015, arXiv:1512.03385 (ResNet, table 1); Xie et al. 2016, arXiv:1611.05431 (ResNeXt, table 1);
Zagoruyko and Komodakis 2016, arXiv:1605.07146 (Wide ResNet).
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers

from common.backbones import STAGES
from common.backbones.blocks import Tensor, conv_norm, pad
from common.workarounds.max_pooling import MaxPooling2D


@dataclass(frozen=True)
class ResNet:
    """One column of table 1: the block, its count in each stage, and the shape of its 3x3 convolutions."""

    name: str
    block: Callable[..., Tensor]
    depths: tuple[int, int, int, int]
    groups: int = 1
    group_width: int = 64

    def build(self, side: int | None) -> keras.Model:
        """The network: images (batch, side, side, 3) to features (batch, features)."""
        image = keras.Input((side, side, 3), name="image")
        x = conv_norm(image, 64, kernel=7, stride=2, conv="conv1", norm="bn1")
        x = layers.ReLU(name="relu")(x)
        # torch pads this pooling with minus infinity; after a ReLU, zeros give the same result.
        x = MaxPooling2D(3, strides=2, name="maxpool")(pad(x, 1, "maxpool"))
        for stage, depth in enumerate(self.depths, start=1):
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                x = self.block(x, 32 * 2**stage, stride, self, f"layer{stage}.{index}")
        x = layers.GlobalAveragePooling2D(name="avgpool")(x)
        return keras.Model(image, x, name=self.name)

    def stage_of(self, layer: str) -> str:
        """The stage of a layer by its name."""
        first = layer.partition(".")[0]
        return first if first in STAGES else "stem"


def basic_block(x: Tensor, planes: int, stride: int, shape: ResNet, name: str) -> Tensor:
    """Add two 3x3 convolutions and a shortcut (He et al., figure 5 left)."""
    shortcut = shortcut_of(x, planes, stride, name)
    x = conv_norm(x, planes, 3, stride, f"{name}.conv1", f"{name}.bn1")
    x = layers.ReLU(name=f"{name}.relu1")(x)
    x = conv_norm(x, planes, 3, 1, f"{name}.conv2", f"{name}.bn2")
    return layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.add")([x, shortcut]))


def bottleneck(x: Tensor, planes: int, stride: int, shape: ResNet, name: str) -> Tensor:
    """Add 1x1, 3x3 (strided, in groups) and 1x1 convolutions and a shortcut (He et al., figure 5 right)."""
    width = planes * shape.group_width // 64 * shape.groups
    shortcut = shortcut_of(x, 4 * planes, stride, name)
    x = conv_norm(x, width, 1, 1, f"{name}.conv1", f"{name}.bn1")
    x = layers.ReLU(name=f"{name}.relu1")(x)
    x = conv_norm(x, width, 3, stride, f"{name}.conv2", f"{name}.bn2", shape.groups)
    x = layers.ReLU(name=f"{name}.relu2")(x)
    x = conv_norm(x, 4 * planes, 1, 1, f"{name}.conv3", f"{name}.bn3")
    return layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.add")([x, shortcut]))


def shortcut_of(x: Tensor, channels: int, stride: int, name: str) -> Tensor:
    """Return `x`, projected by a 1x1 convolution if its shape changes (He et al., option B)."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return conv_norm(x, channels, 1, stride, f"{name}.downsample.0", f"{name}.downsample.1")


RESNET18 = ResNet("resnet18", basic_block, (2, 2, 2, 2))
RESNET34 = ResNet("resnet34", basic_block, (3, 4, 6, 3))
RESNET50 = ResNet("resnet50", bottleneck, (3, 4, 6, 3))
RESNET101 = ResNet("resnet101", bottleneck, (3, 4, 23, 3))
RESNEXT50_32X4D = ResNet("resnext50_32x4d", bottleneck, (3, 4, 6, 3), groups=32, group_width=4)
WIDE_RESNET50_2 = ResNet("wide_resnet50_2", bottleneck, (3, 4, 6, 3), group_width=128)
