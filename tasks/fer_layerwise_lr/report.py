"""What a reader gets of fer_layerwise_lr: the arms compared, by class and by epoch."""

import statistics
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from common.measured import Metric, percent
from common.plots import across
from common.plots.base import BLUE, GREEN, LEGEND_BELOW, ORANGE, VERMILION, empty_figure, save_figure
from common.report import Pair, Pictures, Report, shortened
from common.selection import Group, Runs

ARMS = {
    "frozen": ("backbone frozen", "0.6"),
    "one_rate": ("one rate for all", ORANGE),
    "by_depth": ("rates by depth", BLUE),
    "reversed": ("rates in reverse order", GREEN),
    "geometric_mean": ("their geometric mean for all", VERMILION),
}


def arms(runs: Runs, path: Path) -> None:
    """Draw the F1 of each class in the arms of fer_layerwise_lr (mean and standard deviation), a panel a network."""
    panels: defaultdict[str, dict[str, Group]] = defaultdict(dict)
    for group in runs.where(preset=tuple(ARMS)).groups:
        panels[group.setting][group.preset] = group
    if not panels:
        return
    figure = empty_figure(10, 4.6 * len(panels))
    parts = figure.subfigures(len(panels), squeeze=False)[:, 0]
    for part, (setting, found) in zip(parts, sorted(panels.items()), strict=True):
        axes = part.subplots()
        draw_arms(axes, {preset: found[preset] for preset in ARMS if preset in found})
        title = "F1 of each class, mean and standard deviation over n seeds"
        axes.set(title=f"{title}\n{textwrap.fill(shortened(setting), 80)}", ylabel="F1 of the test images (%)")
        part.legend(ncols=3, **LEGEND_BELOW)
    save_figure(figure, path)


def draw_arms(axes: Axes, arms: Mapping[str, Group]) -> None:
    """Draw the bars of one panel: each class and their mean, an arm beside the other."""
    step = 0.81 / max(len(arms), 3)
    for place, (preset, group) in enumerate(arms.items()):
        name, colour = ARMS[preset]
        tests = [record["metrics"]["test"] for record in group.records]
        scores = [[100 * c["f1"] for c in test["per_class"]] + [100 * test["macro_f1"]] for test in tests]
        by_class = list(zip(*scores, strict=True))
        axes.bar(
            [number + step * (place - (len(arms) - 1) / 2) for number in range(len(by_class))],
            [statistics.fmean(each) for each in by_class],
            0.93 * step,
            yerr=[statistics.stdev(each) for each in by_class] if len(tests) > 1 else None,
            capsize=2,
            color=colour,
            label=f"{name} (n = {len(tests)})",
        )
    classes = next(iter(arms.values())).records[0]["metrics"]["test"]["per_class"]
    ticks = [f"{c['class']}\n{c['support']:,} images" for c in classes]
    axes.set_xticks(range(len(ticks) + 1), [*ticks, "macro\nmean"], fontsize=9)
    axes.axvline(len(classes) - 0.5, color="0.7", linewidth=0.8)
    axes.set_ylim(0, 100)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9")


def batch_norm(runs: Runs, path: Path) -> None:
    """Draw training loss and validation accuracy by epoch under each regime of batch normalisation."""
    across.regimes(runs.where(limit_train=5000), path)


def arm_against(one: str, other: str, **fields: object) -> Pair:
    """An arm against another, which differ in rates; `fields` are the other's."""
    return Pair({"preset": one}, {"preset": other, **fields}, ignoring=("rates",))


REPORT = Report(
    pairs=(
        arm_against("by_depth", "one_rate"),
        arm_against("by_depth", "frozen"),
        arm_against("one_rate", "frozen"),
        *(
            Pair({"preset": "by_depth", "batch_norm": "keep"}, {"preset": "by_depth", "batch_norm": other})
            for other in ("layer", "follow")
        ),
        *(arm_against("by_depth", arm) for arm in ("reversed", "geometric_mean")),
        *(arm_against("by_depth", arm, rates={"head": 0.001}) for arm in ("reversed", "geometric_mean")),
    ),
    figures=(across.curves, arms, batch_norm),
    pictures=Pictures(
        {
            "preset": "by_depth",
            "dataset": "fer2013",
            "weights": ...,
            "backbone": ...,
            "image_size": ...,
            "batch_norm": ...,
        },
        {
            "confusion": "Confusion matrix of the test images",
            "per_class": "Precision, recall and F1 of each class",
        },
    ),
    metrics=(
        percent("test F1 of * (%)", detail=True),
        Metric("test images that are training images too"),
        percent("test accuracy without these (%)"),
        percent("test macro F1 without these (%)", detail=True),
    ),
)
