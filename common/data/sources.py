"""Named data sets as arrays of uint8 images (or image files) with labels, split into train, validation and test."""

import hashlib
import importlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from common.config import Config
from common.data import DATASETS, FROM_TFDS, folder_of
from common.errors import ConfigError
from common.files import StorageError, alone, write_json

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2  # if a data set has no test split
# Such a test split is the same for every seed of a run.
TEST_SEED = 0
MANUAL = "manual"  # folder in the data folder, for archives that a user downloads
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif"}


@dataclass(frozen=True)
class Archive:
    """The archive from which one of the project's own TFDS data sets is built."""

    files: tuple[str, ...]
    """Accepted file names in `MANUAL`."""
    page: str
    """The web page where a user can download it."""
    url: str | None = None
    """Address for a download without logging in."""


# The project's own TFDS data sets, one module each in this package.
ARCHIVES = {
    "notmnist": Archive(
        ("notMNIST_small.tar.gz",),
        "https://yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html",
        "http://yaroslavvb.com/upload/notMNIST/notMNIST_small.tar.gz",
    ),
    "fer2013": Archive(
        ("emotion-detection-fer.zip", "fer2013.zip"), "https://www.kaggle.com/datasets/ananthu017/emotion-detection-fer"
    ),
}


@dataclass(frozen=True)
class Split:
    """Images and labels of one split: the entries at `places` of a store that several splits share.

    `store` is a uint8 tensor (m, height, width, channels); or a string tensor (m,) of file names, which are decoded,
    cropped to a centred square and resized to `size` when they are read; or a NumPy array (m, ...), in memory or on
    disk, of a network's outputs for the images. `places` and `labels` are int64 (n,).
    """

    store: "tf.Tensor | np.ndarray"
    places: np.ndarray
    labels: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_files(self) -> bool:
        """Whether the images are decoded from files."""
        return self.store.ndim == 1

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 3 if self.in_files else self.store.shape[-1]

    def take(self, indices: np.ndarray) -> "Split":
        """The part of this split at these indices."""
        return replace(self, places=self.places[indices], labels=self.labels[indices])


