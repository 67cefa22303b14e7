"""Images and labels of a data set, and how its images are divided into train, validation and test."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from common.data import folder_of
from common.data.listing import fingerprint, printable, unopened
from common.errors import ConfigError

if TYPE_CHECKING:
    import tensorflow as tf

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Images and labels of one split: the entries at `places` of a store that several splits share.

    `store` is a uint8 tensor (m, height, width, channels); or a string tensor (m,) of names of files or of parts of
    files (tfrecords.py), which are decoded, cropped to a centred square and resized to `size` when they are read; or a
    NumPy array (m, ...), in memory or on disk, of a network's outputs for the images. `places` and `labels` are int64
    (n,).
    """

    store: "tf.Tensor | np.ndarray"
    places: np.ndarray
    labels: np.ndarray
    size: int
    in_colour: bool = True
    """Of images in files, whether they are read as colour or as grey."""
    origins: np.ndarray | None = None
    """Of images that were made of others: the places of those, whose names they have; int64 (n,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_files(self) -> bool:
        """Whether the images are decoded from files."""
        return not isinstance(self.store, np.ndarray) and self.store.ndim == 1

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return (3 if self.in_colour else 1) if self.in_files else self.store.shape[-1]

    def take(self, indices: np.ndarray) -> "Split":
        """The part of this split at these indices."""
        origins = None if self.origins is None else self.origins[indices]
        return replace(self, places=self.places[indices], labels=self.labels[indices], origins=origins)


def whole(images: np.ndarray, labels: np.ndarray, size: int) -> Split:
    """A split of all of these images (uint8) or file names."""
    import tensorflow as tf

    with tf.device("CPU"):
        return Split(tf.constant(images), np.arange(len(labels)), np.asarray(labels, np.int64), size)


@dataclass(frozen=True)
class Loaded:
    """The splits that a data set has, before any is held out; `notes` say what a reader of its metrics should know.

    For images that are decoded from files: the names that the places of all splits stand for, why some cannot be
    decoded, by the name, and all images, decoded, uint8 (files, h, w, c), if they fit.
    """

    splits: dict[str, Split]
    class_names: Sequence[str]
    notes: Sequence[str] = ()
    files: Sequence[str] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    decoded: np.ndarray | None = None
    test_images_of: int | None = None
    """How many test images the published data set has, if this copy has a part of them."""


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for training; `notes`, `files`, `unreadable` and `test_images_of` as of Loaded."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...] = ()
    files: Sequence[str] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    test_images_of: int | None = None

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """In the order of SPLITS."""
        return self.train, self.validation, self.test

    def fingerprint(self) -> dict[str, object]:
        """Which images these are: by names and sizes of their files, or else by their labels, in order."""
        if self.files:
            from common.data.tfrecords import file_of

            return fingerprint(self.files, [file_of(name) for name in self.files])
        labels = [split.labels for split in self.splits]
        found = hashlib.sha256(b"|".join(each.tobytes() for each in labels))
        return {"images": sum(map(len, labels)), "digest": found.hexdigest()[:16]}

    def unread(self) -> dict[str, object]:
        """How many of its files could not be read, and a digest of which."""
        places = [place for place, name in enumerate(self.files) if name in self.unreadable]
        return {"images": len(places), "digest": hashlib.sha256(str(places).encode()).hexdigest()[:16]}

    def names(self, split: Split) -> list[str]:
        """The files of a split's images, seen from the image folder; none if the data set is no image folder."""
        folder = folder_of(self.name)
        places = split.places if split.origins is None else split.origins
        return [printable(os.path.relpath(self.files[place], folder)) for place in places] if folder else []

    def counts(self) -> dict[str, np.ndarray]:
        """Images per class, by split."""
        counts = [np.bincount(split.labels, minlength=len(self.class_names)) for split in self.splits]
        return dict(zip(SPLITS, counts, strict=True))


def check_loaded(name: str, loaded: object) -> None:
    """Raise ConfigError unless a data set's own function has returned splits that can be trained on."""
    if not isinstance(loaded, Loaded):
        raise ConfigError(
            f"{name}: its function returned a {type(loaded).__name__}; it must return a Loaded (splits.py)"
        )
    if "train" not in loaded.splits or not loaded.splits.keys() <= set(SPLITS):
        raise ConfigError(f"{name} has the splits {', '.join(loaded.splits)}; allowed: {', '.join(SPLITS)}")
    for split_name, split in loaded.splits.items():
        if split.in_files:
            continue
        kind, shape = split.store.dtype.name, tuple(split.store.shape)
        if kind != "uint8" or shape[1:] not in ((split.size, split.size, channels) for channels in (1, 3)):
            allowed = f"uint8 (n, {split.size}, {split.size}, 1 or 3)"
            raise ConfigError(f"{name}: images of {split_name} are {kind} {shape}; they must be {allowed}")


