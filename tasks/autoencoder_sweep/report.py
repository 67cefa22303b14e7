"""What a reader gets of autoencoder_sweep: loss by the size of the bottleneck, and the four cases of transfer."""

import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from common.measured import Metric, loss
from common.plots import across
from common.plots.base import BLUE, GREEN, LEGEND_BELOW, ORANGE, VERMILION, empty_figure, save_figure
from common.report import Pair, Pictures, Report
from common.selection import Runs

# The source's cases: encoder, whether it is trained, colour.
CASES = {
    1: ("random", True, BLUE),
    2: ("pretrained", False, ORANGE),
    3: ("random", False, GREEN),
    4: ("pretrained", True, VERMILION),
}


def sizes(runs: Runs, path: Path) -> None:
    """Draw the autoencoder's test loss by the size of its bottleneck, with that of principal components."""
    by_size = runs.where(preset="autoencoder", dataset="mnist").as_preset("dataset", "k").by("k")
    if len(by_size) < 2:
        return
    figure, axes = across.one_panel("Loss by the size of the bottleneck", "k", "Mean squared error of the test images")
    found = dict(sorted(by_size.items()))
    means, deviations = zip(*(across.spread(own.values("test loss")) for own in found.values()), strict=True)
    components = [statistics.fmean(own.values("PCA test loss")) for own in found.values()]
    axes.errorbar(list(found), means, yerr=deviations, fmt="o-", color=BLUE, capsize=3, label="autoencoder")
    axes.plot(list(found), components, "s--", color=ORANGE, label="principal components")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(list(found), [str(k) for k in found], fontsize=8, rotation=60)
    axes.minorticks_off()
    axes.legend()
    save_figure(figure, path)


def transfer(runs: Runs, path: Path) -> None:
    """Draw the four cases' losses by epoch: training as a mean over the steps, and validation, with the test loss."""
    runs = runs.where(preset="transfer", dataset="mnist").as_preset("dataset", "encoder", "train_encoder")
    cases = {case: runs.where(encoder=encoder, train_encoder=on) for case, (encoder, on, _) in CASES.items()}
    cases = {case: own for case, own in cases.items() if own}
    if not cases:
        return
    figure = empty_figure(11, 5.4)
    figure.suptitle("A linear classifier on the encoder: mean of n seeds, band from the lowest to the highest")
    training, validation = figure.subplots(1, 2, sharey=True)
    for axes, key, title in ((training, "loss", "Training"), (validation, "val_loss", "Validation, and test")):
        for case, own in cases.items():
            draw_case(axes, case, own, key)
        axes.set(title=title, xlabel="Epoch", ylabel="Cross-entropy", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(color="0.9")
    for case, own in cases.items():
        across.mark_test(validation, own, CASES[case][2])
    # In the legend of no case's colour.
    validation.plot([], [], "D", color="white", markeredgecolor="black", label=across.TEST_OF_SEEDS)
    figure.legend(*validation.get_legend_handles_labels(), ncols=2, **LEGEND_BELOW)
    save_figure(figure, path)


def draw_case(axes: Axes, case: int, runs: Runs, key: str) -> None:
    """Draw one loss of one case: the mean over seeds, and a band from the lowest to the highest."""
    encoder, trained, colour = CASES[case]
    each = list(zip(*across.by_epoch(tuple(runs), key), strict=True))
    epochs = range(1, len(each) + 1)
    label = f"case {case}: {encoder} encoder, {'trained' if trained else 'frozen'} (n = {len(runs)})"
    axes.plot(epochs, [statistics.fmean(values) for values in each], "o-", markersize=4, color=colour, label=label)
    axes.fill_between(epochs, list(map(min, each)), list(map(max, each)), color=colour, alpha=0.2, linewidth=0)


REPORT = Report(
    pairs=(
        *(
            Pair({"preset": "autoencoder", "dropout": rate}, {"preset": "autoencoder", "dropout": 0.0})
            for rate in (0.1, 0.3)
        ),
        Pair({"preset": "transfer", "encoder": "pretrained"}, {"preset": "transfer", "encoder": "random"}),
        Pair({"preset": "transfer", "train_encoder": True}, {"preset": "transfer", "train_encoder": False}),
    ),
    figures=(sizes, transfer),
    pictures=Pictures(
        {"preset": "autoencoder", "dataset": "mnist", "k": 300},
        {
            "reconstructions": "Test images and what comes back through 300 numbers",
            "pca_variance": "Variance that the first principal components hold",
        },
    ),
    metrics=(
        loss("PCA test loss"),
        Metric("components for 95 % of the variance"),
        Metric("components for 99 % of the variance"),
    ),
)
