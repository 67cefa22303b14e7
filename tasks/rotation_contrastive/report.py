"""What a reader gets of rotation_contrastive: what blocks of another network are worth, and where classes lie."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from common import words
from common.claims import Claim, Judge, about, every, greater, positive
from common.measured import TEST_ACCURACY, TEST_LOSS, percent
from common.plots import across
from common.plots.base import BLUE, LEGEND_BELOW, ORANGE, VERMILION, empty_figure, save_figure
from common.published import printed, read_references
from common.report import Headline, Pair, Part, Pictures, Report, Table
from common.selection import Runs
from tasks.rotation_contrastive.train import PRESETS

BLOCKS = (1, 2, 3)
TRAINED = {True: ("trained further", BLUE, "o-"), False: ("frozen", ORANGE, "s--")}
LOSSES = (("loss", "training, dropout on", ORANGE, "--"), ("val_loss", "validation", BLUE, "-"))
RUNNING = "running train loss"
REFERENCES = read_references(Path(__file__).with_name("reference.csv"))
MARK: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 9, "linestyle": "", "zorder": 4}


# --- figures


def curves(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch: a row a network; published test accuracies dotted."""
    own = runs.where(dataset="cifar10").as_preset("dataset", "blocks", "train_blocks")
    across.curves(own, path, REFERENCES)


def transferred_blocks(runs: Runs, path: Path) -> None:
    """Draw train and test loss of rotation_contrastive's transfer by the number of blocks, frozen and trained."""
    runs = runs.where(dataset="cifar10").as_preset("dataset", "blocks", "train_blocks")
    if len(runs.where(preset="transfer").groups) < 2:  # one compares nothing
        return
    figure = empty_figure(11, 5.4)
    figure.suptitle("Blocks taken from the network that tells turned images from upright ones")
    for axes, metric, name in zip(
        figure.subplots(1, 2, sharey=True),
        (RUNNING, TEST_LOSS.name),
        ("Training images, as training goes: dropout on", "Test images"),
        strict=True,
    ):
        draw_transfer(axes, runs, metric)
        axes.set(title=name, xlabel="Blocks taken", ylabel="Cross-entropy", xticks=BLOCKS)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    figure.legend(*axes.get_legend_handles_labels(), ncols=3, **LEGEND_BELOW)
    save_figure(figure, path)


def draw_transfer(axes: Axes, runs: Runs, metric: str) -> None:
    """Draw one panel: a loss by blocks taken, that of the network with none as a line, and what is published."""
    for trained, (name, colour, style) in TRAINED.items():
        by_number = runs.where(preset="transfer", train_blocks=trained).by("blocks")
        points = {number: own.values(metric) for number, own in sorted(by_number.items())}
        if points:
            means, deviations = zip(*map(across.spread, points.values()), strict=True)
            label = f"{name} (n = {', '.join(str(len(values)) for values in points.values())})"
            axes.errorbar(list(points), means, yerr=deviations, fmt=style, color=colour, capsize=3, label=label)
    if base := runs.where(preset="base"):
        mean, deviation = across.spread(base.values(metric))
        axes.axhline(mean, color="0.3", linestyle="-.", label=f"none taken: base (n = {len(base)})")
        if len(base) > 1:
            axes.axhspan(mean - deviation, mean + deviation, color="0.9")
    best = printed(REFERENCES, {**CIFAR10, **TRANSFER_OF_TWO}, metric)
    axes.plot([2], [best], "D", **MARK, label="published: 2 blocks, trained further")
    none_taken = printed(REFERENCES, {**CIFAR10, "preset": "base"}, metric)
    axes.axhline(none_taken, color="0.3", linestyle=(0, (1, 2)), label="published: none taken")


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
    for metric, name, colour in ((RUNNING, "training", ORANGE), (TEST_LOSS.name, "test", VERMILION)):
        level = printed(REFERENCES, {**CIFAR10, "preset": "contrastive"}, metric)
        axes.axhline(level, color=colour, linestyle=(0, (1, 2)), label=f"published: {name} loss")
    axes.locator_params(axis="x", integer=True)
    axes.legend()
    save_figure(figure, path)


# --- tables

