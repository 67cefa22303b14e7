"""A trained network, kept by its run so that it can be used: from images, as the data set has them, to its outputs."""

import importlib
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax

from common import checkpoints, files, setup
from common.augment.layer import Augment
from common.backbones import networks
from common.config import REPOSITORY
from common.data import pipeline
from common.data.splits import Split
from common.errors import ConfigError, first_line
from common.files import CheckpointError
from common.normalisation import BatchNormalization
from common.run_folder import RunFolder, check_classifier
from common.runs import Run
from common.workarounds.dense import Dense
from common.workarounds.few_pixels import Conv2D
from common.workarounds.grouped_convolution import GroupedConv2D
from common.workarounds.max_pooling import MaxPooling2D
from common.workarounds.resizing import Resizing
from common.workarounds.strided_depthwise import DepthwiseConv2D

# What a file may name; to import them is to register them.
KNOWN = (Augment, BatchNormalization, Conv2D, Dense, DepthwiseConv2D, GroupedConv2D, MaxPooling2D, Resizing)


@dataclass(frozen=True)
class Trained:
    """A classifier of a finished run."""

    model: keras.Model
    """uint8 images (b, h, w, c) to scores (b, classes)."""
    class_names: Sequence[str]
    batch_size: int

    @property
    def side(self) -> int:
        """Of its images, in pixels."""
        return self.model.input_shape[1]

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.model.input_shape[-1]

    def probabilities(self, split: Split) -> np.ndarray:
        """What it says of each image of a split: float32 (n, classes)."""
        every = pipeline.filled(split, self.batch_size)
        batches = pipeline.evaluation(every, self.batch_size)
        scores = self.model.predict(batches, verbose=0)
        return probabilities(scores[: len(split)])


def save(run: Run, model: keras.Model) -> None:
    """Write model.keras: the network as it is, with its augmentation and without an optimizer."""
    plain = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    with tempfile.TemporaryDirectory() as folder:
        plain.save(Path(folder, "model.keras"))
        files.write(run.files.model_file, Path(folder, "model.keras").read_bytes())


def load(folder: Path, phase: str | None = None, batch_size: int | None = None) -> Trained:
    """The classifier of a finished run in its reported state, or in that of an earlier phase; by its own batch size.

    Raises ConfigError if this is no finished run, or one that was trained before networks were kept.
    """
    run = RunFolder(folder)
    check_classifier(run, phase)
    about, environment, class_names = run.config(), run.environment(), run.class_names()
    setup.reset_keras()
    setup.compute_in_float32()
    for module in ("train", "networks"):  # in which a task registers recipes and layers of its own
        if (REPOSITORY / "tasks" / about["task"] / f"{module}.py").is_file():
            importlib.import_module(f"tasks.{about['task']}.{module}")
    if environment.get("op_determinism"):
        tf.config.experimental.enable_op_determinism()
    if not zipfile.is_zipfile(run.model_file):
        raise ConfigError(f"{run.model_file} is damaged: it is no zip archive, as Keras writes")
    try:
        model = keras.saving.load_model(run.model_file, compile=False)
    except Exception as error:  # the library raises many kinds
        raise ConfigError(f"{run.model_file} cannot be read: {first_line(error)}") from error
    if phase is not None:
        load_phase(model, run, phase)
    return Trained(model, class_names, batch_size or about["config"]["batch_size"])


def load_phase(model: keras.Model, run: RunFolder, phase: str) -> None:
    """Put the reported weights of a phase into the network. Raises ConfigError if they are not there."""
    try:
        newest = checkpoints.latest(run.checkpoints)
        if newest is None:
            raise ConfigError(
                f"{run.path} has no checkpoints any more, and with them went the weights of phase {phase}"
            )
        entry = newest.data[run.metrics()["reported"]][phase]
        checkpoints.assign("weights", model.weights, checkpoints.load(run.checkpoints / entry["file"]).arrays)
        sides = {own["name"]: own.get("image_size") for own in run.config()["config"].get("phases", ())}
        if side := sides.get(phase):
            networks.set_image_size(model, side)  # the file has that of the last phase
    except (CheckpointError, OSError, KeyError, TypeError) as error:
        raise ConfigError(f"{run.path}: the weights of phase {phase} cannot be read: {error}") from error


def probabilities(scores: np.ndarray) -> np.ndarray:
    """A classifier's scores, any float (n, classes), as probabilities: float32 (n, classes)."""
    return softmax(scores.astype(np.float64), axis=1).astype(np.float32)
