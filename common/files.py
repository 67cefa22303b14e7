"""Reading what others may have written, atomic writes, and a lock between processes.

Whatever another process, an editor, an older version or a full disk may have left is read by `read_text`, `read_json`
or `read_csv`; who lists many files catches Damaged, names that one, and goes on.
"""

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import IO, get_args

LARGEST = 3.5e38  # a float32's largest number; no run computes more
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # Lustre without -o flock; NFS without its lock daemon


class Damaged(ValueError):
    """A file that is not what its writer leaves; the text names the file and says what is wrong."""


IN_USE = 69  # exit code of a process whose files another one holds: sysexits.h's "unavailable"
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
        about, group = os.fstat(lock.fileno()), path.parent.stat().st_mode & stat.S_IWGRP
        if about.st_uid == os.geteuid():
            os.fchmod(lock.fileno(), stat.S_IMODE(about.st_mode) | group)  # whoever may write beside it may take it
        try:
            take(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which holds {path}", flush=True)
            take(lock, fcntl.LOCK_EX)
        yield


def take(lock: IO, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> None:
    """Take the lock of an open file, as fcntl.flock does; if its file system has no locks, say so and go on without.

    Raises BlockingIOError if another process holds it.
    """
    try:
        fcntl.flock(lock, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        folder = Path(lock.name).parent
        print(f"note: no lock in {folder}: {error.strerror}; do not start the same there twice at once", flush=True)


def write_json(path: Path, data: object) -> None:
    """`write` for JSON data. Raises ValueError for numbers that JSON does not have (nan, inf)."""
    write(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    """`write` for rows of a table; a link and a device, such as /dev/stdout, get the lines where they lead to."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text.getvalue(), "utf-8")
    else:
        write(path, text.getvalue().encode())


def read_text(path: Path) -> str:
    """Read a text file in UTF-8. Raises Damaged if it cannot be read, or is no text."""
    try:
        text = path.read_text("utf-8-sig")  # some editors mark UTF-8 at the beginning
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{path.name}: it must be UTF-8 ({error})") from error
    if "\0" in text:
        raise Damaged(f"{path.name} holds zero bytes, as after a crash of the machine")
    return text


def read_json(path: Path, /, **kinds: type | UnionType) -> dict:
    """Read a JSON object that has these keys with values of these types; one of type `kind | None` may be missing.

    Raises Damaged for anything else, for a key that is there twice, for numbers that no run writes (nan, 1e400), and
    for texts that cannot be shown or name a file.
    """
    text = read_text(path)
    if not text.strip():
        raise Damaged(f"{path.name} is empty")
    try:
        content = json.loads(text, object_pairs_hook=each_once, parse_float=finite, parse_constant=finite)
        if "\\u" in text and b"\\u0000" in json.dumps(content, ensure_ascii=False).encode():
            raise ValueError("a text in it holds a zero byte")
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name}: {error}") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path.name} holds no JSON object")
    return holding(content, path.name, **kinds)


def each_once(pairs: Sequence[tuple[str, object]]) -> dict:
    """A JSON object. Raises ValueError for a key that is there twice, as after a merge by hand."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def finite(text: str) -> float:
    """A JSON number. Raises ValueError for one that no run writes."""
    value = float(text)
    if not abs(value) <= LARGEST:
        raise ValueError(f"{text} is no number that a run writes")
    return value


def holding(content: object, where: str, /, **kinds: type | UnionType) -> dict:
    """A JSON object with these keys, of these types; one of type `kind | None` may be missing. Raises Damaged."""
    if not isinstance(content, dict):
        raise Damaged(f"{where} is no JSON object")
    for key, kind in kinds.items():
        value = content.get(key)
        # Python's True is an int.
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in (kind, *get_args(kind))):
            raise Damaged(f"{where} has no {key}, or one of another kind")
    return content


def read_csv(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file, whose head names these columns, among others.

    Raises Damaged if it does not, if it names one twice, and if a row has more or fewer cells than the head.
    """
    text = read_text(path)
    try:
        head, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise Damaged(f"{path.name}: {error}") from error
    rows = [row for row in rows if row]
    if missing := [column for column in columns if column not in head]:
        raise Damaged(f"{path.name}: it has no column {missing[0]}; needed: {','.join(columns)}")
    if len(set(head)) < len(head):
        raise Damaged(f"{path.name} has two columns of one name")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise Damaged(f"{path.name}, row {line}: {len(row)} cells below {len(head)} columns")
    return [dict(zip(head, row, strict=True)) for row in rows]
