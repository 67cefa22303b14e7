"""Images: as they are, and what becomes of them."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from common.plots.base import BLUE, GREEN, LEGEND_BELOW, NAMED_CLASSES, VERMILION, empty_figure, save_figure, short

IMAGES_PER_ROW = 8
STEPPED_IMAGES = 4


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
    figure = empty_figure(max(4, 0.6 + 1.5 * columns), 3.7)
    figure.suptitle(title)
    for axes, name, images in zip(figure.subplots(2), names, (before, after), strict=True):
        show_row(axes, displayable(images[:columns]), columns)
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
    shown = [displayable(images[:STEPPED_IMAGES]) for images in steps.values()]
    names = [f"{name}\n{i.shape[1]} × {i.shape[2]} pixels" for name, i in steps.items()]
    figure = empty_figure(max(4, 2.3 * len(steps)), 0.9 + 2.2 * len(shown[0]))
    figure.suptitle(title)
    for number, axes in enumerate(figure.subplots(len(shown[0]), squeeze=False)[:, 0]):
        show_row(axes, [images[number] for images in shown], len(steps), names if number == 0 else ())
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
    check_images(images)
    channels = (
        [("grey", "0.3", "-")]
        if images.shape[-1] == 1
        else [("red", VERMILION, "-"), ("green", GREEN, "--"), ("blue", BLUE, "-.")]
    )
    figure = empty_figure(7, 4.5)
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


def heat_maps(images: np.ndarray, maps: np.ndarray, titles: Sequence[str], path: Path) -> Path:
    """Draw images, each beside itself with a map laid over it; four pairs in a row.

    Args:
        images: uint8 of shape ``(n, height, width, 1 or 3)``.
        maps: floats of 0 and above, of shape ``(n, rows, columns)``; each is stretched to the image, and to its own
            greatest value.
        titles: one a pair.
        path: the PNG to write.
    """
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    figure = empty_figure(max(4, 3.6 * columns), 0.8 + 2.4 * rows)
    places = " × ".join(map(str, maps.shape[1:]))
    told = f"Grad-CAM: what speaks for the class, in {places} places, smoothed; nothing (dark) to most (yellow)"
    figure.suptitle(textwrap.fill(told, 22 * columns + 18), fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image, own, title in zip(grid, displayable(images), maps, titles, strict=False):
        axes.imshow(image, extent=(0, 1, 0, 1))
        axes.imshow(image, extent=(1.05, 2.05, 0, 1))
        # The map's outermost values lie half a cell inside: the smoothing repeats them up to the border.
        shades = {"cmap": "plasma", "vmin": 0, "vmax": max(own.max(), 1e-12), "alpha": 0.55}
        axes.imshow(own, extent=(1.05, 2.05, 0, 1), interpolation="bilinear", **shades)
        axes.set(xlim=(0, 2.05), ylim=(0, 1), xticks=[], yticks=[], frame_on=False)
        axes.set_title("\n".join(short(line, 30) for line in title.split("\n")), fontsize=9)
    for axes in grid[len(images) :]:
        axes.remove()
    return save_figure(figure, path)


def class_images(images: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> Path:
    """Draw an image of each class, five in a row, of the first 200 classes.

    Args:
        images: one a class, in their order, of shape ``(classes, height, width, 1 or 3)``: uint8, or floats of
            any range, each of which is stretched by itself from its least to its greatest value.
        class_names: the name of each class.
        title: of the figure.
        path: the PNG to write.

    Raises:
        ValueError: wrong shapes, or not as many images as classes.
    """
    check_images(images)
    if len(images) != len(class_names):
        raise ValueError(f"{len(images)} images of {len(class_names)} classes")
    if len(images) > NAMED_CLASSES:
        title += f" (the first {NAMED_CLASSES} of {len(images):,})"
        images = images[:NAMED_CLASSES]
    rows = math.ceil(len(images) / 5)
    figure = empty_figure(9, 0.6 + 2.1 * rows)
    figure.suptitle(title)
    grid = figure.subplots(rows, 5, squeeze=False).ravel()
    for axes, image, name in zip(grid, images, class_names, strict=False):
        if image.dtype != np.uint8:
            image = (image - image.min()) / max(image.max() - image.min(), 1e-12)
        show_image(axes, displayable(image[None])[0])
        axes.set_title(short(name), fontsize=10)
    for axes in grid[len(images) :]:
        axes.remove()
    return save_figure(figure, path)


def check_images(images: np.ndarray) -> None:
    """Raise ValueError for an array that is no images, grey or coloured."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"images must have the shape (n, height, width, 1 or 3), not {images.shape}")


def displayable(images: np.ndarray) -> np.ndarray:
    """Return images as floats from 0 to 1 with three channels, whatever range they came in."""
    check_images(images)
    shown = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    least, greatest = (0, 255) if images.dtype == np.uint8 else (images.min(), images.max())
    if least >= 0 and greatest <= 255:
        least, greatest = 0, 1 if greatest <= 1 else 255
    return (shown.astype(np.float32) - least) / max(greatest - least, 1e-6)


def show_row(axes: Axes, images: Iterable[np.ndarray], places: int, texts: Sequence[str] = ()) -> None:
    """Show images side by side, with texts below; together, as axes for each would take most of the time."""
    size = 0.95  # of an image in its place
    for place, image in enumerate(images):
        height = size * image.shape[0] / image.shape[1]
        axes.imshow(image, extent=(place, place + size, 0, height))
        axes.add_patch(Rectangle((place, 0), size, height, fill=False, linewidth=0.8, clip_on=False))
    axes.set(xlim=(0, places - 1 + size), frame_on=False, yticks=[])
    axes.set_xticks([place + size / 2 for place in range(len(texts))], texts, fontsize=8)
    axes.tick_params(length=0)
    axes.set_anchor("N")  # below its title, where the part of the figure is higher


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Show one image without ticks."""
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
