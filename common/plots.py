"""The figures of a run: each function draws its data, saves one PNG and returns the PNG's path.

``history`` is a list with one dict per epoch, in order, over all phases of the training: ``phase`` (its
name), ``epoch`` (from 1 within the phase), ``rate``, ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``.
Accuracies are fractions from 0 to 1 and are drawn in percent. Values that are not finite are left out.
A history without epochs raises ValueError.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from common import files

History = Sequence[Mapping]

# The palette of Okabe and Ito, made to be told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SPLIT_COLOURS = {"train": GREEN, "validation": BLUE, "test": ORANGE}
TEST_ONCE = "test, read once, at the epoch that is reported"
LEGEND_BELOW = {"loc": "outside lower center", "frameon": False, "fontsize": 9}

IMAGES_PER_ROW = 8
STEPPED_IMAGES = 4
MISTAKEN_PER_ROW, MISTAKEN = 6, 12
DESTINATIONS = 10
ANNOTATED_CLASSES = 20  # a confusion matrix of more classes has cells too small for a number
CLASSES_PER_PANEL = 50


def learning_curves(history: History, path: Path, metrics: Mapping | None = None) -> Path:
    """Draw losses and, where there are any, accuracies (%) by epoch, with each phase's best epoch.

    With `metrics`, as `training.results` gives them, also the test loss and accuracy at the epoch that is reported.
    """
    panels = [("loss", "Loss", 1), ("accuracy", "Accuracy (%)", 100)]
    panels = [panel for panel in panels if panel[0] in history[0]] if history else panels
    figure, grid = _epoch_panels(history, "Learning curves", panels=len(panels))
    best = _best_epochs(history)
    judge = f"best validation {panels[-1][0]}"
    for axes, (key, name, scale) in zip(grid, panels, strict=True):
        training, validation = _column(history, key, scale), _column(history, f"val_{key}", scale)
        _plot_epochs(axes, training, "--", color=ORANGE, label="training (augmentation and dropout on)")
        _plot_epochs(axes, validation, "-", color=BLUE, label="validation")
        ring = {"color": "black", "fillstyle": "none", "markersize": 10, "markeredgewidth": 1.5}
        axes.plot(best + 1, validation[best], "o", **ring, label=f"{judge} of the phase")
        if metrics:
            phase, start, _ = _phase_spans(history)[-1]
            epoch = start + metrics["phases"][phase][metrics["reported"]]["epoch"]
            axes.plot(epoch, scale * metrics["test"][key], "D", color=VERMILION, label=TEST_ONCE)
        axes.set_ylabel(name)
    figure.legend(*grid[0].get_legend_handles_labels(), ncols=2 if len(panels) > 1 else 1, **LEGEND_BELOW)
    return save_figure(figure, path)


def generalisation_gap(history: History, path: Path) -> Path:
    """Draw training minus validation accuracy (percentage points) and validation minus training loss."""
    title = "Generalisation gap\n(training figures are taken with augmentation and dropout on)"
    figure, (accuracies, losses) = _epoch_panels(history, title, panels=2)
    for axes, key, scale in ((accuracies, "accuracy", 100), (losses, "loss", -1)):
        _plot_epochs(axes, _column(history, key, scale) - _column(history, f"val_{key}", scale), color=BLUE)
        axes.axhline(0, color="black", linewidth=0.8)
    accuracies.set_ylabel("Training − validation accuracy\n(percentage points)")
    losses.set_ylabel("Validation − training loss")
    return save_figure(figure, path)


def learning_rate(history: History, path: Path) -> Path:
    """Draw the learning rate by epoch on a log scale."""
    figure, (axes,) = _epoch_panels(history, "Learning rate")
    rates = _column(history, "rate")
    # A line from one phase to the next would show rates that were never used.
    for _, start, stop in _phase_spans(history):
        shown = np.where((np.arange(len(rates)) >= start) & (np.arange(len(rates)) < stop), rates, np.nan)
        _plot_epochs(axes, shown, color=BLUE)
    if (rates > 0).any():
        axes.set_yscale("log")
        axes.set_ylim(rates[rates > 0].min() / 2, np.nanmax(rates) * 2)
    axes.set_ylabel("Learning rate (log scale)")
    return save_figure(figure, path)


def group_rates(rates: Mapping[str, float], path: Path) -> Path:
    """Draw the learning rate of each group of layers on a log axis, from the image to the classes; 0 is frozen."""
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    trained = [rate for rate in rates.values() if rate > 0]
    floor = min(trained) / 5
    bars = axes.bar(range(len(rates)), [max(rate, floor) - floor for rate in rates.values()], 0.7, floor, color=BLUE)
    axes.bar_label(bars, [f"{rate:g}" if rate else "frozen" for rate in rates.values()], padding=3, fontsize=9)
    axes.set(title="Learning rate of each group of layers", xlabel="Group of layers, from the image to the classes")
    axes.set(yscale="log", ylabel="Learning rate (log scale)", ylim=(floor, max(trained) * 2))
    axes.set_xticks(range(len(rates)), list(rates))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9")
    return save_figure(figure, path)


def phase_bars(phases: Mapping[str, Mapping], path: Path) -> Path:
    """Draw validation and test accuracy (%) after each phase.

    Args:
        phases: ``{phase: {"validation": {"accuracy": fraction, "n": images}, "test": the same or None}}``.
        path: the PNG to write.
    """
    figure = _figure(max(5, 2 + 1.6 * len(phases)), 4.5)
    axes = figure.subplots()
    width = 0.4
    measured = {name: [s for s in ("validation", "test") if phases[name].get(s)] for name in phases}
    for split in ("validation", "test"):
        names = [name for name in phases if split in measured[name]]
        if not names:
            continue
        # A phase with one bar has it in the middle.
        centres = [
            list(phases).index(name) + width * (measured[name].index(split) - (len(measured[name]) - 1) / 2)
            for name in names
        ]
        counts = {phases[name][split]["n"] for name in names}
        label = f"{split} (n = {counts.pop():,})" if len(counts) == 1 else split
        heights = [100 * phases[name][split]["accuracy"] for name in names]
        bars = axes.bar(centres, heights, 0.92 * width, color=SPLIT_COLOURS[split], label=label)
        axes.bar_label(bars, fmt="%.1f %%", padding=2, fontsize=9)
    axes.set(title="Accuracy after each phase", xlabel="Phase", ylabel="Accuracy (%)")
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(phases)), [_short(name, 18) for name in phases])
    axes.set_xlim(-0.7, len(phases) - 0.3)
    figure.legend(ncols=2, **LEGEND_BELOW)
    return save_figure(figure, path)


def image_pairs(
    before: np.ndarray,
    after: np.ndarray,
    path: Path,
    names: tuple[str, str],
    title: str,
) -> Path:
    """Draw a row of images above a row of what became of them, 8 at most.

    Args:
        before: images of shape ``(n, height, width, 1 or 3)``: uint8, or floats from 0 to 1 or 0 to 255.
            Floats of any other range (normalised images) are stretched from their least to their greatest
            value.
        after: what became of them, in the same order; their height, width and range may differ.
        path: the PNG to write.
        names: of the two rows.
        title: of the figure.

    Raises:
        ValueError: wrong shapes, or not as many images after as before.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} images before and {len(after)} after")
    columns = min(IMAGES_PER_ROW, len(before))
    figure = _figure(max(4, 0.6 + 1.5 * columns), 3.7)
    figure.suptitle(title)
    for axes, name, images in zip(figure.subplots(2), names, (before, after), strict=True):
        _show_row(axes, _displayable(images[:columns]), columns)
        axes.set_ylabel(name)
    return save_figure(figure, path)


