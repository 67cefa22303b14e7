"""Files that are either whole or not there."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path


class StorageError(OSError):
    """A file that could not be written; its text is the one line that the user reads."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or does not fit; its text is the one line that the user reads."""


def write(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file, part after part, so that a crash at any instant leaves the old one or the new one.

    The bytes go aside, are flushed to the disk, and take the name at the end. Raises StorageError, with what was
    written so far removed, when the disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            for part in parts:
                file.write(part)
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


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Go on when no other process is within, on any machine that shares this file system; `path` is the lock's file.

    The kernel lets go of it when a process ends, however it ends. Raises OSError where the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which holds {path}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_json(path: Path, data: object) -> None:
    """`write` for JSON data; a number that JSON does not know (nan, inf) raises ValueError."""
    write(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
