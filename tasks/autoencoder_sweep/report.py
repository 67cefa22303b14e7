"""What a reader gets of autoencoder_sweep: loss by the size of the bottleneck, dropout, the cases of transfer."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from common.claims import NOT_TESTED, Claim, Finding, Word, compared, named, near, tally
from common.comparison import Side, compare
from common.measured import Metric, loss
from common.plots import across
from common.plots.base import BLUE, GREEN, LEGEND_BELOW, ORANGE, PURPLE, VERMILION, empty_figure, save_figure
from common.published import printed, read_references
from common.report import Pair, Part, Pictures, Report, Table
from common.selection import Fields, Runs
from common.words import number
from tasks.autoencoder_sweep.train import PRESETS

MNIST: Fields = {"preset": "autoencoder", "dataset": "mnist"}
SIZES = (1, 2, 5, 10, 20, 50, 100, 150, 200, 300, 400, 500, 600, 700)
ENOUGH = 300  # the size from which the source's loss falls no more
TRAIN, TEST, PCA = "running train loss", "test loss", "PCA test loss"
REFERENCES = read_references(Path(__file__).with_name("reference.csv"))
COMPONENTS = "components for {} % of the variance"

# The source's cases: encoder, whether it is trained, and a colour.
CASES = {
    1: ("random", True, BLUE),
    2: ("pretrained", False, ORANGE),
    3: ("random", False, GREEN),
    4: ("pretrained", True, VERMILION),
}
# The rates and sizes of the source, then our arms, by how they differ from them.
DROPOUT: Mapping[str, Fields] = {
    "k = 300, p = 0": {"k": 300},
    "k = 300, p = 0.1": {"k": 300, "dropout": 0.1},
    "k = 300, p = 0.3": {"k": 300, "dropout": 0.3},
    "k = 500, p = 0.1": {"k": 500, "dropout": 0.1},
    "k = 500, p = 0.3": {"k": 500, "dropout": 0.3},
}
BATCH: Fields = {"batch_size": 128}
KERAS: Fields = {"initialisation": "keras"}
INPUT: Mapping[str, Fields] = {
    name: {**fields, "input_dropout": fields["dropout"]} for name, fields in DROPOUT.items() if "dropout" in fields
}
ARMS: Mapping[str, Mapping[str, Fields]] = {
    "input pixels dropped too": INPUT,
    "batch of 128": {name: {**fields, **BATCH} for name, fields in DROPOUT.items()},
    "input pixels dropped too, batch of 128": {name: {**fields, **BATCH} for name, fields in INPUT.items()},
}


def of_case(case: int) -> dict[str, object]:
    """A case of transfer as config fields."""
    encoder, trained, _ = CASES[case]
    return {"encoder": encoder, "train_encoder": trained}


def in_words(case: int) -> str:
    """A case of transfer."""
    encoder, trained, _ = CASES[case]
    return f"case {case}: {encoder} encoder, {'all trained' if trained else 'frozen'}"


# --- tables

LOSSES = {
    "training: source": Part(metric=TRAIN, shows="published"),
    "training: ours": Part(metric=TRAIN),
    "test: source": Part(metric=TEST, shows="published"),
    "test: ours": Part(metric=TEST),
}
# What the source does not print, on which case 3 hangs most.
UNPRINTED: Mapping[str, Fields] = {
    **{f"case {case}, batch of 128": {**of_case(case), **BATCH} for case in CASES},
    "case 3, Keras's initial weights": {**of_case(3), **KERAS},
    "case 3, Keras's initial weights, batch of 128": {**of_case(3), **KERAS, **BATCH},
}
TABLES = (
    Table(
        "The autoencoder with k = 300 (mean squared error), and principal components of the same images",
        of={**MNIST, "k": 300},
        rows={
            "training loss, mean of the last epoch": Part(metric=TRAIN),
            "test loss": Part(metric=TEST),
            "components for 95 % of the variance": Part(metric=COMPONENTS.format(95)),
            "components for 99 % of the variance": Part(metric=COMPONENTS.format(99)),
        },
        columns={
            "source": Part(shows="published"),
            "ours": Part(),
            "batch of 128": Part(BATCH),
            "Keras's initial weights": Part(KERAS),
        },
    ),
    Table(
        "Dropout with rate p after each hidden layer: mean squared error (training: mean of the last epoch)",
        of=MNIST,
        rows={
            **{name: Part(fields) for name, fields in DROPOUT.items()},
            **{f"{name}, {arm}": Part(fields) for arm, rows in ARMS.items() for name, fields in rows.items()},
        },
        columns=LOSSES,
    ),
    Table(
        "A linear classifier on the encoder with k = 300: cross-entropy (training: mean of the last epoch)",
        of={"preset": "transfer", "dataset": "mnist"},
        rows={
            **{in_words(case): Part(of_case(case)) for case in CASES},
            **{name: Part(fields) for name, fields in UNPRINTED.items()},
        },
        columns={**LOSSES, "test accuracy (%)": Part(metric="test accuracy (%)")},
    ),
    Table(
        "Mean squared error by the size k of the bottleneck, and of k principal components",
        of=MNIST,
        rows={str(k): Part({"k": k}) for k in SIZES},
        columns={
            "training": Part(metric=TRAIN),
            "test": Part(metric=TEST),
            "principal components: test": Part(metric=PCA),
        },
        corner="k",
    ),
)


# --- claims


def side(runs: Runs, metric: str = TEST) -> Side:
    """One side of a comparison."""
    return Side(tuple(runs.completed), metric)


def of_size(runs: Runs, k: int) -> Side:
    """The test loss of the autoencoders of a size."""
    return side(runs.chosen({**MNIST, "k": k}))


def falls_until_enough(runs: Runs) -> Finding:
    """Whether the test loss falls with each step of the size up to the source's."""
    steps = pairwise(k for k in SIZES if k <= ENOUGH)
    return tally({f"k = {one} to {two}": compared(of_size(runs, one), of_size(runs, two)) for one, two in steps})


