"""Figures across the runs of a task: mean and standard deviation over seeds, a line or a bar a setting."""

import statistics
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from common import words
from common.measured import TEST_ACCURACY, TEST_LOSS
from common.plots.base import (
    BLUE,
    GREEN,
    LEGEND_BELOW,
    ORANGE,
    PURPLE,
    SKY,
    TEST_REPORTED,
    VERMILION,
    empty_figure,
    save_figure,
)
from common.plots.history import mark_phases
from common.published import References
from common.selection import Group, Runs
from common.words import in_words

TEST_OF_SEEDS = f"{TEST_REPORTED} (a mark a seed)"
PUBLISHED = "published: test accuracy"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
PANELS = (
    ("loss", "Training loss", 1),
    ("val_loss", "Validation loss", 1),
    ("val_accuracy", "Validation accuracy (%)", 100),
)
REGIMES = {"keep": GREEN, "layer": VERMILION, "follow": BLUE}  # of batch normalisation


def curves(runs: Runs, path: Path, published: References | None = None, always: Sequence[str] = ()) -> None:
    """Draw losses and validation accuracy by epoch: a row of panels a data set and preset, a line a setting.

    Lines are means over seeds, bands one standard deviation. Settings of a preset that were trained for other phases or
    numbers of epochs have a row of their own. `published` marks test accuracies; `always` names fields that
    the legend says even if all lines of a row have the same.
    """
    together = defaultdict(list)
    for group in runs.groups:
        history = group.records[0]["history"]
        if "val_accuracy" in history[0]:
            together[group.preset, group.config.get("dataset"), tuple(row["phase"] for row in history)].append(group)
    rows = []
    places: dict[str, int] = {}  # one text, one colour in all rows
    for (preset, _, epochs), groups in together.items():
        common, settings = named(groups, always)
        told = words.count(len(epochs), "epoch")
        shared = [word for word in common.split(", ") if word not in (told, "")]
        lines = []
        for text, group in settings.items():
            place = places.setdefault(text.removesuffix(f"({count(group.records)})"), len(places))
            mark = accuracy_of(group, published or {})
            lines.append(Line(text, group.records, colour(place), style(place), mark))
        rows.append((", ".join([preset, *shared, told]), lines))
    draw_rows(rows, path)


