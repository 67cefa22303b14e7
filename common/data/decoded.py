"""Images of files, decoded once: kept on disk for the next run; what cannot be decoded is found on the way."""

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL

from common.config import GIGABYTE
from common.data.listing import CACHE, UNOPENED, unopened
from common.data.splits import Split
from common.errors import ConfigError
from common.files import alone, read_json, write_json

CHUNK = 256  # images in memory at once, while they are decoded
# The reason for each image that cannot be decoded, by its name; the images of all, if they are kept.
Found = tuple[dict[str, str], np.ndarray | None]


def splits_of(
    what: str, images: Mapping[str, Sequence[tuple[str, int]]], side: int, channels: int, unreadable: Mapping[str, str]
) -> dict[str, Split]:
    """Splits of images that are decoded from files, all of one store, given name and label of each.

    Those that are unreadable are left out. Raises ConfigError for a split of which none is left.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        store = tf.constant([os.fsencode(name) for own in images.values() for name, _ in own], tf.string)
    splits: dict[str, Split] = {}
    start = 0
    for split, own in images.items():
        kept = np.array([i for i, (name, _) in enumerate(own) if name not in unreadable], np.int64)
        if not len(kept):
            raise ConfigError(f"{what} has no image for {split} that can be read")
        labels = np.array([label for _, label in own], np.int64)[kept]
        splits[split] = Split(store, start + kept, labels, side, in_colour=channels == 3)
        start += len(own)
    return splits


def decode_once(
    root: Path, names: Sequence[str], shape: tuple[int, int, int], data_folder: Path, gigabytes: float
) -> Found:
    """The images that cannot be decoded, each with the reason, and all images in their order.

    `names` are of files below `root`, or of parts of them (tfrecords.py). Images are uint8 (names, *shape), with zeros
    for those that cannot be decoded. Both are kept in the data folder, so that the next run starts at once, or in
    memory if that cannot be written. Images that need more than `gigabytes` are only checked: None.
    """
    needed = len(names) * int(np.prod(shape))
    fits = needed <= gigabytes * GIGABYTE
    if not fits:
        print(
            f"note: decoded images of {shape[0]} pixels take {needed / GIGABYTE:,.1f} GB, above --cache-gigabytes "
            f"{gigabytes:g}; decoded again in every epoch",
            flush=True,
        )
    cache = Cache(root, names, shape, data_folder / CACHE)
    found = cache.find(fits)
    if found is None:
        try:
            with alone(cache.lock):
                found = cache.find(fits) or cache.make(fits)  # another process may have made it
        except OSError as error:
            kept = "the decoded images stay in memory" if fits else "the images are checked again next time"
            print(f"note: {data_folder} cannot be written ({error.strerror or error}); {kept}", flush=True)
            found = in_memory(names, shape, fits)
    return found


class Cache:
    """Two files for a folder and a shape of images: the decoded images, and what they were made of."""

    def __init__(self, root: Path, names: Sequence[str], shape: tuple[int, int, int], folder: Path) -> None:
        height, _, channels = shape
        name = f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}-{height}{'-grey' * (channels == 1)}"
        self.images, self.facts, self.lock = (folder / f"{name}{end}" for end in (".npy", ".json", ".lock"))
        self.names, self.shape, self.digest = names, (len(names), *shape), digest_of(names, root)

    def find(self, fits: bool) -> Found | None:
        """What an earlier run has left; None if that is missing or damaged, or if a file of the folder has changed."""
        try:
            facts = read_json(self.facts, files=str, left_out=dict)
            if facts["files"] != self.digest:
                return None
            left_out = {self.names[int(place)]: reason for place, reason in facts["left_out"].items()}
            if not fits:
                return left_out, None
            images = np.load(self.images, mmap_mode="r")
            is_whole = images.shape == self.shape and checksum(images) == facts["checksum"]
            return (left_out, images) if is_whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):  # damaged
            return None

    def make(self, fits: bool) -> Found:
        """Decode all, and write both files, each in one go. Raises OSError if they cannot be written."""
        left_out, total = {}, 0
        aside = self.images.with_suffix(".tmp")
        try:
            with aside.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for place, image in enumerate(watched(self.names, self.shape[1:])):
                    if isinstance(image, str):
                        left_out[place], image = image, np.zeros(self.shape[1:], np.uint8)
                    if fits:
                        file.write(image.data)
                        total = zlib.crc32(image.data, total)
                file.flush()
                os.fsync(file.fileno())
            if fits:
                aside.replace(self.images)
        finally:
            aside.unlink(missing_ok=True)
        if not any(reason.startswith(UNOPENED) for reason in left_out.values()):  # which may pass by itself
            write_json(self.facts, {"files": self.digest, "left_out": left_out, "checksum": total if fits else None})
        images = np.load(self.images, mmap_mode="r") if fits else None
        return {self.names[place]: reason for place, reason in left_out.items()}, images


def in_memory(names: Sequence[str], shape: tuple[int, int, int], fits: bool) -> Found:
    """What `Cache.make` gives, without files."""
    left_out, images = {}, np.zeros((len(names), *shape), np.uint8) if fits else None
    for place, image in enumerate(watched(names, shape)):
        if isinstance(image, str):
            left_out[names[place]] = image
        elif images is not None:
            images[place] = image
    return left_out, images


def watched(names: Sequence[str], shape: tuple[int, int, int]) -> Iterator[np.ndarray | str]:
    """`decode_all` with a progress bar."""
    from tqdm import tqdm

    yield from tqdm(decode_all(names, shape), "decoding images", len(names), disable=None)


def decode_all(names: Sequence[str], shape: tuple[int, int, int]) -> Iterator[np.ndarray | str]:
    """The images by these names, uint8 `shape`, in their order; of one that cannot be decoded the reason."""
    import tensorflow as tf

    from common.data.image_files import reader, why_not

    read = reader(shape[0], shape[2])
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        try:
            yield from read(chunk)
        except tf.errors.OpError:  # of one or more of them
            for name in chunk:
                try:
                    image, *_ = read([name])
                    yield image
                except tf.errors.OpError:
                    yield why_not(name)


def checksum(images: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    total = 0
    for start in range(0, len(images), CHUNK):
        total = zlib.crc32(images[start : start + CHUNK].data, total)
    return total


def digest_of(names: Sequence[str], root: Path) -> str:
    """SHA-256 of the names, their files' sizes and times of change, and the code and libraries that decode them."""
    import tensorflow as tf

    from common.data import image_files
    from common.data.tfrecords import file_of

    found = hashlib.sha256(f"Pillow {PIL.__version__}, TensorFlow {tf.__version__}".encode())
    found.update(Path(image_files.__file__).read_bytes())
    states: dict[str, str] = {}
    for name in names:
        file = file_of(name)
        if file not in states:
            states[file] = state(file)
        found.update(os.fsencode(f"{name[len(str(root)) :]}:{states[file]}\n"))
    return found.hexdigest()


def state(file: str) -> str:
    """Size and time of change of a file, or why it cannot be opened."""
    try:
        found = os.stat(file)  # noqa: PTH116 (no Path for each)
    except OSError as error:
        return unopened(error)
    return f"{found.st_size}:{found.st_mtime_ns}"
