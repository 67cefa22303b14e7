"""Which features and splits of a TFDS data set are used, and how they are read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from common.data import tfrecords
from common.data.decoded import decode_once, splits_of
from common.data.image_files import decode
from common.data.listing import few
from common.data.splits import Loaded, whole
from common.errors import ConfigError

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder, DatasetInfo

# Names of the split that is validated with, the first that a data set has.
VALIDATION = ("validation", "val", "valid", "dev")
# Images of one shape are decoded into memory up to this size; larger sets are read from their files.
IN_MEMORY = 2 * 2**30  # bytes


@dataclass(frozen=True)
class Features:
    """The image and the label of a data set."""

    image: str
    label: str
    size: tuple[int, int] | None
    """Height and width, if all images have the same."""
    channels: int
    """1 for grey, 3 for colour; transparency is left out."""
    class_names: Sequence[str]
    are_png: bool
    """Whether all images are PNG, as the set says."""

    def decoding(self) -> tfds.decode.PartialDecoding:
        """Nothing but the bytes of the image, and the label."""
        wanted = {self.image: True, self.label: True}
        return tfds.decode.PartialDecoding(wanted, {self.image: tfds.decode.SkipDecoding()})


def features_of(name: str, info: "DatasetInfo") -> Features:
    """The image and the label to use: the supervised ones, or the only ones.

    Raises ConfigError if there are none, or several, or if the images are not uint8 with a height and a width.
    """
    named = isinstance(info.features, tfds.features.FeaturesDict)
    every = dict(sorted(info.features.items())) if named else {}  # on disk they have no order
    images = [key for key, feature in every.items() if type(feature) is tfds.features.Image]
    labels = [key for key, feature in every.items() if isinstance(feature, tfds.features.ClassLabel)]
    supervised: Sequence = info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        images, labels = [supervised[0]], [supervised[1]]
    for kind, type_name, found in (("image", "Image", images), ("label", "ClassLabel", labels)):
        if not found:
            features = ", ".join(every) or "none with names"
            raise ConfigError(f"{name} has no {kind}, a feature of TFDS's type {type_name}; its features: {features}")
        if len(found) > 1:
            raise ConfigError(
                f"{name} has several features that could be the {kind} ({', '.join(found)}), and does not say which is"
            )
    image, label = every[images[0]], every[labels[0]]
    if image.np_dtype != np.uint8 or len(image.shape) != 3:
        raise ConfigError(
            f"{name} has images of type {image.np_dtype} and shape {image.shape}; allowed: uint8, (height, width, "
            "channels)"
        )
    if not label.num_classes:
        raise ConfigError(f"{name} does not say how many classes its label {labels[0]} has")
    height, width, channels = image.shape
    size = None if height is None or width is None else (height, width)
    are_png = image.to_json_content().encoding_format == "png"
    return Features(images[0], labels[0], size, 1 if channels == 1 else 3, label.names, are_png)


def used(name: str, splits: Sequence[str]) -> dict[str, str]:
    """Which of a data set's splits is train, validation and test. Raises ConfigError if there is no train."""
    if "train" not in splits:
        raise ConfigError(f"{name} has no train split to learn from; it has {', '.join(splits) or 'none'}")
    validation = next((split for split in VALIDATION if split in splits), None)
    return {
        "train": "train",
        **({"validation": validation} if validation else {}),
        **({"test": "test"} if "test" in splits else {}),
    }


