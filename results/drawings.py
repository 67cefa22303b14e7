"""Figures across runs, made by collect.py: a line or a bar a setting, mean and standard deviation over seeds."""

import re
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from common import plots
from results import tables

Groups = Mapping[tuple[str, str], Sequence[dict]]  # records by (preset, setting)
TEST_ONCE = "test, read once, at the epoch that is reported (a mark a seed)"


def panels_of(groups: Groups) -> dict[str, dict[str, list[dict]]]:
    """Completed runs with phases, by preset and setting."""
    panels = defaultdict(dict)
    for (preset, setting), records in groups.items():
        if members := [r for r in records if r["metrics"].get("phases")]:
            panels[preset][setting] = members
    return panels


def named(settings: Mapping[str, Sequence[dict]]) -> tuple[str, dict[str, Sequence[dict]]]:
    """What a panel's settings have in common, for its title; and their runs by what is their own, for the legend."""
    words = [tables.shortened(setting).split() for setting in settings]
    common = [word for word in words[0] if all(word in own for own in words)]
    legend = []
    for own, members in zip(words, settings.values(), strict=True):
        text = " ".join(word for word in own if word not in common) or "as the preset" * (len(words) > 1)
        count = f"n = {len(members)}".replace(" ", "\N{NO-BREAK SPACE}")  # which no line ends at
        legend.append(textwrap.fill(f"{text} ({count})" if text else count, 100).replace("$", r"\$"))
    return " ".join(common).replace("$", r"\$"), dict(zip(legend, settings.values(), strict=True))


