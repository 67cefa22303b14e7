"""Folders of images as data sets: listed and decoded once; what cannot be decoded is named."""

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL

from common.config import GIGABYTE
from common.data.listing import CACHE, Listing, list_images, printable, unopened
from common.data.splits import Split
from common.errors import ConfigError
from common.files import alone, read_json, write_json

CHUNK = 256  # images in memory at once, while they are decoded
# Reasons by the path of each file that cannot be decoded; the images of all files, if they are kept.
Found = tuple[dict[str, str], np.ndarray | None]


def image_folder(
    root: Path, size: int, data_folder: Path, gigabytes: float
) -> tuple[dict[str, Split], list[str], list[str], np.ndarray | None]:
    """The images of `list_images`: splits of files, class names, notes, and the decoded images if they fit.

    These are uint8 (files, size, size, 3), a store for all splits in the place of their files. What cannot be decoded
    is left out of the splits and named in a note. Raises ConfigError for a folder without images.
    """
    import tensorflow as tf

    listing = list_images(root)
    files = [path for images in listing.splits.values() for path, _ in images]
    left_out, decoded = decode_once(listing, files, size, data_folder, gigabytes)
    for path, reason in left_out.items():
        listing.leave_out(path, reason)
    notes = listing.notes()
    for note in notes:
        print(f"note: {note}", flush=True)
    with tf.device("CPU"):
        store = tf.constant([os.fsencode(path) for path in files], tf.string)
    splits: dict[str, Split] = {}
    start = 0
    for name, images in listing.splits.items():
        kept = np.array([i for i, (path, _) in enumerate(images) if path not in left_out], np.int64)
        if not len(kept):
            raise ConfigError(f"image folder {printable(str(root))} has no image for {name} that can be read")
        splits[name] = Split(store, start + kept, np.array([label for _, label in images])[kept], size)
        start += len(images)
    return splits, list(listing.class_names), notes, decoded


def decode_once(listing: Listing, files: Sequence[str], size: int, data_folder: Path, gigabytes: float) -> Found:
    """The files that cannot be decoded, each with the reason, and the images of all, in their order.

    Images are uint8 (files, size, size, 3), with zeros for those files. Both are kept in the data folder, so that the
    next run starts at once, or in memory if that cannot be written. Images that need more than `gigabytes` are only
    checked: None.
    """
    needed = len(files) * size * size * 3
    fits = needed <= gigabytes * GIGABYTE
    if not fits:
        print(
            f"note: decoded images of {size} pixels take {needed / GIGABYTE:,.1f} GB, above --cache-gigabytes "
            f"{gigabytes:g}; decoded again in every epoch",
            flush=True,
        )
    cache = Cache(listing, files, size, data_folder / CACHE)
    found = cache.find(fits)
    if found is None:
        try:
            with alone(cache.lock):
                found = cache.find(fits) or cache.make(fits)  # another process may have made it
        except OSError as error:
            kept = "the decoded images stay in memory" if fits else "the images are checked again next time"
            print(f"note: {data_folder} cannot be written ({error.strerror or error}); {kept}", flush=True)
            found = in_memory(files, size, fits)
    return found


class Cache:
    """Two files for a folder and an image size: the decoded images, and what they were made of."""

    def __init__(self, listing: Listing, files: Sequence[str], size: int, folder: Path) -> None:
        root = os.fsencode(Path(listing.root).resolve())
        name = f"{hashlib.sha256(root).hexdigest()[:16]}-{size}"
        self.images, self.facts, self.lock = (folder / f"{name}{end}" for end in (".npy", ".json", ".lock"))
        self.files, self.size, self.digest = files, size, digest_of(files, listing.root)

    def find(self, fits: bool) -> Found | None:
        """What an earlier run has left; None if that is missing or damaged, or if a file of the folder has changed."""
        try:
            facts = read_json(self.facts, files=str, left_out=dict)
            if facts["files"] != self.digest:
                return None
            left_out = {self.files[int(place)]: reason for place, reason in facts["left_out"].items()}
            if not fits:
                return left_out, None
            images = np.load(self.images, mmap_mode="r")
            is_whole = images.shape == shape(self.files, self.size) and checksum(images) == facts["checksum"]
            return (left_out, images) if is_whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):  # damaged
            return None

    def make(self, fits: bool) -> Found:
        """Decode all, and write both files, each in one go. Raises OSError if they cannot be written."""
        left_out, total = {}, 0
        aside = self.images.with_suffix(".tmp")
        try:
            with aside.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape(self.files, self.size)}
                np.lib.format.write_array_header_1_0(file, header)
                for place, image in enumerate(decode_all(self.files, self.size)):
                    if isinstance(image, str):
                        left_out[place], image = image, np.zeros((self.size, self.size, 3), np.uint8)
                    if fits:
                        file.write(image.data)
                        total = zlib.crc32(image.data, total)
                file.flush()
                os.fsync(file.fileno())
            if fits:
                aside.replace(self.images)
        finally:
            aside.unlink(missing_ok=True)
        facts = {"files": self.digest, "left_out": left_out, "checksum": total if fits else None}
        write_json(self.facts, facts)
        images = np.load(self.images, mmap_mode="r") if fits else None
        return {self.files[place]: reason for place, reason in left_out.items()}, images


def in_memory(files: Sequence[str], size: int, fits: bool) -> Found:
    """What `Cache.make` gives, without files."""
    left_out, images = {}, np.zeros(shape(files, size), np.uint8) if fits else None
    for place, image in enumerate(decode_all(files, size)):
        if isinstance(image, str):
            left_out[files[place]] = image
        elif images is not None:
            images[place] = image
    return left_out, images


def decode_all(files: Sequence[str], size: int) -> Iterator[np.ndarray | str]:
    """The images of the files, uint8 (size, size, 3), in their order; of one that cannot be decoded the reason."""
    import tensorflow as tf
    from tqdm import tqdm

    from common.data.image_files import reader, why_not

    read = reader(size)

    def one(path: str) -> np.ndarray | str:
        try:
            return read(path)
        except tf.errors.OpError:
            return why_not(path)

    bar = tqdm(total=len(files), desc="decoding images", disable=None)
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for start in range(0, len(files), CHUNK):
            for image in pool.map(one, files[start : start + CHUNK]):
                bar.update()
                yield image


def shape(files: Sequence[str], size: int) -> tuple[int, int, int, int]:
    """That of all decoded images."""
    return len(files), size, size, 3


def checksum(images: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    total = 0
    for start in range(0, len(images), CHUNK):
        total = zlib.crc32(images[start : start + CHUNK].data, total)
    return total


def digest_of(files: Sequence[str], root: str) -> str:
    """SHA-256 of the files' paths, sizes and times of change, and of the libraries that decode them."""
    import tensorflow as tf

    found = hashlib.sha256(f"Pillow {PIL.__version__}, TensorFlow {tf.__version__}".encode())
    for path in files:
        try:
            state = os.stat(path)  # noqa: PTH116 (no Path for each)
            known = f"{state.st_size}:{state.st_mtime_ns}"
        except OSError as error:
            known = unopened(error)
        found.update(os.fsencode(f"{path[len(root) :]}:{known}\n"))
    return found.hexdigest()
