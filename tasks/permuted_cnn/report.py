"""What a reader gets of permuted_cnn: what the permutation costs each network, and how much neighbourhood it needs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from common.claims import Claim, Finding, Word, compared, named
from common.comparison import Side, difference, quantile
from common.measured import TEST_ACCURACY
from common.plots import across
from common.plots.base import BLUE, GREEN, LEGEND_BELOW, ORANGE, SKY, empty_figure, save_figure
from common.report import Headline, Pair, Part, Pictures, Report, Table
from common.selection import Fields, Runs
from tasks.permuted_cnn.train import PRESETS

NOTMNIST: Fields = {"preset": "permuted", "dataset": "notmnist"}
NETWORKS: Mapping[str, Fields] = {
    "convolutions": {"network": "cnn", "padding": "valid"},
    "convolutions, images resized to 24 pixels": {"network": "cnn", "padding": "valid", "image_size": 24},
    "convolutions, padded": {"network": "cnn", "padding": ("same", None)},  # None: records of before it was a choice
    "perceptron": {"network": "mlp"},
}
COLOURS = {
    "convolutions": BLUE,
    "convolutions, images resized to 24 pixels": SKY,
    "convolutions, padded": GREEN,
    "perceptron": ORANGE,
}
BLOCKS = (1, 2, 4, 7, 14, None)  # sides of the blocks that are moved whole; of None nothing is moved
FULL, SHORT = 20, 5  # epochs of the source, and of the curve over blocks
TWICE = 2  # times as many errors: the least that we call "a lot", for which the source has no number


def moved(block: object) -> str:
    """What is permuted, in words."""
    if block is None:
        return "images as they are"
    return "pixels permuted" if block == 1 else f"blocks of {block}x{block} pixels permuted"


# --- tables

TABLES = (
    Table(
        "Test accuracy (%). The source says that it drops a lot, and prints no number",
        of=NOTMNIST,
        rows={name: Part(fields) for name, fields in NETWORKS.items()},
        columns={moved(block): Part({"block": block}, metric=TEST_ACCURACY.name) for block in (None, 1)},
        corner="network",
    ),
    Table(
        f"Blocks of pixels permuted whole, {SHORT} epochs: test accuracy (%)",
        of={**NOTMNIST, "epochs": SHORT},
        rows={moved(block): Part({"block": block}) for block in BLOCKS},
        columns={
            "convolutions": Part(NETWORKS["convolutions"], metric=TEST_ACCURACY.name),
            "convolutions, padded": Part(NETWORKS["convolutions, padded"], metric=TEST_ACCURACY.name),
            "perceptron": Part(NETWORKS["perceptron"], metric=TEST_ACCURACY.name),
        },
    ),
)


# --- the claim


def drops_a_lot(runs: Runs) -> Finding:
    """Whether the source's network loses accuracy on permuted images, and makes at least twice the errors."""
    plain, permuted = (
        Side(tuple(runs.completed.chosen({**NOTMNIST, **NETWORKS["convolutions"], "block": block})))
        for block in (None, 1)
    )
    return named({"accuracy": compared(plain, permuted), "errors": times_the_errors(permuted, plain)})


def times_the_errors(one: Side, other: Side) -> Finding:
    """Whether one side makes at least twice as many errors as the other, seed by seed.

    A seed with which the other makes none has no ratio, and is left out.
    """
    shared = sorted(seed for seed in one.values.keys() & other.values.keys() if other.values[seed] < 100)
    ratios = [(100 - one.values[seed]) / (100 - other.values[seed]) for seed in shared]
    if not ratios:
        return Finding("not tested")
    if len(ratios) == 1:
        return Finding("undecided", f"{ratios[0]:.2f} times as many (n = 1)")
    found = difference(ratios)
    word: Word = "holds" if found.low > TWICE else "fails" if found.high < TWICE else "undecided"
    interval = f"({found.low:.2f} to {found.high:.2f}; n = {len(ratios)})"
    return Finding(word, f"{found.mean:.2f} times as many {interval}", difference([own - TWICE for own in ratios]).p)


# --- figures


def curves(runs: Runs, path: Path) -> None:
    """Draw training loss and validation accuracy by epoch, of images as they are and permuted, and the end enlarged."""
    found = {
        (name, block): own
        for name, fields in NETWORKS.items()
        for block in (None, 1)
        if (own := runs.chosen({**NOTMNIST, **fields, "block": block}))
    }
    if len(found) < 2:  # one curve compares nothing
        return
    figure = empty_figure(13, 5)
    figure.suptitle("notMNIST: mean of n seeds, band of one standard deviation (none for a single run)")
    losses, accuracies, end = figure.subplots(1, 3)
    for axes, key, scale in ((losses, "loss", 1), (accuracies, "val_accuracy", 100), (end, "val_accuracy", 100)):
        for (name, block), own in found.items():
            label = f"{name}, {moved(block)} (n = {len(own)})"
            across.band(
                axes, across.by_epoch(tuple(own), key, scale), COLOURS[name], label, "-" if block is None else "--"
            )
        across.label_epochs(axes)
    losses.set(title="Training", ylabel="Loss", ylim=(0, None))
    accuracies.set(title="Validation", ylabel="Accuracy (%)", ylim=(0, 100))
    enlarge(end, list(found.values()))
    figure.legend(*losses.get_legend_handles_labels(), ncols=3, **LEGEND_BELOW)
    save_figure(figure, path)


