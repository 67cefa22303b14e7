"""FER-2013 as a TFDS data set: faces of seven expressions, 48x48 grey (Goodfellow et al. 2013, arXiv:1307.0414)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from common.data.archives import members, once
from common.data.tfds_sets import ARCHIVES, by_hand
from common.errors import ConfigError

SIZE = 48
CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
# Folder names that some archives use instead.
SPELLINGS = {"disgust": "disgusted", "fear": "fearful", "surprise": "surprised"}


class Fer2013(tfds.core.GeneratorBasedBuilder):
    """Splits `train` and `test`, from the folders `train/<class>/*` and `test/<class>/*` of PNG or JPEG files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Faces that a web search gave for emotions; training and test images of the challenge.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=ARCHIVES["fer2013"].page,
            metadata=tfds.core.MetadataDict(unreadable=[]),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict]]]:
        archive = by_hand("fer2013", Path(self._data_dir_root))
        return {
            split: self._generate_examples(split, dl_manager.iter_archive(archive), archive)
            for split in ("train", "test")
        }

    def _generate_examples(
        self, split: str, files: Iterable[tuple[str, BinaryIO]], archive: Path | None
    ) -> Iterator[tuple[str, dict]]:
        found: dict[str, str] = {}
        for path, content in members(files, archive):
            *_, part, folder, name = ("", "", *Path(path).parts)
            if part != split or name.startswith(".") or not name.lower().endswith((".jpg", ".jpeg", ".png")):
                continue
            label = SPELLINGS.get(folder, folder)
            if label not in CLASSES:
                raise ConfigError(f"{archive} has a class {folder!r}; allowed: {', '.join(CLASSES)}")
            image = decode(content)
            if image is None:
                self.info.metadata["unreadable"].append(f"{split}/{folder}/{name}")
                continue
            once(found, f"{label}/{name}", path, archive)
            yield f"{label}/{name}", {"image": image, "label": label}
        if not found:
            raise ConfigError(f"{archive} has no images in {split}/<class>/")


def decode(content: bytes) -> np.ndarray | None:
    """The bytes of a file as a uint8 array (48, 48, 1); None if it is not an image of that size."""
    try:
        if tf.io.is_jpeg(content):
            image = tf.io.decode_jpeg(content, channels=1, dct_method="INTEGER_ACCURATE")
        else:
            image = tf.io.decode_png(content, channels=1)
    except tf.errors.InvalidArgumentError:
        return None
    return image.numpy() if image.shape == (SIZE, SIZE, 1) else None
