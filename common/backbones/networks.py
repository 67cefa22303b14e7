"""The convolutional networks that the fine-tuning tasks start from.

All are as in PyTorch, so that its ImageNet weights load and give its outputs.
"""

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass

import keras
from keras import layers, ops

from common import weights as weight_files
from common.backbones import BACKBONES, MIN_IMAGE_SIZE, STAGES
from common.normalisation import BatchNormalization
from common.workarounds.resizing import Resizing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network without its classifier.

    Attributes:
        name: one of `BACKBONES`.
        model: normalised images (batch, size, size, 3) -> pooled features (batch, `features`), in the compute dtype of
            the policy that was set when it was built.
        normalise: layer from images of 0 to 255 to the weights' input range, in float32 under any policy.
        features: number of features.
        stage_of: from the name of a layer to its stage.

    """

    name: str
    model: keras.Model
    normalise: layers.Layer
    features: int
    stage_of: Callable[[str], str]

    def stage_layers(self, stage: str) -> list[layers.Layer]:
        """Return the layers with weights in one of `STAGES`, in order; each layer is in exactly one stage.

        In MobileNetV2 the stages are its blocks by resolution: "stem" is conv_stem and blocks.0, "layer1" blocks.1,
        "layer2" blocks.2, "layer3" blocks.3 and blocks.4, "layer4" blocks.5, blocks.6 and conv_head. The last block is
        "layer4" in every backbone.
        """
        check_stages([stage])
        return [layer for layer in self.model.layers if layer.weights and self.stage_of(layer.name) == stage]

    def extract(
        self, images: keras.KerasTensor, side: int | None = None, augment: layers.Layer | None = None
    ) -> keras.KerasTensor:
        """Turn images (batch, h, w, 1 or 3) of 0 to 255 into features (batch, `features`).

        The images are resized bilinearly (antialiased if they get smaller), grey is repeated as three channels, and the
        result is normalised, all in float32 under any policy, by layers named resize, grey_to_colour and normalise.
        `side` is the input size of a network that takes any size. `augment` gets the resized images, float32 of 0 to
        255.
        """
        side = self.model.input_shape[1] or side
        images = ops.cast(images, "float32")  # resizing integers would return integers on JAX
        x = Resizing(side, side, dtype="float32", name="resize")(images)
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
        boundary = [layer for layer in self.model.layers if self.stage_of(layer.name) == frozen[-1]][-1].output
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
        check_stages(stages)
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
        name: one of `BACKBONES`.
        image_size: side of the images in pixels, at least 32.
        weights: "none" (random), "imagenet", or the path of a `.safetensors` file with the names and layout of
            torchvision (the ResNets) or timm (MobileNetV2).
        offline: never use the network.
        any_size: accept images of any size; otherwise only `image_size`, so that all shapes are known.

    Returns:
        The backbone, with every stage trainable.

    Raises:
        ConfigError: an unknown name.
        ValueError: images that are too small.
        common.weights.WeightsError: weights that are absent or do not fit.

    """
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(
            f"image size {image_size} is too small for {name}: at least {MIN_IMAGE_SIZE} pixels, for its five halvings"
        )
    family = BACKBONES.load(name)
    path = weight_files.locate(name, weights, offline)
    model = family.build(None if any_size else image_size)
    if path is not None:
        weight_files.load_safetensors(model, path)
    scale = [1 / (255 * std) for std in IMAGENET_STD]
    offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    normalise = layers.Rescaling(scale, offset, dtype="float32", name="normalise")
    return Backbone(name, model, normalise, model.output_shape[-1], family.stage_of)


def check_stages(stages: Collection[str]) -> None:
    """Raise ValueError for a name that is not in `STAGES`."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ValueError(f"unknown stage {unknown[0]!r}: choose from {', '.join(STAGES)}")
