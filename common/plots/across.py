"""Figures across the runs of a task: mean and standard deviation over seeds, a line or a bar a setting."""

import statistics
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.plots.base import (
    BLUE,
    GREEN,
    LEGEND_BELOW,
    ORANGE,
    PURPLE,
    SKY,
    TEST_ONCE,
    VERMILION,
    empty_figure,
    save_figure,
)
from common.plots.history import mark_phases
from common.selection import Group, Runs

TEST_OF_SEEDS = f"{TEST_ONCE} (a mark a seed)"
REGIMES = {"keep": GREEN, "layer": VERMILION, "follow": BLUE}  # of batch normalisation


def curves(runs: Runs, path: Path) -> None:
    """Draw validation accuracy and training loss by epoch: a panel row a preset, a line a setting, a band of +-1 std.

    Settings of a preset that were trained for other numbers of epochs have a row of their own.
    """
    panels = defaultdict(list)
    for group in runs.groups:
        history = group.records[0]["history"]
        if "val_accuracy" in history[0]:
            panels[group.preset, len(history)].append(group)
    if not panels:
        return
    named_panels = {key: named(groups) for key, groups in panels.items()}
    # Each with its legend, for which the first six lines leave room.
    heights = [4.6 + 0.2 * max("\n".join(legend).count("\n") - 5, 0) for _, legend in named_panels.values()]
    figure = Figure(figsize=(11, sum(heights)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for part, ((preset, epochs), (common, settings)) in zip(parts, named_panels.items(), strict=True):
        several = any(len(group.records) > 1 for group in settings.values())
        drawn = "mean of n seeds, band of one standard deviation" if several else "single runs"
        told = f"{epochs} epoch{'s' * (epochs > 1)}"
        name = ", ".join(filter(None, (preset, *(word for word in common.split(", ") if word != told), told)))
        part.suptitle(textwrap.fill(f"{name}: {drawn}", 115))
        through = any(len(group.records[0]["metrics"]["phases"]) > 1 for group in settings.values())
        losses, accuracies = part.subplots(1, 2)
        for axes, key, scale in ((losses, "loss", 1), (accuracies, "val_accuracy", 100)):
            colours = cycle((SKY, ORANGE, GREEN, VERMILION, PURPLE, "0.4"))
            for place, (text, group) in enumerate(settings.items()):
                band(axes, by_epoch(group.records, key, scale), next(colours), text, ("-", "--", ":")[place // 6 % 3])
            label_epochs(axes, "Epoch, counted through all phases" if through else "Epoch")
        losses.set_ylabel("Training loss")
        accuracies.set_ylabel("Validation accuracy (%)")
        part.legend(*losses.get_legend_handles_labels(), **LEGEND_BELOW)
    save_figure(figure, path)


def regimes(runs: Runs, path: Path) -> None:
    """Draw training loss and validation accuracy by epoch under each regime of batch normalisation.

    A row for each of the settings that were run under two regimes at least and differ in nothing else; a line a regime,
    the mean over seeds, a band of one standard deviation; the phases are marked.
    """
    rows = [row for row in runs.where(batch_norm=tuple(REGIMES)).alike("batch_norm") if len(row.by("batch_norm")) > 1]
    if not rows:
        return
    figure = Figure(figsize=(11, 4.2 * len(rows)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        part.suptitle(textwrap.fill(f"{row.groups[0].preset}, {named(row.groups)[0]}", 110))
        panels = (("loss", 1, "Training loss"), ("val_accuracy", 100, "Validation accuracy (%)"))
        for axes, (key, scale, name) in zip(part.subplots(1, 2), panels, strict=True):
            mark_phases(axes, next(iter(row))["history"])
            by_regime = row.by("batch_norm")
            for regime, colour in REGIMES.items():
                if regime in by_regime:
                    own = by_regime[regime]
                    band(axes, by_epoch(tuple(own), key, scale), colour, f"{regime} (n = {len(own)})")
            axes.set_ylabel(name)
            label_epochs(axes)
        part.legend(*axes.get_legend_handles_labels(), ncols=3, **LEGEND_BELOW)
    save_figure(figure, path)


def named(groups: Sequence[Group]) -> tuple[str, dict[str, Group]]:
    """What a panel's settings have in common, for its title; and the groups by what is their own, for the legend."""
    words = [group.said() for group in groups]
    common = [word for word in words[0] if all(word in own for own in words)]
    legend = {}
    for own, group in zip(words, groups, strict=True):
        text = ", ".join(word for word in own if word not in common) or "as the preset" * (len(words) > 1)
        count = f"n = {len(group.records)}".replace(" ", "\N{NO-BREAK SPACE}")  # which no line ends at
        legend[textwrap.fill(f"{text} ({count})" if text else count, 100).replace("$", r"\$")] = group
    return ", ".join(common).replace("$", r"\$"), legend


def by_epoch(records: Sequence[Mapping], key: str, scale: float = 1) -> list[list[float]]:
    """A column of the history of each run."""
    return [[scale * row[key] for row in record["history"]] for record in records]


def band(axes: Axes, each: Sequence[Sequence[float]], colour: str, label: str, style: str = "-") -> None:
    """Draw the mean of several runs by epoch, and for two or more a band of one standard deviation."""
    mean = [statistics.fmean(values) for values in zip(*each, strict=True)]
    places = range(1, len(mean) + 1)
    axes.plot(places, mean, style, color=colour, label=label)
    if len(each) > 1:
        deviation = [statistics.stdev(values) for values in zip(*each, strict=True)]
        low, high = ([m + sign * s for m, s in zip(mean, deviation, strict=True)] for sign in (-1, 1))
        axes.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0)


def label_epochs(axes: Axes, name: str = "Epoch") -> None:
    """Name the axis of epochs, with whole numbers, and draw a grid."""
    axes.set_xlabel(name)
    axes.locator_params(axis="x", integer=True)
    axes.grid(color="0.9")


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (0 for a single run) over seeds."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def one_panel(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one panel."""
    figure = empty_figure(8, 5)
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    return figure, axes


def mark_test(axes: Axes, runs: Runs, colour: str, label: str | None = None) -> None:
    """Mark the test loss of runs of one phase, each at the epoch that it reports."""
    phases = [next(iter(record["metrics"]["phases"].values())) for record in runs]
    # Records of the first protocol hold the best epoch alone.
    kinds = [record["metrics"].get("reported") for record in runs]
    epochs = [p[kind]["epoch"] if kind else p["best_epoch"] for p, kind in zip(phases, kinds, strict=True)]
    style: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.8, "zorder": 3}
    axes.plot(epochs, runs.values("test loss"), "D", color=colour, markersize=6, label=label, **style)
