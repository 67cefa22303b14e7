"""How far a run has come, as every checkpoint holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


class Diverged(Exception):
    """The loss or a variable is no finite number any more; `where` says at which phase, epoch and step."""

    def __init__(self, what: str, where: Mapping):
        super().__init__(f"{what} at phase {where['phase']}, epoch {where['epoch']}, step {where['step']}")
        self.where = dict(where)


@dataclass
class Progress:
    """`step` batches and `seconds` into epoch `epoch` (from 0) of phase `phase` (from 0).

    `rows` are those of history.csv. `best` names, for each phase begun, its best epoch and the file with its weights;
    `last`, for each phase that has ended, its last epoch. `extra` is what a task's own callbacks keep, as JSON data.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rows: list[dict] = field(default_factory=list)
    best: dict[str, dict] = field(default_factory=dict)
    last: dict[str, dict] = field(default_factory=dict)
    extra: dict = field(default_factory=dict)

    def end_epoch(self, row: Mapping, ends_phase: bool) -> list[str]:
        """Add a row of history.csv; what its epoch is of its phase: best so far, last.

        The best has the highest validation accuracy, if there is one, then the lowest loss.
        """

        def merit(epoch: Mapping) -> tuple[float, float]:
            return epoch.get("val_accuracy", 0.0), -epoch["val_loss"]

        self.rows.append(dict(row))
        self.epoch, self.step, self.seconds = row["epoch"], 0, 0.0
        best = self.best.get(row["phase"])
        kinds = {"best": best is None or merit(best) < merit(row), "last": ends_phase}
        entry = {key: row[key] for key in ("epoch", "val_accuracy", "val_loss") if key in row}
        for kind in (chosen := [kind for kind, holds in kinds.items() if holds]):
            getattr(self, kind)[row["phase"]] = {"file": "", **entry}
        return chosen

    def end_phase(self) -> None:
        """Go on to the next phase."""
        self.phase, self.epoch, self.seconds = self.phase + 1, 0, 0.0

    def where(self, phase: str) -> dict:
        """Phase, epoch and step (both from 1), for messages."""
        return {"phase": phase, "epoch": self.epoch + 1, "step": self.step}
