"""Data sets of TensorFlow Datasets, its own and the project's: fetched, prepared, and decoded into memory."""

import importlib
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from common.data.splits import Split, whole
from common.errors import ConfigError
from common.files import alone

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

MANUAL = "manual"  # folder in the data folder, for archives that a user downloads


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
# Sizes of the complete data sets. An incomplete copy is used, with a note.
WHOLE = {
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "mnist": (60_000, 10_000),
    "fer2013": (28_709, 7_178),
}


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