CIFAR10 = {"dataset": "cifar10"}
AS_PRINTED = {
    "training loss, dropout on": Part(metric=RUNNING),
    "test loss": Part(metric=TEST_LOSS.name),
    "test accuracy (%)": Part(metric=TEST_ACCURACY.name),
}
CHOSEN_BY = {"validation accuracy (%)": Part(metric="validation accuracy (%)")}
PROTOCOLS = [*((batch, decay) for batch in (64, 128) for decay in (0.0, 0.001)), (128, 0.002)]
BASE = Table(
    "Base network, 10 classes. The source prints neither the batch nor how much weight decay it used",
    of={"preset": "base", **CIFAR10},
    rows={**AS_PRINTED, **CHOSEN_BY},
    columns={
        "source": Part(shows="published"),
        **{
            f"batch {batch}, {f'weight decay {decay}' if decay else 'no weight decay'}": Part(
                {"batch_size": batch, "weight_decay": decay}
            )
            for batch, decay in PROTOCOLS
        },
    },
)
ROTATION = Table(
    "Rotation: upright or turned by 90 degrees",
    of={"preset": "rotation", **CIFAR10},
    rows={**AS_PRINTED, **CHOSEN_BY},
    columns={
        "source": Part(shows="published"),
        "no weight decay": Part({"weight_decay": 0.0}),
        "weight decay 0.002": Part({"weight_decay": 0.002}),
    },
)
REVERSE = Table(
    "Reverse transfer: rotation on the blocks of the base network. The source does not say whether they were frozen",
    of=CIFAR10,
    rows={**AS_PRINTED, **CHOSEN_BY},
    columns={
        "source": Part({"preset": "reverse", "train_blocks": True}, shows="published"),
        "source, no blocks taken": Part({"preset": "rotation"}, shows="published"),
        "blocks trained further": Part({"preset": "reverse", "train_blocks": True}),
        "blocks frozen": Part({"preset": "reverse", "train_blocks": False}),
        "no blocks taken": Part({"preset": "rotation"}),
    },
)
LONGER = {"preset": "base", "epochs": 44}  # as long as the blocks of a transfer have been trained in all
TRANSFER_OF_TWO = {"preset": "transfer", "blocks": 2, "train_blocks": True}


def beside_base(caption: str, of: Mapping[str, object], more: Mapping[str, Part]) -> Table:
    """The transfer that the source reports against the base network; `more` are columns before ours of the change."""
    base, transfer = {"preset": "base", **of}, {**TRANSFER_OF_TWO, **of}
    return Table(
        caption,
        of=CIFAR10,
        rows=AS_PRINTED,
        columns={
            "source: base": Part(base, shows="published"),
            "source: transfer": Part(transfer, shows="published"),
            "source: change": Part(transfer, shows="published", over=base),
            "ours: base": Part(base),
            "ours: transfer": Part(transfer),
            **more,
            "ours: change": Part(transfer, over=base),
        },
    )


BEST_TRANSFER = beside_base(
    "The transfer that the source reports: two blocks of the rotation network, trained further, against "
    "the base network",
    of={},
    more={"ours: base, 44 epochs": Part(LONGER)},
)
WITH_DECAY = beside_base(
    "The same with a weight decay of 0.002 in all networks, chosen by the training loss of the base network alone",
    of={"weight_decay": 0.002},
    more={},
)
SIX_TRANSFERS = Table(
    "The first blocks of the rotation network, trained further or frozen",
    of=CIFAR10,
    rows={
        "none (base)": Part({"preset": "base"}),
        **{
            f"{number}, {TRAINED[trained][0]}": Part({"preset": "transfer", "blocks": number, "train_blocks": trained})
            for number in BLOCKS
            for trained in (True, False)
        },
    },
    columns={**AS_PRINTED, **CHOSEN_BY},
    corner="blocks",
    best="validation accuracy (%)",
)
CONTRASTIVE = Table(
    "Contrastive embedding in the plane; accuracies of two classifiers on its two coordinates, chance is 10 %",
    of={"preset": "contrastive", **CIFAR10},
    rows={
        "training loss, dropout on": Part(metric=RUNNING),
        "test loss": Part(metric=TEST_LOSS.name),
        "20 nearest neighbours (%)": Part(metric="20-NN accuracy (%)"),
        "linear probe (%)": Part(metric="linear probe accuracy (%)"),
        "untrained, 20 nearest neighbours (%)": Part(metric="untrained: 20-NN accuracy (%)"),
        "untrained, linear probe (%)": Part(metric="untrained: linear probe accuracy (%)"),
    },
    columns={"source": Part(shows="published"), "ours": Part()},
)


