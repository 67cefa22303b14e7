"""What a reader gets of fer_layerwise_lr: the arms compared, by class and by epoch, beside what is published."""

import statistics
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from common.claims import Claim, Finding, at_source_size, by_setting, compared, named, sides
from common.measured import TEST_ACCURACY, TEST_LOSS, Metric, percent
from common.plots import across
from common.plots.base import BLUE, GREEN, LEGEND_BELOW, ORANGE, VERMILION, empty_figure, save_figure
from common.published import read_references, reference
from common.report import Headline, Pair, Part, Pictures, Report, Table
from common.selection import Group, Runs
from common.words import BATCH_NORM, trained_on
from tasks.fer_layerwise_lr.train import PRESETS

ARMS = {
    "frozen": ("backbone frozen", "0.6"),
    "one_rate": ("one rate for all", ORANGE),
    "by_depth": ("rates by depth", BLUE),
    "reversed": ("rates in reverse order", GREEN),
    "geometric_mean": ("their geometric mean for all", VERMILION),
}
CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
SIZES = dict(zip(CLASSES, (958, 111, 1024, 1774, 1233, 1247, 831), strict=True))  # of the test images
MACRO_F1, WEIGHTED_F1 = "test macro F1 (%)", "test weighted F1 (%)"
SOURCE = "published: ResNet-18, 224 pixels"
REFERENCES = read_references(Path(__file__).with_name("reference.csv"))


def f1_of(name: str) -> str:
    """The metric of a class, by its name in the tables."""
    return f"test F1 of {name} (%)"


# --- figures


def networks(runs: Runs) -> dict[str, dict[str, Group]]:
    """The arms by preset, as the presets have their rates, by what a reader reads of the network; two at least."""
    found: defaultdict[str, dict[str, Group]] = defaultdict(dict)
    fields = dict.fromkeys(("dataset", "weights", "limit_train", "backbone", "image_size", "batch_norm"), ...)
    for group in runs.chosen({"preset": tuple(ARMS), **fields}).groups:
        found[", ".join(group.said())][group.preset] = group
    compared = sorted((name, own) for name, own in found.items() if len(own) > 1)
    return {name: {arm: own[arm] for arm in ARMS if arm in own} for name, own in compared}


def is_pretrained(arms: Mapping[str, Group]) -> bool:
    """Whether the arms start from weights that are not random, as the source's do."""
    return all(group.config["weights"] != "none" for group in arms.values())


def published(arm: str, metric: str) -> float | None:
    """A number of the source, which has two of the arms."""
    row = reference(REFERENCES, {**FER, **THE_SOURCES, "preset": arm}, metric)
    return float(row["published"]) if row else None