def whole(images: np.ndarray, labels: np.ndarray, size: int) -> Split:
    """A split of all of these images (uint8) or file names."""
    import tensorflow as tf

    with tf.device("CPU"):
        return Split(tf.constant(images), np.arange(len(labels)), np.asarray(labels, np.int64), size)


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for training; `notes` say what a reader of its metrics should know."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, np.ndarray]:
        """Images per class, by split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: np.bincount(s.labels, minlength=len(self.class_names)) for name, s in splits.items()}


def load(config: Config) -> Dataset:
    """Load a config's data set from this machine; `provide` downloads it.

    If there is no validation split, a tenth of the training images becomes one: stratified, drawn by the seed, with all
    copies of an image on one side. Image files are not compared, since all of them would have to be read. Limits are
    stratified too. Raises ConfigError if the data is missing or unsuitable.
    """
    name, seed = config.dataset, config.seed
    if root := folder_of(name):
        splits, class_names, notes = image_folder(root, config.folder_side, config.data_folder)
    else:
        splits, class_names, notes = DATASETS.load(name)(name, config.data_folder)
    for split_name, split in splits.items():
        check_labels(name, split_name, split.labels, len(class_names))
    if "test" not in splits:
        splits["train"], test = stratified(splits["train"], TEST_SHARE, TEST_SEED, "test")
        splits["test"] = test.take(without_copies(test, splits["train"]))
        check_labels(name, "test", splits["test"].labels, len(class_names))
        notes = [*notes, f"test: {len(splits['test']):,} images, held out here"]
        if copies := len(test) - len(splits["test"]):
            notes.append(f"{copies} more left out, as the same pictures are among the others")
    train = limited(splits["train"], config.limit_train, seed, "train")
    if "validation" in splits:
        validation = splits["validation"]
    else:
        originals = None if train.in_files else firsts(train)
        train, validation = stratified(train, VALIDATION_SHARE, seed, "validation", originals)
        check_labels(name, "validation", validation.labels, len(class_names))
        if originals is not None and (copies := int(np.count_nonzero(originals != np.arange(len(originals))))):
            notes = [*notes, f"{copies:,} copies of other training images, kept on one side of the validation split"]
    for label in np.flatnonzero(np.bincount(train.labels, minlength=len(class_names)) == 0):
        raise ConfigError(f"{name}: class {class_names[label]!r} has no training image")
    test = limited(splits["test"], config.limit_test, TEST_SEED, "test")
    return Dataset(name, tuple(class_names), train, validation, test, tuple(notes))


def check_labels(name: str, split: str, labels: np.ndarray, classes: int) -> None:
    """Raise ConfigError unless there are labels and all of them are in 0 .. classes-1."""
    if len(labels) == 0:
        raise ConfigError(f"{name}: the {split} split has no images")
    if labels.min() < 0 or labels.max() >= classes:
        raise ConfigError(f"{name}: labels of {split} run from {labels.min()} to {labels.max()}; classes: {classes}")


def stratified(
    split: Split, share: float | int, seed: int, name: str, originals: np.ndarray | None = None
) -> tuple[Split, Split]:
    """Split in two, stratified by class; `share` is the second part's fraction, or its number of images if an integer.

    With `originals`, from `firsts`, copies of an image stay in one part. Raises ConfigError if a class is too small.
    """
    from sklearn.model_selection import train_test_split

    try:
        rest, part = train_test_split(
            np.arange(len(split)), test_size=share, stratify=split.labels, random_state=seed, shuffle=True
        )
    except ValueError as error:
        raise ConfigError(f"{len(split)} images are too few to hold out a {name} split: {error}") from error
    if originals is not None:
        order = np.concatenate([part, rest])
        part = together(split.labels, originals, order, len(part))
        rest = np.setdiff1d(order, part)
    return split.take(np.sort(rest)), split.take(np.sort(part))


def together(labels: np.ndarray, originals: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """The first images of an order, with the class counts of its first `size` images and copies kept together: int64.

    An image is taken with all its copies, at the position of the first of them, if their classes have room for all.
    """
    room = np.bincount(labels[order[:size]], minlength=labels.max() + 1)
    taken = []
    for first in order[originals[order] == order]:
        if not room.any():
            break
        own = np.flatnonzero(originals == first)
        needed = np.bincount(labels[own], minlength=len(room))
        if (needed <= room).all():
            room -= needed
            taken.append(own)
    return np.concatenate([np.empty(0, np.int64), *taken])


def limited(split: Split, limit: int | None, seed: int, name: str) -> Split:
    """A stratified part of `limit` images; all if None. Raises ConfigError for a number that is not possible."""
    if limit is None or limit == len(split):
        return split
    classes = len(np.unique(split.labels))
    if not classes <= limit <= len(split) - classes:
        raise ConfigError(
            f"limit-{name} is {limit}; allowed: {classes} to {len(split) - classes}, or all {len(split)} images"
        )
    return stratified(split, limit, seed, f"limited {name}")[1]


def digests(split: Split) -> list[bytes]:
    """SHA-256 of each image's pixels, or of the content of its file."""
    rows = np.asarray(split.store)[split.places]
    contents = map(Path.read_bytes, map(Path, map(bytes.decode, rows))) if split.in_files else rows
    return [hashlib.sha256(content).digest() for content in contents]


def firsts(split: Split) -> np.ndarray:
    """For each image of a split, the index of the first image with the same pixels: int64 (n,)."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(digest, i) for i, digest in enumerate(digests(split))], np.int64)


def without_copies(split: Split, *others: Split) -> np.ndarray:
    """Indices of the images whose pixels, or whose file's content, none of the other splits has: int64 (m,)."""
    known = {digest for other in others for digest in digests(other)}
    return np.array([i for i, digest in enumerate(digests(split)) if digest not in known], np.int64)


def digits(name: str, folder: Path) -> tuple[dict[str, Split], list[str], list[str]]:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, embedded in its package."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # Its values run from 0 to 16.
    images = np.round(data.images[..., None] * (255 / 16)).astype(np.uint8)
    return {"train": whole(images, data.target, 8)}, [str(d) for d in range(10)], []


