"""What a convolutional network owes to the neighbourhood of pixels.

The same network on images, and on images whose pixels all pass through one fixed permutation; a multi-layer
perceptron, to which the order of pixels makes no difference, as the control; and blocks of pixels that are permuted
whole, for what lies between.

    python tasks/permuted_cnn/train.py                       # notMNIST, single pixels permuted
    python tasks/permuted_cnn/train.py --block None          # the images as they are
    python tasks/permuted_cnn/train.py --network mlp         # the control
    python tasks/permuted_cnn/train.py --padding same        # padded convolutions, and a mean over the image
    python tasks/permuted_cnn/train.py --block 7             # blocks of 7x7 pixels stay whole
    python tasks/permuted_cnn/train.py --preset demo         # embedded digits: under a minute on 2 cores, offline

What accuracy to expect, and over how many seeds: the table in README.md beside this file.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for `common`

from common import command
from common.config import Config
from common.data import folder_of
from common.errors import ConfigError, positive
from common.phase import Phase
from common.runs import Run

if TYPE_CHECKING:  # `--help` does without
    import keras
    import numpy as np

    from common.data.splits import Dataset
    from common.result import Result

# Pixels of an image's side, so that a mistake is found before the images are read.
SIDES = {"digits": 8, "mnist": 28, "notmnist": 28, "cifar10": 32, "cifar100": 32, "fer2013": 48}


@dataclass(frozen=True)
class PermutedConfig(Config):
    """What one run of this task depends on."""

    PROTOCOL = 2
    FOLDER_SIDE = 28

    network: Literal["cnn", "mlp"] = "cnn"
    """Convolutions, or the perceptron that is the control."""
    padding: Literal["same", "valid"] = "same"
    """cnn: padded convolutions and the mean over the image at their end; or valid, unpadded ones, and every number that
    they leave to the linear layer."""
    initialisation: Literal["keras", "torch"] = "keras"
    """Initial weights: Keras's (Glorot uniform, biases zero) or torch's (kernel and bias uniform within
    1/sqrt(fan_in))."""
    image_size: int | None = None
    """Side in pixels to which images are resized before they are permuted. None: they stay as they are."""
    block: int | None = 1
    """Side in pixels of the blocks that the permutation moves as a whole. 1: single pixels; None: nothing moves."""
    epochs: int = 20
    """Passes over the training images."""
    rate: float = 0.01
    """Learning rate of SGD."""
    momentum: float = 0.5
    """Momentum of SGD."""

    SHOWN = ("dataset", "network", "block")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The one phase."""
        return (Phase("train", self.epochs, "sgd", self.rate, momentum=self.momentum),)

    @property
    def folder_side(self) -> int:
        """What the network sees."""
        return self.image_size or self.FOLDER_SIDE

    def name_parts(self) -> tuple[str, ...]:
        """Preset, data set, network and block."""
        return (*super().name_parts(), self.network, f"block{self.block}")

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        for field in ("block", "image_size"):
            if getattr(self, field) is not None:
                positive(field.replace("_", "-"), getattr(self, field))
        side = self.image_size or SIDES.get(self.dataset) or (self.folder_side if folder_of(self.dataset) else None)
        if side:
            self.check_side(side)
        for phase in self.phases:
            phase.check()

    def check_side(self, side: int) -> None:
        """Raise ConfigError unless images of this side, in pixels, can be permuted and trained with."""
        if self.block is not None and side % self.block:
            raise ConfigError(f"block is {self.block}, which does not divide the image's side of {side} pixels")
        if self.network == "cnn" and self.padding == "valid" and side < SMALLEST:
            raise ConfigError(
                f"padding is valid, and images of {side} pixels are too small for that; allowed: {SMALLEST} pixels and "
                "more, or padding same"
            )


SMALLEST = 24  # pixels that unpadded convolutions need: 24, 22, 20, 10, 8, 4, 2, 1
PRESETS = {
    "permuted": PermutedConfig(preset="permuted", dataset="notmnist", padding="valid", initialisation="torch"),
    "demo": PermutedConfig(preset="demo", dataset="digits", epochs=3),
}


def provide(config: PermutedConfig) -> None:
    """See that the data is on this machine; what is missing is fetched, unless offline."""
    from common.data import sources

    sources.provide(config)


def experiment(config: PermutedConfig, run: Run) -> None:
    """Train one configuration; leave its metrics and figures."""
    from common.data import sources
    from common.trainer import Trainer

    data = sources.load(config)
    side = config.image_size or data.train.size
    config.check_side(side)
    order = permutation(side, config.block, config.seed)
    model = build(config, order, data)
    trainer = Trainer(run, model, data)
    trainer.fit(config.phases)
    result = trainer.evaluate(data.train)
    draw(run, model, data, result)
    run.finish(result.metrics | {"permutation": order.tolist()})


