"""Named data sets, split into train, validation and test."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.config import Config
from common.data import DATASETS, folder_of, is_from_tfds
from common.data.image_folders import image_folder
from common.data.listing import few
from common.data.splits import (
    Dataset,
    Loaded,
    Split,
    check_labels,
    check_loaded,
    digests,
    firsts,
    limited,
    stratified,
    whole,
    without_copies,
)
from common.data.tfds_names import TFDS, tfds_folder
from common.data.tfds_sets import by_hand, can_download, fetch_tfds, from_tfds, how_to_get
from common.errors import ConfigError
from common.words import count

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2  # if a data set has no test split
FEW = 50  # validation images of a folder, below which a note says so
# Such a test split is the same for every seed of a run.
TEST_SEED = 0


def load(config: Config) -> Dataset:
    """Load a config's data set from this machine; `provide` downloads it.

    If there is no validation split, a tenth of the training images becomes one: stratified, drawn by the seed, with all
    copies of an image on one side; images that stay in files are not compared. Limits are stratified too.
    Raises ConfigError if the data is missing or unsuitable.
    """
    name, loaded = config.dataset, stored(config)
    splits, class_names, notes = dict(loaded.splits), tuple(loaded.class_names), list(loaded.notes)
    for split_name, split in splits.items():
        check_labels(name, split_name, split.labels, len(class_names))
    if "test" not in splits:
        splits["train"], splits["test"], said = hold_out_test(config, splits["train"], class_names)
        notes += said
    if folder_of(name) and loaded.decoded is not None:  # to read all files again would take minutes
        for note in shared({split: replace(loaded.splits[split], store=loaded.decoded) for split in loaded.splits}):
            notes.append(note)
            print(f"warning: {note}", flush=True)
    train = limited(splits["train"], config.limit_train, config.seed, "train", class_names)
    if "validation" not in splits:
        train, splits["validation"], said = hold_out_validation(config, train, class_names)
        notes += said
    validation, test = splits["validation"], splits["test"]
    test = limited(test, config.limit_test, TEST_SEED, "test", class_names)
    if folder_of(name) and len(validation) < FEW:
        share = f"one of them is {100 / len(validation):.0f} points of accuracy, so the best epoch is a guess"
        notes.append(f"only {count(len(validation), 'validation image')}: {share}")
        print(f"note: {notes[-1]}", flush=True)
    check_every_class(config, train, splits["train"], class_names)
    for split_name, split in (("validation", validation), ("test", test)):
        if missing := absent(split, class_names):
            notes.append(f"classes without a {split_name} image: {len(missing):,} ({few(missing)})")
    if loaded.decoded is not None:  # from here on, so that the splits are the same with and without them
        train, validation, test = (replace(split, store=loaded.decoded) for split in (train, validation, test))
    about = (loaded.files, loaded.unreadable, loaded.test_images_of)
    return Dataset(name, class_names, train, validation, test, tuple(notes), *about)


def stored(config: Config) -> Loaded:
    """The data set with the splits that it comes with."""
    name, decoding = config.dataset, (config.folder_side, config.data_folder, config.cache_gigabytes)
    if root := folder_of(name):
        return image_folder(root, *decoding)
    if name.startswith(TFDS):
        return from_tfds(name, *decoding)
    loaded = DATASETS.load(name)(name, config.data_folder)
    check_loaded(name, loaded)
    return loaded


def shared(given: Mapping[str, Split]) -> Iterator[str]:
    """What to say of images that lie in two of the splits that a folder has."""
    pairs = [("test", "train"), ("validation", "train"), ("validation", "test")]
    pairs = [(one, other) for one, other in pairs if one in given and other in given]
    contents = {split: digests(given[split]) for split in {split for pair in pairs for split in pair}}
    for one, other in pairs:
        known = set(contents[other])
        if copies := sum(digest in known for digest in contents[one]):
            told = "training" if other == "train" else other
            yield f"{copies:,} of {count(len(contents[one]), f'{one} image')} are {told} images too"


def hold_out_test(config: Config, images: Split, class_names: Sequence[str]) -> tuple[Split, Split, list[str]]:
    """Images in two, for training and test, and what to say of it. Copies of a training image are in neither."""
    remedy = more_images(config, "test")
    train, held_out = stratified(images, TEST_SHARE, TEST_SEED, "test", class_names=class_names, remedy=remedy)
    test = held_out.take(without_copies(held_out, train))
    check_labels(config.dataset, "test", test.labels, len(class_names))
    notes = [f"test: {len(test):,} images, held out here"]
    if copies := len(held_out) - len(test):
        notes.append(f"{copies} more left out, as the same pictures are among the others")
    return train, test, notes


def hold_out_validation(config: Config, images: Split, class_names: Sequence[str]) -> tuple[Split, Split, list[str]]:
    """Images in two, for training and validation, and what to say of it."""
    originals = None if images.in_files else firsts(images)
    remedy = more_images(config, "val")
    train, validation = stratified(images, VALIDATION_SHARE, config.seed, "validation", originals, class_names, remedy)
    check_labels(config.dataset, "validation", validation.labels, len(class_names))
    copies = 0 if originals is None else int(np.count_nonzero(originals != np.arange(len(originals))))
    said = f"{copies:,} copies of other training images, kept on one side of the validation split"
    return train, validation, [said] if copies else []


def more_images(config: Config, folder: str) -> str:
    """What helps if a split cannot be held out."""
    return f"more images{f', or a folder `{folder}` beside a folder `train`' if folder_of(config.dataset) else ''}"


def check_every_class(config: Config, train: Split, whole: Split, class_names: Sequence[str]) -> None:
    """Raise ConfigError for a class without a training image; `whole` is the split before its limit."""
    for label in absent(train, class_names):
        limit = f" among the {config.limit_train} of --limit-train" if label not in absent(whole, class_names) else ""
        raise ConfigError(f"{config.dataset}: class {label!r} has no training image{limit}")


def absent(split: Split, class_names: Sequence[str]) -> list[str]:
    """The classes of which a split has no image."""
    present = set(split.labels.tolist())
    return [name for label, name in enumerate(class_names) if label not in present]


def digits(name: str, folder: Path) -> Loaded:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, embedded in its package."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # Its values run from 0 to 16.
    images = np.round(data.images[..., None] * (255 / 16)).astype(np.uint8)
    return Loaded({"train": whole(images, data.target, 8)}, [str(d) for d in range(10)])


def provide(config: Config) -> None:
    """Fetch a data set if it is missing. Raises ConfigError, without loading TensorFlow, if that is not allowed."""
    name, folder = config.dataset, config.data_folder
    if not is_from_tfds(name) or tfds_folder(name, folder):
        return
    if not by_hand(name, folder) and (config.is_offline or not can_download(name)):
        raise ConfigError(f"{name} is not in {folder}. {how_to_get(name, folder)}")
    fetch_tfds(name, folder)
