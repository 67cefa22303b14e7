"""What a reader gets of cifar_phased: what each phase adds, what the recipe of phases is worth, and its claims."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from common.claims import (
    Claim,
    Judge,
    about,
    alike,
    always,
    at_source_size,
    every,
    greater,
    more,
    on_equal_terms,
    positive,
    rising,
)
from common.measured import TEST_ACCURACY
from common.plots import across
from common.plots.base import LEGEND_BELOW, empty_figure, save_figure
from common.report import Headline, Pair, Part, Pictures, Report, Table
from common.selection import Fields, Group, Runs
from common.words import BATCH_NORM, trained_on
from tasks.cifar_phased import judges
from tasks.cifar_phased.train import PRESETS

PHASES = {"head": "head", "last_block": "last block", "full": "full"}
BACKBONES = ("resnet18", "mobilenet_v2")
ARM = ("backbone", "weights", "image_size")  # what every legend says of a network
NETWORK = (*ARM, "batch_norm")  # in which two bars of a panel may differ


from_imagenet, from_tiny_imagenet = trained_on("imagenet"), trained_on("tiny_imagenet")


def pretrained(value: object) -> bool:
    """Whether weights are not random."""
    return value != "none"


# --- figures


def recipe(runs: Runs) -> Runs:
    """Runs of the three phases as the presets have them, from any weights that are not random."""
    chosen = {"preset": ("three_phase", "laptop"), "weights": pretrained, "dataset": ...}
    return runs.chosen({**chosen, **dict.fromkeys(("backbone", "image_size", "batch_norm"), ...)})


def phases(runs: Runs, path: Path) -> None:
    """Draw the test accuracy (%, mean and standard deviation over seeds) after each phase, a panel a data set."""
    panels = recipe(runs).alike(*NETWORK)
    if not panels:
        return
    figure = empty_figure(8.5, 4.4 * len(panels))
    hues: dict[str, str] = {}
    for part, own in zip(figure.subfigures(len(panels), squeeze=False)[:, 0], panels, strict=True):
        common, settings = across.named(own.groups, ARM)
        axes = part.subplots()
        axes.set_title(f"{own.groups[0].preset}, {common}")
        for place, (text, group) in enumerate(settings.items()):
            hue = hues.setdefault(text.partition(" (")[0], across.colour(len(hues)))
            draw_phases(axes, group, hue, text, place - (len(settings) - 1) / 2, 0.8 / max(len(settings), 2))
        axes.set(ylabel="Test accuracy (%)", ylim=(0, 108), yticks=range(0, 101, 20))
        axes.set_xlim(-0.6, len(PHASES) - 0.4)
        axes.set_xticks(range(len(PHASES)), [f"after {name}" for name in PHASES.values()])
        part.legend(**LEGEND_BELOW)
    save_figure(figure, path)


def draw_phases(axes: Axes, group: Group, hue: str, label: str, offset: float, width: float) -> None:
    """Draw the bars of one setting, with whiskers if there are several seeds."""
    values = [Runs((group,)).values(f"{phase} {TEST_ACCURACY.name}") for phase in PHASES]
    means, deviations = zip(*map(across.spread, values), strict=True)
    places = [number + width * offset for number in range(len(PHASES))]
    whiskers = deviations if len(group.records) > 1 else None
    bars = axes.bar(places, means, 0.92 * width, yerr=whiskers, capsize=3, color=hue, label=label)
    axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9")


def curves(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch with the phases marked: a row a data set, a line a network."""
    across.curves(recipe(runs), path, always=ARM)


