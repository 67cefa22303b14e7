"""MobileNetV2 as in timm, whose modules give the layers their names (Sandler et al. 2018, arXiv:1801.04381)."""

from dataclasses import dataclass

import keras
from keras import layers

from common.backbones import STAGES
from common.backbones.blocks import Tensor, conv_norm


@dataclass(frozen=True)
class Blocks:
    """One row of table 2 (t, c, n and s there), and the stage it belongs to."""

    expansion: int
    channels: int
    depth: int
    stride: int
    stage: str


@dataclass(frozen=True)
class MobileNet:
    """A network of rows of blocks; a row's place is its number in timm's names."""

    rows: tuple[Blocks, ...]

    def build(self, side: int | None) -> keras.Model:
        """MobileNetV2 of width 1 (table 2): images (batch, side, side, 3) to features (batch, 1280)."""
        image = keras.Input((side, side, 3), name="image")
        x = conv_norm_relu6(image, 32, 3, 2, "conv_stem", "bn1")
        for row, blocks in enumerate(self.rows):
            for index in range(blocks.depth):
                stride = blocks.stride if index == 0 else 1
                x = inverted_residual(x, blocks.channels, stride, blocks.expansion, f"blocks.{row}.{index}")
        x = conv_norm_relu6(x, 1280, 1, 1, "conv_head", "bn2")
        x = layers.GlobalAveragePooling2D(name="global_pool")(x)
        return keras.Model(image, x, name="mobilenet_v2")

    def stage_of(self, layer: str) -> str:
        """The stage of a layer by its name."""
        first, _, rest = layer.partition(".")
        if first == "blocks":
            return self.rows[int(rest.partition(".")[0])].stage
        return STAGES[-1] if first in ("conv_head", "bn2") else STAGES[0]


def inverted_residual(x: Tensor, channels: int, stride: int, expansion: int, name: str) -> Tensor:
    """Add a 1x1 expansion, a depthwise convolution and a projection, with a shortcut if the shape allows (table 1)."""
    shortcut, wide = x, x.shape[-1] * expansion
    # In timm, without an expansion the projection is called conv_pw and the numbers are one lower.
    first, project = (1, "conv_pw") if expansion == 1 else (2, "conv_pwl")
    if expansion > 1:
        x = conv_norm_relu6(x, wide, 1, 1, f"{name}.conv_pw", f"{name}.bn1")
    x = conv_norm_relu6(x, wide, 3, stride, f"{name}.conv_dw", f"{name}.bn{first}", groups=wide)
    x = conv_norm(x, channels, 1, 1, f"{name}.{project}", f"{name}.bn{first + 1}")
    if x.shape != shortcut.shape:
        return x
    return layers.Add(name=f"{name}.add")([x, shortcut])


def conv_norm_relu6(
    x: Tensor, channels: int, kernel: int, stride: int, conv: str, norm: str, groups: int = 1
) -> Tensor:
    """As `conv_norm`, then cut off below 0 and above 6."""
    x = conv_norm(x, channels, kernel, stride, conv, norm, groups)
    return layers.ReLU(6.0, name=f"{norm}.act")(x)


# Stages by resolution, 1/4, 1/8, 1/16, 1/32 of the image, as in a ResNet.
MOBILENET_V2 = MobileNet(
    (
        Blocks(1, 16, 1, 1, "stem"),
        Blocks(6, 24, 2, 2, "layer1"),
        Blocks(6, 32, 3, 2, "layer2"),
        Blocks(6, 64, 4, 2, "layer3"),
        Blocks(6, 96, 3, 1, "layer3"),
        Blocks(6, 160, 3, 2, "layer4"),
        Blocks(6, 320, 1, 1, "layer4"),
    )
)