def falls_no_more(runs: Runs, since: int = ENOUGH) -> Finding:
    """Whether no size above one has a test loss that is lower by the margin of the published one or more."""
    margin = printed(REFERENCES, {**MNIST, "k": ENOUGH}, TEST, "margin")
    larger = (k for k in SIZES if k > since)
    return tally({f"k = {k}": not_above(of_size(runs, since), of_size(runs, k), margin) for k in larger})


def not_above(one: Side, other: Side, margin: float) -> Finding:
    """Whether one side is less than a margin above the other."""
    finding, found = compared(one, other), compare(one, other, margin)
    if found is None:
        return finding
    word: Word = "holds" if found.high < 0 else "fails" if found.low > 0 else "undecided"
    return replace(finding, word=word, p=found.p)


def components_agree(runs: Runs) -> Finding:
    """Whether the loss falls to the size that is nearest to what holds 99 % of the variance, and then no more."""
    counts = side(runs.chosen({**MNIST, "k": ENOUGH}), COMPONENTS.format(99)).values
    if not counts:
        return NOT_TESTED
    count = statistics.median(counts.values())
    nearest = min(SIZES[1:], key=lambda k: abs(k - count))
    before = SIZES[SIZES.index(nearest) - 1]
    there, earlier = falls_no_more(runs, nearest), falls_no_more(runs, before)
    told = f"{count:g} components, nearest size {nearest}; no more "
    told += f"from {nearest}: {there.word}, from {before}: {earlier.word}"
    if "not tested" in (there.word, earlier.word):
        return NOT_TESTED
    if there.word == "fails" or earlier.word == "holds":
        return Finding("fails", told, there.p if there.word == "fails" else earlier.p)
    if there.word == "holds" and earlier.word == "fails":
        return Finding("holds", told, max(there.p, earlier.p))
    return Finding("undecided", told)


def dropout_hurts(runs: Runs) -> Finding:
    """Whether each rate has a higher test loss than no dropout."""
    return more_dropout(runs, ((0.0, 0.1), (0.0, 0.3)))