def image_steps(steps: Mapping[str, np.ndarray], title: str, path: Path) -> Path:
    """Draw what becomes of images: a row for each image, 4 at most, and a column for each step.

    Args:
        steps: the same images at each step, by its name: ``(n, height, width, 1 or 3)`` in the ranges that
            ``image_pairs`` takes; height, width and range may differ from step to step.
        title: of the figure.
        path: the PNG to write.

    Raises:
        ValueError: wrong shapes, or not as many images at each step.
    """
    if len({len(images) for images in steps.values()}) > 1:
        raise ValueError(f"steps of {', '.join(str(len(images)) for images in steps.values())} images")
    shown = [_displayable(images[:STEPPED_IMAGES]) for images in steps.values()]
    names = [f"{name}\n{i.shape[1]} × {i.shape[2]} pixels" for name, i in steps.items()]
    figure = _figure(max(4, 2.3 * len(steps)), 0.9 + 2.2 * len(shown[0]))
    figure.suptitle(title)
    for number, axes in enumerate(figure.subplots(len(shown[0]), squeeze=False)[:, 0]):
        _show_row(axes, [images[number] for images in shown], len(steps), names if number == 0 else ())
        axes.xaxis.tick_top()
        axes.tick_params(labelsize=10)
    return save_figure(figure, path)


