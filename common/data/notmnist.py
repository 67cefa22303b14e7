"""notMNIST small as a TFDS data set: letters A to J of many typefaces, 28x28 grey (Bulatov 2011)."""

import posixpath
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from common.data.archives import members, once
from common.data.tfds_sets import ARCHIVES, by_hand
from common.errors import ConfigError

SIZE = 28
LETTERS = tuple("ABCDEFGHIJ")


class Notmnist(tfds.core.GeneratorBasedBuilder):
    """One split, `train`, with every readable image; the metadata lists the unreadable files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Letters A to J taken from typefaces that the web offers; no official split.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=LETTERS),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=ARCHIVES["notmnist"].page,
            metadata=tfds.core.MetadataDict(unreadable=[]),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict]]]:
        # TFDS's `manual_dir` is for data sets that must be downloaded by hand: it fails if the folder is missing.
        archive = by_hand("notmnist", Path(self._data_dir_root)) or dl_manager.download(ARCHIVES["notmnist"].url)
        return {"train": self._generate_examples(dl_manager.iter_archive(archive), archive)}

    def _generate_examples(
        self, files: Iterable[tuple[str, BinaryIO]], archive: str | PathLike
    ) -> Iterator[tuple[str, dict]]:
        found: dict[str, str] = {}
        for path, content in members(files, archive):
            letter, name = posixpath.split(posixpath.dirname(path))[1], posixpath.basename(path)
            if not name.endswith(".png") or name.startswith("."):
                continue
            if letter not in LETTERS:
                raise ConfigError(f"{archive} has an image outside of the folders A to J: {path}")
            image = decode(content)
            if image is None:
                self.info.metadata["unreadable"].append(f"{letter}/{name}")
                continue
            once(found, f"{letter}/{name}", path, archive)
            yield f"{letter}/{name}", {"image": image, "label": letter}
        if not found:
            raise ConfigError(f"{archive} has no images in the folders A to J")


def decode(content: bytes) -> np.ndarray | None:
    """The bytes of a PNG file as a uint8 array (28, 28, 1); None if it is not an image of that size."""
    try:
        image = tf.io.decode_png(content, channels=1).numpy()
    except tf.errors.InvalidArgumentError:
        return None
    return image if image.shape == (SIZE, SIZE, 1) else None
