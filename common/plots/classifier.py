"""A classifier's predictions, by class and by image."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from common.plots.base import (
    BLUE,
    LEGEND_BELOW,
    NAMED_CLASSES,
    ORANGE,
    SPLIT_COLOURS,
    empty_figure,
    room,
    save_figure,
    short,
)
from common.plots.images import IMAGES_PER_ROW, displayable, show_row

MISTAKEN_PER_ROW, MISTAKEN = 6, 12
DESTINATIONS = 10
ANNOTATED_CLASSES = 20  # a confusion matrix of more classes has cells too small for a number
CLASSES_PER_PANEL = 50
UNNAMED_SIZE = 12  # inches of a confusion matrix without names


def class_counts(counts: Mapping[str, np.ndarray], class_names: Sequence[str], path: Path) -> Path:
    """Draw the number of images of each class in each split.

    Args:
        counts: images per class, of shape ``(classes,)``, by split: ``train``, ``validation``, ``test``.
        class_names: the class names, in class order.
        path: the PNG to write.
    """
    figure, panels = class_panels(class_names, np.arange(len(class_names)), "Images per class and split")
    height = 0.8 / len(counts)
    for axes, members in panels:
        for place, (split, values) in enumerate(counts.items()):
            rows = np.arange(len(members)) + height * (place - (len(counts) - 1) / 2)
            total = f"{split} ({np.sum(values):,} images)"
            axes.barh(rows, np.asarray(values)[members], height, color=SPLIT_COLOURS[split], label=total)
        axes.set_xlabel("Images")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    figure.legend(*panels[0][0].get_legend_handles_labels(), ncols=len(counts), **LEGEND_BELOW)
    return save_figure(figure, path)


def predictions_grid(
    images: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    path: Path,
) -> Path:
    """Draw the first 8 right predictions above the 8 most confident wrong ones, as true → predicted (%).

    Args:
        images: function from places among the labels, ``(m,)``, to images ``(m, height, width, 1 or 3)`` in the
            ranges that ``image_pairs`` takes; called once, for the drawn ones alone.
        labels: true classes, integers of shape ``(n,)``.
        probabilities: floats of shape ``(n, classes)``.
        class_names: the class names, in class order.
        path: the PNG to write.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right, wrong = np.flatnonzero(predicted == labels), np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    drawn = np.concatenate([right[:IMAGES_PER_ROW], wrong[:IMAGES_PER_ROW]])
    pixels = dict(zip(drawn, images(drawn), strict=True))
    figure = empty_figure(0.4 + 1.6 * IMAGES_PER_ROW, 4.8)
    for part, members, title, none in (
        (0, right, "Right predictions, true → predicted: the first {} of {:,}", "No prediction is right"),
        (1, wrong, "Wrong predictions, true → predicted: the {} most confident of {:,}", "No prediction is wrong"),
    ):
        shown = members[:IMAGES_PER_ROW]
        half = figure.add_subfigure(figure.add_gridspec(2, 1)[part])
        half.suptitle((title.format(len(shown), len(members)) if len(shown) else none) + f" ({len(labels):,} images)")
        texts = []
        for index in shown:
            true, guess = (short(class_names[c], 16) for c in (labels[index], predicted[index]))
            texts.append(f"{true} →\n{guess} ({100 * confidence[index]:.0f} %)")
        row = [displayable(pixels[index][None])[0] for index in shown]
        show_row(half.subplots(), row, IMAGES_PER_ROW, texts)
    return save_figure(figure, path)