def phases(groups: Groups, path: Path) -> None:
    """Draw validation accuracy (%, mean and standard deviation over seeds) after each phase, a panel a preset."""
    panels = {preset: named(settings) for preset, settings in panels_of(groups).items()}
    if not panels:
        return
    heights = [4 + 0.2 * "\n".join(legend).count("\n") for _, legend in panels.values()]  # each with its legend
    figure = Figure(figsize=(9, sum(heights)), dpi=120, layout="constrained")
    parts = figure.subfigures(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for (preset, (common, settings)), part in zip(panels.items(), parts, strict=True):
        axes = part.subplots()
        phases = list(dict.fromkeys(p for members in settings.values() for p in members[0]["metrics"]["phases"]))
        width = min(0.3, 0.8 / len(settings))
        colours = cycle(("#56B4E9", plots.ORANGE, plots.GREEN, plots.VERMILION, "#CC79A7", "#F0E442", "0.7"))
        for place, (text, members) in enumerate(settings.items()):
            own = [phase for phase in phases if phase in members[0]["metrics"]["phases"]]
            accuracies = [[100 * r["metrics"]["phases"][p]["validation"]["accuracy"] for r in members] for p in own]
            bars = axes.bar(
                [phases.index(phase) + width * (place - (len(settings) - 1) / 2) for phase in own],
                [statistics.fmean(each) for each in accuracies],
                0.92 * width,
                yerr=[statistics.stdev(each) for each in accuracies] if len(members) > 1 else None,
                capsize=3,
                color=next(colours),
                hatch=(None, "//", "..", "xx")[place // 7 % 4],
                label=text,
            )
            if len(settings) * len(phases) <= 18:
                axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        where = ", ".join(filter(None, (preset, common)))
        title = "Accuracy after each phase, mean and standard deviation over n seeds"
        axes.set_title(f"{title}\n{textwrap.fill(where, 80)}")
        axes.set(xlabel="Phase", ylabel="Validation accuracy (%)", ylim=(0, 108), yticks=range(0, 101, 20))
        axes.set_xticks(range(len(phases)), phases)
        axes.set_xlim(-0.6, len(phases) - 0.4)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="0.9")
        part.legend(**plots.LEGEND_BELOW)
    plots.save_figure(figure, path)


def curves(groups: Groups, path: Path) -> None:
    """Draw validation accuracy and training loss by epoch: a panel row a preset, a line a setting, a band of +-1 std.

    Settings of a preset that were trained for other numbers of epochs have a row of their own.
    """
    found = panels_of({key: r for key, r in groups.items() if r[0]["history"] and "val_accuracy" in r[0]["history"][0]})
    if not found:
        return
    panels = defaultdict(dict)
    for preset, settings in found.items():
        for setting, members in settings.items():
            panels[preset, len(members[0]["history"])][setting] = members
    panels = {key: named(settings) for key, settings in panels.items()}
    # Each with its legend, for which the first six lines leave room.
    heights = [4.6 + 0.2 * max("\n".join(legend).count("\n") - 5, 0) for _, legend in panels.values()]
    figure = Figure(figsize=(11, sum(heights)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for part, ((preset, epochs), (common, settings)) in zip(parts, panels.items(), strict=True):
        several = any(len(members) > 1 for members in settings.values())
        drawn = "mean of n seeds, band of one standard deviation" if several else "single runs"
        words = " ".join(word for word in common.split() if word != f"epochs={epochs}")  # which the title says anyway
        where = ", ".join(filter(None, (preset, words, f"{epochs} epoch{'s' * (epochs > 1)}")))
        part.suptitle(textwrap.fill(f"{where}: {drawn}", 115))
        through = any(len(members[0]["metrics"]["phases"]) > 1 for members in settings.values())
        losses, accuracies = part.subplots(1, 2)
        for axes, key, scale in ((losses, "loss", 1), (accuracies, "val_accuracy", 100)):
            colours = cycle(("#56B4E9", plots.ORANGE, plots.GREEN, plots.VERMILION, "#CC79A7", "0.4"))
            for place, (text, members) in enumerate(settings.items()):
                each = [[scale * row[key] for row in record["history"]] for record in members]
                line(axes, each, next(colours), text, ("-", "--", ":")[place // 6 % 3])
            axes.set_xlabel("Epoch, counted through all phases" if through else "Epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(color="0.9")
        losses.set_ylabel("Training loss")
        accuracies.set_ylabel("Validation accuracy (%)")
        part.legend(*losses.get_legend_handles_labels(), **plots.LEGEND_BELOW)
    plots.save_figure(figure, path)


def batch_norm(groups: Groups, path: Path) -> None:
    """Draw training loss and validation accuracy by epoch under each regime of batch normalisation.

    A row for each of the settings that were run under two regimes at least and differ in nothing else; a line a regime,
    the mean over seeds, a band of one standard deviation; the phases are marked.
    """
    rows = defaultdict(dict)
    for (preset, setting), records in groups.items():
        words = setting.split()
        if (regime := records[0]["config"].get("batch_norm")) and "limit_train" in setting:
            rows[preset, " ".join(w for w in words if not w.startswith("batch_norm="))][regime] = records
    rows = {key: regimes for key, regimes in rows.items() if len(regimes) > 1}
    if not rows:
        return
    figure = Figure(figsize=(11, 4.2 * len(rows)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for part, ((preset, setting), regimes) in zip(parts, rows.items(), strict=True):
        part.suptitle(textwrap.fill(f"{preset}, {tables.shortened(setting)}".replace("$", r"\$"), 110))
        history = next(iter(regimes.values()))[0]["history"]
        for axes, key, scale, name in zip(
            part.subplots(1, 2),
            ("loss", "val_accuracy"),
            (1, 100),
            ("Training loss", "Validation accuracy (%)"),
            strict=True,
        ):
            plots.mark_phases(axes, history)
            for regime, colour in (("keep", plots.GREEN), ("layer", plots.VERMILION), ("follow", plots.BLUE)):
                if regime in regimes:
                    each = [[scale * row[key] for row in record["history"]] for record in regimes[regime]]
                    line(axes, each, colour, f"{regime} (n = {len(each)})")
            axes.set(xlabel="Epoch", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(color="0.9")
        part.legend(*axes.get_legend_handles_labels(), ncols=3, **plots.LEGEND_BELOW)
    plots.save_figure(figure, path)


def line(axes: Axes, each: Sequence[Sequence[float]], colour: str, label: str, style: str = "-") -> None:
    """Draw the mean of several runs by epoch, and for two or more a band of one standard deviation."""
    mean = [statistics.fmean(values) for values in zip(*each, strict=True)]
    places = range(1, len(mean) + 1)
    axes.plot(places, mean, style, color=colour, label=label)
    if len(each) > 1:
        spread = [statistics.stdev(values) for values in zip(*each, strict=True)]
        low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0)


def spread(records: Sequence[dict], split: str, key: str, scale: float = 1) -> tuple[float, float]:
    """Mean and standard deviation (0 for a single run) of one metric over seeds."""
    values = [scale * record["metrics"][split][key] for record in records]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def one_panel(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one panel."""
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    return figure, axes


def mark_test(axes: Axes, records: Sequence[dict], colour: str, label: str | None = None) -> None:
    """Mark the test loss of runs of one phase, each at the epoch that it reports."""
    phases = [next(iter(record["metrics"]["phases"].values())) for record in records]
    # Records of the first protocol hold the best epoch alone.
    kinds = [record["metrics"].get("reported") for record in records]
    epochs = [p[kind]["epoch"] if kind else p["best_epoch"] for p, kind in zip(phases, kinds, strict=True)]
    losses = [record["metrics"]["test"]["loss"] for record in records]
    style = {"markeredgecolor": "black", "markeredgewidth": 0.8, "zorder": 3}
    axes.plot(epochs, losses, "D", color=colour, markersize=6, label=label, **style)


def validation_loss(groups: Groups, path: Path) -> None:
    """Draw the losses of hinge_svm's best setting by step: validation, and training if it was read; a line a seed."""
    figure = Figure(figsize=(10, 5), dpi=120, layout="constrained")
    figure.suptitle("The best setting: loss while training, norm included")
    drawn = {}
    for axes, (loss, name) in zip(
        figure.subplots(1, 2),
        (("crammer_singer", "Crammer-Singer"), ("weston_watkins", "Weston-Watkins")),
        strict=True,
    ):
        members = groups.get(("best", f"dataset=cifar10 loss={loss}"), [])
        for key, split, colour, style in (
            ("train_loss", "training: mean of the steps since the last reading", plots.ORANGE, "--"),
            ("loss", "validation: all of its images", plots.BLUE, "-"),
        ):
            for record in members:
                rows = [row for row in record["metrics"]["iterations"] if key in row]
                steps, losses = ([row[name] for row in rows] for name in ("step", key))
                if rows:
                    (drawn[split],) = axes.plot(steps, losses, style, color=colour, alpha=0.7, label=split)
        axes.set(title=f"{name} (n = {len(members)}, a line a seed)", xlabel="Step", ylabel="Loss")
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    if drawn:
        figure.legend(drawn.values(), drawn, ncols=2, **plots.LEGEND_BELOW)
        plots.save_figure(figure, path)


def locality(groups: Groups, path: Path) -> None:
    """Draw permuted_cnn's accuracy after so many epochs by the size of the blocks that stay whole."""
    epochs = 5
    figure, axes = one_panel(
        f"How much neighbourhood the network needs ({epochs} epochs)",
        "Side of the blocks that are permuted whole (pixels)",
        "Test accuracy (%)",
    )
    blocks = (1, 2, 4, 7, 14, None)  # None: the whole image is one, and nothing moves
    for network, name, colour, style in (
        ("cnn", "convolutions", plots.BLUE, "o-"),
        ("mlp", "perceptron", plots.ORANGE, "s--"),
    ):
        points = {}
        for block in blocks:
            setting = f"dataset=notmnist network={network} block={block} epochs={epochs}"
            if records := groups.get(("permuted", setting)):
                points[block or 28] = (*spread(records, "test", "accuracy", 100), len(records))
        if points:
            means, stds, counts = zip(*points.values(), strict=True)
            label = f"{name} (n = {', '.join(map(str, sorted(set(counts))))})"
            axes.errorbar(list(points), means, yerr=stds, fmt=style, color=colour, capsize=3, label=label)
    if axes.containers:
        axes.set_xscale("log")
        axes.set_xticks([b or 28 for b in blocks], [str(b) if b else "28\n(as is)" for b in blocks])
        axes.minorticks_off()
        axes.legend()
        plots.save_figure(figure, path)


def sweep(groups: Groups, path: Path) -> None:
    """Draw the autoencoder's test loss by the size of its bottleneck, with that of principal components."""
    figure, axes = one_panel("Loss by the size of the bottleneck", "k", "Mean squared error of the test images")
    points = {}
    for (preset, setting), records in groups.items():
        if preset == "autoencoder" and (match := re.fullmatch(r"dataset=mnist k=(\d+)", setting)):
            pca = statistics.fmean(r["metrics"]["by_name"]["PCA test loss"] for r in records)
            points[int(match[1])] = (*spread(records, "test", "loss"), pca)
    if len(points) > 1:
        sizes, losses = zip(*sorted(points.items()), strict=True)
        means, stds, components = zip(*losses, strict=True)
        axes.errorbar(sizes, means, yerr=stds, fmt="o-", color=plots.BLUE, capsize=3, label="autoencoder")
        axes.plot(sizes, components, "s--", color=plots.ORANGE, label="principal components")
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sizes, [str(k) for k in sizes], fontsize=8, rotation=60)
        axes.minorticks_off()
        axes.legend()
        plots.save_figure(figure, path)


def transfer(groups: Groups, path: Path) -> None:
    """Draw the four cases' losses by epoch: training as a mean over the steps, and validation, with the test loss."""
    cases = {1: ("random", True), 2: ("pretrained", False), 3: ("random", False), 4: ("pretrained", True)}
    settings = {case: f"dataset=mnist encoder={e} train_encoder={trained}" for case, (e, trained) in cases.items()}
    found = {case: groups["transfer", text] for case, text in settings.items() if ("transfer", text) in groups}
    if not found:
        return
    figure = Figure(figsize=(11, 5.4), dpi=120, layout="constrained")
    figure.suptitle("A linear classifier on the encoder: mean of n seeds, band from the lowest to the highest")
    colours = {1: plots.BLUE, 2: plots.ORANGE, 3: plots.GREEN, 4: plots.VERMILION}
    for axes, key, name in zip(
        figure.subplots(1, 2, sharey=True), ("loss", "val_loss"), ("Training", "Validation"), strict=True
    ):
        for case, records in sorted(found.items()):
            each = list(zip(*([row[key] for row in record["history"]] for record in records), strict=True))
            means, epochs = [statistics.fmean(values) for values in each], range(1, len(each) + 1)
            encoder, trained = cases[case]
            label = f"case {case}: {encoder} encoder, {'trained' if trained else 'frozen'} (n = {len(records)})"
            axes.plot(epochs, means, "o-", markersize=4, color=colours[case], label=label)
            low, high = ([end(values) for values in each] for end in (min, max))
            axes.fill_between(epochs, low, high, color=colours[case], alpha=0.2, linewidth=0)
        axes.set(title=name, xlabel="Epoch", ylabel="Cross-entropy", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(color="0.9")
    for case, records in sorted(found.items()):
        mark_test(axes, records, colours[case])
    axes.plot([], [], "D", color="white", markeredgecolor="black", label=TEST_ONCE)  # of no case's colour
    axes.set_title("Validation, and test")
    figure.legend(*axes.get_legend_handles_labels(), ncols=2, **plots.LEGEND_BELOW)
    plots.save_figure(figure, path)


def transferred_blocks(groups: Groups, path: Path) -> None:
    """Draw train and test loss of rotation_contrastive's transfer by the number of blocks, frozen and trained."""
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    figure.suptitle("Blocks taken from the network that tells turned images from upright ones")
    drawn = False
    for axes, split in zip(figure.subplots(1, 2), ("train", "test"), strict=True):
        for trained, name, colour, style in (
            (True, "trained further", plots.BLUE, "o-"),
            (False, "frozen", plots.ORANGE, "s--"),
        ):
            points = {}
            for blocks in (1, 2, 3):
                if records := groups.get(("transfer", f"dataset=cifar10 blocks={blocks} train_blocks={trained}")):
                    points[blocks] = (*spread(records, split, "loss"), len(records))
            if points:
                means, stds, counts = zip(*points.values(), strict=True)
                label = f"{name} (n = {', '.join(map(str, counts))})"
                axes.errorbar(list(points), means, yerr=stds, fmt=style, color=colour, capsize=3, label=label)
                drawn = True
        if base := groups.get(("base", "dataset=cifar10")):
            mean, std = spread(base, split, "loss")
            axes.axhline(mean, color="0.3", linestyle=":", label=f"none taken: base (n = {len(base)})")
            axes.axhspan(mean - std, mean + std, color="0.9")
        axes.set(title=f"{split.capitalize()} images", xlabel="Blocks taken", ylabel="Cross-entropy", xticks=(1, 2, 3))
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    if drawn:
        figure.legend(*axes.get_legend_handles_labels(), ncols=3, **plots.LEGEND_BELOW)
        plots.save_figure(figure, path)


def arms(groups: Groups, path: Path) -> None:
    """Draw the F1 of each class in the arms of fer_layerwise_lr (mean and standard deviation), a panel a network."""
    names = {
        "frozen": "backbone frozen",
        "one_rate": "one rate for all",
        "by_depth": "rates by depth",
        "reversed": "rates in reverse order",
        "geometric_mean": "their geometric mean for all",
    }
    panels = defaultdict(dict)
    for (preset, setting), records in groups.items():
        if preset in names:
            panels[setting][preset] = records
    if not panels:
        return
    figure = Figure(figsize=(10, 4.6 * len(panels)), dpi=120, layout="constrained")
    parts = figure.subfigures(len(panels), squeeze=False)[:, 0]
    colours = dict(zip(names, ("0.6", plots.ORANGE, plots.BLUE, plots.GREEN, plots.VERMILION), strict=True))
    for part, (setting, found) in zip(parts, sorted(panels.items()), strict=True):
        axes = part.subplots()
        first = next(iter(found.values()))[0]["metrics"]["test"]["per_class"]
        step = 0.81 / max(len(found), 3)
        for place, preset in enumerate(preset for preset in names if preset in found):
            records = found[preset]
            scores = [[100 * c["f1"] for c in r["metrics"]["test"]["per_class"]] for r in records]
            scores = [[*own, 100 * r["metrics"]["test"]["macro_f1"]] for own, r in zip(scores, records, strict=True)]
            axes.bar(
                [number + step * (place - (len(found) - 1) / 2) for number in range(len(first) + 1)],
                [statistics.fmean(each) for each in zip(*scores, strict=True)],
                0.93 * step,
                yerr=[statistics.stdev(each) for each in zip(*scores, strict=True)] if len(records) > 1 else None,
                capsize=2,
                color=colours[preset],
                label=f"{names[preset]} (n = {len(records)})",
            )
        ticks = [f"{c['class']}\n{c['support']:,} images" for c in first]
        axes.set_xticks(range(len(ticks) + 1), [*ticks, "macro\nmean"], fontsize=9)
        axes.axvline(len(first) - 0.5, color="0.7", linewidth=0.8)
        title = "F1 of each class, mean and standard deviation over n seeds"
        axes.set(
            title=f"{title}\n{textwrap.fill(tables.shortened(setting), 80)}",
            ylabel="F1 of the test images (%)",
            ylim=(0, 100),
        )
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="0.9")
        part.legend(ncols=3, **plots.LEGEND_BELOW)
    plots.save_figure(figure, path)


def contrastive(groups: Groups, path: Path) -> None:
    """Draw the contrastive loss of rotation_contrastive by epoch: training, validation and test, a line a seed."""
    records = groups.get(("contrastive", "dataset=cifar10"), [])
    if not records:
        return
    figure, axes = one_panel(f"Contrastive embedding (n = {len(records)})", "Epoch", "Contrastive loss")
    for key, name, colour, style in (
        ("loss", "training, dropout on", plots.ORANGE, "--"),
        ("val_loss", "validation", plots.BLUE, "-"),
    ):
        for number, record in enumerate(records):
            values = [row[key] for row in record["history"]]
            label = f"{name} (a line a seed)" if number == 0 else None
            axes.plot(range(1, len(values) + 1), values, style, color=colour, alpha=0.8, label=label)
    mark_test(axes, records, plots.VERMILION, TEST_ONCE)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    plots.save_figure(figure, path)
