"""The files of an archive that a user has downloaded: each of them once, or one line that says what is wrong."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from os import PathLike
from typing import BinaryIO

import tensorflow as tf

from common.errors import ConfigError, first_line

# What the libraries raise for what is cut, damaged, encrypted (RuntimeError) or packed in a way that they do not know.
FAULTS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tf.errors.OpError,  # of the files that TFDS opens
)


def members(files: Iterable[tuple[str, BinaryIO]], archive: str | PathLike | None) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file of an archive. Raises ConfigError for an archive that cannot be read."""
    following = iter(files)
    while True:
        try:
            path, file = next(following)
            content = file.read()
        except StopIteration:
            return
        except FAULTS as error:
            raise ConfigError(f"{archive} is damaged: {first_line(error)}; fetch it again") from error
        yield path, content


def once(found: dict[str, str], key: str, path: str, archive: str | PathLike | None) -> None:
    """Note where an image lies. Raises ConfigError if one of the same class and name lies in another folder too."""
    if key in found:
        raise ConfigError(f"{archive} has {key} twice: {found[key]} and {path}; take one of these folders out of it")
    found[key] = path