def tfds_folder(name: str, folder: Path) -> Path | None:
    """Folder of the newest version of a prepared TFDS data set, or None; uses no network."""
    found = [p.parent for p in (folder / name).glob("*/dataset_info.json")]
    # A preparation that was killed leaves folders such as "incomplete.ABC123_3.0.2".
    versions = [p for p in found if re.fullmatch(r"\d+(\.\d+)*", p.name)]
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def fetch_tfds(name: str, folder: Path) -> Path:
    """Download and prepare a TFDS data set; returns its folder. Raises ConfigError if that fails."""
    if not can_download(name) and not by_hand(name, folder):
        raise ConfigError(f"{name} is not in {folder}. {how_to_get(name, folder)}")
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.extractor import ExtractError

    failures: tuple[type[Exception], ...] = (OSError, EOFError, tarfile.ReadError, zipfile.BadZipFile)
    failures += (tf.errors.OpError, tfds.download.DownloadError, NonMatchingChecksumError, ExtractError)
    try:
        if name in ARCHIVES:
            importlib.import_module(f"common.data.{name}")  # registers its builder
        with alone(folder / f".{name}.lock"):
            if found := tfds_folder(name, folder):  # another process has made it in the meantime
                return found
            print(f"fetching {name} into {folder} ...", flush=True)
            builder = tfds.builder(name, data_dir=folder)
            if not by_hand(name, folder):
                ask_hosts(builder, ARCHIVES[name].url if name in ARCHIVES else None, folder / "downloads")
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder / MANUAL))
    except failures as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"could not fetch {name}: {reason}. {how_to_get(name, folder)}") from error
    prepared = tfds_folder(name, folder)
    assert prepared is not None  # the builder has made it
    return prepared


def ask_hosts(builder: "tfds.core.DatasetBuilder", archive: str | None, downloads: Path) -> None:
    """Raise OSError if a host that is needed does not answer; `archive` is the URL of one of our own data sets.

    TFDS retries for three and a half minutes if a name cannot be resolved, and far longer if packets are dropped.
    """
    import requests
    from tensorflow_datasets.core.download.resource import get_dl_fname

    needed = [archive] if archive else []
    for url, info in (builder.url_infos or {}).items():
        if not (downloads / get_dl_fname(url, info.checksum)).exists():
            needed.append(url)
    for url in needed:
        try:
            requests.head(url, timeout=10)
        except requests.RequestException as error:
            raise OSError(f"{urlsplit(url).hostname} does not answer ({type(error).__name__})") from error


def by_hand(name: str, folder: Path) -> Path | None:
    """Path of the archive that a user has put into `MANUAL`, or None."""
    named = [folder / MANUAL / file for file in ARCHIVES[name].files] if name in ARCHIVES else []
    return next(filter(Path.is_file, named), None)


def can_download(name: str) -> bool:
    """Whether a data set can be fetched without logging in."""
    return name not in ARCHIVES or ARCHIVES[name].url is not None


def how_to_get(name: str, folder: Path) -> str:
    """What to do about a missing data set, as a message."""
    command = f"`python -m common.data prepare {name} --data-dir {folder}`"
    if can_download(name):
        way = f"With a network, {command} fetches it"
        if name in ARCHIVES:
            way += f"; or put {ARCHIVES[name].files[0]} into {folder / MANUAL}"
    else:
        way = (
            f"Get {' or '.join(ARCHIVES[name].files)} from {ARCHIVES[name].page}, which asks you to log in, "
            f"and put it into {folder / MANUAL}; then {command}"
        )
    return f"{way}; `make demo` needs none"


def provide(config: Config) -> None:
    """Fetch a data set if it is missing. Raises ConfigError, without loading TensorFlow, if that is not allowed."""
    name, folder = config.dataset, config.data_folder
    if DATASETS.get(name) != FROM_TFDS or tfds_folder(name, folder):
        return
    if not by_hand(name, folder) and (config.is_offline or not can_download(name)):
        raise ConfigError(f"{name} is not in {folder}. {how_to_get(name, folder)}")
    fetch_tfds(name, folder)


def from_tfds(name: str, folder: Path) -> tuple[dict[str, Split], list[str], list[str]]:
    """A TFDS image classification data set, decoded into memory: splits, class names, notes. Uses no network."""
    prepared = tfds_folder(name, folder)
    if prepared is None:
        raise ConfigError(f"{name} is not in {folder}. {how_to_get(name, folder)}")

    import tensorflow as tf
    import tensorflow_datasets as tfds

    # From the folder: given a name, TFDS asks its servers for newer versions.
    try:
        builder = tfds.builder_from_directory(prepared)
        present = [split for split in ("train", "validation", "test") if split in builder.info.splits]
        splits = {split: read_tfds(builder, split) for split in present}
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{name} in {prepared} is damaged: {reason}; delete that folder and fetch it again"
        ) from error
    notes = tfds_notes(name, splits)
    if unreadable := (builder.info.metadata or {}).get("unreadable"):
        notes.append(f"{len(unreadable)} unreadable image files skipped: {', '.join(unreadable)}")
    return splits, builder.info.features["label"].names, notes


# Sizes of the complete data sets. An incomplete copy is used, with a note.
WHOLE = {
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "mnist": (60_000, 10_000),
    "fer2013": (28_709, 7_178),
}