def mistaken_images(
    images: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    chosen: Sequence[str],
    path: Path,
) -> Path:
    """Draw, of each chosen class, the images that were taken for another one, with that class and its probability (%).

    The 12 most confident mistakes of a class are shown.

    Args:
        images: function from places among the labels to images, as ``predictions_grid`` takes it; not called if there
            is no mistake.
        labels: true classes, integers of shape ``(n,)``.
        probabilities: floats of shape ``(n, classes)``.
        class_names: the class names, in class order.
        chosen: the names of the classes to draw, at least one.
        path: the PNG to write.

    Raises:
        ValueError: a chosen class that does not exist, or none chosen.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    own = [np.flatnonzero(labels == true) for true in indices(chosen, class_names)]
    wrong = [places[predicted[places] != labels[places]] for places in own]
    shown = [places[np.argsort(-confidence[places], kind="stable")][:MISTAKEN] for places in wrong]
    drawn = np.concatenate(shown)
    pixels = dict(zip(drawn, images(drawn), strict=True)) if len(drawn) else {}
    rows = [math.ceil(len(places) / MISTAKEN_PER_ROW) for places in shown]
    heights = [0.5 + 2.1 * count for count in rows]
    figure = empty_figure(0.4 + 1.5 * MISTAKEN_PER_ROW, max(3, sum(heights)))
    parts = figure.subfigures(len(chosen), squeeze=False, height_ratios=heights)[:, 0]
    for part, name, count, every, mistakes, places in zip(parts, chosen, rows, own, wrong, shown, strict=True):
        most = f": the {len(places)} most confident" if len(places) < len(mistakes) else ""
        number = f"{len(mistakes):,}" if len(mistakes) else "none"
        part.suptitle(f"{short(name)}: {number} of {len(every):,} test images taken for another class{most}")
        for row in range(count):
            members = places[row * MISTAKEN_PER_ROW : (row + 1) * MISTAKEN_PER_ROW]
            texts = [
                f"taken for\n{short(class_names[predicted[i]], 14)} ({100 * confidence[i]:.0f} %)" for i in members
            ]
            axes = part.add_subplot(count, 1, row + 1)
            show_row(axes, [displayable(pixels[i][None])[0] for i in members], MISTAKEN_PER_ROW, texts)
    return save_figure(figure, path)


def class_destinations(
    confusion: np.ndarray, class_names: Sequence[str], chosen: Sequence[str], path: Path, why: str = ""
) -> Path:
    """Draw, for each chosen class, the classes that its images are predicted as (%): the 10 most frequent ones.

    All panels have one axis, which fits the wrong classes: the bar of the right one is cut if it is more than three
    times as long as theirs.

    Args:
        confusion: image counts of shape ``(classes, classes)``; rows are true, columns predicted.
        class_names: the class names, in class order.
        chosen: the names of the classes to draw, at least one.
        path: the PNG to write.
        why: why these classes, for the title.

    Raises:
        ValueError: a chosen class that does not exist, or none chosen.
    """
    rows = {true: np.asarray(confusion)[true] for true in indices(chosen, class_names)}
    shown = {true: destinations(row, true) for true, row in rows.items()}
    # One above the other, each as high as its bars are many.
    counts = [len(places) for places in shown.values()]
    figure = empty_figure(7, max(3, 1.1 + sum(0.9 + 0.27 * count for count in counts)))
    figure.suptitle(f"What the images of a class are taken for{f': {why}' if why else ''}")
    grid = figure.subplots(len(chosen), squeeze=False, height_ratios=counts)[:, 0]
    percent = {true: 100 * rows[true][places] / max(1, rows[true].sum()) for true, places in shown.items()}
    longest = max(max(percent[true][places != true], default=0) for true, places in shown.items())
    highest = max(shares.max() for shares in percent.values())
    limit = 1.2 * (longest if 0 < 3 * longest < highest else highest or 1)
    for axes, (true, places) in zip(grid, shown.items(), strict=True):
        colours = [BLUE if index == true else ORANGE for index in places]
        shares = percent[true]
        bars = axes.barh(range(len(places)), np.minimum(shares, limit), color=colours)
        axes.bar_label(bars, ["" if share > limit else f"{share:.1f} %" for share in shares], padding=2, fontsize=9)
        if shares.max() > limit:
            text = f"{shares.max():.1f} % (longer than this axis)"
            axes.text(limit / 2, int(shares.argmax()), text, ha="center", va="center", color="white", fontsize=9)
        axes.set_yticks(range(len(places)), [short(class_names[index]) for index in places])
        axes.set_ylim(len(places) - 0.4, -0.6)
        axes.set_xlim(0, limit)
        received = int((rows[true] > 0).sum())
        most = f", the {len(places)} most frequent of {received} classes" if received > len(places) else ""
        axes.set_title(f"{short(class_names[true])} ({rows[true].sum():,} images{most})", fontsize=11)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color="0.9")
    grid[-1].set_xlabel("Share of the images of the class (%)")
    kinds = [Patch(color=BLUE, label="the right class"), Patch(color=ORANGE, label="a wrong class")]
    figure.legend(handles=kinds, ncols=2, **LEGEND_BELOW)
    return save_figure(figure, path)


def per_class_scores(per_class: Sequence[Mapping], path: Path) -> Path:
    """Draw precision, recall and F1 (%) of each class, the best F1 first.

    Args:
        per_class: ``{"class": name, "precision": fraction, "recall": fraction, "f1": fraction}`` per class. A class
            without images has None in their place, and is left out.
        path: the PNG to write.
    """
    scored = [entry for entry in per_class if entry["f1"] is not None]
    left_out = len(per_class) - len(scored)
    title = "Precision, recall and F1 by class, sorted by F1"
    order = np.argsort([-entry["f1"] for entry in scored], kind="stable")
    figure, panels = class_panels(
        [entry["class"] for entry in scored],
        order,
        f"{title} (left out, as they have no images: {left_out:,})" if left_out else title,
    )
    # The thin mark of F1 lies between the other two and hides neither where all three are close.
    marks = (("precision", ">", ORANGE), ("recall", "<", BLUE), ("f1", "|", "black"))
    least = min(100 * entry[score] for entry in scored for score, _, _ in marks)
    for axes, members in panels:
        for score, marker, colour in marks:
            values = [100 * scored[index][score] for index in members]
            label = "F1" if score == "f1" else score
            axes.plot(
                values,
                range(len(members)),
                marker,
                color=colour,
                markersize=5 if score != "f1" else 9,
                label=label,
            )
        axes.set_xlabel("Score (%)")
        axes.set_xlim(min(least - 2, 90), 101.5)  # marks at exactly 0 and 100 % stay whole
    figure.legend(*panels[0][0].get_legend_handles_labels(), ncols=len(marks), **LEGEND_BELOW)
    return save_figure(figure, path)


def confusion_matrix(confusion: np.ndarray, class_names: Sequence[str], path: Path) -> Path:
    """Draw a confusion matrix in shares of the true class: numbers for up to 20 classes, names for up to 200.

    Args:
        confusion: image counts of shape ``(classes, classes)``; rows are true, columns predicted.
        class_names: the class names, in class order.
        path: the PNG to write.
    """
    counts = np.asarray(confusion)
    classes = len(class_names)
    annotated = classes <= ANNOTATED_CLASSES
    values = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    # Without numbers, a linear scale would leave confusions of a few percent invisible.
    norm = Normalize(0, 100) if annotated else PowerNorm(0.5, 0, 100)
    named = class_names if classes <= NAMED_CLASSES else ()
    names, font_size = [short(name) for name in named], 9 if annotated else 7
    size = max(2.5, (0.55 if annotated else 0.14) * classes) if named else UNNAMED_SIZE
    beside = room(names, font_size) + 0.9  # of the matrix: names, and what the axis shows or the title
    figure = empty_figure(size + beside + 1.2, size + beside)
    figure.set_layout_engine("compressed")  # for axes of a fixed shape
    axes = figure.subplots()
    drawn = axes.imshow(values, cmap="Blues", norm=norm)
    label = f"Share of the true class (%){'' if annotated else ', square-root colour scale'}"
    figure.colorbar(drawn, label=label, fraction=0.05, pad=0.02)
    title = f"Confusion matrix ({counts.sum():,} images)"
    axes.set(title=title, xlabel="Predicted class", ylabel="True class")
    if named:
        axes.set_xticks(range(classes), names, fontsize=font_size, rotation=90)
        axes.set_yticks(range(classes), names, fontsize=font_size)
    if annotated:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 50 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    return save_figure(figure, path)


def class_panels(
    class_names: Sequence[str], order: np.ndarray, title: str
) -> tuple[Figure, list[tuple[Axes, np.ndarray]]]:
    """Return a figure and, per panel, the axes and the classes it shows: one labelled row per class, 200 at most."""
    if len(order) > NAMED_CLASSES:
        half = NAMED_CLASSES // 2
        title += f" (the first and the last {half} of {len(order):,} classes)"
        order = np.concatenate([order[:half], order[-half:]])
    groups = np.array_split(order, math.ceil(len(order) / CLASSES_PER_PANEL))
    row_height = 0.4 if len(order) <= ANNOTATED_CLASSES else 0.2
    font_size = 9 if row_height > 0.3 else 8
    width = 4.5 + room(map(short, class_names), font_size)
    figure = empty_figure(max(7, width * len(groups)), max(2.6, 1.6 + row_height * len(groups[0])))
    figure.suptitle(title)
    grid = figure.subplots(1, len(groups), squeeze=False, sharex=True)[0]
    for axes, members in zip(grid, groups, strict=True):
        names = [short(class_names[index]) for index in members]
        axes.set_yticks(range(len(members)), names, fontsize=font_size)
        axes.set_ylim(len(groups[0]) - 0.5, -0.5)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    return figure, list(zip(grid, groups, strict=True))


def destinations(row: np.ndarray, true: int) -> np.ndarray:
    """Return the classes with the most images, most first: 10 at most, none without but the right one, which is in."""
    order = np.argsort(-row, kind="stable")
    wrong = [index for index in order if index != true and row[index] > 0][: DESTINATIONS - 1]
    return np.array([index for index in order if index == true or index in wrong])


def indices(chosen: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return the chosen classes' places among all. Raises ValueError for unknown ones, or for none."""
    unknown = [name for name in chosen if name not in class_names]
    if unknown or not chosen:
        raise ValueError(f"no such class: {', '.join(unknown)}" if unknown else "no class was chosen")
    return [list(class_names).index(name) for name in chosen]
