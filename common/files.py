"""Files that are either whole or not there."""

import contextlib
import json
import os
from pathlib import Path


class StorageError(OSError):
    """A file that could not be written; its text is the one line that the user reads."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or does not fit; its text is the one line that the user reads."""


def write(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any instant leaves the old one or the new one.

    The bytes go aside, are flushed to the disk, and take the name at the end. Raises StorageError, with what was
    written so far removed, when the disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, data: object) -> None:
    """`write` for JSON data; a number that JSON does not know (nan, inf) raises ValueError."""
    write(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