def permutation(size: int, block: int | None, seed: int) -> "np.ndarray":
    """Where each pixel of the permuted image comes from: int64 (size * size,), indices into the flattened image.

    Blocks of `block` x `block` pixels, which tile the image, change places and stay whole; every image of a run passes
    through the same. Of several blocks some always move.
    """
    import numpy as np

    places = np.arange(size * size).reshape(size, size)
    if block is None:
        return places.ravel()
    count = size // block
    blocks = places.reshape(count, block, count, block).swapaxes(1, 2).reshape(count * count, block, block)
    rng = np.random.default_rng(seed)
    moved = rng.permutation(blocks)
    while count > 1 and np.array_equal(moved, blocks):  # as it is for 4 blocks and one seed in 24
        moved = rng.permutation(blocks)
    return moved.reshape(count, count, block, block).swapaxes(1, 2).ravel()


def build(config: PermutedConfig, order: "np.ndarray", data: "Dataset") -> "keras.Model":
    """The whole model: uint8 images (b, h, w, c) to float32 logits (b, classes)."""
    import keras
    from keras import layers, ops

    from common.initialisation import dense

    size, channels = data.train.size, data.train.channels
    x = inputs = keras.Input((size, size, channels), dtype="uint8", name="image")
    if config.image_size:
        size = config.image_size
        x = ops.cast(x, "float32")  # resizing integers would return integers on JAX
        x = layers.Resizing(size, size, name="resize", dtype="float32")(x)
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale", dtype="float32")(x)
    if config.block is None:
        x = layers.Identity(name="permuted")(x)
    else:
        x = layers.Reshape((size * size, channels))(x)
        x = ops.take(x, order, axis=1)
        x = layers.Reshape((size, size, channels), name="permuted")(x)
    if config.network == "cnn":
        x = convolutions(x, config.padding, config.initialisation)
    else:
        x = perceptron(x, config.initialisation)
    return keras.Model(inputs, dense(x, len(data.class_names), config.initialisation, dtype="float32", name="head"))


def convolutions(
    x: "keras.KerasTensor", padding: str, initialisation: Literal["keras", "torch"]
) -> "keras.KerasTensor":
    """Four convolutions 3x3 with a maximum over 2x2 after each but the first; of padded ones the mean over the image.

    Unpadded they leave 512 numbers of 28x28 pixels: sides of 28, 26, 24, 12, 10, 5, 3 and 1. The last maximum leaves
    out the third of three, so they do not see the last four rows and columns; of 24x24 pixels they see all.
    """
    from keras import layers

    from common.initialisation import kernel_and_bias
    from common.normalisation import BatchNormalization
    from common.workarounds.max_pooling import MaxPooling2D

    x = layers.Conv2D(64, 3, padding=padding, **kernel_and_bias(initialisation, 9 * x.shape[-1]))(x)
    x = BatchNormalization(momentum=0.9, epsilon=1e-5)(x)  # the defaults of the source's framework
    x = layers.ReLU()(x)
    for filters in (128, 256, 512):
        initial = kernel_and_bias(initialisation, 9 * x.shape[-1])
        x = layers.Conv2D(filters, 3, padding=padding, activation="relu", **initial)(x)
        x = MaxPooling2D(2)(x)
    return (layers.Flatten() if padding == "valid" else layers.GlobalAveragePooling2D())(x)


def perceptron(x: "keras.KerasTensor", initialisation: Literal["keras", "torch"]) -> "keras.KerasTensor":
    """Two hidden layers of 512 units: the order of its inputs is the order of its weights."""
    from keras import layers

    from common.initialisation import dense
    from common.workarounds.dense import Dense

    x = layers.Flatten()(x)
    for _ in range(2):
        x = dense(x, 512, initialisation, Dense, activation="relu")
    return x


def draw(run: Run, model: "keras.Model", data: "Dataset", result: "Result") -> None:
    """Every figure of a run, into the run directory."""
    import keras
    import numpy as np

    from common import drawing, plots
    from common.data import pipeline

    drawing.classifier(run, data, result)
    images = pipeline.pictures(data.train, np.linspace(0, len(data.train) - 1, plots.IMAGES_PER_ROW, dtype=int))
    permuted = keras.Model(model.input, model.get_layer("permuted").output).predict_on_batch(images)
    names = ("original", "permuted")
    plots.image_pairs(images, permuted, run.figures / "images.png", names, "Images, and what the network sees of them")


if __name__ == "__main__":
    command.main(PRESETS, __doc__, provide, experiment)