def equal_budget(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch: 25 epochs in three phases, which are marked, in two and in one."""
    rows = []
    for data, fields in DATA.items():
        lines = []
        for place, (arm, part) in enumerate(EQUAL_BUDGET.columns.items()):
            if own := runs.chosen({**EQUAL_BUDGET.of, **fields, **part.fields}):
                lines.append(across.Line(f"{arm} ({across.count(own)})", tuple(own), across.colour(place)))
        if len(lines) > 1:
            rows.append((f"{data}, {EQUAL_BUDGET_OF}", lines))
    across.draw_rows(rows, path)


def batch_norm(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch under each regime of batch normalisation."""
    across.regimes(runs.where(limit_train=5000), path)


def backbones(runs: Runs, path: Path) -> None:
    """Draw the test accuracy (%, mean and standard deviation over seeds) of each backbone of 001 on CIFAR-100."""
    panels = runs.chosen({**BEST_OF_001, "backbone": tuple(FIVE.values())}).alike("backbone", "weights")
    if not panels:
        return
    figure = empty_figure(8.5, 4.2 * len(panels))
    for axes, own in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        common, settings = across.named(own.groups, ("backbone",))
        axes.set_title(textwrap.fill(f"{own.groups[0].preset}, {common}", 90))
        for place, (text, group) in enumerate(settings.items()):
            mean, deviation = across.spread(Runs((group,)).values(TEST_ACCURACY.name))
            whisker = deviation if len(group.records) > 1 else None
            bar = axes.bar(textwrap.fill(text, 18), mean, 0.7, yerr=whisker, capsize=3, color=across.colour(place))
            axes.bar_label(bar, fmt="%.1f", padding=2, fontsize=9)
        axes.set(ylabel="Test accuracy (%)", ylim=(0, 108), yticks=range(0, 101, 20))
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="0.9")
    save_figure(figure, path)