def channel_intensities(images: np.ndarray, mean: Sequence[float], deviation: Sequence[float], path: Path) -> Path:
    """Draw the distribution of pixel values of each channel.

    Args:
        images: normalised floats of shape ``(n, height, width, 1 or 3)``.
        mean: what was subtracted from each channel, with values from 0 to 1.
        deviation: what it was then divided by.
        path: the PNG to write.

    Raises:
        ValueError: any other shape.
    """
    _check_images(images)
    channels = (
        [("grey", "0.3", "-")]
        if images.shape[-1] == 1
        else [("red", VERMILION, "-"), ("green", GREEN, "--"), ("blue", BLUE, "-.")]
    )
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for channel, (name, colour, style) in enumerate(channels):
        values = np.asarray(images[..., channel], np.float64).ravel()
        # Half a grey level beyond each end, 64 bins hold 4 of the 256 levels each: no comb of unequal bins.
        margin = np.ptp(values) / 510
        density, edges = np.histogram(
            values, bins=64, range=(values.min() - margin, values.max() + margin), density=True
        )
        label = f"{name}: mean {values.mean():z.2f}, std {values.std():.2f}"
        axes.stairs(density, edges, color=colour, linestyle=style, linewidth=1.5, label=label)
    axes.set_ylim(bottom=0)
    by = [f"{name} {', '.join(f'{v:.3g}' for v in each)}" for name, each in (("mean", mean), ("std", deviation))]
    order = f" ({', '.join(name for name, *_ in channels)})" if len(channels) > 1 else ""
    axes.set(
        title=f"Pixel intensity after normalisation ({len(images):,} images)",
        xlabel=f"Normalised intensity, (value / 255 − mean) / std, no unit\n{'; '.join(by)}{order}",
        ylabel="Density (share of pixels per unit of intensity)",
    )
    axes.set_axisbelow(True)
    axes.grid(color="0.9")
    figure.legend(ncols=len(channels), **LEGEND_BELOW)
    return save_figure(figure, path)


def class_counts(counts: Mapping[str, np.ndarray], class_names: Sequence[str], path: Path) -> Path:
    """Draw the number of images of each class in each split.

    Args:
        counts: images per class, of shape ``(classes,)``, by split: ``train``, ``validation``, ``test``.
        class_names: the class names, in class order.
        path: the PNG to write.
    """
    figure, panels = _class_panels(class_names, np.arange(len(class_names)), "Images per class and split")
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
    figure = _figure(0.4 + 1.6 * IMAGES_PER_ROW, 4.8)
    for part, members, title, none in (
        (0, right, "Right predictions: the first {} of {:,}", "No prediction is right"),
        (1, wrong, "Wrong predictions: the {} most confident of {:,}", "No prediction is wrong"),
    ):
        shown = members[:IMAGES_PER_ROW]
        half = figure.add_subfigure(figure.add_gridspec(2, 1)[part])
        half.suptitle((title.format(len(shown), len(members)) if len(shown) else none) + f" ({len(labels):,} images)")
        texts = []
        for index in shown:
            true, guess = (_short(class_names[c], 16) for c in (labels[index], predicted[index]))
            texts.append(f"{true} →\n{guess} ({100 * confidence[index]:.0f} %)")
        row = [_displayable(pixels[index][None])[0] for index in shown]
        _show_row(half.subplots(), row, IMAGES_PER_ROW, texts)
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
    own = [np.flatnonzero(labels == true) for true in _indices(chosen, class_names)]
    wrong = [places[predicted[places] != labels[places]] for places in own]
    shown = [places[np.argsort(-confidence[places], kind="stable")][:MISTAKEN] for places in wrong]
    drawn = np.concatenate(shown)
    pixels = dict(zip(drawn, images(drawn), strict=True)) if len(drawn) else {}
    rows = [math.ceil(len(places) / MISTAKEN_PER_ROW) for places in shown]
    heights = [0.5 + 2.1 * count for count in rows]
    figure = _figure(0.4 + 1.5 * MISTAKEN_PER_ROW, max(3, sum(heights)))
    parts = figure.subfigures(len(chosen), squeeze=False, height_ratios=heights)[:, 0]
    for part, name, count, every, mistakes, places in zip(parts, chosen, rows, own, wrong, shown, strict=True):
        most = f": the {len(places)} most confident" if len(places) < len(mistakes) else ""
        number = f"{len(mistakes):,}" if len(mistakes) else "none"
        part.suptitle(f"{_short(name)}: {number} of {len(every):,} test images taken for another class{most}")
        for row in range(count):
            members = places[row * MISTAKEN_PER_ROW : (row + 1) * MISTAKEN_PER_ROW]
            texts = [
                f"taken for\n{_short(class_names[predicted[i]], 14)} ({100 * confidence[i]:.0f} %)" for i in members
            ]
            axes = part.add_subplot(count, 1, row + 1)
            _show_row(axes, [_displayable(pixels[i][None])[0] for i in members], MISTAKEN_PER_ROW, texts)
    return save_figure(figure, path)


