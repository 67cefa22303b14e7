"""Data sets of TensorFlow Datasets, its own and the project's: fetched, prepared, and read."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from common.data.listing import few
from common.data.splits import Loaded, Split
from common.data.tfds_names import TFDS, parsed, tfds_folder
from common.errors import ConfigError, first_line
from common.files import StorageError, alone, is_full

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


def fetch_tfds(name: str, folder: Path) -> Path:
    """Download and prepare a TFDS data set; returns its folder. Raises ConfigError if that fails."""
    if not can_download(name) and not by_hand(name, folder):
        raise ConfigError(f"{name} is not in {folder}. {how_to_get(name, folder)}")
    import tensorflow_datasets as tfds

    from common.data import tfds_splits

    if name in ARCHIVES:
        importlib.import_module(f"common.data.{name}")  # registers its builder
    try:
        with alone(folder / f".{name.replace('/', '_')}.lock"):
            if found := tfds_folder(name, folder):  # another process has made it in the meantime
                return found
            print(f"fetching {name} into {folder} ...", flush=True)
            builder = tfds.builder(name.removeprefix(TFDS), data_dir=folder, file_format="tfrecord")
            if name.startswith(TFDS):  # before anything is downloaded
                tfds_splits.features_of(name, builder.info)
            if not by_hand(name, folder):
                ask_hosts(builder, ARCHIVES[name].url if name in ARCHIVES else None, folder / "downloads")
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder / MANUAL))
    except ConfigError:
        raise
    except Exception as error:  # TFDS's own errors have no common class, and a builder is code of its author
        if is_full(error):
            raise StorageError(f"cannot write {folder}: no space left") from error
        raise ConfigError(f"could not fetch {name}: {first_line(error)}. {how_to_get(name, folder)}") from error
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
    for url in {urlsplit(url).hostname: url for url in needed}.values():
        try:
            requests.head(url, timeout=10)
        except requests.RequestException as error:
            raise OSError(f"{urlsplit(url).hostname} does not answer ({type(error).__name__})") from error


def by_hand(name: str, folder: Path) -> Path | None:
    """Path of the archive that a user has put into `MANUAL`, or None; for a data set of TFDS, of anything there."""
    if tfds_instructions(name):
        return next((folder / MANUAL).glob("*"), None)
    named = [folder / MANUAL / file for file in ARCHIVES[name].files] if name in ARCHIVES else []
    return next(filter(Path.is_file, named), None)


def can_download(name: str) -> bool:
    """Whether a data set can be fetched without logging in."""
    return ARCHIVES[name].url is not None if name in ARCHIVES else not tfds_instructions(name)


def how_to_get(name: str, folder: Path) -> str:
    """What to do about a missing data set, as a message."""
    command = f"`python -m common.data prepare {name} --data-dir {folder}`"
    if instructions := tfds_instructions(name):
        way = f"TFDS says how to get it: {instructions} Put it into {folder / MANUAL}; then {command}"
    elif can_download(name):
        way = f"With a network, {command} fetches it"
        if name in ARCHIVES:
            way += f"; or put {ARCHIVES[name].files[0]} into {folder / MANUAL}"
    else:
        way = (
            f"Get {' or '.join(ARCHIVES[name].files)} from {ARCHIVES[name].page}, which asks you to log in, "
            f"and put it into {folder / MANUAL}; then {command}"
        )
    return f"{way}; `make demo` needs none"


def tfds_instructions(name: str) -> str | None:
    """What TFDS says of a data set that is downloaded by hand, in one line; None for others."""
    if not name.startswith(TFDS):
        return None
    import tensorflow_datasets as tfds

    own = parsed(name).name
    if own not in tfds.list_builders(with_community_datasets=False):
        return None
    said = tfds.builder_cls(own).MANUAL_DOWNLOAD_INSTRUCTIONS
    return " ".join(said.split()) if said else None


def from_tfds(name: str, side: int, folder: Path, gigabytes: float) -> Loaded:
    """A TFDS image classification data set. Uses no network.

    Images of different sizes are resized to `side` pixels, and kept if that takes no more than `gigabytes`. Raises
    ConfigError.
    """
    prepared = tfds_folder(name, folder)
    if prepared is None:
        raise ConfigError(f"{name} is not in {folder}. {how_to_get(name, folder)}")

    import tensorflow as tf
    import tensorflow_datasets as tfds

    from common.data import tfds_splits

    # From the folder: given a name, TFDS asks its servers for newer versions.
    try:
        builder = tfds.builder_from_directory(prepared)
    except Exception as error:  # of JSON, protobuf, TFDS or a feature: there is no common class
        raise damaged(name, prepared, error) from error
    try:
        loaded = tfds_splits.read(name, builder, side, folder, gigabytes)
    except (OSError, tf.errors.OpError) as error:
        raise damaged(name, prepared, error) from error
    whole = more_than(name, loaded.splits)
    notes = [*loaded.notes, *(f"{len(loaded.splits[split]):,} of {n:,} {split} images" for split, n in whole.items())]
    if name.startswith(TFDS):
        notes.insert(0, f"version {prepared.name} of TFDS")
    if unreadable := (builder.info.metadata or {}).get("unreadable"):
        notes.append(f"{len(unreadable)} unreadable image files skipped: {few(unreadable)}")
    return replace(loaded, notes=notes, test_images_of=whole.get("test"))


def by_name(name: str, folder: Path) -> Loaded:
    """One of `DATASETS`, of which each has images of one size."""
    return from_tfds(name, 0, folder, 0)


def damaged(name: str, prepared: Path, error: Exception) -> ConfigError:
    """What to say of a prepared data set that cannot be read."""
    return ConfigError(f"{name} in {prepared} is damaged: {first_line(error)}; delete that folder and fetch it again")


def more_than(name: str, splits: dict[str, Split]) -> dict[str, int]:
    """Images of the published data set, by split, for each split of this copy that has fewer."""
    full = dict(zip(("train", "test"), WHOLE.get(name, ()), strict=False))
    return {split: n for split, n in full.items() if len(splits[split]) < n}