# --- pairs


def further(preset: str) -> Pair:
    """Blocks of another network that are trained further, against the same ones left as they are."""
    return Pair({"preset": preset, "train_blocks": True}, {"preset": preset, "train_blocks": False}, words=KEPT)


KEPT = ("blocks trained further", "blocks frozen")


def against(preset: str, without: str, trained: bool, **fields: Any) -> Pair:
    """A network with blocks of another one, against the same network with none."""
    blocks = f"{words.count(fields.get('blocks', BLOCKS[-1]), 'block')} {TRAINED[trained][0]}"
    return Pair(
        {"preset": preset, "train_blocks": trained, **fields},
        {"preset": without},
        ignoring=("experiment",),
        words=(f"{preset}, {blocks}", without),
    )


# --- claims

DECAYING = {"preset": "base", **CIFAR10, "weight_decay": 0.001}  # the source used some, and does not say how much
MARGIN = 0.03  # as in reference.csv, within which a loss counts as reproduced: a smaller difference is none
VEHICLES = ("airplane", "automobile", "ship", "truck")
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")


def room_below_overfitting(record: Mapping) -> float:
    """The margin minus how far the last validation loss is above the lowest: negative if the loss has risen again."""
    losses = [row["val_loss"] for row in record["history"]]
    return float(MARGIN - (losses[-1] - min(losses)))


def room_below_a_gap(record: Mapping) -> float:
    """The margin minus how far the test loss is above the training loss, which are 0.7010 and 0.7040 in the source."""
    return float(MARGIN - (record["metrics"]["test"]["loss"] - record["metrics"]["running"]["loss"]))


def places(record: Mapping) -> dict[str, np.ndarray] | None:
    """The mean point of each class in the plane; None for a record of older code."""
    found = record["metrics"].get("centroids")
    return None if found is None else {name: np.array(point) for name, point in found.items()}


def apart(record: Mapping) -> float | None:
    """Gap between vehicles and animals along the line through the means of both, in units of its length.

    Positive if every vehicle lies on one side of every animal.
    """
    at = places(record)
    if at is None:
        return None
    vehicles, animals = (np.stack([at[name] for name in names]) for names in (VEHICLES, ANIMALS))
    line = animals.mean(axis=0) - vehicles.mean(axis=0)
    along = line / (line @ line)
    return float((animals @ along).min() - (vehicles @ along).max())


def vehicles_apart_from_animals(record: Mapping) -> float | None:
    """Mean distance of a vehicle from an animal minus that of two vehicles."""
    at = places(record)
    if at is None:
        return None
    across_kinds = [np.linalg.norm(at[one] - at[other]) for one in VEHICLES for other in ANIMALS]
    return float(np.mean(across_kinds) - np.mean([distance(at, *pair) for pair in combinations(VEHICLES, 2)]))


def distance(at: Mapping[str, np.ndarray], one: str, other: str) -> float:
    """Of two classes' mean points."""
    return float(np.linalg.norm(at[one] - at[other]))


def truck_beside_automobile(record: Mapping) -> float | None:
    """The truck's distance from the nearest other class minus that from the automobile."""
    at = places(record)
    if at is None:
        return None
    others = [distance(at, "truck", name) for name in at if name not in ("truck", "automobile")]
    return min(others) - distance(at, "truck", "automobile")


def between_frog_and_horse(record: Mapping) -> float | None:
    """How much nearer cat, bird and dog are to both frog and horse than these to each other, in units of that distance.

    The least of the three; negative if one of them is further from an end than the ends are from each other: beyond
    that end, or far off the line.
    """
    at = places(record)
    if at is None:
        return None
    length = distance(at, "frog", "horse")
    furthest = max(distance(at, name, end) for name in ("cat", "bird", "dog") for end in ("frog", "horse"))
    return 1 - furthest / length


