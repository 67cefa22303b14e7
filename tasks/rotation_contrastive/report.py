"""What a reader gets of rotation_contrastive: what blocks of another network are worth, and the embedding's loss."""

from pathlib import Path

from common.measured import percent
from common.plots import across
from common.plots.base import BLUE, LEGEND_BELOW, ORANGE, VERMILION, empty_figure, save_figure
from common.report import Headline, Pair, Pictures, Report
from common.selection import Runs

BLOCKS = (1, 2, 3)
TRAINED = {True: ("trained further", BLUE, "o-"), False: ("frozen", ORANGE, "s--")}
LOSSES = (("loss", "training, dropout on", ORANGE, "--"), ("val_loss", "validation", BLUE, "-"))


def transferred_blocks(runs: Runs, path: Path) -> None:
    """Draw train and test loss of rotation_contrastive's transfer by the number of blocks, frozen and trained."""
    runs = runs.where(dataset="cifar10").as_preset("dataset", "blocks", "train_blocks")
    transfer, base = runs.where(preset="transfer"), runs.where(preset="base")
    if not transfer:
        return
    figure = empty_figure(11, 5)
    figure.suptitle("Blocks taken from the network that tells turned images from upright ones")
    for axes, split in zip(figure.subplots(1, 2), ("train", "test"), strict=True):
        for trained, (name, colour, style) in TRAINED.items():
            by_number = transfer.where(train_blocks=trained).by("blocks")
            points = {number: own.values(f"{split} loss") for number, own in sorted(by_number.items())}
            if points:
                means, deviations = zip(*map(across.spread, points.values()), strict=True)
                label = f"{name} (n = {', '.join(str(len(values)) for values in points.values())})"
                axes.errorbar(list(points), means, yerr=deviations, fmt=style, color=colour, capsize=3, label=label)
        if base:
            mean, deviation = across.spread(base.values(f"{split} loss"))
            axes.axhline(mean, color="0.3", linestyle=":", label=f"none taken: base (n = {len(base)})")
            axes.axhspan(mean - deviation, mean + deviation, color="0.9")
        axes.set(title=f"{split.capitalize()} images", xlabel="Blocks taken", ylabel="Cross-entropy", xticks=BLOCKS)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    figure.legend(*axes.get_legend_handles_labels(), ncols=3, **LEGEND_BELOW)
    save_figure(figure, path)


def contrastive(runs: Runs, path: Path) -> None:
    """Draw the contrastive loss of rotation_contrastive by epoch: training, validation and test, a line a seed."""
    runs = runs.where(preset="contrastive", dataset="cifar10").as_preset("dataset")
    if not runs:
        return
    figure, axes = across.one_panel(f"Contrastive embedding (n = {len(runs)})", "Epoch", "Contrastive loss")
    for key, name, colour, style in LOSSES:
        for number, values in enumerate(across.by_epoch(tuple(runs), key)):
            label = f"{name} (a line a seed)" if number == 0 else None
            axes.plot(range(1, len(values) + 1), values, style, color=colour, alpha=0.8, label=label)
    across.mark_test(axes, runs, VERMILION, across.TEST_OF_SEEDS)
    axes.locator_params(axis="x", integer=True)
    axes.legend()
    save_figure(figure, path)


def further(preset: str) -> Pair:
    """Blocks of another network that are trained further, against the same ones left as they are."""
    return Pair({"preset": preset, "train_blocks": True}, {"preset": preset, "train_blocks": False})


def against(preset: str, without: str, trained: bool, **fields: object) -> Pair:
    """A network with blocks of another one, against the same network with none."""
    return Pair({"preset": preset, "train_blocks": trained, **fields}, {"preset": without}, ignoring=("experiment",))


REPORT = Report(
    pairs=(
        Pair({"preset": "base", "weight_decay": 0.001}, {"preset": "base", "weight_decay": 0.0}),
        Pair({"preset": "base", "batch_size": 128}, {"preset": "base", "batch_size": 64}),
        further("transfer"),
        further("reverse"),
        *(against("reverse", "rotation", trained) for trained in (True, False)),
        *(against("transfer", "base", trained, blocks=number) for number in BLOCKS for trained in (True, False)),
    ),
    figures=(across.curves, transferred_blocks, contrastive),
    pictures=Pictures(
        {"preset": "contrastive", "dataset": "cifar10"},
        {
            "embedding": "Test images in the embedding, before and after training",
        },
    ),
    headline=Headline(against("transfer", "base", True, blocks=2, dataset="cifar10")),
    metrics=(percent("*20-NN accuracy (%)"), percent("*linear probe accuracy (%)")),
    renamed={"stage": "experiment", "rotation_run": "pretext_run"},
)