def tfds_notes(name: str, splits: dict[str, Split]) -> list[str]:
    """A note for each split with fewer images than the published data set."""
    full = dict(zip(("train", "test"), WHOLE.get(name, ()), strict=False))
    return [f"{len(splits[s]):,} of {n:,} {s} images" for s, n in full.items() if len(splits[s]) < n]


def read_tfds(builder: "tfds.core.DatasetBuilder", split: str) -> Split:
    """All images of one split, in the order on disk."""
    import tensorflow_datasets as tfds

    images = np.empty((builder.info.splits[split].num_examples, *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(len(images), np.int64)
    start = 0
    config = tfds.ReadConfig(try_autocache=False)  # the cache would be a second copy that is not freed
    stored = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    for batch in stored.batch(512).prefetch(1).as_numpy_iterator():
        end = start + len(batch["label"])
        images[start:end], labels[start:end] = batch["image"], batch["label"]
        start = end
    return whole(images, labels, images.shape[1])


def image_folder(root: Path, size: int, cache: Path) -> tuple[dict[str, Split], list[str], list[str]]:
    """Images in class folders: `root/<split>/<class>/*` with train, val and test, or `root/<class>/*`.

    Returns splits, class names and notes. Files that cannot be decoded are left out and named in a note. Raises
    ConfigError for a folder without such images.
    """
    if not root.is_dir():
        raise ConfigError(f"image folder {root} is not there (looked in {Path.cwd()})")
    parts = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if parts and "train" not in parts:
        raise ConfigError(f"image folder {root} has {' and '.join(parts)} but no train")
    parts = parts or {"train": root}
    class_names = sorted(p.name for p in parts["train"].iterdir() if p.is_dir())
    if len(class_names) < 2:
        raise ConfigError(f"{parts['train']} has {len(class_names)} class folders; at least two are needed")
    splits, bad = {}, []
    for name, folder in parts.items():
        extra = sorted({p.name for p in folder.iterdir() if p.is_dir()} - set(class_names))
        if extra:
            raise ConfigError(f"{folder} has a class that train does not have: {extra[0]}")
        listed = [(p, i) for i, c in enumerate(class_names) for p in sorted((folder / c).glob("**/*"))]
        listed = [(p, i) for p, i in listed if p.suffix.lower() in IMAGE_SUFFIXES]
        corrupt = undecodable([p for p, _ in listed], cache)
        bad += corrupt
        left_out = set(corrupt)
        kept = [(str(p), i) for p, i in listed if p not in left_out]
        if not kept:
            raise ConfigError(f"{folder} has no readable image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        images, labels = zip(*kept, strict=True)
        key = "validation" if name == "val" else name
        splits[key] = whole(np.array(images), np.array(labels), size)
    notes = [f"{len(bad)} unreadable image files skipped: {', '.join(str(p) for p in bad)}"] if bad else []
    return splits, class_names, notes


def undecodable(paths: Sequence[Path], cache: Path) -> list[Path]:
    """The files that cannot be decoded; the result is cached in the data folder, since decoding all takes time."""
    from tqdm import tqdm

    states = [(p, p.stat() if p.exists() else p.lstat()) for p in paths]  # a link may lead nowhere
    listing = "\n".join(f"{p}:{state.st_size}:{state.st_mtime_ns}" for p, state in states)
    memory = cache / "image_folder" / f"{hashlib.sha256(listing.encode()).hexdigest()[:16]}.json"
    if memory.is_file():
        return [Path(p) for p in json.loads(memory.read_text())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = tqdm(pool.map(is_readable, paths), "checking images", total=len(paths), disable=None)
        bad = [path for path, readable in zip(paths, found, strict=True) if not readable]
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, [str(p) for p in bad])
    except (StorageError, OSError):
        print(f"note: {cache} cannot be written; the images are checked again next time", flush=True)
    return bad


def is_readable(path: Path) -> bool:
    """Whether training's decoder can decode the file."""
    import tensorflow as tf

    try:
        decode(tf.io.read_file(str(path)))
    except tf.errors.OpError:
        return False
    return True


def decode(content: "tf.Tensor") -> "tf.Tensor":
    """The bytes of an image file as a uint8 tensor (height, width, 3); the first frame of an animation."""
    import tensorflow as tf

    return tf.cond(
        tf.io.is_jpeg(content),
        # The same values as PIL. TensorFlow's default transform is faster, but off by up to 11 grey levels.
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
    )
