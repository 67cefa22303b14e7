"""Folders of images as data sets."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.splits import Split, whole
from common.errors import ConfigError
from common.files import StorageError, write_json

if TYPE_CHECKING:
    import tensorflow as tf

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif"}


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


def decode(content: "tf.Tensor", channels: int = 3) -> "tf.Tensor":
    """The bytes of an image file as a uint8 tensor (height, width, channels); the first frame of an animation."""
    import tensorflow as tf

    return tf.cond(
        tf.io.is_jpeg(content),
        # The same values as PIL. TensorFlow's default transform is faster, but off by up to 11 grey levels.
        lambda: tf.io.decode_jpeg(content, channels=channels, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(content, channels=channels, expand_animations=False),
    )
