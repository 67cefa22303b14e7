"""Images that lie within TFRecord files: where each begins, and its bytes. Nothing is copied."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.workarounds.autotuner import untuned

# Before a record stand its length, 8 bytes, and a checksum of that, 4; behind it a checksum of its own, 4.
BEFORE, BEHIND = 12, 4
# No path contains it.
SEPARATOR = b"\0"

# A serialized example, a string scalar, to the bytes of its image and its label, int64.
Parse = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def part(file: bytes, start: int, length: int) -> bytes:
    """The name of a part of a file, as a store has it beside names of whole files."""
    return SEPARATOR.join((file, b"%d" % start, b"%d" % length))


def file_of(name: str) -> str:
    """The file of a name in a store."""
    return name.partition(os.fsdecode(SEPARATOR))[0]


def shown(name: str) -> str:
    """A name in a store, as a reader is told it: the path of a file, or where in which file a part begins."""
    file, *place = name.split(os.fsdecode(SEPARATOR))
    return f"{Path(file).name} at byte {int(place[0]):,}" if place else file


def content(name: bytes) -> bytes:
    """The bytes of a file, or of the part of one. Raises OSError."""
    file, *place = name.split(SEPARATOR)
    path = Path(os.fsdecode(file))
    if not place:
        return path.read_bytes()
    start, length = map(int, place)
    with path.open("rb") as opened:
        return os.pread(opened.fileno(), length, start)


def size(name: bytes) -> int:
    """The number of bytes of a file, or of the part of one. Raises OSError."""
    file, *place = name.split(SEPARATOR)
    return int(place[1]) if place else os.stat(file).st_size  # noqa: PTH116 (a path would take most of the time)


def images(files: Sequence[Path], parse: Parse) -> tuple[np.ndarray, np.ndarray]:
    """The images of TFRecord files in their order, none decoded: names of parts, bytes (n,), and labels, int64 (n,).

    Reads each file once. Raises tf.errors.OpError if a record is cut or its checksum is wrong.
    """

    def of_file(file: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(file, buffer_size=2**23).map(lambda record: (file, record))

    def parsed(file: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (file, record, *parse(record))

    dataset = tf.data.Dataset.from_tensor_slices([str(file) for file in files]).flat_map(of_file)
    dataset = dataset.map(parsed, tf.data.AUTOTUNE).prefetch(64)
    names, labels, begins = [], [], dict.fromkeys((os.fsencode(file) for file in files), 0)
    for file, record, image, label in untuned(dataset).as_numpy_iterator():
        # A serialized example holds the bytes of its image as they are, in one piece.
        names.append(part(file, begins[file] + BEFORE + record.index(image), len(image)))
        labels.append(label)
        begins[file] += BEFORE + len(record) + BEHIND
    return np.array(names, object), np.array(labels, np.int64)
