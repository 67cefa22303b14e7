"""What a reader gets of cifar_phased: what each phase adds, and what the recipe of phases is worth."""

import textwrap
from collections import defaultdict
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.plots import across
from common.plots.base import GREEN, LEGEND_BELOW, ORANGE, PURPLE, SKY, VERMILION, YELLOW, save_figure
from common.report import Pair, Pictures, Report
from common.selection import Group, Runs

HEAD_ALONE = {
    "phases.0.trainable": "head",
    "phases.0.name": "head",
    "phases.0.rate": 0.001,
    "phases.0.dropout": 0.5,
}


def phases(runs: Runs, path: Path) -> None:
    """Draw validation accuracy (%, mean and standard deviation over seeds) after each phase, a panel a preset."""
    presets = defaultdict(list)
    for group in runs.groups:
        presets[group.preset].append(group)
    if not presets:
        return
    panels = {preset: across.named(groups) for preset, groups in presets.items()}
    heights = [4 + 0.2 * "\n".join(legend).count("\n") for _, legend in panels.values()]  # each with its legend
    figure = Figure(figsize=(9, sum(heights)), dpi=120, layout="constrained")
    parts = figure.subfigures(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for part, (preset, (common, settings)) in zip(parts, panels.items(), strict=True):
        axes = part.subplots()
        draw_phases(axes, settings)
        title = "Accuracy after each phase, mean and standard deviation over n seeds"
        axes.set_title(f"{title}\n{textwrap.fill(', '.join(filter(None, (preset, common))), 80)}")
        part.legend(**LEGEND_BELOW)
    save_figure(figure, path)


def draw_phases(axes: Axes, settings: Mapping[str, Group]) -> None:
    """Draw the bars of one preset: each phase, a setting beside the other."""
    accuracies = {
        text: {
            phase: [100 * record["metrics"]["phases"][phase]["validation"]["accuracy"] for record in group.records]
            for phase in group.records[0]["metrics"]["phases"]
        }
        for text, group in settings.items()
    }
    names = list(dict.fromkeys(phase for by_phase in accuracies.values() for phase in by_phase))
    width = min(0.3, 0.8 / len(settings))
    colours = cycle((SKY, ORANGE, GREEN, VERMILION, PURPLE, YELLOW, "0.7"))
    for place, (text, by_phase) in enumerate(accuracies.items()):
        means, deviations = zip(*map(across.spread, by_phase.values()), strict=True)
        bars = axes.bar(
            [names.index(phase) + width * (place - (len(settings) - 1) / 2) for phase in by_phase],
            means,
            0.92 * width,
            yerr=deviations if len(settings[text].records) > 1 else None,
            capsize=3,
            color=next(colours),
            hatch=(None, "//", "..", "xx")[place // 7 % 4],
            label=text,
        )
        if len(settings) * len(names) <= 18:
            axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.set(xlabel="Phase", ylabel="Validation accuracy (%)", ylim=(0, 108), yticks=range(0, 101, 20))
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9")


def batch_norm(runs: Runs, path: Path) -> None:
    """Draw training loss and validation accuracy by epoch under each regime of batch normalisation."""
    across.regimes(runs.where(limit_train=5000), path)


REPORT = Report(
    pairs=(
        *(
            Pair({"preset": "three_phase", "batch_norm": "keep"}, {"preset": "three_phase", "batch_norm": other})
            for other in ("layer", "follow")
        ),
        *(
            Pair({"preset": "laptop"}, {"preset": "one_phase", **fields}, ignoring=("phases",))
            for fields in ({}, {"phases.0.rate": 1e-5}, HEAD_ALONE)
        ),
    ),
    figures=(phases, across.curves, batch_norm),
    pictures=Pictures(
        {"preset": "laptop", "dataset": "cifar10", "weights": ..., "backbone": "mobilenet_v2", "batch_norm": "keep"},
        {
            "confusion": "Confusion matrix of the test images",
            "destinations": "What frogs are taken for",
            "mistaken": "Frogs that the network took for something else",
            "augmentation": "What the network sees of a training image",
        },
    ),
)