def check_labels(name: str, split: str, labels: np.ndarray, classes: int) -> None:
    """Raise ConfigError unless there are labels and all of them are in 0 .. classes-1."""
    if len(labels) == 0:
        raise ConfigError(f"{name}: the {split} split has no images")
    if labels.min() < 0 or labels.max() >= classes:
        raise ConfigError(f"{name}: labels of {split} run from {labels.min()} to {labels.max()}; classes: {classes}")


def stratified(
    split: Split,
    share: float | int,
    seed: int,
    name: str,
    originals: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    remedy: str = "more images",
) -> tuple[Split, Split]:
    """Split in two, stratified by class; `share` is the second part's fraction, or its number of images if an integer.

    With `originals`, from `firsts`, copies of an image stay in one part. Raises ConfigError if a class is too small,
    with its name and what would help.
    """
    from sklearn.model_selection import train_test_split

    try:
        rest, part = train_test_split(
            np.arange(len(split)), test_size=share, stratify=split.labels, random_state=seed, shuffle=True
        )
    except ValueError as error:
        labels, counts = np.unique(split.labels, return_counts=True)
        smallest = int(labels[counts.argmin()])
        named = repr(class_names[smallest]) if class_names else smallest
        raise ConfigError(
            f"{len(split)} images are too few to hold out a {name} split with all {len(labels)} classes: "
            f"class {named} has {counts.min()}; what helps: {remedy}"
        ) from error
    if originals is not None:
        order = np.concatenate([part, rest])
        part = with_copies(split.labels, originals, order, len(part))
        rest = np.setdiff1d(order, part)
    return split.take(np.sort(rest)), split.take(np.sort(part))


def with_copies(labels: np.ndarray, originals: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """The first images of an order, with the class counts of its first `size` images and copies kept together: int64.

    An image is taken with all its copies, at the position of the first of them, if their classes have room for all.
    """
    room = np.bincount(labels[order[:size]], minlength=labels.max() + 1)
    by_original = np.argsort(originals, kind="stable")
    firsts, starts = np.unique(originals[by_original], return_index=True)
    copies = dict(zip(firsts.tolist(), np.split(by_original, starts[1:]), strict=True))
    taken = []
    for first in order[originals[order] == order]:
        if not room.any():
            break
        own = copies[int(first)]
        needed = np.bincount(labels[own], minlength=len(room))
        if (needed <= room).all():
            room -= needed
            taken.append(own)
    return np.concatenate([np.empty(0, np.int64), *taken])


def limited(split: Split, limit: int | None, seed: int, name: str, class_names: Sequence[str] = ()) -> Split:
    """A stratified part of `limit` images; all if None. Raises ConfigError for a number that is not possible."""
    if limit is None or limit == len(split):
        return split
    classes = len(np.unique(split.labels))
    if not classes <= limit <= len(split) - classes:
        raise ConfigError(
            f"limit-{name} is {limit}; allowed: {classes} to {len(split) - classes}, or all {len(split)} images"
        )
    remedy = f"--limit-{name} None"
    return stratified(split, limit, seed, f"limited {name}", class_names=class_names, remedy=remedy)[1]


def sizes_of(split: Split) -> np.ndarray:
    """How many bytes each image has in its file: int64 (n,)."""
    from common.data import tfrecords

    return np.array([tfrecords.size(name) for name in np.asarray(split.store)[split.places]], np.int64)


def digests(split: Split) -> list[bytes]:
    """SHA-256 of each image's pixels, or of the content of its file."""
    from common.data import tfrecords

    rows = np.asarray(split.store)[split.places]
    try:
        contents = map(tfrecords.content, rows) if split.in_files else rows
        return [hashlib.sha256(content).digest() for content in contents]
    except OSError as error:  # it could be read a moment ago, or by an earlier run
        raise ConfigError(
            f"{printable(str(error.filename))} {unopened(error)}; allowed: files that can be read"
        ) from error


def firsts(split: Split) -> np.ndarray:
    """For each image of a split, the index of the first image with the same pixels: int64 (n,)."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(digest, i) for i, digest in enumerate(digests(split))], np.int64)


def without_copies(split: Split, *others: Split) -> np.ndarray:
    """Indices of the images whose pixels, or whose file's content, none of the other splits has: int64 (m,)."""
    every = np.arange(len(split))
    if split.in_files and others:  # which are read only if they could be copies: those of a size that both sides have
        sizes = [sizes_of(each) for each in (split, *others)]
        shared = np.intersect1d(sizes[0], np.concatenate(sizes[1:]))
        alike = [np.flatnonzero(np.isin(own, shared)) for own in sizes]
        others = tuple(other.take(own) for other, own in zip(others, alike[1:], strict=True))
        looked_at = alike[0]
    else:
        looked_at = every
    known = {digest for other in others for digest in digests(other)}
    copies = [i for i, digest in zip(looked_at, digests(split.take(looked_at)), strict=True) if digest in known]
    return np.setdiff1d(every, copies)
