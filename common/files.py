"""Atomic writes, and a lock between processes."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

DISK_FULL = 75  # exit code of a process that stops for want of space: sysexits.h's "try again later"


class StorageError(OSError):
    """A file that could not be written; the message is the one line that the user reads."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or does not fit; the message is the one line that the user reads."""


def write(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts to a file atomically: a crash at any instant leaves either the old file or the new one.

    The bytes go to a temporary file, are flushed to the disk, and the file is renamed. Raises StorageError, after
    removing the temporary file, if the disk is full or the folder cannot be written.
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


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is a full disk or a quota that is used up."""
    while error:
        # Libraries that write through C keep the text alone.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock among all processes that share this file system; `path` is the lock file.

    The kernel releases it when the process ends, even if it is killed. Raises OSError if the file cannot be made.
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
    """`write` for JSON data. Raises ValueError for numbers that JSON does not have (nan, inf)."""
    write(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())