def optimisers(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch with each optimiser of source 001's second phase, on CIFAR-100."""
    fields = {**BEST_OF_001, "phases.1.optimizer": ..., "phases.1.momentum": ...}
    across.curves(runs.chosen(fields), path, always=("phases.1.optimizer",))


# --- tables

ACCURACIES = {name: Part(metric=f"{phase} {TEST_ACCURACY.name}") for phase, name in PHASES.items()}
VALIDATED = {"full, validation": Part(metric="validation accuracy (%)")}
DATA = {"CIFAR-10": {"dataset": "cifar10"}, "CIFAR-100": {"dataset": "cifar100"}}
RESNET18, MOBILENET = {"backbone": "resnet18"}, {"backbone": "mobilenet_v2"}
SMALL_RESNET18 = {**RESNET18, "weights": from_tiny_imagenet, "image_size": 64}
SMALL_MOBILENET = {**MOBILENET, "weights": from_tiny_imagenet, "image_size": 64, "batch_norm": "keep"}
ON_A_LAPTOP: dict[str, dict[str, object]] = {
    "ResNet-18, 64 pixels, follow": {**SMALL_RESNET18, "batch_norm": "follow"},
    "ResNet-18, 64 pixels, keep": {**SMALL_RESNET18, "batch_norm": "keep"},
    "MobileNetV2, 64 pixels, keep": SMALL_MOBILENET,
    "MobileNetV2, 96 pixels, keep": {**SMALL_MOBILENET, "weights": from_imagenet, "image_size": 96},
}

LAPTOP = Table(
    "Accuracy (%) after each phase on the test images, and of the last phase on the validation images. "
    "10,000 training images. Tiny-ImageNet weights at 64 pixels, ImageNet weights at 96. "
    "Batch normalisation follows the batches, or keeps its statistics",
    of={"preset": "laptop"},
    rows={f"{data}, {name}": Part({**own, **more}) for data, own in DATA.items() for name, more in ON_A_LAPTOP.items()},
    columns={**ACCURACIES, **VALIDATED},
    corner="data, network",
)
AT_THE_PUBLISHED_SIZE = Table(
    "The same at the source's size: all training images, 224 pixels, ImageNet weights",
    of={"preset": "three_phase", "weights": from_imagenet, "image_size": 224},
    rows={
        f"{data}, {name}, batch norm {BATCH_NORM[regime]}": Part({**own, **more, "batch_norm": regime})
        for regime in ("follow", "keep")
        for data, own in DATA.items()
        for name, more in (("ResNet-18", RESNET18), ("MobileNetV2", MOBILENET))
    },
    columns={**ACCURACIES, **VALIDATED},
    corner="data, network",
)
OF_BATCH_NORM = (
    ("MobileNetV2", {**MOBILENET, "weights": from_imagenet, "image_size": 96}),
    ("ResNet-18", {**RESNET18, "weights": from_tiny_imagenet, "image_size": 64}),
)
THREE_REGIMES = Table(
    "Three regimes of batch normalisation: test accuracy (%) after each phase on CIFAR-10, 5,000 training images. "
    "MobileNetV2 at 96 pixels from ImageNet weights, ResNet-18 at 64 pixels from Tiny-ImageNet weights",
    of={"preset": "three_phase", "dataset": "cifar10", "limit_train": 5000},
    rows={
        f"{network}, {name}": Part(own, metric=f"{phase} {TEST_ACCURACY.name}")
        for network, own in OF_BATCH_NORM
        for phase, name in PHASES.items()
    },
    columns={name: Part({"batch_norm": regime}) for regime, name in BATCH_NORM.items()},
    corner="network, phase",
)
HEAD_ALONE = {
    "phases.0.trainable": "head",
    "phases.0.name": "head",
    "phases.0.rate": 0.001,
    "phases.0.dropout": 0.5,
}
AT_ONCE: dict[str, dict[str, object]] = {
    "everything at 1e-4": {"phases.0.trainable": "full", "phases.0.rate": 1e-4},
    "everything at 1e-5": {"phases.0.trainable": "full", "phases.0.rate": 1e-5},
    "head alone": HEAD_ALONE,
}
LONGER = {"phases.2.name": "longer", "phases.2.trainable": "last_block", "phases.2.rate": 1e-4}
OTHER_BUDGETS: dict[str, dict[str, object]] = {
    "head, then last block": {"preset": "laptop", **LONGER},
    **{name: {"preset": "one_phase", **own} for name, own in AT_ONCE.items()},
}
EQUAL_BUDGET_OF = "MobileNetV2 at 96 pixels from ImageNet weights, 10,000 training images"
EQUAL_BUDGET = Table(
    f"25 epochs in three phases, in two or in one: test accuracy (%). {EQUAL_BUDGET_OF}",
    of={**MOBILENET, "weights": from_imagenet, "image_size": 96, "batch_norm": "keep"},
    rows={name: Part(own, metric=TEST_ACCURACY.name) for name, own in DATA.items()},
    columns={
        "three phases": Part({"preset": "laptop"}),
        **{name: Part(own) for name, own in OTHER_BUDGETS.items()},
    },
    corner="data",
)
SOURCE_001 = {"preset": "two_phase", "dataset": "cifar100", "batch_norm": "follow"}
WIDE = {"backbone": "wide_resnet50_2"}
# The second phase of the sweeps `backbones_short` and `optimisers_short`.
A_FIFTH = {"phases.1.epochs": 25, "phases.1.warmup_epochs": 1, "phases.1.cosine_epochs": 9}
IN_SHORT = "a fifth of the epochs: 25 in the second phase instead of 125, warm-up and cosine in proportion"
FIVE = {
    "Wide ResNet-50-2": "wide_resnet50_2",
    "ResNeXt-50": "resnext50_32x4d",
    "ResNet-101": "resnet101",
    "ResNet-50": "resnet50",
    "ResNet-34": "resnet34",
}
TWO_PHASE = Table(
    "Five backbones in two phases (source 001): accuracy (%). Not comparable: the source's data is a private set of "
    f"100 classes, ours is CIFAR-100; {IN_SHORT}; – is not measured, or not printed there",
    of=SOURCE_001,
    rows={
        "Wide ResNet-50-2, validation": Part(WIDE, metric="validation accuracy (%)"),
        **{f"{name}, test": Part({"backbone": key}, metric=TEST_ACCURACY.name) for name, key in FIVE.items()},
    },
    columns={
        "source": Part(shows="published"),
        "ours": Part({"weights": from_imagenet}),
        "ours, a fifth of the epochs": Part({"weights": from_imagenet, **A_FIFTH}),
    },
    corner="backbone, images",
)
OPTIMISERS: dict[str, dict[str, object]] = {
    "SGD": {"phases.1.optimizer": "sgd", "phases.1.momentum": 0.9},
    **{
        name: {"phases.1.optimizer": key, "phases.1.momentum": 0.0}
        for name, key in (("Adam", "adam"), ("AdamW", "adamw"), ("NAdam", "nadam"))
    },
}
FOUR_OPTIMISERS = Table(
    f"Four optimisers of the second phase (source 001): accuracy (%) of Wide ResNet-50-2 on CIFAR-100; {IN_SHORT}",
    of={**SOURCE_001, **WIDE},
    rows={name: Part(own) for name, own in OPTIMISERS.items()},
    columns={
        f"{split}{name}": Part({"weights": from_imagenet, **schedule}, metric=f"{split} accuracy (%)")
        for name, schedule in (("", {}), (", a fifth of the epochs", A_FIFTH))
        for split in ("validation", "test")
    },
    corner="optimiser",
)


# --- claims

ANY = dict.fromkeys(("dataset", *NETWORK), ...)
IMAGES = ("dataset", "limit_train", "seed")  # runs that agree in these have the same images
NAMES = {"resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2"}
# CIFAR-100's superclass "fruit and vegetables" without the apple (www.cs.toronto.edu/~kriz/cifar.html).
FOOD = ("mushroom", "orange", "pear", "sweet_pepper")


def of_recipe(judge: Judge) -> Judge:
    """Judged by runs of the three phases alone, from weights that are not random."""
    return lambda runs: at_source_size({"preset": "three_phase"}, judge)(recipe(runs))


def of_pair(judge: Judge) -> Judge:
    """The same for the two networks, whose pretraining should have been equally good: both from ImageNet's weights."""
    return of_recipe(on_equal_terms({"weights": from_imagenet}, judge))


def networks(dataset: str, first: str = "resnet18") -> judges.FromTheSameData:
    """ResNet-18 against MobileNetV2, or the reverse: same size of images, weights from the same data."""
    one, other = sorted(BACKBONES, key=lambda name: name != first)
    sides = [{"dataset": dataset, "backbone": name, "weights": ...} for name in (one, other)]
    return judges.FromTheSameData(Pair(sides[0], sides[1]))


def above_in_every_phase(dataset: str) -> Judge:
    """ResNet-18 above MobileNetV2 after every phase, and most after the last."""
    pair = networks(dataset)
    each = (about(name, greater(pair, f"{phase} {TEST_ACCURACY.name}")) for phase, name in PHASES.items())
    return of_pair(every(*each, about("lead under full", judges.most_in_the_last(pair, tuple(PHASES)))))


def of_networks(make: Callable[[Fields], Judge], datasets: Sequence[str]) -> Judge:
    """A statement about each network on each data set."""
    return of_recipe(
        every(
            *(
                about(f"{NAMES[backbone]} on {data}", make({**ANY, **DATA[data], "backbone": backbone}))
                for data in datasets
                for backbone in BACKBONES
            )
        )
    )


def full_is_best(of: Fields) -> Judge:
    """The last phase has the highest test accuracy of the three."""
    before = {"last_block": "above last block", "head": "above head"}
    return every(*(about(name, rising(phase, "full", of=of)) for phase, name in before.items()))


def last_block_above_head(of: Fields) -> Judge:
    """The second phase has a higher test accuracy than the first."""
    return rising("head", "last_block", of=of)


def data_sets(one: str, other: str) -> Pair:
    """The same network and recipe on two data sets."""
    return Pair({"dataset": one}, {"dataset": other})


def two_of_001(one: Fields, other: Fields) -> judges.FromTheSameData:
    """Two settings of source 001's two phases under one regime of batch normalisation, which no side names."""
    of = {"preset": "two_phase", "dataset": "cifar100", "weights": pretrained}
    return judges.FromTheSameData(Pair({**of, **one}, {**of, **other}))


def five(one: str, other: str) -> judges.FromTheSameData:
    """Two backbones in source 001's two phases."""
    return two_of_001({"backbone": FIVE[one]}, {"backbone": FIVE[other]})


def above(one: str, *others: str) -> Judge:
    """One backbone has a higher test accuracy than others."""
    return every(*(about(f"above {other}", greater(five(one, other))) for other in others))


ANY_SCHEDULE = dict.fromkeys(A_FIFTH, ...)
BEST_OF_001 = {**SOURCE_001, **WIDE, **ANY_SCHEDULE, "batch_norm": ..., "weights": pretrained}
MARGIN = 0.5  # points, as in reference.csv, within which an accuracy of 001 counts as reproduced
# Of each network there is one pretraining on Tiny-ImageNet.
EQUAL = "(Tiny-ImageNet weights are not comparable: ResNet-18 had learnt more there, 40.0 against 24.3 %)"


def of_both_data_sets(make: Callable[[str], Judge]) -> Judge:
    """A statement about the two networks on each data set."""
    return of_pair(every(*(about(name, make(own["dataset"])) for name, own in DATA.items())))


def earlier_accuracy(dataset: str) -> Judge:
    """MobileNetV2 above ResNet-18 in the first epochs."""
    return more(networks(dataset, "mobilenet_v2"), judges.first_epochs, " points")


LOWER_LOSS = about(
    "MobileNetV2's training loss above ResNet-18's",
    more(networks("cifar100", "mobilenet_v2"), judges.training_loss),
)
LARGER_GAP = about("gap", more(networks("cifar100"), judges.generalisation_gap, " points"))
LARGER_GAP_OF_CIFAR100 = about(
    "gap of CIFAR-100 above", more(data_sets("cifar100", "cifar10"), judges.generalisation_gap, " points")
)
CONFUSED = (
    ("cifar100", "apple", FOOD),
    ("cifar100", "woman", ("girl", "man", "boy")),
    ("cifar10", "frog", ("cat", "deer", "bird", "truck")),
)
SEMANTIC = every(
    *(
        about(true, positive(judges.confusions_above_chance(true, others), {**ANY, "dataset": dataset}, " points"))
        for dataset, true, others in CONFUSED
    )
)
NADAM_ABOVE = tuple(
    about(f"above {name}", greater(two_of_001({**WIDE, **OPTIMISERS["NAdam"]}, {**WIDE, **own})))
    for name, own in OPTIMISERS.items()
    if name != "NAdam"
)

OF_000: tuple[tuple[str, Judge], ...] = (
    (
        f"ResNet-18 is above MobileNetV2 on CIFAR-100 in every phase, most under full {EQUAL}",
        above_in_every_phase("cifar100"),
    ),
    (f"The same on CIFAR-10 {EQUAL}", above_in_every_phase("cifar10")),
    ("Full fine-tuning is best on both data sets", of_networks(full_is_best, tuple(DATA))),
    ("The last block is above the head on both data sets", of_networks(last_block_above_head, tuple(DATA))),
    (
        f"MobileNetV2 is faster in the first epochs: higher validation accuracy in the first three {EQUAL}",
        of_both_data_sets(earlier_accuracy),
    ),
    (
        "On CIFAR-100 under full ResNet-18 has a lower training loss but a larger generalisation gap; training is "
        f"measured with dropout and augmentation on {EQUAL}",
        of_pair(every(LOWER_LOSS, LARGER_GAP)),
    ),
    (
        f"MobileNetV2's gap is more stable: it varies less over the epochs of full on CIFAR-100 {EQUAL}",
        of_pair(more(networks("cifar100"), judges.unsteadiness_of_gap, " points")),
    ),
    (
        "Accuracy on CIFAR-10 is above that on CIFAR-100, with smaller gaps",
        of_recipe(every(about("test accuracy", greater(data_sets("cifar10", "cifar100"))), LARGER_GAP_OF_CIFAR100)),
    ),
    (
        "Confusions are semantic: apple within food; woman within girl, man, boy; frog within cat, deer, bird, truck "
        "(their share together of the class's wrong predictions, minus what chance gives)",
        of_recipe(SEMANTIC),
    ),
    (
        "Cat and deer are the weakest classes of CIFAR-10: the lowest other F1 is above both",
        of_recipe(positive(judges.weakest("cat", "deer"), {**ANY, "dataset": "cifar10"}, " points")),
    ),
    (
        "Validation accuracy on CIFAR-100 is still rising when training stops: the last five epochs are above the "
        "five before",
        of_recipe(positive(judges.rise_at_the_end, {**ANY, "dataset": "cifar100"}, " points")),
    ),
    (
        "Channel intensities are alike after normalisation: means and deviations of all training images differ by less "
        "than 0.2 (counted once a data set and seed; older code measured 256 images, which is not enough)",
        of_recipe(always(judges.channels_alike, ANY, once=IMAGES)),
    ),
    (
        "Classes are balanced, in the training, validation and test images (counted once a data set and seed)",
        of_recipe(always(judges.balanced, ANY, once=IMAGES)),
    ),
)
OF_001: tuple[tuple[str, Judge], ...] = (
    ("The loss falls within the first 10 epochs of phase 1", positive(judges.fall_of_loss, BEST_OF_001)),
    (
        "Validation accuracy rises steadily: in each fifth of the epochs until the rate is first at its floor it is "
        "above the fifth before",
        positive(judges.least_rise, BEST_OF_001, " points"),
    ),
    (
        f"ResNet-101 is about as good as ResNet-50, to {MARGIN} points",
        alike(five("ResNet-101", "ResNet-50"), MARGIN),
    ),
    ("ResNeXt-50 is above both", above("ResNeXt-50", "ResNet-50", "ResNet-101")),
    ("Wide ResNet-50-2 is best", above(*FIVE)),
    ("NAdam is the best of four optimisers", every(*NADAM_ABOVE)),
    ("Test accuracy is above validation accuracy", positive(judges.test_above_validation, BEST_OF_001, " points")),
)


REPORT = Report(
    tables=(LAPTOP, AT_THE_PUBLISHED_SIZE, THREE_REGIMES, EQUAL_BUDGET, TWO_PHASE, FOUR_OPTIMISERS),
    pairs=(
        *(
            Pair(
                {"preset": "three_phase", "batch_norm": "keep"},
                {"preset": "three_phase", "batch_norm": other},
                words=("batch norm keeps its statistics", f"batch norm {BATCH_NORM[other]}"),
            )
            for other in ("layer", "follow")
        ),
        *(
            Pair({"preset": "laptop"}, own, ignoring=("phases",), words=("three phases", name))
            for name, own in OTHER_BUDGETS.items()
        ),
        Pair(
            {"preset": "three_phase", "augment_at": "input"},
            {"preset": "three_phase", "augment_at": "native"},
            words=("augmented at the network's input size", "at the images' own size"),
        ),
    ),
    claims=(
        *(Claim("000", text, judge) for text, judge in OF_000),
        *(Claim("001", text, judge) for text, judge in OF_001),
    ),
    figures=(phases, curves, equal_budget, batch_norm, backbones, optimisers),
    pictures=Pictures(
        {"preset": "laptop", "dataset": "cifar10", "weights": ..., "backbone": "mobilenet_v2", "batch_norm": "keep"},
        {
            "confusion": "Confusion matrix of the test images",
            "destinations": "What frogs are taken for",
            "mistaken": "Frogs that the network took for something else",
            "augmentation": "What the network sees of a training image",
        },
    ),
    headline=Headline({"preset": "laptop", "dataset": "cifar10", "backbone": "mobilenet_v2"}),
    words={
        "phases.0.rate": "rate {}",
        "phases.0.trainable": {"head": "head alone", "full": "everything"},
        "phases.2.name": {"full": "", "longer": ""},
        "phases.2.trainable": {"full": "everything in phase 3", "last_block": "last block in phase 3"},
        "phases.2.rate": "rate {} in phase 3",
        "phases.1.optimizer": {own["phases.1.optimizer"]: f"{name} in phase 2" for name, own in OPTIMISERS.items()},
        "phases.1.momentum": lambda value: f"momentum {value}" if value else "",
        "phases.1.epochs": "{} epochs in phase 2",
        "phases.1.warmup_epochs": "{} of warm-up",
        "phases.1.cosine_epochs": lambda value: f"{value} from peak to floor" if value else "one descent",
    },
    presets=PRESETS,
)
