"""What finished runs hold and need no more: the checkpoints that training would go on from."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from common import checkpoints
from common.files import Damaged, StorageError
from common.run_folder import RunFolder

MEGABYTE = 2**20


@dataclass(frozen=True)
class Held:
    """What a finished run holds, in bytes."""

    run: Path
    total: int
    removable: int
    """Checkpoints of training, with the optimizer's state. The weights of each phase's best and last epoch stay."""


def held(folders: Iterable[Path]) -> list[Held]:
    """The finished runs among these folders that hold something to remove."""
    finished = (folder for folder in folders if is_finished(RunFolder(folder)))
    found = (
        Held(folder, size(folder.rglob("*")), size(checkpoints.steps(RunFolder(folder).checkpoints)))
        for folder in finished
    )
    return [one for one in found if one.removable >= MEGABYTE]


def remove(folder: Path) -> None:
    """Remove what a finished run needs no more. Raises StorageError if it is none any more, or cannot be written."""
    run = RunFolder(folder)
    try:
        with run.held():
            if not run.is_finished:
                raise StorageError("it is not finished any more")
            checkpoints.prune(run.checkpoints)
    except BlockingIOError:
        raise StorageError("another process has it") from None
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}") from error


def is_finished(run: RunFolder) -> bool:
    """Whether a run has ended; one whose metrics.json is damaged is named, and keeps what it has."""
    try:
        return run.is_finished and bool(run.metrics())
    except Damaged as error:
        print(f"left out: {run.path.parent.name}/{run.path.name} is damaged: {error}", file=sys.stderr, flush=True)
        return False


def size(paths: Iterable[Path]) -> int:
    """Of files, in bytes."""
    return sum(path.stat().st_size for path in paths if path.is_file())


def table(found: Iterable[Held]) -> Table:
    """What would go, for the terminal."""
    view = Table("run", "now", "to be removed", box=None, pad_edge=False, header_style="dim")
    for one in found:
        sizes = (f"{n / MEGABYTE:,.0f} MB" for n in (one.total, one.removable))
        view.add_row(f"{one.run.parent.name}/{one.run.name}", *sizes)
    return view
