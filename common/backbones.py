"""The convolutional networks that the fine-tuning studies start from, cut into the same five stages.

The ResNets follow torchvision, so that its ImageNet weights load and give its outputs: layers bear the names of
its modules, the stride sits in a bottleneck's 3x3 convolution ("v1.5"), and every convolution with a stride, and
the max pool, pads symmetrically (Keras' padding="same" would shift each by a pixel). MobileNetV2 is
`keras.applications`'.

Sources: He et al. 2015, arXiv:1512.03385 (ResNet, table 1); Xie et al. 2016, arXiv:1611.05431 (ResNeXt, table 1);
Zagoruyko and Komodakis 2016, arXiv:1605.07146 (Wide ResNet); Sandler et al. 2018, arXiv:1801.04381 (MobileNetV2,
table 2).
"""

import functools
import itertools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import keras
from keras import layers, ops

from common import weights as weight_files
from common.normalisation import BatchNormalization

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
MIN_IMAGE_SIZE = 32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# torch's momentum of 0.1 is the weight of the new value, Keras' the weight of the old one.
BATCH_NORM_MOMENTUM = 0.9
# MobileNetV2's blocks by the resolution that they work at: 1/4, 1/8, 1/16, 1/32 of the image, as in a ResNet.
MOBILENET_BLOCKS = {
    "layer1": range(1, 3),
    "layer2": range(3, 6),
    "layer3": range(6, 13),
    "layer4": range(13, 17),
}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network without its classifier.

    Attributes:
        name: one of `NAMES`.
        model: normalised images (batch, size, size, 3) -> pooled features (batch, `features`), which come in the
            compute dtype of the policy that was set when it was built.
        normalise: layer from images of 0 to 255 to what the weights expect, in float32 under any policy.
        features: number of features.

    """

    name: str
    model: keras.Model
    normalise: layers.Layer
    features: int

    def stage_layers(self, stage: str) -> list[layers.Layer]:
        """Return the layers with weights of one of `STAGES`, in order; the five lists hold each layer once.

        In MobileNetV2, "stem" is Conv1 and expanded_conv, "layer1" blocks 1-2, "layer2" blocks 3-5, "layer3"
        blocks 6-12, and "layer4" blocks 13-16 and Conv_1. The last block is "layer4" in every backbone.
        """
        _check_stages([stage])
        return [layer for layer in self.model.layers if layer.weights and _stage_of(layer.name) == stage]

    def extract(self, images, augment: layers.Layer | None = None):
        """Turn images (batch, h, w, 1 or 3) of 0 to 255 into features (batch, `features`): resize, colour, normalise.

        Bilinear, in float32 under any policy, by layers named resize, grey_to_colour and normalise. `augment` is given
        the resized images, float32 of 0 to 255.
        """
        _, side, _, _ = self.model.input_shape
        if augment is not None:
            images = ops.cast(images, "float32")  # of whole numbers, a resize would make whole numbers
        x = layers.Resizing(side, side, dtype="float32", name="resize")(images)
        if augment is not None:
            x = augment(x)
        if images.shape[-1] == 1:
            x = layers.Concatenate(dtype="float32", name="grey_to_colour")([x, x, x])
        return self.model(self.normalise(x))

    def halves(self) -> tuple[keras.Model, list[keras.Model]] | None:
        """Cut the network below its first stage that is trained: a model below, and models above, one or none.

        None where no more than the stem is frozen, whose output is larger than the image.
        """
        frozen = list(itertools.takewhile(self._is_frozen, STAGES))
        if len(frozen) < 2:
            return None
        if len(frozen) == len(STAGES):
            return self.model, []
        boundary = [layer for layer in self.model.layers if _stage_of(layer.name) == frozen[-1]][-1].output
        return keras.Model(self.model.input, boundary), [keras.Model(boundary, self.model.output)]

    def _is_frozen(self, stage: str) -> bool:
        return not any(layer.trainable for layer in self.stage_layers(stage))

    def set_trainable(self, stages: Collection[str]) -> None:
        """Make exactly `stages` trainable and freeze the rest, batch normalisation and its statistics included.

        Takes effect when the model that is trained is compiled again.

        Raises:
            ValueError: a name that is not in `STAGES`.

        """
        _check_stages(stages)
        self.model.trainable = True
        for stage in STAGES:
            for layer in self.stage_layers(stage):
                layer.trainable = stage in stages


def build(name: str, image_size: int, weights: str = "none", offline: bool = False) -> Backbone:
    """Build a backbone for square images and load its weights.

    Args:
        name: one of `NAMES`.
        image_size: side of the images in pixels, at least 32.
        weights: "none" (random), "imagenet", or the path of a file: torch's names and layout in `.safetensors` for
            a ResNet, Keras' own `.weights.h5` or `.h5` for MobileNetV2.
        offline: never reach for the network.

    Returns:
        The backbone, with every stage trainable.

    Raises:
        ValueError: an unknown name, or images that are too small.
        common.weights.WeightsError: weights that are absent or do not fit.

    """
    if name not in NAMES:
        raise ValueError(f"unknown backbone {name!r}: one of {', '.join(NAMES)}")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(
            f"image size {image_size} is too small for {name}: at least {MIN_IMAGE_SIZE} pixels, for its five halvings"
        )
    path = weight_files.locate(name, weights, offline, image_size)
    if name == weight_files.MOBILENET:
        model, load, scale, offset = _mobilenet(image_size), weight_files.load_h5, 1 / 127.5, -1.0
    else:
        model, load = _resnet(name, image_size), weight_files.load_safetensors
        scale = [1 / (255 * std) for std in IMAGENET_STD]
        offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    if path is not None:
        load(model, path)
    normalise = layers.Rescaling(scale, offset, dtype="float32", name="normalise")
    return Backbone(name, model, normalise, model.output_shape[-1])


@dataclass(frozen=True)
class _ResNet:
    """One column of table 1: a kind of block, its number in each stage, and the shape of its 3x3 convolutions."""

    block: Callable
    depths: tuple[int, int, int, int]
    groups: int = 1
    group_width: int = 64


def _resnet(name: str, image_size: int) -> keras.Model:
    """Build a ResNet of `_RESNETS`, (batch, size, size, 3) -> (batch, features)."""
    config = _RESNETS[name]
    image = keras.Input((image_size, image_size, 3), name="image")
    x = _conv_norm(image, 64, kernel=7, stride=2, conv="conv1", norm="bn1")
    x = layers.ReLU(name="relu")(x)
    # torch pads this pool with minus infinity; after a ReLU no value is below 0, so zeros give the same.
    x = layers.MaxPooling2D(3, strides=2, name="maxpool")(_pad(x, 1, "maxpool"))
    for stage, depth in enumerate(config.depths, start=1):
        for index in range(depth):
            stride = 2 if stage > 1 and index == 0 else 1
            x = config.block(x, 32 * 2**stage, stride, config, f"layer{stage}.{index}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(image, x, name=name)


def _basic_block(x, planes: int, stride: int, config: _ResNet, name: str):
    """Add two 3x3 convolutions and a shortcut (He et al., figure 5 left)."""
    shortcut = _shortcut(x, planes, stride, name)
    x = _conv_norm(x, planes, 3, stride, f"{name}.conv1", f"{name}.bn1")
    x = layers.ReLU(name=f"{name}.relu1")(x)
    x = _conv_norm(x, planes, 3, 1, f"{name}.conv2", f"{name}.bn2")
    return layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.add")([x, shortcut]))


def _bottleneck(x, planes: int, stride: int, config: _ResNet, name: str):
    """Add 1x1, 3x3 (strided, in groups) and 1x1 convolutions and a shortcut (He et al., figure 5 right)."""
    width = planes * config.group_width // 64 * config.groups
    shortcut = _shortcut(x, 4 * planes, stride, name)
    x = _conv_norm(x, width, 1, 1, f"{name}.conv1", f"{name}.bn1")
    x = layers.ReLU(name=f"{name}.relu1")(x)
    x = _conv_norm(x, width, 3, stride, f"{name}.conv2", f"{name}.bn2", config.groups)
    x = layers.ReLU(name=f"{name}.relu2")(x)
    x = _conv_norm(x, 4 * planes, 1, 1, f"{name}.conv3", f"{name}.bn3")
    return layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.add")([x, shortcut]))


def _shortcut(x, channels: int, stride: int, name: str):
    """Return `x`, projected by a 1x1 convolution where its shape changes (He et al., option B)."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return _conv_norm(x, channels, 1, stride, f"{name}.downsample.0", f"{name}.downsample.1")