def regimes(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch under each regime of batch normalisation.

    A row for each of the settings that were run under two regimes at least and differ in nothing else; a line a regime,
    the mean over seeds, a band of one standard deviation; the phases are marked.
    """
    rows = []
    for row in runs.where(batch_norm=tuple(REGIMES)).alike("batch_norm"):
        by_regime = row.by("batch_norm")
        if len(by_regime) > 1:
            lines = [
                Line(
                    f"{in_words('batch_norm', regime, {})} ({count(by_regime[regime])})", tuple(by_regime[regime]), hue
                )
                for regime, hue in REGIMES.items()
                if regime in by_regime
            ]
            rows.append((f"{row.groups[0].preset}, {named(row.groups)[0]}", lines))
    draw_rows(rows, path)


@dataclass(frozen=True)
class Line:
    """Runs of one setting, drawn as a line: the mean over seeds."""

    label: str
    records: Sequence[Mapping]
    colour: str
    style: str = "-"
    published: float | None = None
    """A test accuracy, in percent."""


def draw_rows(rows: Sequence[tuple[str, Sequence[Line]]], path: Path, published_label: str = PUBLISHED) -> None:
    """Draw rows of three panels, each with its title and legend: training loss, validation loss, validation accuracy.

    The two losses of a row have one range. Nothing is drawn of no rows.
    """
    if not rows:
        return
    # Each with its legend, for which the first four lines leave room.
    heights = [4.4 + 0.2 * max(sum(1 + line.label.count("\n") for line in lines) - 4, 0) for _, lines in rows]
    figure = Figure(figsize=(12, sum(heights)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(rows), squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, lines) in zip(parts, rows, strict=True):
        seeds = max(len(line.records) for line in lines)
        drawn = "mean of n seeds, band of one standard deviation" if seeds > 1 else "single runs (n = 1)"
        part.suptitle(textwrap.fill(f"{title}: {drawn}", 115))
        draw_row(part, lines, published_label)
    save_figure(figure, path)


def draw_row(part: SubFigure, lines: Sequence[Line], published_label: str) -> None:
    """Draw the panels of one row, without those that a line has no values for, and its legend."""
    history = lines[0].records[0]["history"]
    shown = [own for own in PANELS if all(own[0] in line.records[0]["history"][0] for line in lines)]
    panels = part.subplots(1, len(shown), squeeze=False)[0]
    if len(shown) == len(PANELS):
        panels[1].sharey(panels[0])
    for axes, (key, name, scale) in zip(panels, shown, strict=True):
        mark_phases(axes, history)
        for line in lines:
            band(axes, by_epoch(line.records, key, scale), line.colour, line.label, line.style)
        axes.set_ylabel(name)
        several = len({row["phase"] for row in history}) > 1
        label_epochs(axes, "Epoch, counted through all phases" if several else "Epoch")
    marked = [line for line in lines if line.published is not None]
    for line in marked:
        is_shared = [other.published for other in marked].count(line.published) > 1
        shade = "0.3" if is_shared else line.colour
        panels[-1].axhline(line.published, color=shade, linestyle=(0, (1, 2)), linewidth=1.5)
    handles, labels = panels[0].get_legend_handles_labels()
    if marked:
        handles = [*handles, Line2D([], [], color="0.3", linestyle=(0, (1, 2)), linewidth=1.5)]
        labels = [*labels, published_label]
    part.legend(handles, labels, **LEGEND_BELOW)


def colour(place: int) -> str:
    """Of the line at this place among those of a row."""
    return COLOURS[place % len(COLOURS)]


def style(place: int) -> str:
    """Of the line at this place among those of a row."""
    return ("-", "--", ":")[place // len(COLOURS) % 3]


def accuracy_of(group: Group, published: References) -> float | None:
    """The test accuracy that a source has published of a setting, in percent."""
    row = published.get((group.preset, group.setting, TEST_ACCURACY.name))
    return float(row["published"]) if row else None


def count(runs: Sized) -> str:
    """How many seeds, in a text whose lines do not end within it."""
    return f"n = {len(runs)}".replace(" ", "\N{NO-BREAK SPACE}")


def named(groups: Sequence[Group], always: Sequence[str] = ()) -> tuple[str, dict[str, Group]]:
    """What a panel's settings have in common, for its title; and the groups by what is their own, for the legend.

    What one of them says is said of all, also of those that have it from their preset. The legend has the fields that
    `always` names even if they are common.
    """
    keys = list(dict.fromkeys([*always, *(key for group in groups for key in group.parts)]))
    kept = {said(group, key) for group in groups for key in always}
    words = [[word for key in keys if (word := said(group, key))] for group in groups]
    common = [word for word in words[0] if word not in kept and all(word in own for own in words)]
    legend = {}
    for own, group in zip(words, groups, strict=True):
        text = ", ".join(word for word in own if word not in common) or "as the preset" * (len(words) > 1)
        told = f"{text} ({count(group.records)})" if text else count(group.records)
        legend[textwrap.fill(told, 100).replace("$", r"\$")] = group
    return ", ".join(common).replace("$", r"\$"), legend


def said(group: Group, key: str) -> str:
    """A config field in words, also if the label lacks it; nothing if older code had no such field."""
    if key in group.parts:
        return group.said_of(key)
    return in_words(key, group.config[key], group.words) if key in group.config else ""


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
    axes.plot(epochs, runs.values(TEST_LOSS.name), "D", color=colour, markersize=6, label=label, **style)
