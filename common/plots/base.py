"""What all figures share: the palette, an empty figure, and how one is saved."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common import files

# The palette of Okabe and Ito, made to be told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"
SPLIT_COLOURS = {"train": GREEN, "validation": BLUE, "test": ORANGE}
TEST_ONCE = "test, read once, at the epoch that is reported"
LEGEND_BELOW: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 9}


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG, creating its folder, and return the path. Same figure, same bytes.

    Raises StorageError where it cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content.getvalue())
    return path


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches. It belongs to no window and no global state."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def short(name: str, limit: int = 24) -> str:
    """Cut a long name, and keep matplotlib from reading dollar signs as mathematics."""
    cut = name if len(name) <= limit else name[: limit - 1] + "…"
    return cut.replace("$", r"\$")