def curves(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch, a row a network and regime, a line an arm (published: dotted)."""
    rows = []
    for name, own in networks(runs).items():
        lines = []
        for arm, group in own.items():
            told, colour = ARMS[arm]
            mark = published(arm, TEST_ACCURACY.name) if is_pretrained(own) else None
            lines.append(across.Line(f"{told} ({across.count(group.records)})", group.records, colour, published=mark))
        rows.append((name, lines))
    across.draw_rows(rows, path, f"{SOURCE}, test accuracy of the arm in this colour")


def arms(runs: Runs, path: Path) -> None:
    """Draw the F1 of each class in each arm (mean and standard deviation), a panel a network and regime."""
    panels = networks(runs)
    if not panels:
        return
    figure = empty_figure(10, 4.8 * len(panels))
    parts = figure.subfigures(len(panels), squeeze=False)[:, 0]
    for part, (name, own) in zip(parts, panels.items(), strict=True):
        axes = part.subplots()
        draw_arms(axes, own)
        axes.set_title(textwrap.fill(f"F1 of each class: {name}", 90))
        axes.set_ylabel("F1 of the test images (%)")
        part.legend(ncols=3, **LEGEND_BELOW)
    save_figure(figure, path)


def draw_arms(axes: Axes, arms: Mapping[str, Group]) -> None:
    """Draw the bars of one panel: each class and their mean, an arm beside the other; and what is published of it."""
    step = 0.81 / max(len(arms), 3)
    marks: list[tuple[float, float]] = []
    for place, (arm, group) in enumerate(arms.items()):
        name, colour = ARMS[arm]
        tests = [record["metrics"]["test"] for record in group.records]
        scores = [[100 * c["f1"] for c in test["per_class"]] + [100 * test["macro_f1"]] for test in tests]
        by_class = list(zip(*scores, strict=True))
        places = [number + step * (place - (len(arms) - 1) / 2) for number in range(len(by_class))]
        axes.bar(
            places,
            [statistics.fmean(each) for each in by_class],
            0.93 * step,
            yerr=[statistics.stdev(each) for each in by_class] if len(tests) > 1 else None,
            capsize=2,
            color=colour,
            label=f"{name} ({across.count(tests)})",
        )
        metrics = [*(f1_of(own["class"]) for own in tests[0]["per_class"]), MACRO_F1]
        found = [published(arm, metric) for metric in metrics]
        marks += [(x, y) for x, y in zip(places, found, strict=True) if y is not None]
    if marks and is_pretrained(arms):
        axes.plot(*zip(*marks, strict=True), "D", color="white", markeredgecolor="black", markersize=5, label=SOURCE)
    classes = next(iter(arms.values())).records[0]["metrics"]["test"]["per_class"]
    ticks = [f"{c['class']}\n{c['support']:,} images" for c in classes]
    axes.set_xticks(range(len(ticks) + 1), [*ticks, "macro\nmean"], fontsize=9)
    axes.axvline(len(classes) - 0.5, color="0.7", linewidth=0.8)
    axes.set_ylim(0, 100)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9")


def batch_norm(runs: Runs, path: Path) -> None:
    """Draw losses and validation accuracy by epoch under each regime of batch normalisation."""
    across.regimes(runs.where(limit_train=5000), path)


# --- tables


# Also those that come from an int8 model.
from_imagenet = trained_on("imagenet", "imagenet_from_int8")
from_tiny_imagenet = trained_on("tiny_imagenet")


# In the source's order; its improvements are in points of accuracy and in percent of the rest.
SOURCES_ROWS = {
    "loss": Part(metric=TEST_LOSS.name, change="%"),
    "accuracy (%)": Part(metric=TEST_ACCURACY.name),
    "macro F1 (%)": Part(metric=MACRO_F1, change="%"),
    "weighted F1 (%)": Part(metric=WEIGHTED_F1, change="%"),
    **{f"F1 of {name} ({SIZES[name]:,}) (%)": Part(metric=f1_of(name), change="%") for name in CLASSES},
}
WITHOUT_COPIES = {
    "accuracy without copies (%)": Part(metric="test accuracy without these (%)"),
    "macro F1 without copies (%)": Part(metric="test macro F1 without these (%)", change="%"),
}
FROZEN, BY_DEPTH, ONE_RATE = ({"preset": arm} for arm in ("frozen", "by_depth", "one_rate"))
FER = {"dataset": "fer2013"}
CHANGE = (
    "Change: from frozen to rates by depth; accuracy in points, all else in percent. In brackets the number of test "
    "images of a class"
)
# Network and regime of the numbers that are published.
THE_SOURCES = {"backbone": "resnet18", "image_size": 224, "batch_norm": "follow", "weights": from_imagenet}
PUBLISHED = Table(
    "Frozen backbone and rates by depth, on the test images, as the source has them: ResNet-18 with ImageNet weights "
    f"at 224 pixels, batch normalisation follows the batch. {CHANGE}. – is not measured",
    of={**FER, **THE_SOURCES},
    rows=SOURCES_ROWS,
    columns={
        "source: frozen": Part(FROZEN, shows="published"),
        "source: by depth": Part(BY_DEPTH, shows="published"),
        "source: change": Part(BY_DEPTH, shows="published", over=FROZEN),
        "ours: frozen": Part(FROZEN),
        "ours: by depth": Part(BY_DEPTH),
        "ours: change": Part(BY_DEPTH, over=FROZEN),
        "ours: one rate": Part(ONE_RATE),
    },
    corner="test images",
)
THREE_ARMS = {
    "frozen": Part(FROZEN),
    "by depth": Part(BY_DEPTH),
    "change": Part(BY_DEPTH, over=FROZEN),
    "one rate": Part(ONE_RATE),
}
BESIDE_THE_SOURCE = {
    "source: frozen": Part({**FROZEN, **THE_SOURCES}, shows="published"),
    "source: by depth": Part({**BY_DEPTH, **THE_SOURCES}, shows="published"),
    **{f"ours: {name}": arm for name, arm in THREE_ARMS.items()},
}
NOT_COMPARABLE = "The source's numbers are not comparable: its network is ResNet-18 with ImageNet weights at 224 pixels"
SMALL = {**FER, "backbone": "mobilenet_v2", "image_size": 96, "batch_norm": "keep", "weights": from_imagenet}
LARGE = {**FER, "backbone": "resnet18", "image_size": 224, "batch_norm": "keep", "weights": from_imagenet}
ON_A_LAPTOP = Table(
    f"The same arms with MobileNetV2, ImageNet weights, at 96 pixels. {NOT_COMPARABLE}. {CHANGE}. Without copies: "
    "without the test images that are training images too",
    of=SMALL,
    rows={**SOURCES_ROWS, **WITHOUT_COPIES},
    columns=BESIDE_THE_SOURCE,
    corner="test images",
)
RESNET18 = {**FER, "backbone": "resnet18", "image_size": 64, "batch_norm": "keep", "weights": from_tiny_imagenet}
FEW = {**RESNET18, "limit_train": 5000}
WITH_RESNET18, WITH_FEW = (
    Table(
        f"The same arms with ResNet-18, Tiny-ImageNet weights, at 64 pixels{images}. {CHANGE}",
        of=of,
        rows={**SOURCES_ROWS, **WITHOUT_COPIES},
        columns=THREE_ARMS,
        corner="test images",
    )
    for images, of in (("", RESNET18), (" and with 5,000 training images", FEW))
)
# Older code had no choice of the regime: it was that by layer.
BEFORE = Table(
    "MobileNetV2 at 96 pixels before protocol 2: 20,000 training images, ImageNet weights from an int8 model, batch "
    f"normalisation by layer. {CHANGE}",
    of={**SMALL, "batch_norm": None},
    rows={**SOURCES_ROWS, **WITHOUT_COPIES},
    columns=THREE_ARMS,
    corner="test images",
)
FROM_SCRATCH = Table(
    f"The same arms from random weights: ResNet-18 at the images' own 48 pixels. {CHANGE}",
    of={**FER, "backbone": "resnet18", "image_size": 48, "batch_norm": ("layer", None), "weights": "none"},
    rows={name: SOURCES_ROWS[name] for name in list(SOURCES_ROWS)[:4]},
    columns=THREE_ARMS,
    corner="test images",
)
WITH_HEAD = {"rates.head": 0.001}
ORDERS: dict[str, dict[str, object]] = {
    "by depth": {"preset": "by_depth"},
    "in reverse": {"preset": "reversed", "rates.head": 1e-5},
    "in reverse, head at 1e-3": {"preset": "reversed", **WITH_HEAD},
    "geometric mean": {"preset": "geometric_mean", "rates.head": 7.94e-5},
    "geometric mean, head at 1e-3": {"preset": "geometric_mean", **WITH_HEAD},
}


def order(network: str, of: Mapping[str, object]) -> Table:
    """The order of the rates against their size, for one network."""
    return Table(
        f"Order or size of the rates? {network}; the same rates in reverse, or their geometric mean for all layers",
        of=of,
        rows={name: SOURCES_ROWS[name] for name in list(SOURCES_ROWS)[:4]},
        columns={name: Part(own) for name, own in ORDERS.items()},
        corner="test images",
    )


# `layer` is `follow` here, as every layer is trained.
REGIMES = Table(
    "Which statistics batch normalisation uses: test accuracy (%) with rates by depth, 5,000 training images",
    of={**FER, **BY_DEPTH, "limit_train": 5000},
    rows={
        name: Part({"backbone": backbone, "image_size": size, "weights": data}, metric=TEST_ACCURACY.name)
        for name, backbone, size, data in (
            ("MobileNetV2, 96 pixels, ImageNet weights", "mobilenet_v2", 96, from_imagenet),
            ("ResNet-18, 64 pixels, Tiny-ImageNet weights", "resnet18", 64, from_tiny_imagenet),
            ("ResNet-18, 64 pixels, ImageNet weights", "resnet18", 64, from_imagenet),
        )
    },
    columns={BATCH_NORM[regime]: Part({"batch_norm": regime}) for regime in ("keep", "follow")},
    corner="network",
)


# --- pairs and the claim


def arm_against(one: str, other: str, name: str = "", **fields: object) -> Pair:
    """An arm against another, which differ in rates; `fields` are the other's, `name` what it is called."""
    words = (ARMS[one][0], name or ARMS[other][0])
    return Pair({"preset": one}, {"preset": other, **fields}, ignoring=("rates",), words=words)


def better_on_every_class(runs: Runs) -> Finding:
    """Whether rates by depth have a higher F1 than a frozen backbone on each class: of all images, pretrained."""
    chosen = {**FER, "preset": ("by_depth", "frozen"), "weights": lambda weights: weights != "none"}
    own = runs.chosen({**chosen, **dict.fromkeys(("backbone", "image_size", "batch_norm"), ...)})
    settings = arm_against("by_depth", "frozen").matches(own.completed)
    found = [named({f"F1 of {name}": compared(*sides(both, f1_of(name))) for name in CLASSES}) for both in settings]
    return by_setting(settings, found)


REPORT = Report(
    tables=(
        PUBLISHED,
        ON_A_LAPTOP,
        WITH_RESNET18,
        WITH_FEW,
        BEFORE,
        FROM_SCRATCH,
        order("MobileNetV2 with ImageNet weights at 96 pixels", SMALL),
        order("ResNet-18 with Tiny-ImageNet weights at 64 pixels, 5,000 training images", FEW),
        order("ResNet-18 with ImageNet weights at 224 pixels", LARGE),
        REGIMES,
    ),
    pairs=(
        arm_against("by_depth", "one_rate"),
        arm_against("by_depth", "frozen"),
        arm_against("one_rate", "frozen"),
        Pair(
            {"preset": "by_depth", "batch_norm": "keep"},
            {"preset": "by_depth", "batch_norm": "follow"},
            words=("batch norm keeps its statistics", "batch norm follows the batch"),
        ),
        *(arm_against("by_depth", arm) for arm in ("reversed", "geometric_mean")),
        *(
            arm_against("by_depth", arm, f"{ARMS[arm][0]}, head at 1e-3", rates={"head": 0.001})
            for arm in ("reversed", "geometric_mean")
        ),
        arm_against("one_rate", "geometric_mean", "7.94e-5 for all, head at 1e-3", rates={"head": 0.001}),
    ),
    claims=(
        Claim(
            "002",
            "Fine-tuning with rates by depth beats the frozen model on every class",
            at_source_size({**FER, **THE_SOURCES}, better_on_every_class),
        ),
    ),
    figures=(curves, arms, batch_norm),
    pictures=Pictures(
        {
            "preset": ("by_depth", "frozen"),
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
    headline=Headline(arm_against("by_depth", "one_rate")),
    metrics=(
        percent("test F1 of * (%)", detail=True),
        Metric("test images that are training images too"),
        percent("test accuracy without these (%)"),
        percent("test macro F1 without these (%)", detail=True),
    ),
    words={f"rates.{group}": f"{group} at {{}}" for group in ("stem", "layer1", "layer2", "layer3", "layer4", "head")},
    presets=PRESETS,
)