def more_dropout_hurts_more(runs: Runs) -> Finding:
    """Whether the higher rate has the higher test loss."""
    return more_dropout(runs, ((0.1, 0.3),))


def more_dropout(runs: Runs, steps: Sequence[tuple[float, float]]) -> Finding:
    """Whether the test loss rises from each rate to the other, with both of the source's sizes."""
    found = {}
    for k in (300, 500):
        for low, high in steps:
            less, more = (side(runs.chosen({**MNIST, "k": k, "dropout": rate})) for rate in (low, high))
            found[f"k = {k}, p = {low:g} to {high:g}"] = compared(more, less)
    return named(found)


def case(runs: Runs, which: int) -> Side:
    """The test loss of a case of transfer."""
    return side(runs.chosen({"preset": "transfer", "dataset": "mnist", **of_case(which)}))


def case_1_is_best(runs: Runs) -> Finding:
    """Whether every other case has a higher test loss."""
    return named({f"case {other} minus 1": compared(case(runs, other), case(runs, 1)) for other in (2, 3, 4)})


def case_3_is_worst(runs: Runs) -> Finding:
    """Whether every other case has a lower test loss."""
    return named({f"case 3 minus {other}": compared(case(runs, 3), case(runs, other)) for other in (1, 2, 4)})


def case_4_is_like_case_2(runs: Runs) -> Finding:
    """Whether their test losses differ by less than the margin of the published one."""
    margin = printed(REFERENCES, {"preset": "transfer", "dataset": "mnist", **of_case(2)}, TEST, "margin")
    return near(case(runs, 4), case(runs, 2), margin)


CLAIMS = (
    Claim("003", "The loss falls with every step of k up to 300", falls_until_enough),
    Claim("003", "and no more beyond (by less than 0.0001, the margin of the published loss)", falls_no_more),
    Claim(
        "003",
        "Principal components agree (the loss falls to the size that is nearest to the number of components that hold "
        "99 % of the variance, and no more beyond, by less than 0.0001)",
        components_agree,
    ),
    Claim("003", "Dropout hurts (test loss)", dropout_hurts),
    Claim("003", "More dropout hurts more (test loss)", more_dropout_hurts_more),
    Claim("003", "Case 1 of the transfer is the best (test loss)", case_1_is_best),
    Claim("003", "Case 3 is the worst (test loss)", case_3_is_worst),
    Claim("003", "Case 4 is like case 2 (test losses differ by less than 0.01)", case_4_is_like_case_2),
)


# --- figures

PUBLISHED: dict[str, Any] = {
    "marker": "*",
    "markersize": 13,
    "markeredgecolor": "black",
    "markeredgewidth": 0.8,
    "linestyle": "none",
}


