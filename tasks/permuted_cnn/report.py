"""What a reader gets of permuted_cnn: what the permutation costs each network, and how much neighbourhood it needs."""

from pathlib import Path

from common.plots import across
from common.plots.base import BLUE, ORANGE, save_figure
from common.report import Headline, Pair, Pictures, Report
from common.selection import Runs

SIDE = 28  # of the images; a block of None is one as large, and nothing moves
NETWORKS = {"cnn": ("convolutions", BLUE, "o-"), "mlp": ("perceptron", ORANGE, "s--")}


def locality(runs: Runs, path: Path) -> None:
    """Draw accuracy after 5 epochs by the size of the blocks that stay whole."""
    epochs = 5
    found = runs.where(preset="permuted", dataset="notmnist", epochs=epochs)
    found = found.as_preset("dataset", "network", "block", "epochs")
    figure, axes = across.one_panel(
        f"How much neighbourhood the network needs ({epochs} epochs)",
        "Side of the blocks that are permuted whole (pixels)",
        "Test accuracy (%)",
    )
    for network, (name, colour, style) in NETWORKS.items():
        by_side = {block or SIDE: own for block, own in found.where(network=network).by("block").items()}
        points = {side: own.values("test accuracy (%)") for side, own in sorted(by_side.items())}
        if points:
            means, deviations = zip(*map(across.spread, points.values()), strict=True)
            label = f"{name} (n = {', '.join(map(str, sorted(set(map(len, points.values())))))})"
            axes.errorbar(list(points), means, yerr=deviations, fmt=style, color=colour, capsize=3, label=label)
    if axes.containers:
        sides = (1, 2, 4, 7, 14, SIDE)
        axes.set_xscale("log")
        axes.set_xticks(sides, [str(side) if side < SIDE else f"{SIDE}\n(as is)" for side in sides])
        axes.minorticks_off()
        axes.legend()
        save_figure(figure, path)


REPORT = Report(
    pairs=(
        Pair({"preset": "permuted", "block": 1}, {"preset": "permuted", "block": None}),
        Pair({"preset": "permuted", "network": "cnn"}, {"preset": "permuted", "network": "mlp"}),
    ),
    figures=(across.curves, locality),
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
)