def read(name: str, builder: "DatasetBuilder", side: int, data_folder: Path, gigabytes: float) -> Loaded:
    """The images and labels of a prepared data set.

    Images of one shape are decoded into memory, unless they are too many. Others are decoded once, if they fit, or as
    they are needed, and resized to `side` if they have several shapes; of all that are not square the centred square is
    used. Splits without a label are not used. Raises OSError or tf.errors.OpError for damaged files.
    """
    features, info = features_of(name, builder.info), builder.info
    if info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ConfigError(
            f"{name} in {builder.data_dir} is in files of the format {info.file_format.value}; allowed: tfrecord, "
            "TFDS's default"
        )
    counts = {split: info.splits[split].num_examples for split in info.splits}
    roles = used(name, [split for split, count in counts.items() if count])
    side = min(features.size) if features.size else side
    pixels = side**2 * features.channels
    in_memory = features.size is not None and pixels * sum(map(counts.__getitem__, roles.values())) <= IN_MEMORY
    reader = into_memory if in_memory else from_records
    found, notes = {}, cropping(features, side)
    for role, split in roles.items():
        images, labels = reader(builder, split, features, side)
        if len(labels) != counts[split]:
            raise OSError(f"{split} has {len(labels):,} of {counts[split]:,} images")
        if role != "train" and labels.max() < 0:
            notes.append(f"{split} not used: its {len(labels):,} images have no labels")
        else:
            found[role] = images, labels
    if others := [f"{split} ({counts[split]:,} images)" for split in counts if split not in roles.values()]:
        notes.append(f"not used: {', '.join(others)}")
    if in_memory:
        splits = {role: whole(images, labels, side) for role, (images, labels) in found.items()}
        return Loaded(splits, features.class_names, notes)
    named = {role: [*zip(map(os.fsdecode, names), labels, strict=True)] for role, (names, labels) in found.items()}
    files = [file for images in named.values() for file, _ in images]
    shape = side, side, features.channels
    unreadable, decoded = decode_once(Path(builder.data_dir), files, shape, data_folder, gigabytes)
    if unreadable:
        told = few([f"{tfrecords.shown(file)}: {reason}" for file, reason in unreadable.items()])
        notes.append(f"not used, images that cannot be read: {len(unreadable):,} ({told})")
    splits = splits_of(name, named, side, features.channels, unreadable)
    return Loaded(splits, features.class_names, notes, files, unreadable, decoded)


def cropping(features: Features, side: int) -> list[str]:
    """A note of what is done to images that are not all squares of one size."""
    if features.size is None:
        return [f"images of different sizes: their centred squares, resized to {side} pixels"]
    height, width = features.size
    return [] if height == width else [f"images of {height} x {width} pixels: their centred squares"]


def into_memory(builder: "DatasetBuilder", split: str, features: Features, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One split, whose images have one shape: the centred squares, uint8 (n, side, side, c), and labels, int64 (n,)."""
    height, width = features.size or (side, side)
    images = np.empty((builder.info.splits[split].num_examples, side, side, features.channels), np.uint8)
    labels = np.empty(len(images), np.int64)
    start = 0
    config = tfds.ReadConfig(try_autocache=False)  # the cache would be a second copy that is not freed
    stored = builder.as_dataset(split=split, shuffle_files=False, read_config=config, decoders=features.decoding())

    # Looking for the format of each would take CIFAR-10 3 s.
    decode_one = tf.io.decode_png if features.are_png else decode

    def square(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
        top, left = (height - side) // 2, (width - side) // 2
        return tf.ensure_shape(image, (height, width, features.channels))[top : top + side, left : left + side]

    def decoded(one: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = decode_one(one[features.image], features.channels)
        if features.are_png or height == width:
            return square(image, height, width), one[features.label]
        is_turned = tf.shape(image)[0] == width  # as its EXIF orientation says
        turned = tf.cond(is_turned, lambda: square(image, width, height), lambda: square(image, height, width))
        return turned, one[features.label]

    stored = stored.map(decoded, tf.data.AUTOTUNE)
    for own, own_labels in stored.batch(512).prefetch(1).as_numpy_iterator():
        end = start + len(own_labels)
        if end > len(images):
            raise OSError(f"{split} has more than {len(images):,} images")
        images[start:end] = own
        labels[start:end] = own_labels
        start = end
    return images[:start], labels[:start]


def from_records(
    builder: "DatasetBuilder", split: str, features: Features, _side: int
) -> tuple[np.ndarray, np.ndarray]:
    """One split, file by file, whose images stay where they are: names of parts, bytes (n,), and labels, int64 (n,)."""
    stored = features.decoding().extract_features(builder.info.features)

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        one = stored.deserialize_example(record, decoders={features.image: tfds.decode.SkipDecoding()})
        return one[features.image], one[features.label]

    return tfrecords.images(builder.info.splits[split].filepaths, parse)
