"""Activations below what a phase trains, computed once for all its epochs (`--cache-features`).

While the first stages of a backbone are frozen and nothing random happens below them, they give the same for an image
in every epoch. Those activations are then the data that the rest of the network is trained on.
"""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace

import keras
import numpy as np
from tqdm import tqdm

from common.augment.layer import Augment
from common.backbones.networks import Backbone
from common.config import GIGABYTE, Config
from common.data import pipeline
from common.data.splits import Dataset, Split
from common.files import StorageError
from common.fine_tuning import FineTuning
from common.phase import Phase
from common.runs import Run

FOLDER = "activations"  # in the run directory, while a phase lasts
DRAWS = 2**24  # random numbers apart that the views begin


@dataclass(frozen=True)
class Cut:
    """A model in two, made of its layers: images -> `augment` -> `lower` -> activations -> `upper` -> outputs.

    Each training image is seen in `views` versions that `augment` makes, one an epoch in turn; 0: as it is, and without
    an `augment`, so that `lower` starts from the images.
    """

    augment: keras.Model | None
    lower: keras.Model
    upper: keras.Model
    views: int
    on_disk: bool


def cut(
    config: FineTuning,
    phase: Phase,
    model: keras.Model,
    backbone: Backbone,
    data: Dataset,
    changing: bool = False,
    views: int = 0,
) -> Cut | None:
    """Cut a model below the first stage of its backbone that is trained; None where nothing is to be cached.

    That is, if the images are `changing` from epoch to epoch, batch normalisation follows the batches, too little is
    frozen, or `config` is against it: with "auto" for what needs more than `cache_gigabytes` or a phase of one epoch.
    Views, on which the result depends, are cached in any case. What follows the backbone must be a chain of layers.
    """
    always = config.cache_features == "on" or views > 0
    if config.cache_features == "off" or changing or config.devices * config.nodes > 1 or config.batch_norm == "follow":
        return None
    if phase.epochs < 2 and not always:
        return None
    one_size = backbone.model.input_shape[1] is not None
    halves = backbone.halves() if one_size else None
    if halves is None:
        if config.cache_features == "on":
            why = "too little is frozen" if one_size else "the phases differ in image size"
            print(f"phase {phase.name}: nothing is computed once, as {why}", flush=True)
        return None
    below, above = halves
    start, augment = model.input, None
    if views:
        # It starts with the resize, if the images are augmented after that.
        start = next(layer.output for layer in model.layers if isinstance(layer, Augment))
        augment = keras.Model(model.input, start, name="augmented")
    lower = keras.Model(start, below(model.get_layer("normalise").output), name="lower")
    size = bytes_of(lower, len(data.train) * max(views, 1) + len(data.validation))
    on_disk = size > config.cache_gigabytes * GIGABYTE
    text = f"phase {phase.name}: the frozen layers' activations take {size / 1e6:,.0f} MB"
    if on_disk and not always:
        print(f"{text}, above --cache-gigabytes {config.cache_gigabytes:g}; computed again in every epoch", flush=True)
        return None
    print(f"{text}; computed once, kept {'on disk' if on_disk else 'in memory'}", flush=True)
    x = activations = keras.Input(lower.output_shape[1:], dtype=lower.output.dtype, name="activations")
    after = model.layers.index(model.get_layer(backbone.model.name)) + 1
    for layer in [*above, *model.layers[after:]]:
        x = layer(x)
    return Cut(augment, lower, keras.Model(activations, x, name="upper"), views, on_disk)


def bytes_of(lower: keras.Model, images: int) -> int:
    """Bytes of the activations of this many images."""
    return images * math.prod(lower.output_shape[1:]) * np.dtype(lower.output.dtype).itemsize


def cached(run: Run, part: Cut, data: Dataset) -> Dataset:
    """The data set with activations in the place of training and validation images, for `part.upper`.

    With views, the split for training holds every image once per view: all in their first view, then in their second.
    The views depend on the run's seed and batch size alone, so that a resumed run sees the same. Files in the run
    directory, where there are any, are `forget`'s to delete. Raises StorageError where they cannot be written.
    """

    def of(name: str, split: Split, views: int) -> Split:
        labels = np.tile(split.labels, max(views, 1))
        shape, dtype = (len(labels), *part.lower.output_shape[1:]), np.dtype(part.lower.output.dtype)
        parts = compute(run.config, part, split, views, name)
        if not part.on_disk:
            store, start = np.empty(shape, dtype), 0
            for found in parts:
                store[start : start + len(found)] = found
                start += len(found)
            return Split(store, np.arange(len(labels)), labels, split.size)
        path = run.folder / FOLDER / f"{name}.bin"
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                for found in parts:
                    file.write(found.tobytes())
        except OSError as error:
            forget(run)
            text = f"cannot write {path}: {error.strerror or error}; --cache-features off needs no room"
            raise StorageError(text) from error
        return Split(np.memmap(path, dtype, "r", shape=shape), np.arange(len(labels)), labels, split.size)

    return replace(data, train=of("train", data.train, part.views), validation=of("validation", data.validation, 0))


def compute(config: Config, part: Cut, split: Split, views: int, name: str) -> Iterator[np.ndarray]:
    """The activations of a split, in its order, in batches: view after view, or once of the images as they are."""
    draws = part.augment if views else None
    for view in range(max(views, 1)):
        if draws:
            state = draws.variables[0]
            kept = np.array(state)
            state.assign(np.array([config.seed, (1 + view) * DRAWS], kept.dtype))
        text = f"{name}, view {view + 1} of {views}" if views else name
        batches = pipeline.evaluation(split, config.batch_size)
        for images, _ in tqdm(batches, text, len(batches), disable=None):
            images = keras.ops.convert_to_tensor(images)
            if part.augment:
                images = part.augment(images, training=views > 0)
            # The last batch is filled up: for one of another size the network would be compiled again.
            count = len(images)
            images = keras.ops.pad(images, [(0, config.batch_size - count), (0, 0), (0, 0), (0, 0)])
            yield part.lower.predict_on_batch(images)[:count]
        if draws:
            state.assign(kept)


def forget(run: Run) -> None:
    """Delete the files of `cached`."""
    shutil.rmtree(run.folder / FOLDER, ignore_errors=True)
