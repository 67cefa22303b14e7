"""The part of a task's README that is made: its tables, what was compared, and the source's claims."""

import re
from collections.abc import Sequence

from common.comparison import LEVEL
from results.grids import Cell, Grid
from results.judged import Judged, counted
from results.pairs import MINUS, Compared
from results.rows import Row
from results.tables import compact, joined

MADE = "Made by `python results/collect.py`. Every metric, with notes, is in `results/tables/`."


def text(rows: Sequence[Row], grids: Sequence[Grid], compared: Sequence[Compared], claims: Sequence[Judged]) -> str:
    """All of it, in Markdown; a task whose report has no tables gets one of every metric."""
    parts = [MADE, *(table(grid) for grid in grids)] if grids else [compact(rows).rstrip()]
    parts += [differences(compared)] if compared else []
    parts += [claims_list(claims)] if claims else []
    return "\n\n".join(parts) + "\n"


def table(grid: Grid) -> str:
    """One table."""
    lines = [f"**{grid.caption}**", "", joined([grid.corner, *grid.columns])]
    lines += [joined(["---", *["---:"] * len(grid.columns)])]
    lines += [joined([name, *(in_markdown(grid, cell) for cell in cells)]) for name, cells in grid.rows]
    return "\n".join(lines)


def in_markdown(grid: Grid, cell: Cell) -> str:
    """A cell, with its verdict beside a published number."""
    text = f"**{grid.text(cell)}**" if cell.bold else grid.text(cell)
    return f"{text}, *{cell.verdict}*" if cell.verdict else text


def differences(compared: Sequence[Compared]) -> str:
    """What was compared, one line each."""
    head = (
        "**Differences in test accuracy (points) or test loss, with 95 % intervals**, paired by seed. The interval is "
        "over seeds, and over test images too if both sides saw the same ones. *Higher* and *lower* are given only "
        "after Holm's correction: the chance that any difference of a protocol is called so wrongly is at most "
        f"{100 * LEVEL:.0f} %."
    )
    return "\n".join([head, "", *(f"- {line(one)}" for one in compared)])


def line(one: Compared) -> str:
    """A difference in words."""
    return f"{one.words}: {one.told}, *{one.verdict}*"


def claims_list(claims: Sequence[Judged]) -> str:
    """The source's claims, one line each, after how many of each kind there are."""
    head = f"**Claims of the source that have no number ({counted(claims)}).** "
    head += (
        "Judged by 95 % intervals; Holm's correction is for the parts of a claim, not for how many claims there are."
    )
    return "\n".join([head, "", *(f"- {of_claim(one)}" for one in claims)])


def of_claim(one: Judged) -> str:
    """A claim in words."""
    found = re.sub(r"(?<![\w.])-(?=\d)", MINUS, one.finding.told)
    told = f": {found}{'; older protocol' if one.older else ''}" if found else ""
    return f"{one.claim.text}: *{one.finding.word}*{told}"