def _conv_norm(x, channels: int, kernel: int, stride: int, conv: str, norm: str, groups: int = 1):
    """Convolve without bias, padding symmetrically by half the kernel, and normalise over the batch."""
    if stride > 1 and kernel > 1:
        x = _pad(x, kernel // 2, conv)
    convolution = layers.Conv2D if groups == 1 else GroupedConv2D
    x = convolution(
        channels,
        kernel,
        strides=stride,
        padding="same" if stride == 1 else "valid",  # without a stride "same" is symmetric too
        groups=groups,
        use_bias=False,
        # He et al. 2015 (arXiv:1502.01852) with the fan-out, as torchvision. One initialiser for each layer:
        # the same one called twice gives the same numbers.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=conv,
    )(x)
    return BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, name=norm)(x)


def _pad(x, pixels: int, name: str):
    return layers.ZeroPadding2D(pixels, name=f"{name}.pad")(x)


@keras.saving.register_keras_serializable(package="keras_studies")
class GroupedConv2D(layers.Conv2D):
    """`Conv2D` in groups that also trains on a CPU.

    TensorFlow has no gradient kernel for grouped convolutions on a CPU, so Keras compiles them with XLA, whose CPU
    gradient is unusable: 12 s for one step of one layer (batch 8, 56x56x128, 32 groups, 2 cores) against 0.1 s
    here; JAX is XLA too. Without an accelerator the kernel is therefore spread to a dense one with zeros
    between the groups: the same function and gradient, at the arithmetic of a layer without groups.
    """

    def convolution_op(self, inputs, kernel):
        """Convolve `inputs` (batch, rows, columns, channels) with `kernel` (h, w, channels / groups, filters)."""
        if _has_accelerator():
            return super().convolution_op(inputs, kernel)
        return super().convolution_op(inputs, dense_kernel(kernel, self.groups))