def class_destinations(confusion: np.ndarray, class_names: Sequence[str], chosen: Sequence[str], path: Path) -> Path:
    """Draw, for each chosen class, the classes that its images are predicted as (%): the 10 most frequent ones.

    The axis fits the wrong classes: the bar of the right one is cut if it is more than three times as long as theirs.

    Args:
        confusion: image counts of shape ``(classes, classes)``; rows are true, columns predicted.
        class_names: the class names, in class order.
        chosen: the names of the classes to draw, at least one.
        path: the PNG to write.

    Raises:
        ValueError: a chosen class that does not exist, or none chosen.
    """
    rows = {true: np.asarray(confusion)[true] for true in _indices(chosen, class_names)}
    shown = {true: _destinations(row, true) for true, row in rows.items()}
    # One above the other, each as high as its bars are many.
    counts = [len(places) for places in shown.values()]
    figure = _figure(7, max(3, 1.1 + sum(0.9 + 0.27 * count for count in counts)))
    figure.suptitle("What the images of a class are taken for")
    grid = figure.subplots(len(chosen), squeeze=False, height_ratios=counts)[:, 0]
    for axes, (true, places) in zip(grid, shown.items(), strict=True):
        colours = [BLUE if index == true else ORANGE for index in places]
        shares = 100 * rows[true][places] / max(1, rows[true].sum())
        longest = max(shares[places != true], default=0)
        cut = 0 < 3 * longest < shares.max()
        limit = 1.2 * (longest if cut else shares.max() or 1)
        bars = axes.barh(range(len(places)), np.minimum(shares, limit), color=colours)
        axes.bar_label(bars, ["" if share > limit else f"{share:.1f} %" for share in shares], padding=2, fontsize=9)
        if cut:
            text = f"{shares.max():.1f} % (longer than this axis)"
            axes.text(limit / 2, int(shares.argmax()), text, ha="center", va="center", color="white", fontsize=9)
        axes.set_yticks(range(len(places)), [_short(class_names[index]) for index in places])
        axes.set_ylim(len(places) - 0.4, -0.6)
        axes.set_xlim(0, limit)
        received = int((rows[true] > 0).sum())
        most = f", the {len(places)} most frequent of {received} classes" if received > len(places) else ""
        axes.set_title(f"{_short(class_names[true])} ({rows[true].sum():,} images{most})", fontsize=11)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color="0.9")
    grid[-1].set_xlabel("Share of the images of the class (%)")
    kinds = [Patch(color=BLUE, label="the right class"), Patch(color=ORANGE, label="a wrong class")]
    figure.legend(handles=kinds, ncols=2, **LEGEND_BELOW)
    return save_figure(figure, path)


