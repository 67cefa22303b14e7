"""The convolutional networks that the fine-tuning tasks start from, divided into the same five stages.

All are built as in PyTorch, so that its ImageNet weights load and give the same outputs. Layers have the names of the
modules of torchvision (ResNets) and timm (MobileNetV2). Strided convolutions and the max pooling pad symmetrically
(Keras' padding="same" would shift them by a pixel). A bottleneck's stride is in its 3x3 convolution ("v1.5").

Sources: He et al. 2015, arXiv:1512.03385 (ResNet, table 1); Xie et al. 2016, arXiv:1611.05431 (ResNeXt, table 1);
Zagoruyko and Komodakis 2016, arXiv:1605.07146 (Wide ResNet); Sandler et al. 2018, arXiv:1801.04381 (MobileNetV2,
table 2).
"""

import functools
import itertools
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
# torch's momentum of 0.1 is the weight of the new value; Keras' is that of the old one.
BATCH_NORM_MOMENTUM = 0.9


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network without its classifier.

    Attributes:
        name: one of `NAMES`.
        model: normalised images (batch, size, size, 3) -> pooled features (batch, `features`), in the compute dtype of
            the policy that was set when it was built.
        normalise: layer from images of 0 to 255 to the weights' input range, in float32 under any policy.
        features: number of features.

    """

    name: str
    model: keras.Model
    normalise: layers.Layer
    features: int

    def stage_layers(self, stage: str) -> list[layers.Layer]:
        """Return the layers with weights in one of `STAGES`, in order; each layer is in exactly one stage.

        In MobileNetV2 the stages are its blocks by resolution: "stem" is conv_stem and blocks.0, "layer1" blocks.1,
        "layer2" blocks.2, "layer3" blocks.3 and blocks.4, "layer4" blocks.5, blocks.6 and conv_head. The last block is
        "layer4" in every backbone.
        """
        _check_stages([stage])
        return [layer for layer in self.model.layers if layer.weights and _stage_of(layer.name) == stage]

    def extract(self, images, side: int | None = None, augment: layers.Layer | None = None):
        """Turn images (batch, h, w, 1 or 3) of 0 to 255 into features (batch, `features`).

        The images are resized bilinearly, grey is repeated as three channels, and the result is normalised, all in
        float32 under any policy, by layers named resize, grey_to_colour and normalise. `side` is the input size of a
        network that takes any size. `augment` gets the resized images, float32 of 0 to 255.
        """
        side = self.model.input_shape[1] or side
        images = ops.cast(images, "float32")  # resizing integers would return integers
        x = layers.Resizing(side, side, dtype="float32", name="resize")(images)
        if augment is not None:
            x = augment(x)
        if images.shape[-1] == 1:
            x = layers.Concatenate(dtype="float32", name="grey_to_colour")([x, x, x])
        return self.model(self.normalise(x))

    def halves(self) -> tuple[keras.Model, list[keras.Model]] | None:
        """Cut the network below the first trainable stage: a frozen model, and a list of at most one model above it.

        None if only the stem is frozen or nothing is: the stem's output is larger than the image.
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

    def set_trainable(self, stages: Collection[str], batch_norm: str = "layer") -> None:
        """Make exactly `stages` trainable and freeze the rest.

        Takes effect when the model is compiled again.

        Args:
            stages: names of `STAGES`.
            batch_norm: which statistics batch normalisation uses in training: keep, layer or follow (see
                `BatchNormalization.fine_tune`).

        Raises:
            ValueError: a name that is not in `STAGES`.

        """
        _check_stages(stages)
        self.model.trainable = True
        for stage in STAGES:
            for layer in self.stage_layers(stage):
                if isinstance(layer, BatchNormalization):
                    layer.fine_tune(stage in stages, batch_norm)
                else:
                    layer.trainable = stage in stages


def set_image_size(model: keras.Model, side: int) -> None:
    """Set the input size, in pixels, of a model that begins with `Backbone.extract` on a backbone of any size."""
    layer = model.get_layer("resize")
    if (layer.height, layer.width) != (side, side):
        layer.height = layer.width = side
        # The functions that Keras has compiled still resize to the old size.
        model.train_function = model.test_function = model.predict_function = None


