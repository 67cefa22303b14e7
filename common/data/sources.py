"""Named data sets, split into train, validation and test."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.config import Config
from common.data import DATASETS, folder_of, is_from_tfds
from common.data.image_folders import image_folder
from common.data.listing import few
from common.data.splits import Dataset, Loaded, check_labels, firsts, limited, stratified, whole, without_copies
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
    name, seed = config.dataset, config.seed
    root, decoding = folder_of(name), (config.folder_side, config.data_folder, config.cache_gigabytes)
    if root:
        loaded = image_folder(root, *decoding)
    elif name.startswith(TFDS):
        loaded = from_tfds(name, *decoding)
    else:
        loaded = DATASETS.load(name)(name, config.data_folder)
    splits, class_names, notes = loaded.splits, tuple(loaded.class_names), loaded.notes
    remedy = "more images, or a folder `{}` beside a folder `train`" if root else "more images"
    for split_name, split in splits.items():
        check_labels(name, split_name, split.labels, len(class_names))
    if "test" not in splits:
        splits["train"], test = stratified(
            splits["train"], TEST_SHARE, TEST_SEED, "test", class_names=class_names, remedy=remedy.format("test")
        )
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
        train, validation = stratified(
            train, VALIDATION_SHARE, seed, "validation", originals, class_names, remedy.format("val")
        )
        check_labels(name, "validation", validation.labels, len(class_names))
        if originals is not None and (copies := int(np.count_nonzero(originals != np.arange(len(originals))))):
            notes = [*notes, f"{copies:,} copies of other training images, kept on one side of the validation split"]
    if root and len(validation) < FEW:
        share = f"one of them is {100 / len(validation):.0f} points of accuracy, so the best epoch is a guess"
        notes = [*notes, f"only {count(len(validation), 'validation image')}: {share}"]
        print(f"note: {notes[-1]}", flush=True)
    for label in np.flatnonzero(np.bincount(train.labels, minlength=len(class_names)) == 0):
        raise ConfigError(f"{name}: class {class_names[label]!r} has no training image")
    test = limited(splits["test"], config.limit_test, TEST_SEED, "test")
    for split_name, split in (("validation", validation), ("test", test)):
        missing = np.flatnonzero(np.bincount(split.labels, minlength=len(class_names)) == 0)
        if len(missing):
            named = few([class_names[label] for label in missing])
            notes = [*notes, f"classes without a {split_name} image: {len(missing):,} ({named})"]
    if loaded.decoded is not None:  # from here on, so that the splits are the same with and without them
        train, validation, test = (replace(split, store=loaded.decoded) for split in (train, validation, test))
    about = (loaded.files, loaded.unreadable, loaded.test_images_of)
    return Dataset(name, class_names, train, validation, test, tuple(notes), *about)


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