def class_images(images: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> Path:
    """Draw an image of each class, five in a row.

    Args:
        images: one a class, in their order, of shape ``(classes, height, width, 1 or 3)``: uint8, or floats of
            any range, each of which is stretched by itself from its least to its greatest value.
        class_names: the name of each class.
        title: of the figure.
        path: the PNG to write.

    Raises:
        ValueError: wrong shapes, or not as many images as classes.
    """
    _check_images(images)
    if len(images) != len(class_names):
        raise ValueError(f"{len(images)} images of {len(class_names)} classes")
    rows = math.ceil(len(images) / 5)
    figure = _figure(9, 0.6 + 2.1 * rows)
    figure.suptitle(title)
    grid = figure.subplots(rows, 5, squeeze=False).ravel()
    for axes, image, name in zip(grid, images, class_names, strict=False):
        if image.dtype != np.uint8:
            image = (image - image.min()) / max(image.max() - image.min(), 1e-12)
        _show_image(axes, _displayable(image[None])[0])
        axes.set_title(_short(name), fontsize=10)
    for axes in grid[len(images) :]:
        axes.remove()
    return save_figure(figure, path)


def cumulative_variance(shares: np.ndarray, path: Path) -> Path:
    """Draw the share of the variance that the first principal components hold: (n,) floats from 0 to 1, rising."""
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    axes.plot(np.arange(1, len(shares) + 1), 100 * np.asarray(shares), color=BLUE)
    for share, side, gap in ((0.95, "right", -5), (0.99, "left", 5)):
        count = int(np.searchsorted(shares, share)) + 1
        axes.plot([count, count], [0, 100 * share], ":", color="0.4")
        axes.annotate(
            f"{share:.0%} in {count}", (count, 10), xytext=(gap, 0), textcoords="offset points", ha=side, fontsize=9
        )
    axes.set(
        title="Principal components of the training images", xlabel="Components", ylabel="Share of the variance (%)"
    )
    axes.set_ylim(0, 103)
    axes.set_xlim(0, len(shares))
    axes.set_axisbelow(True)
    axes.grid(color="0.85")
    return save_figure(figure, path)


def loss_by_step(rows: Sequence[Mapping], path: Path) -> Path:
    """Draw training and validation loss by step, on a log axis if they differ by more than ten times.

    Args:
        rows: ``{"step", "loss", "train_loss"}``: the validation loss after a step, and the mean training loss of the
            steps since the row before, which older runs lack. There may be none.
        path: the PNG to write.
    """
    figure = _figure(7, 4.8)
    axes = figure.subplots()
    for key, style, colour, label in (
        ("train_loss", "s--", ORANGE, "training: mean of the steps since the last mark"),
        ("loss", "o-", BLUE, "validation: all of its images, after the step"),
    ):
        known = [row for row in rows if key in row]
        steps, losses = ([row[name] for row in known] for name in ("step", key))
        axes.plot(steps, losses, style, color=colour, markersize=4, label=label)
    axes.set(title="Loss while training", xlabel="Step", ylabel="Loss, norm of W included")
    drawn = [row[key] for row in rows for key in ("loss", "train_loss") if key in row]
    if drawn and 0 < 10 * min(drawn) < max(drawn):
        axes.set(yscale="log", ylabel="Loss, norm of W included (log scale)")
    axes.set_axisbelow(True)
    axes.grid(color="0.85", which="both")
    figure.legend(ncols=2, **LEGEND_BELOW)
    return save_figure(figure, path)


def embeddings(panels: Mapping[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str], path: Path) -> Path:
    """Draw points of the plane, coloured by class, a panel for each of several embeddings of the same images.

    Every panel shows all of its points, with the same unit on both axes.

    Args:
        panels: floats of shape ``(n, 2)`` by the panel's title.
        labels: classes, integers of shape ``(n,)``.
        class_names: the class names, in class order.
        path: the PNG to write.
    """
    figure = _figure(5.2 * len(panels), 6.2)
    figure.suptitle(f"Embedding of {len(labels):,} test images")
    colours = colormaps["tab10" if len(class_names) <= 10 else "tab20"].colors
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, name in enumerate(class_names):
            members = points[labels == number]
            colour = colours[number % len(colours)]
            marker = "o^sDv"[number // len(colours) % 5]
            axes.scatter(*members.T, s=9, color=[colour], marker=marker, linewidths=0, alpha=0.7, label=_short(name))
        axes.set(title=title, xlabel="First coordinate", ylabel="Second coordinate")
        centre = (points.min(axis=0) + points.max(axis=0)) / 2
        reach = 1.05 * max(np.ptp(points, axis=0).max() / 2, 1e-6)
        axes.set(xlim=(centre[0] - reach, centre[0] + reach), ylim=(centre[1] - reach, centre[1] + reach))
        axes.set_box_aspect(1)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    legend = figure.legend(*axes.get_legend_handles_labels(), ncols=5, **LEGEND_BELOW)
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[36])
    return save_figure(figure, path)


def per_class_scores(per_class: Sequence[Mapping], path: Path) -> Path:
    """Draw precision, recall and F1 (%) of each class, the best F1 first.

    Args:
        per_class: ``{"class": name, "precision": fraction, "recall": fraction, "f1": fraction}`` per class.
        path: the PNG to write.
    """
    names = [entry["class"] for entry in per_class]
    order = np.argsort([-entry["f1"] for entry in per_class], kind="stable")
    figure, panels = _class_panels(names, order, "Precision, recall and F1 by class, sorted by F1")
    # The thin mark of F1 lies between the other two and hides neither where all three are close.
    marks = (("precision", ">", ORANGE), ("recall", "<", BLUE), ("f1", "|", "black"))
    least = min(100 * entry[score] for entry in per_class for score, _, _ in marks)
    for axes, members in panels:
        for score, marker, colour in marks:
            values = [100 * per_class[index][score] for index in members]
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
    """Draw a confusion matrix in shares of the true class, with a number in each cell for up to 20 classes.

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
    size = max(4, 1.5 + 0.55 * classes) if annotated else 2 + 0.14 * classes
    figure = _figure(size + 1, size)
    axes = figure.subplots()
    drawn = axes.imshow(values, cmap="Blues", norm=norm)
    label = f"Share of the true class (%){'' if annotated else ', square-root colour scale'}"
    figure.colorbar(drawn, label=label, fraction=0.05, pad=0.02)
    title = f"Confusion matrix ({counts.sum():,} images)"
    axes.set(title=title, xlabel="Predicted class", ylabel="True class")
    names, font_size = [_short(name) for name in class_names], 9 if annotated else 7
    axes.set_xticks(range(classes), names, fontsize=font_size, rotation=90)
    axes.set_yticks(range(classes), names, fontsize=font_size)
    if annotated:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 50 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    return save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG, creating its folder, and return the path. Same figure, same bytes.

    Raises StorageError where it cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content.getvalue())
    return path


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches. It belongs to no window and no global state."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _epoch_panels(history: History, title: str, panels: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its panels, side by side, each with an epoch axis and the phases marked."""
    if not history:
        raise ValueError("the history has no epochs to draw")
    figure = _figure(7 if panels == 1 else 5.5 * panels, 4.8)
    figure.suptitle(title)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for axes in grid:
        mark_phases(axes, history)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="0.85")
        axes.set_xlabel("Epoch, counted through all phases" if len(_phase_spans(history)) > 1 else "Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, grid


def _phase_spans(history: History) -> list[tuple[str, int, int]]:
    """Return the name, the first row and the row after the last of each phase."""
    spans, start = [], 0
    for name, rows in groupby(history, key=lambda row: row["phase"]):
        stop = start + len(list(rows))
        spans.append((name, start, stop))
        start = stop
    return spans


def mark_phases(axes: Axes, history: History) -> None:
    """Shade every other phase, draw a line between phases and write their names above the axes."""
    axes.set_xlim(0.5, len(history) + 0.5)
    if len(_phase_spans(history)) == 1:
        return  # nothing to tell apart
    # The names of short phases would run into each other: each takes the lowest line with room for it.
    epochs_per_character = len(history) / 55
    ends: list[float] = []
    for number, (name, start, stop) in enumerate(_phase_spans(history)):
        if number % 2:
            axes.axvspan(start + 0.5, stop + 0.5, color="0.94", zorder=0)
        if number:
            axes.axvline(start + 0.5, color="0.6", linewidth=0.8, zorder=1)
        half_width = epochs_per_character * len(_short(name)) / 2
        centre = max((start + stop + 1) / 2, half_width)  # inside the axes, off the labels left of them
        line = next((i for i, end in enumerate(ends) if end < centre - half_width), len(ends))
        ends[line : line + 1] = [centre + half_width + epochs_per_character]
        axes.annotate(
            _short(name),
            (centre, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3 + 11 * line),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color="0.25",
        )


def _plot_epochs(axes: Axes, values: np.ndarray, *style: str, **kwargs) -> None:
    """Plot one value per epoch; the marks shrink as epochs crowd, and keep a single epoch visible."""
    size = 4 if len(values) <= 40 else 1.5
    axes.plot(np.arange(1, len(values) + 1), values, *style, marker="o", markersize=size, **kwargs)


def _best_epochs(history: History) -> np.ndarray:
    """Return the row of each phase whose weights are kept: the highest validation accuracy, then the lowest loss.

    As `callbacks.Keeper` chooses; a phase without finite ones has none.
    """
    losses = _column(history, "val_loss")
    merit = _column(history, "val_accuracy") if "val_accuracy" in history[0] else -losses
    finite = np.isfinite(merit) & np.isfinite(losses)
    spans = ([row for row in range(start, stop) if finite[row]] for _, start, stop in _phase_spans(history))
    return np.array([max(rows, key=lambda row: (merit[row], -losses[row])) for rows in spans if rows], dtype=int)


def _column(history: History, key: str, scale: float = 1) -> np.ndarray:
    return scale * np.array([row[key] for row in history], dtype=np.float64)


def _class_panels(
    class_names: Sequence[str], order: np.ndarray, title: str
) -> tuple[Figure, list[tuple[Axes, np.ndarray]]]:
    """Return a figure and, per panel, the axes and the classes it shows: one labelled row per class."""
    groups = np.array_split(order, math.ceil(len(order) / CLASSES_PER_PANEL))
    row_height = 0.4 if len(order) <= ANNOTATED_CLASSES else 0.2
    figure = _figure(max(7, 5.5 * len(groups)), max(2.6, 1.6 + row_height * len(groups[0])))
    figure.suptitle(title)
    grid = figure.subplots(1, len(groups), squeeze=False, sharex=True)[0]
    for axes, members in zip(grid, groups, strict=True):
        names = [_short(class_names[index]) for index in members]
        axes.set_yticks(range(len(members)), names, fontsize=9 if row_height > 0.3 else 8)
        axes.set_ylim(len(groups[0]) - 0.5, -0.5)
        axes.set_axisbelow(True)
        axes.grid(color="0.9")
    return figure, list(zip(grid, groups, strict=True))


def _destinations(row: np.ndarray, true: int) -> np.ndarray:
    """Return the classes with the most images, most first: 10 at most, none without but the right one, which is in."""
    order = np.argsort(-row, kind="stable")
    wrong = [index for index in order if index != true and row[index] > 0][: DESTINATIONS - 1]
    return np.array([index for index in order if index == true or index in wrong])


def _indices(chosen: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return the chosen classes' places among all. Raises ValueError for unknown ones, or for none."""
    unknown = [name for name in chosen if name not in class_names]
    if unknown or not chosen:
        raise ValueError(f"no such class: {', '.join(unknown)}" if unknown else "no class was chosen")
    return [list(class_names).index(name) for name in chosen]


def _check_images(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"images must have the shape (n, height, width, 1 or 3), not {images.shape}")


def _displayable(images: np.ndarray) -> np.ndarray:
    """Return images as floats from 0 to 1 with three channels, whatever range they came in."""
    _check_images(images)
    shown = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    least, greatest = (0, 255) if images.dtype == np.uint8 else (images.min(), images.max())
    if least >= 0 and greatest <= 255:
        least, greatest = 0, 1 if greatest <= 1 else 255
    return (shown.astype(np.float32) - least) / max(greatest - least, 1e-6)


def _show_row(axes: Axes, images: Sequence[np.ndarray], places: int, texts: Sequence[str] = ()) -> None:
    """Show images side by side, with texts below; together, as axes for each would take most of the time."""
    size = 0.95  # of an image in its place
    for place, image in enumerate(images):
        height = size * image.shape[0] / image.shape[1]
        axes.imshow(image, extent=(place, place + size, 0, height))
        axes.add_patch(Rectangle((place, 0), size, height, fill=False, linewidth=0.8, clip_on=False))
    axes.set(xlim=(0, places - 1 + size), frame_on=False, yticks=[])
    axes.set_xticks([place + size / 2 for place in range(len(texts))], texts, fontsize=8)
    axes.tick_params(length=0)


def _show_image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])


def _short(name: str, limit: int = 24) -> str:
    """Cut a long name, and keep matplotlib from reading dollar signs as mathematics."""
    cut = name if len(name) <= limit else name[: limit - 1] + "…"
    return cut.replace("$", r"\$")