def build(name: str, image_size: int, weights: str = "none", offline: bool = False, any_size: bool = False) -> Backbone:
    """Build a backbone for square images and load its weights.

    Args:
        name: one of `NAMES`.
        image_size: side of the images in pixels, at least 32.
        weights: "none" (random), "imagenet", or the path of a `.safetensors` file with the names and layout of
            torchvision (the ResNets) or timm (MobileNetV2).
        offline: never use the network.
        any_size: accept images of any size; otherwise only `image_size`, so that all shapes are known.

    Returns:
        The backbone, with every stage trainable.

    Raises:
        ValueError: unknown name, or images that are too small.
        common.weights.WeightsError: weights that are missing or do not fit.

    """
    if name not in NAMES:
        raise ValueError(f"unknown backbone {name!r}: one of {', '.join(NAMES)}")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(
            f"image size {image_size} is too small for {name}: at least {MIN_IMAGE_SIZE} pixels, for its five halvings"
        )
    path = weight_files.locate(name, weights, offline)
    side = None if any_size else image_size
    model = _mobilenet(side) if name == MOBILENET else _resnet(name, side)
    if path is not None:
        weight_files.load_safetensors(model, path)
    scale = [1 / (255 * std) for std in IMAGENET_STD]
    offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    normalise = layers.Rescaling(scale, offset, dtype="float32", name="normalise")
    return Backbone(name, model, normalise, model.output_shape[-1])


@dataclass(frozen=True)
class _ResNet:
    """One column of table 1: the block, its count in each stage, and the shape of its 3x3 convolutions."""

    block: Callable
    depths: tuple[int, int, int, int]
    groups: int = 1
    group_width: int = 64


