"""Images of a data set: some of each class, and pairs that are copies of each other."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.plots.base import VERMILION, empty_figure, save_figure, short
from common.plots.images import displayable

SHEET_COLUMNS = 4  # of classes, if there are many
FEW_CLASSES = 20
SHEET_CLASSES = 400  # at most; the PNG of more would be too tall for viewers
PAIRS_PER_ROW = 6


def contact_sheet(images: Sequence[np.ndarray], names: Sequence[str], title: str, path: Path) -> Path:
    """Draw some images of each class in a row below the name of the class; many classes in four columns.

    Args:
        images: uint8 (n, height, width, 1 or 3) of each class; n may be 0, and differ.
        names: a line for each class.
        title: of the figure.
        path: the PNG to write.
    """
    columns = 2 if len(names) <= FEW_CLASSES else SHEET_COLUMNS
    if len(names) > SHEET_CLASSES:
        title += f"; the first {SHEET_CLASSES} of {len(names):,} classes"
    images, names = images[:SHEET_CLASSES], names[:SHEET_CLASSES]
    widest, rows = max(map(len, images)), math.ceil(len(names) / columns)
    width, height = widest + 0.6, 1.45  # of a class, in images
    figure, axes = one_axes(columns * width - 0.6, rows * height, 0.52, title)
    for place, (own, name) in enumerate(zip(images, names, strict=True)):
        column, row = divmod(place, rows)
        x, y = column * width, -row * height
        axes.text(x, y, short(name, round(4.2 * widest)), fontsize=8, va="bottom")
        for number, image in enumerate(own):
            place_image(axes, image, x + number, y - 0.05)
    return save_figure(figure, path)


@dataclass(frozen=True)
class Pair:
    """Two images, each uint8 (height, width, 1 or 3), the lines that say what they are, and one on both."""

    images: tuple[np.ndarray, np.ndarray]
    names: tuple[str, str]
    both: str
    stands_out: bool
    """Whether what is said of both is set off, as that of an image with two classes."""


def copy_pairs(pairs: Sequence[Pair], title: str, path: Path) -> Path:
    """Draw pairs of images side by side, six pairs in a row."""
    columns = min(PAIRS_PER_ROW, len(pairs))
    width, height = 2.5, 1.75
    figure, axes = one_axes(columns * width - 0.4, math.ceil(len(pairs) / columns) * height, 0.95, title)
    for place, pair in enumerate(pairs):
        row, column = divmod(place, columns)
        x, y = column * width, -row * height
        lines = "\n".join([*(short(name, 30) for name in pair.names), pair.both])
        axes.text(x, y + 0.05, lines, fontsize=7, va="bottom", color=VERMILION if pair.stands_out else "black")
        for number, image in enumerate(pair.images):
            place_image(axes, image, x + number * 1.03, y)
    return save_figure(figure, path)


def one_axes(width: float, height: float, inches: float, title: str) -> tuple[Figure, Axes]:
    """A figure with axes for all its images, since axes for each would be slow; `inches` are those of an image."""
    figure = empty_figure(max(5, width * inches + 0.2), height * inches + 0.9)
    figure.suptitle(textwrap.fill(title, int(14 * figure.get_figwidth())), fontsize=10)
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(0.55 - height, 0.75), aspect="equal")
    axes.set_axis_off()
    axes.set_anchor("N")
    return figure, axes


def place_image(axes: Axes, image: np.ndarray, x: float, y: float) -> None:
    """Show an image in a square whose upper left corner is at (x, y), its longer side 0.97 long."""
    scale = 0.97 / max(image.shape[:2])
    extent = (x, x + scale * image.shape[1], y - scale * image.shape[0], y)
    axes.imshow(displayable(image[None])[0], extent=extent, interpolation="nearest", clip_on=False)
