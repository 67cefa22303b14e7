"""A training by epoch or by step: losses, accuracies, learning rates, and what each phase brought.

``history`` is a list with one dict per epoch, in order, over all phases of the training: ``phase`` (its
name), ``epoch`` (from 1 within the phase), ``rate``, ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``.
Accuracies are fractions from 0 to 1 and are drawn in percent. Values that are not finite are left out.
A history without epochs raises ValueError.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.plots.base import (
    BLUE,
    LEGEND_BELOW,
    ORANGE,
    SPLIT_COLOURS,
    TEST_REPORTED,
    VERMILION,
    empty_figure,
    save_figure,
    short,
)

History = Sequence[Mapping]
TRAINING = "training: mean over the epoch's steps, with any augmentation and dropout"


def learning_curves(history: History, path: Path, metrics: Mapping | None = None, test_loss: bool = True) -> Path:
    """Draw losses and, where there are any, accuracies (%) by epoch, with each phase's best epoch.

    With `metrics`, as metrics.json has them, also the test loss and accuracy at the epoch that is reported; without
    `test_loss`, if it is another loss than that of the history, the accuracy alone.
    """
    panels = [("loss", "Loss", 1), ("accuracy", "Accuracy (%)", 100)]
    panels = [panel for panel in panels if panel[0] in history[0]] if history else panels
    figure, grid = epoch_panels(history, "Learning curves", panels=len(panels))
    best = best_epochs(history)
    judge = f"best validation {panels[-1][0]}"
    for axes, (key, name, scale) in zip(grid, panels, strict=True):
        training, validation = column(history, key, scale), column(history, f"val_{key}", scale)
        plot_epochs(axes, training, "--", color=ORANGE, label=TRAINING)
        plot_epochs(axes, validation, "-", color=BLUE, label="validation")
        ring: dict[str, Any] = {"color": "black", "fillstyle": "none", "markersize": 10, "markeredgewidth": 1.5}
        axes.plot(best + 1, validation[best], "o", **ring, label=f"{judge} of the phase")
        if metrics and (key != "loss" or test_loss):
            phase, start, _ = phase_spans(history)[-1]
            epoch = start + metrics["phases"][phase][metrics["reported"]]["epoch"]
            axes.plot(epoch, scale * metrics["test"][key], "D", color=VERMILION, label=TEST_REPORTED)
        axes.set_ylabel(name)
    figure.legend(*grid[-1].get_legend_handles_labels(), ncols=2 if len(panels) > 1 else 1, **LEGEND_BELOW)
    return save_figure(figure, path)


def generalisation_gap(history: History, path: Path) -> Path:
    """Draw training minus validation accuracy (percentage points) and validation minus training loss."""
    title = f"Generalisation gap\n{TRAINING}"
    figure, (accuracies, losses) = epoch_panels(history, title, panels=2)
    for axes, key, scale in ((accuracies, "accuracy", 100), (losses, "loss", -1)):
        plot_epochs(axes, column(history, key, scale) - column(history, f"val_{key}", scale), color=BLUE)
        axes.axhline(0, color="black", linewidth=0.8)
    accuracies.set_ylabel("Training − validation accuracy\n(percentage points)")
    losses.set_ylabel("Validation − training loss")
    return save_figure(figure, path)


def learning_rate(history: History, path: Path) -> Path:
    """Draw the learning rate by epoch on a log scale."""
    figure, (axes,) = epoch_panels(history, "Learning rate")
    rates = column(history, "rate")
    # A line from one phase to the next would show rates that were never used.
    for _, start, stop in phase_spans(history):
        shown = np.where((np.arange(len(rates)) >= start) & (np.arange(len(rates)) < stop), rates, np.nan)
        plot_epochs(axes, shown, color=BLUE)
    if (rates > 0).any():
        axes.set_yscale("log")
        axes.set_ylim(rates[rates > 0].min() / 2, np.nanmax(rates) * 2)
    axes.set_ylabel("Learning rate (log scale)")
    return save_figure(figure, path)


def group_rates(rates: Mapping[str, float], path: Path) -> Path:
    """Draw the learning rate of each group of layers on a log axis, from the image to the classes; 0 is frozen."""
    figure = empty_figure(7, 4.5)
    axes = figure.subplots()
    trained = [rate for rate in rates.values() if rate > 0]
    floor = min(trained) / 5
    bars = axes.bar(range(len(rates)), [max(rate, floor) - floor for rate in rates.values()], 0.7, floor, color=BLUE)
    axes.bar_label(bars, [f"{rate:g}" if rate else "frozen" for rate in rates.values()], padding=3, fontsize=9)
    axes.set(title="Learning rate of each group of layers", xlabel="Group of layers, from the image to the classes")
    axes.set(yscale="log", ylabel="Learning rate (log scale)", ylim=(floor, max(trained) * 2))
    axes.set_xticks(range(len(rates)), list(rates))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9")
    return save_figure(figure, path)


def phase_bars(phases: Mapping[str, Mapping], path: Path) -> Path:
    """Draw validation and test accuracy (%) after each phase.

    Args:
        phases: ``{phase: {"validation": {"accuracy": fraction, "n": images}, "test": the same}}``; a split is the
            same images after each phase.
        path: the PNG to write.
    """
    figure = empty_figure(max(5, 2 + 1.6 * len(phases)), 4.5)
    axes = figure.subplots()
    for split, shift in (("validation", -0.2), ("test", 0.2)):
        states = [phase[split] for phase in phases.values()]
        centres = [place + shift for place in range(len(states))]
        heights = [100 * state["accuracy"] for state in states]
        label = f"{split} (n = {states[0]['n']:,})"
        bars = axes.bar(centres, heights, 0.368, color=SPLIT_COLOURS[split], label=label)
        axes.bar_label(bars, fmt="%.1f %%", padding=2, fontsize=9)
    axes.set(title="Accuracy after each phase", xlabel="Phase", ylabel="Accuracy (%)")
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(phases)), [short(name, 18).replace("_", " ") for name in phases])
    axes.set_xlim(-0.7, len(phases) - 0.3)
    figure.legend(ncols=2, **LEGEND_BELOW)
    return save_figure(figure, path)


def loss_by_step(rows: Sequence[Mapping], path: Path) -> Path:
    """Draw training and validation loss by step, on a log axis if they differ by more than ten times.

    Args:
        rows: ``{"step", "loss", "train_loss"}``: the validation loss after a step, and the mean training loss of the
            steps since the row before, which older runs lack. There may be none.
        path: the PNG to write.
    """
    figure = empty_figure(7, 4.8)
    axes = figure.subplots()
    for key, style, colour, label in (
        ("train_loss", "s--", ORANGE, "training: mean of the steps since the last mark"),
        ("loss", "o-", BLUE, "validation: all of its images, after the step"),
    ):
        known = [row for row in rows if key in row]
        steps, losses = ([row[name] for row in known] for name in ("step", key))
        axes.plot(steps, losses, style, color=colour, markersize=4, label=label)
    axes.set(title="Loss while training", xlabel="Step", ylabel="Loss, norm of W included")
    drawn = [row[key] for row in rows for key in ("loss", "train_loss") if key in row]
    if drawn and 0 < 10 * min(drawn) < max(drawn):
        axes.set(yscale="log", ylabel="Loss, norm of W included (log scale)")
    axes.set_axisbelow(True)
    axes.grid(color="0.85", which="both")
    figure.legend(ncols=2, **LEGEND_BELOW)
    return save_figure(figure, path)


def epoch_panels(history: History, title: str, panels: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its panels, side by side, each with an epoch axis and the phases marked."""
    if not history:
        raise ValueError("the history has no epochs to draw")
    figure = empty_figure(7 if panels == 1 else 5.5 * panels, 4.8)
    figure.suptitle(title)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for axes in grid:
        mark_phases(axes, history)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="0.85")
        axes.set_xlabel("Epoch, counted through all phases" if len(phase_spans(history)) > 1 else "Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, grid


def phase_spans(history: History) -> list[tuple[str, int, int]]:
    """Return the name, the first row and the row after the last of each phase."""
    spans, start = [], 0
    for name, rows in groupby(history, key=lambda row: row["phase"]):
        stop = start + len(list(rows))
        spans.append((name, start, stop))
        start = stop
    return spans


def mark_phases(axes: Axes, history: History) -> None:
    """Shade every other phase, draw a line between phases and write their names above the axes."""
    axes.set_xlim(0.5, len(history) + 0.5)
    if len(phase_spans(history)) == 1:
        return  # nothing to tell apart
    # The names of short phases would run into each other: each takes the lowest line with room for it.
    epochs_per_character = len(history) / 55
    ends: list[float] = []
    for number, (name, start, stop) in enumerate(phase_spans(history)):
        if number % 2:
            axes.axvspan(start + 0.5, stop + 0.5, color="0.94", zorder=0)
        if number:
            axes.axvline(start + 0.5, color="0.6", linewidth=0.8, zorder=1)
        half_width = epochs_per_character * len(short(name)) / 2
        centre = max((start + stop + 1) / 2, half_width)  # inside the axes, off the labels left of them
        line = next((i for i, end in enumerate(ends) if end < centre - half_width), len(ends))
        ends[line : line + 1] = [centre + half_width + epochs_per_character]
        axes.annotate(
            short(name).replace("_", " "),
            (centre, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3 + 11 * line),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color="0.25",
        )


def plot_epochs(axes: Axes, values: np.ndarray, *style: str, **options: Any) -> None:
    """Plot one value per epoch; the marks shrink as epochs crowd, and keep a single epoch visible."""
    size = 4 if len(values) <= 40 else 1.5
    axes.plot(np.arange(1, len(values) + 1), values, *style, marker="o", markersize=size, **options)


def best_epochs(history: History) -> np.ndarray:
    """Return the row of each phase whose weights are kept: the highest validation accuracy, then the lowest loss.

    As `progress.Progress` chooses; a phase without finite ones has none.
    """
    losses = column(history, "val_loss")
    merit = column(history, "val_accuracy") if "val_accuracy" in history[0] else -losses
    finite = np.isfinite(merit) & np.isfinite(losses)
    spans = ([row for row in range(start, stop) if finite[row]] for _, start, stop in phase_spans(history))
    return np.array([max(rows, key=lambda row: (merit[row], -losses[row])) for rows in spans if rows], dtype=int)


def column(history: History, key: str, scale: float = 1) -> np.ndarray:
    """Return one value an epoch."""
    return scale * np.array([row[key] for row in history], dtype=np.float64)