def _resnet(name: str, image_size: int | None) -> keras.Model:
    """Build a ResNet of `_RESNETS`, (batch, size, size, 3) -> (batch, features)."""
    config = _RESNETS[name]
    image = keras.Input((image_size, image_size, 3), name="image")
    x = _conv_norm(image, 64, kernel=7, stride=2, conv="conv1", norm="bn1")
    x = layers.ReLU(name="relu")(x)
    # torch pads this pooling with minus infinity; after a ReLU, zeros give the same result.
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
    """Return `x`, projected by a 1x1 convolution if its shape changes (He et al., option B)."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return _conv_norm(x, channels, 1, stride, f"{name}.downsample.0", f"{name}.downsample.1")


def _conv_norm(x, channels: int, kernel: int, stride: int, conv: str, norm: str, groups: int = 1):
    """Add a convolution without bias, with symmetric padding by half the kernel, and batch normalisation."""
    # He et al. 2015 (arXiv:1502.01852) by fan-out, as in torchvision and timm (depthwise: that of one channel). A new
    # initialiser for each layer: one that is called twice returns the same numbers.
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    if 1 < groups == channels == x.shape[-1]:
        convolution = layers.DepthwiseConv2D(
            kernel, stride, _padding(stride), use_bias=False, depthwise_initializer=initializer, name=conv
        )
    else:
        kind = layers.Conv2D if groups == 1 else GroupedConv2D
        convolution = kind(
            channels,
            kernel,
            stride,
            _padding(stride),
            groups=groups,
            use_bias=False,
            kernel_initializer=initializer,
            name=conv,
        )
    if stride > 1 and kernel > 1:
        x = _pad(x, kernel // 2, conv)
    return BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5, name=norm)(convolution(x))


def _padding(stride: int) -> str:
    return "same" if stride == 1 else "valid"  # "same" is symmetric if there is no stride


def _pad(x, pixels: int, name: str):
    return layers.ZeroPadding2D(pixels, name=f"{name}.pad")(x)


@keras.saving.register_keras_serializable(package="keras_studies")
class GroupedConv2D(layers.Conv2D):
    """A grouped `Conv2D` that also trains on a CPU.

    TensorFlow has no CPU gradient kernel for grouped convolutions, so Keras compiles them with XLA, whose CPU gradient
    is unusable: 12 s for one step of one layer (batch 8, 56x56x128, 32 groups, 2 cores), 0.1 s here. JAX uses XLA too.
    Without an accelerator, the kernel is therefore expanded to a dense one, with zeros between the groups: the same
    function and gradient, at the cost of a layer without groups.
    """

    def convolution_op(self, inputs, kernel):
        """Convolve `inputs` (batch, rows, columns, channels) with `kernel` (h, w, channels / groups, filters)."""
        if _has_accelerator():
            return super().convolution_op(inputs, kernel)
        return super().convolution_op(inputs, dense_kernel(kernel, self.groups))


def dense_kernel(kernel, groups: int):
    """Return the ungrouped kernel (h, w, groups * i, o) of the same function as `kernel` (h, w, i, o)."""
    _, _, inputs, outputs = kernel.shape
    group_of_input = ops.arange(groups * inputs) // inputs
    group_of_output = ops.arange(outputs) // (outputs // groups)
    same_group = ops.equal(group_of_input[:, None], group_of_output[None, :])
    spread = ops.tile(kernel, (1, 1, groups, 1))
    return spread * ops.cast(same_group, spread.dtype)


@functools.cache
def _has_accelerator() -> bool:
    return any(not device.startswith("cpu") for device in keras.distribution.list_devices())


def _mobilenet(image_size: int | None) -> keras.Model:
    """Build MobileNetV2 of width 1 (Sandler et al., table 2), (batch, size, size, 3) -> (batch, 1280)."""
    image = keras.Input((image_size, image_size, 3), name="image")
    x = _conv_norm_relu6(image, 32, 3, 2, "conv_stem", "bn1")
    for row, blocks in enumerate(_MOBILENET):
        for index in range(blocks.depth):
            stride = blocks.stride if index == 0 else 1
            x = _inverted_residual(x, blocks.channels, stride, blocks.expansion, f"blocks.{row}.{index}")
    x = _conv_norm_relu6(x, 1280, 1, 1, "conv_head", "bn2")
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    return keras.Model(image, x, name=MOBILENET)


def _inverted_residual(x, channels: int, stride: int, expansion: int, name: str):
    """Add a 1x1 expansion, a depthwise convolution and a projection, with a shortcut if the shape allows (table 1)."""
    shortcut, wide = x, x.shape[-1] * expansion
    # In timm, without an expansion the projection is called conv_pw and the numbers are one lower.
    first, project = (1, "conv_pw") if expansion == 1 else (2, "conv_pwl")
    if expansion > 1:
        x = _conv_norm_relu6(x, wide, 1, 1, f"{name}.conv_pw", f"{name}.bn1")
    x = _conv_norm_relu6(x, wide, 3, stride, f"{name}.conv_dw", f"{name}.bn{first}", groups=wide)
    x = _conv_norm(x, channels, 1, 1, f"{name}.{project}", f"{name}.bn{first + 1}")
    if x.shape != shortcut.shape:
        return x
    return layers.Add(name=f"{name}.add")([x, shortcut])


def _conv_norm_relu6(x, channels: int, kernel: int, stride: int, conv: str, norm: str, groups: int = 1):
    x = _conv_norm(x, channels, kernel, stride, conv, norm, groups)
    return layers.ReLU(6.0, name=f"{norm}.act")(x)


def _stage_of(layer_name: str) -> str:
    """Return the stage of a layer by its name, in either family."""
    first, _, rest = layer_name.partition(".")
    if first in STAGES:
        return first
    if first == "blocks":
        return _MOBILENET[int(rest.partition(".")[0])].stage
    return "layer4" if first in ("conv_head", "bn2") else "stem"


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


@dataclass(frozen=True)
class _Blocks:
    """One row of table 2 (t, c, n and s there), and the stage it belongs to."""

    expansion: int
    channels: int
    depth: int
    stride: int
    stage: str


# Stages by resolution (1/4 to 1/32 of the image), as in a ResNet; the list index is the number in timm's names.
_MOBILENET = (
    _Blocks(1, 16, 1, 1, "stem"),
    _Blocks(6, 24, 2, 2, "layer1"),
    _Blocks(6, 32, 3, 2, "layer2"),
    _Blocks(6, 64, 4, 2, "layer3"),
    _Blocks(6, 96, 3, 1, "layer3"),
    _Blocks(6, 160, 3, 2, "layer4"),
    _Blocks(6, 320, 1, 1, "layer4"),
)
MOBILENET = "mobilenet_v2"
NAMES = (*_RESNETS, MOBILENET)