def enlarge(axes: Axes, runs: Sequence[Runs]) -> None:
    """Limit a panel of accuracies to the second half of the training and to what was measured there."""
    epochs = max(len(record["history"]) for own in runs for record in own)
    first = epochs // 2
    seen = [100 * row["val_accuracy"] for own in runs for record in own for row in record["history"][first:]]
    axes.set(title=f"Validation from epoch {first + 1}, enlarged", ylabel="Accuracy (%)")
    axes.set(xlim=(first + 1, epochs), ylim=(math.floor(min(seen)), math.ceil(max(seen))))


def locality(runs: Runs, path: Path) -> None:
    """Draw the test accuracy after 5 epochs by the size of the blocks that stay whole, with 95 % intervals."""
    every = {"epochs": SHORT, "block": ...}
    found = {name: runs.chosen({**NOTMNIST, **fields, **every}) for name, fields in NETWORKS.items()}
    if not any(found.values()):
        return
    figure, axes = across.one_panel(
        f"notMNIST: how much neighbourhood a network needs ({SHORT} epochs)", "What is permuted", "Test accuracy (%)"
    )
    places = {block: place for place, block in enumerate(BLOCKS)}
    for shift, (name, own) in enumerate(found.items()):
        by_block = own.by("block")
        told = f"{name} ({counts(own)})"
        for blocks, label in ((BLOCKS[:-1], told), (BLOCKS[-1:], None)):  # nothing leads from blocks to none
            drawn = [block for block in blocks if block in by_block]
            points = [mean_and_reach(by_block[block]) for block in drawn]
            if points:
                means, reaches = zip(*points, strict=True)
                xs = [places[block] + 0.08 * (shift - 1) for block in drawn]
                axes.errorbar(xs, means, yerr=reaches, fmt="o-", color=COLOURS[name], capsize=3, label=label)
    ticks = ["nothing" if block is None else moved(block).removesuffix(" permuted") for block in BLOCKS]
    axes.set_xticks(list(places.values()), [tick.replace(" of ", " of\n") for tick in ticks])
    axes.axvline(len(BLOCKS) - 1.5, color="0.6", linewidth=0.8)
    axes.legend(title="bars: 95 % interval (test images, and seeds if several)", fontsize=9, title_fontsize=9)
    save_figure(figure, path)


def counts(runs: Runs) -> str:
    """Numbers of seeds of the groups, for a legend."""
    return "n = " + " or ".join(map(str, sorted({len(group.records) for group in runs.groups})))


def mean_and_reach(runs: Runs) -> tuple[float, float]:
    """The mean test accuracy, and half of its 95 % interval: over test images and, of several seeds, over these too."""
    accuracies = runs.values(TEST_ACCURACY.name)
    mean, n = statistics.fmean(accuracies), len(accuracies)
    images = min(record["metrics"]["test"]["n"] for record in runs)
    chance = quantile(0.975, images - 1) * math.sqrt(mean * (100 - mean) / images)
    seeds = quantile(0.975, n - 1) * statistics.stdev(accuracies) / math.sqrt(n) if n > 1 else 0.0
    return mean, math.hypot(chance, seeds)


PERMUTED: Fields = {"preset": "permuted", "epochs": FULL}
REPORT = Report(
    tables=TABLES,
    pairs=(
        Pair({**PERMUTED, "block": 1}, {**PERMUTED, "block": None}, words=(moved(1), moved(None))),
        Pair(
            {**PERMUTED, "network": "cnn"},
            {**PERMUTED, "network": "mlp"},
            words=("convolutional network", "perceptron"),
        ),
        Pair({**PERMUTED, "padding": "same"}, {**PERMUTED, "padding": "valid"}, words=("padded", "not padded")),
        Pair({**PERMUTED, "image_size": 24}, {**PERMUTED, "image_size": None}, words=("24 pixels", "28 pixels")),
    ),
    claims=(
        Claim(
            "002",
            "Accuracy drops a lot when the pixels are permuted (here: it drops, and errors at least double)",
            drops_a_lot,
        ),
    ),
    figures=(curves, locality),
    pictures=Pictures(
        {"preset": "permuted", "dataset": "notmnist", "network": "cnn", "block": 1},
        {
            "images": "Images, and what the network sees of them",
            "confusion": "Confusion matrix of the test images",
        },
    ),
    headline=Headline(
        Pair(
            {"preset": "permuted", "dataset": "notmnist", "network": "cnn", "block": 1},
            {"preset": "permuted", "dataset": "notmnist", "network": "cnn", "block": None},
        )
    ),
    words={
        "network": {"cnn": "convolutional network", "mlp": "perceptron"},
        "padding": {"same": "padded", "valid": "not padded"},
        "block": moved,
    },
    presets=PRESETS,
)
