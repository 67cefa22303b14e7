"""What finished runs hold and need no more: the checkpoints that training would go on from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from common import checkpoints
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
    finished = (folder for folder in folders if RunFolder(folder).is_finished)
    found = (
        Held(folder, size(folder.rglob("*")), size(checkpoints.steps(RunFolder(folder).checkpoints)))
        for folder in finished
    )
    return [one for one in found if one.removable >= MEGABYTE]


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