def best_transfer() -> Judge:
    """Two blocks trained further have a higher test accuracy than each other transfer, and than the base network."""
    others = [(number, trained) for number in BLOCKS for trained in TRAINED if (number, trained) != (2, True)]
    judges = [
        about(
            f"above {number} {TRAINED[trained][0]}",
            greater(Pair(TRANSFER_OF_TWO, {"preset": "transfer", "blocks": number, "train_blocks": trained})),
        )
        for number, trained in others
    ]
    return every(*judges, about("above base", greater(against("transfer", "base", True, blocks=2))))


def freezing_raises() -> Judge:
    """Training and test loss of frozen blocks are above those of the same blocks trained further."""
    return every(
        *(
            about(f"{metric}, {number} taken", greater(frozen_over_trained(number), metric))
            for number in BLOCKS
            for metric in (RUNNING, TEST_LOSS.name)
        )
    )


def frozen_over_trained(number: int) -> Pair:
    """Frozen blocks against the same ones trained further."""
    sides = [{"preset": "transfer", "blocks": number, "train_blocks": trained} for trained in (False, True)]
    return Pair(sides[0], sides[1])


EMBEDDING = {"preset": "contrastive", **CIFAR10}
CLAIMS: tuple[tuple[str, Judge], ...] = (
    (
        "The base network, with a weight decay of 0.001, does not overfit: its last validation loss is less than "
        f"{MARGIN} above the lowest, and the test loss less than that above the training loss with dropout on "
        "(numbers: what is left of this margin)",
        every(
            about("validation", positive(room_below_overfitting, DECAYING)),
            about("test", positive(room_below_a_gap, DECAYING)),
        ),
    ),
    ("Two blocks, not frozen, are the best transfer and beat the base network (test accuracy)", best_transfer()),
    ("Freezing raises the loss", freezing_raises()),
    (
        "Contrastive clusters separate: vehicles lie together and opposite to animals",
        every(
            about("gap along the line of their means", positive(apart, EMBEDDING)),
            about("distance from animals above that of vehicles", positive(vehicles_apart_from_animals, EMBEDDING)),
        ),
    ),
    ("Truck lies next to automobile", positive(truck_beside_automobile, EMBEDDING)),
    (
        "Cat, bird and dog lie between frog and horse (nearer to both than these are to each other)",
        positive(between_frog_and_horse, EMBEDDING),
    ),
)


REPORT = Report(
    tables=(BASE, ROTATION, REVERSE, BEST_TRANSFER, WITH_DECAY, SIX_TRANSFERS, CONTRASTIVE),
    pairs=(
        Pair(
            {"preset": "base", "weight_decay": 0.001},
            {"preset": "base", "weight_decay": 0.0},
            words=("weight decay 0.001", "none"),
        ),
        Pair(
            {"preset": "base", "batch_size": 128},
            {"preset": "base", "batch_size": 64},
            words=("batch of 128", "batch of 64"),
        ),
        Pair(LONGER, {"preset": "base"}, ignoring=("epochs",), words=("base, 44 epochs", "base")),
        Pair(
            TRANSFER_OF_TWO,
            LONGER,
            ignoring=("experiment", "epochs"),
            words=("transfer, 2 blocks trained further", "base, 44 epochs"),
        ),
        further("transfer"),
        further("reverse"),
        *(against("reverse", "rotation", trained) for trained in (True, False)),
        *(against("transfer", "base", trained, blocks=number) for number in BLOCKS for trained in (True, False)),
    ),
    claims=tuple(Claim("003", text, judge) for text, judge in CLAIMS),
    figures=(curves, transferred_blocks, contrastive),
    pictures=Pictures(
        {"preset": "contrastive", "dataset": "cifar10"},
        {
            "embedding": "Test images in the embedding, before and after training",
        },
    ),
    headline=Headline(against("transfer", "base", True, blocks=2, dataset="cifar10")),
    metrics=(percent("*20-NN accuracy (%)"), percent("*linear probe accuracy (%)")),
    words={
        "blocks": lambda value: f"{value} block{'s' * (value != 1)}",
        "train_blocks": {True: "blocks trained further", False: "blocks frozen"},
        "weight_decay": lambda value: f"weight decay {value}" if value else "no weight decay",
    },
    renamed={"stage": "experiment", "rotation_run": "pretext_run"},
    presets=PRESETS,
)