def counted(runs: Sequence[Runs]) -> str:
    """Numbers of seeds, for a legend."""
    counts = sorted({len(own) for own in runs})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def in_numbers(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def sizes(runs: Runs, path: Path) -> None:
    """Draw the autoencoder's test loss by the size of its bottleneck, with that of principal components."""
    by_size = runs.where(MNIST).as_preset("dataset", "k").by("k")
    if len(by_size) < len(SIZES) // 2:  # too few for a curve
        return
    figure, axes = across.one_panel(
        "MNIST: loss by the size of the bottleneck", "Size k of the bottleneck", "Test loss (mean squared error)"
    )
    found = dict(sorted(by_size.items()))
    means, deviations = zip(*(across.spread(own.values(TEST)) for own in found.values()), strict=True)
    components = [statistics.fmean(own.values(PCA)) for own in found.values()]
    label = f"autoencoder ({counted(list(found.values()))}; bars: one standard deviation)"
    axes.errorbar(list(found), means, yerr=deviations, fmt="o-", color=BLUE, capsize=3, label=label)
    axes.plot(list(found), components, "s--", color=ORANGE, label="principal components")
    source = printed(REFERENCES, {**MNIST, "k": ENOUGH}, TEST)
    axes.plot(ENOUGH, source, color="white", label="autoencoder of source 003", **PUBLISHED)
    axes.set_xscale("log")
    axes.set_xticks(list(found), [str(k) for k in found], fontsize=8, rotation=60)
    axes.minorticks_off()
    in_numbers(axes)
    least = min(source, *means) / 2  # the range of the autoencoder
    axes.set_ylim(least, 1.3 * max(*means, *components))
    if min(components) < least:
        told = f"principal components fall on below this axis, to {number(float(f'{min(components):.0e}'))}"
        axes.annotate(told, (0.015, 0.02), xycoords="axes fraction", fontsize=9)
    axes.legend(fontsize=9)
    save_figure(figure, path)


def dropout(runs: Runs, path: Path) -> None:
    """Draw training and test loss with dropout beside the published ones, and of arms that may explain the gap."""
    kinds: dict[str, Mapping[str, Fields]] = {"ours": DROPOUT, **ARMS}
    styles = dict(zip(kinds, (("o", BLUE), ("s", GREEN), ("^", PURPLE), ("D", VERMILION)), strict=True))
    found = {
        kind: {name: own for name, fields in rows.items() if (own := runs.chosen({**MNIST, **fields}))}
        for kind, rows in kinds.items()
    }
    if not any("dropout" in group.parts for rows in found.values() for own in rows.values() for group in own.groups):
        return
    figure = empty_figure(10, 4.6)
    figure.suptitle(
        "MNIST: dropout with rate p after each hidden layer (mean of n seeds, bars of one standard deviation)"
    )
    places = {name: place for place, name in enumerate(DROPOUT)}
    training, test = figure.subplots(1, 2, sharey=True)
    for axes, metric, title in ((training, TRAIN, "Training, mean of the last epoch"), (test, TEST, "Test")):
        for shift, (kind, rows) in enumerate(found.items()):
            if rows:
                means, deviations = zip(*(across.spread(own.values(metric)) for own in rows.values()), strict=True)
                marker, colour = styles[kind]
                xs = [places[name] + 0.15 * shift for name in rows]
                label = f"{kind} ({counted(list(rows.values()))})"
                axes.errorbar(xs, means, yerr=deviations, fmt=marker, color=colour, capsize=3, label=label)
        source = [printed(REFERENCES, {**MNIST, **fields}, metric) for fields in DROPOUT.values()]
        axes.plot([place - 0.15 for place in places.values()], source, color="white", label="source 003", **PUBLISHED)
        axes.set_xticks(list(places.values()), [name.replace(", ", "\n") for name in places])
        axes.set(title=title, ylabel="Mean squared error", ylim=(0, None), xlim=(-0.4, len(places) - 0.3))
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    figure.legend(*test.get_legend_handles_labels(), ncols=4, **LEGEND_BELOW)
    save_figure(figure, path)


def transfer(runs: Runs, path: Path) -> None:
    """Draw the four cases' losses by epoch: training as a mean over the steps, and validation, with the test loss."""
    runs = runs.where(preset="transfer", dataset="mnist").as_preset("dataset", "encoder", "train_encoder")
    cases = {case: runs.where(of_case(case)) for case in CASES if runs.where(of_case(case))}
    if not cases:
        return
    figure = empty_figure(11, 5.6)
    figure.suptitle("MNIST: a linear classifier on the encoder (mean of n seeds, band from the lowest to the highest)")
    training, validation = figure.subplots(1, 2, sharey=True)
    for axes, key, title in ((training, "loss", "Training"), (validation, "val_loss", "Validation, and test")):
        for case, own in cases.items():
            draw_case(axes, case, own, key)
        axes.set(title=title, xlabel="Epoch", ylabel="Cross-entropy")
        axes.set_xticks(range(2, 11, 2))
        axes.grid(color="0.9")
        in_numbers(axes)
    for case, own in cases.items():
        across.mark_test(validation, own, CASES[case][2])
    for axes, metric in ((training, TRAIN), (validation, TEST)):
        draw_published(axes, metric)
    # In the legend of no case's colour.
    for label, marker in ((across.TEST_OF_SEEDS, "D"), ("source 003: training, and test, of each case", "*")):
        validation.plot([], [], marker, color="white", markeredgecolor="black", markersize=8, label=label)
    figure.legend(*validation.get_legend_handles_labels(), ncols=2, **LEGEND_BELOW)
    save_figure(figure, path)


def draw_case(axes: Axes, case: int, runs: Runs, key: str) -> None:
    """Draw one loss of one case: the mean over seeds, and a band from the lowest to the highest."""
    each = list(zip(*across.by_epoch(tuple(runs), key), strict=True))
    epochs = range(1, len(each) + 1)
    label = f"{in_words(case)} (n = {len(runs)})"
    colour = CASES[case][2]
    axes.plot(epochs, [statistics.fmean(values) for values in each], "o-", markersize=4, color=colour, label=label)
    axes.fill_between(epochs, list(map(min, each)), list(map(max, each)), color=colour, alpha=0.2, linewidth=0)


def draw_published(axes: Axes, metric: str) -> None:
    """Mark the source's losses after 10 epochs, to the right of the curves and side by side, as two are equal."""
    for place, (case, (_, _, colour)) in enumerate(CASES.items()):
        value = printed(REFERENCES, {"preset": "transfer", "dataset": "mnist", **of_case(case)}, metric)
        axes.plot(10.6 + 0.3 * place, value, color=colour, **PUBLISHED)


AUTOENCODER, TRANSFER = {"preset": "autoencoder"}, {"preset": "transfer"}
REPORT = Report(
    tables=TABLES,
    pairs=(
        *(
            Pair(
                {**AUTOENCODER, "dropout": high},
                {**AUTOENCODER, "dropout": low},
                words=(f"dropout {high}", f"dropout {low}" if low else "no dropout"),
            )
            for low, high in ((0.0, 0.1), (0.0, 0.3), (0.1, 0.3))
        ),
        *(
            Pair(
                {**AUTOENCODER, "dropout": rate, "input_dropout": rate},
                {**AUTOENCODER, "dropout": rate, "input_dropout": 0.0},
                words=("input pixels dropped too", "hidden units alone"),
            )
            for rate in (0.1, 0.3)
        ),
        Pair({**AUTOENCODER, "batch_size": 128}, {**AUTOENCODER, "batch_size": 64}, words=("batch of 128", "of 64")),
        Pair(
            {**AUTOENCODER, "initialisation": "keras"},
            {**AUTOENCODER, "initialisation": "torch"},
            words=("Keras's initial weights", "PyTorch's"),
        ),
        Pair(
            {**TRANSFER, "encoder": "pretrained"},
            {**TRANSFER, "encoder": "random"},
            words=("pretrained encoder", "random one"),
        ),
        Pair(
            {**TRANSFER, "train_encoder": True},
            {**TRANSFER, "train_encoder": False},
            words=("encoder trained", "frozen"),
        ),
        Pair(
            {**TRANSFER, "initialisation": "keras"},
            {**TRANSFER, "initialisation": "torch"},
            words=("Keras's initial weights", "PyTorch's"),
        ),
        Pair({**TRANSFER, "batch_size": 128}, {**TRANSFER, "batch_size": 64}, words=("batch of 128", "of 64")),
    ),
    claims=CLAIMS,
    figures=(sizes, dropout, transfer),
    pictures=Pictures(
        {"preset": "autoencoder", "dataset": "mnist", "k": 300},
        {
            "reconstructions": "Test images and what comes back through 300 numbers",
            "pca_variance": "Variance that the first principal components hold",
        },
    ),
    metrics=(loss(PCA), *(Metric(COMPONENTS.format(share)) for share in (95, 99))),
    words={
        "k": "k = {}",
        "dropout": "dropout {}",
        "input_dropout": "dropout {} of the input pixels",
        "encoder": "{} encoder",
        "train_encoder": {True: "encoder trained", False: "encoder frozen"},
    },
    presets=PRESETS,
)
