"""Codes of images: points of the plane, and the variance that principal components hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import color_sequences

from common.plots.base import BLUE, LEGEND_BELOW, empty_figure, save_figure, short


def embeddings(panels: Mapping[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str], path: Path) -> Path:
    """Draw points of the plane, coloured by class, a panel for each of several embeddings of the same images.

    Every panel shows all of its points, with the same unit on both axes.

    Args:
        panels: floats of shape ``(n, 2)`` by the panel's title.
        labels: classes, integers of shape ``(n,)``.
        class_names: the class names, in class order.
        path: the PNG to write.
    """
    figure = empty_figure(5.2 * len(panels), 6.2)
    figure.suptitle(f"Embedding of {len(labels):,} test images")
    colours = color_sequences["tab10" if len(class_names) <= 10 else "tab20"]
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, name in enumerate(class_names):
            members = points[labels == number]
            colour = colours[number % len(colours)]
            marker = "o^sDv"[(number + number // len(colours)) % 5]  # colours alone are not told apart by everybody
            axes.scatter(*members.T, s=9, color=[colour], marker=marker, linewidths=0, alpha=0.7, label=short(name))
        axes.set(title=title, xlabel="First coordinate", ylabel="Second coordinate")
        centre = (points.min(axis=0) + points.max(axis=0)) / 2
        reach = 1.05 * max(np.ptp(points, axis=0).max() / 2, 1e-6)
        axes.set(xlim=(centre[0] - reach, centre[0] + reach), ylim=(centre[1] - reach, centre[1] + reach))
        axes.set_box_aspect(1)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    legend = figure.legend(*axes.get_legend_handles_labels(), ncols=5, **LEGEND_BELOW)
    for handle in filter(None, legend.legend_handles):
        handle.set(alpha=1, sizes=[36])
    return save_figure(figure, path)


def cumulative_variance(shares: np.ndarray, path: Path) -> Path:
    """Draw the share of the variance that the first principal components hold: (n,) floats from 0 to 1, rising."""
    figure = empty_figure(7, 4.5)
    axes = figure.subplots()
    axes.plot(np.arange(1, len(shares) + 1), 100 * np.asarray(shares), color=BLUE)
    for share, side, gap in ((0.95, "right", -5), (0.99, "left", 5)):
        count = int(np.searchsorted(shares, share)) + 1
        axes.plot([count, count], [0, 100 * share], ":", color="0.4")
        axes.annotate(
            f"{share:.0%} in {count}", (count, 10), xytext=(gap, 0), textcoords="offset points", ha=side, fontsize=9
        )
    axes.set(
        title="Principal components of the training images", xlabel="Components", ylabel="Share of the variance (%)"
    )
    axes.set_ylim(0, 103)
    axes.set_xlim(0, len(shares))
    axes.set_axisbelow(True)
    axes.grid(color="0.85")
    return save_figure(figure, path)