def dense_kernel(kernel, groups: int):
    """Return the kernel (h, w, groups * i, o) without groups of the same function as `kernel` (h, w, i, o)."""
    _, _, inputs, outputs = kernel.shape
    group_of_input = ops.arange(groups * inputs) // inputs
    group_of_output = ops.arange(outputs) // (outputs // groups)
    same_group = ops.equal(group_of_input[:, None], group_of_output[None, :])
    spread = ops.tile(kernel, (1, 1, groups, 1))
    return spread * ops.cast(same_group, spread.dtype)


@functools.cache
def _has_accelerator() -> bool:
    return any(not device.startswith("cpu") for device in keras.distribution.list_devices())


def _mobilenet(image_size: int) -> keras.Model:
    """Build MobileNetV2 of width 1, (batch, size, size, 3) -> (batch, 1280)."""
    shape = (image_size, image_size, 3)
    model = keras.applications.MobileNetV2(
        input_shape=shape, include_top=False, weights=None, pooling="avg", name=weight_files.MOBILENET
    )
    return keras.models.clone_model(model, clone_function=_clone)


def _clone(layer):
    """Copy a layer of MobileNetV2; batch normalisation with our kernel and momentum, padding within convolutions."""
    config = layer.get_config()
    # Padded images of their own cost 0.1 GB a batch (64, 96 pixels). Keras pads as TensorFlow's SAME does: for an even
    # side by a pixel at the end, for an odd one by one at either end.
    if isinstance(layer, layers.ZeroPadding2D):
        return layers.Identity(name=layer.name)
    if isinstance(layer, layers.DepthwiseConv2D):
        return layers.DepthwiseConv2D.from_config(config | {"padding": "same"})
    if not isinstance(layer, layers.BatchNormalization):
        return layer.__class__.from_config(config)
    # Keras' 0.999 needs thousands of steps before a network that is trained from random weights, or unfrozen for a
    # short phase, predicts with its own statistics. The runs that the studies compare with had torch's default.
    return BatchNormalization.from_config(config | {"momentum": BATCH_NORM_MOMENTUM})


def _stage_of(layer_name: str) -> str:
    """Return the stage of a layer with weights by its name, in either family."""
    prefix = layer_name.split(".")[0]
    if prefix in STAGES:
        return prefix
    if prefix in ("Conv_1", "Conv_1_bn"):
        return "layer4"
    block = re.match(r"block_(\d+)_", layer_name)
    if block is None:
        return "stem"
    return next(stage for stage, blocks in MOBILENET_BLOCKS.items() if int(block[1]) in blocks)


def _check_stages(stages: Collection[str]) -> None:
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ValueError(f"unknown stage {unknown[0]!r}: choose from {', '.join(STAGES)}")


_RESNETS = {
    "resnet18": _ResNet(_basic_block, (2, 2, 2, 2)),
    "resnet34": _ResNet(_basic_block, (3, 4, 6, 3)),
    "resnet50": _ResNet(_bottleneck, (3, 4, 6, 3)),
    "resnet101": _ResNet(_bottleneck, (3, 4, 23, 3)),
    "resnext50_32x4d": _ResNet(_bottleneck, (3, 4, 6, 3), groups=32, group_width=4),
    "wide_resnet50_2": _ResNet(_bottleneck, (3, 4, 6, 3), group_width=128),
}
NAMES = (*_RESNETS, weight_files.MOBILENET)
