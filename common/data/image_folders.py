"""Folders of images as data sets."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.listing import list_images, printable
from common.data.splits import Split, whole
from common.errors import ConfigError
from common.files import StorageError, write_json

if TYPE_CHECKING:
    import tensorflow as tf


def image_folder(root: Path, size: int, cache: Path) -> tuple[dict[str, Split], list[str], list[str]]:
    """The images of `list_images`: splits, class names and notes.

    Files that cannot be decoded are left out and named in a note. Raises ConfigError for a folder without such images.
    """
    listing = list_images(root)
    paths = [Path(path) for images in listing.splits.values() for path, _ in images]
    left_out = {str(path) for path in undecodable(paths, cache)}
    splits = {}
    for name, images in listing.splits.items():
        kept = [(os.fsencode(path), label) for path, label in images if path not in left_out]
        if not kept:
            raise ConfigError(f"image folder {printable(str(root))} has no readable image for {name}")
        files, labels = zip(*kept, strict=True)
        splits[name] = whole(np.array(files, object), np.array(labels), size)
    for path in left_out:
        listing.leave_out(path, "not decoded")
    notes = listing.notes()
    for note in notes:
        print(f"note: {note}", flush=True)
    return splits, list(listing.class_names), notes


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
