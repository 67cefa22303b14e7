"""What a task's pages are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.report import Report
from common.selection import Runs
from results.grids import Grid
from results.judged import Judged
from results.pairs import Compared
from results.rows import Row


@dataclass(frozen=True)
class Task:
    """A task's report and runs, and what was made of them."""

    name: str
    report: Report
    runs: Runs
    """All of them, in the groups of its table."""
    by_protocol: Sequence[Runs]
    """The newest protocol first."""
    rows: Sequence[Row]
    """Of its full table."""
    grids: Sequence[Grid]
    compared: Sequence[Compared]
    claims: Sequence[Judged]
    protocol: int
    """Today's."""
