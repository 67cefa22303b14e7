"""Data sets by name. Imports neither Keras nor TensorFlow, so that `--help` is quick."""

from pathlib import Path

from common.data import tfds_names
from common.errors import ConfigError
from common.registry import Registry

FROM_TFDS = "common.data.tfds_sets:by_name"
# Each a function of name and data folder that gives a Loaded (common/data/splits.py).
DATASETS = Registry(
    "dataset",
    {
        "digits": "common.data.sources:digits",
        "cifar10": FROM_TFDS,
        "cifar100": FROM_TFDS,
        "mnist": FROM_TFDS,
        "notmnist": FROM_TFDS,
        "fer2013": FROM_TFDS,
    },
    of="collections.abc:Callable",
)
FOLDER = "image_folder:"  # and the path of one
NAMES = f"{', '.join(DATASETS)}, {tfds_names.FORM} or {FOLDER}PATH"


def folder_of(dataset: str) -> Path | None:
    """The folder of a data set that is one of images."""
    return Path(dataset.removeprefix(FOLDER)) if dataset.startswith(FOLDER) else None


def is_from_tfds(dataset: str) -> bool:
    """Whether a data set is one of TFDS, its own or the project's."""
    return dataset.startswith(tfds_names.TFDS) or DATASETS.get(dataset) == FROM_TFDS


def check(dataset: str, data_folder: Path) -> None:
    """Raise ConfigError unless a data set has a name that is known, or is a folder that is there."""
    folder = folder_of(dataset)
    if dataset.startswith(tfds_names.TFDS):
        tfds_names.check(dataset, data_folder)
    elif folder is None:
        if dataset not in DATASETS and Path(dataset).is_dir():
            raise ConfigError(f"dataset {dataset!r} is a folder; did you mean {FOLDER}{dataset}?")
        DATASETS.check(dataset, also=f"{tfds_names.FORM}, {FOLDER}PATH")
    elif dataset == FOLDER:
        raise ConfigError(f"dataset {FOLDER} names no folder; allowed: {FOLDER}PATH")
    elif not folder.is_dir():
        raise ConfigError(f"image folder {folder.absolute()} is {'no folder' if folder.exists() else 'not there'}")


def identity(dataset: str) -> str:
    """The name of a data set wherever one stands; of a folder its whole path."""
    folder = folder_of(dataset)
    return dataset if folder is None else f"{FOLDER}{folder.resolve()}"


def images_of(dataset: str) -> str:
    """What has the same images has the same name: `identity`, without `tfds:` and the version. Raises ConfigError."""
    return str(tfds_names.parsed(dataset).folder) if dataset.startswith(tfds_names.TFDS) else identity(dataset)
