"""The confusion matrix with the images of its cells, and the most confident mistakes, for a run's page."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from common.data import pipeline
from common.data.splits import Split
from common.result import Predictions

SIDE = 48  # pixels of a thumbnail, at most
PER_CELL = (8, 4, 2, 1)  # thumbnails of a cell: the most of these that fit
MOST_BYTES = 3_200_000  # of all thumbnails, in base64
QUALITY = 55  # of their JPEG
MOST_CLASSES = 200  # a matrix of more is too large for a page
COLUMNS = 8  # thumbnails side by side in the sheet of a class
MISTAKES = 24
SHADES = 9
BATCH = 256  # images that are read at once: at 224 pixels a test split does not fit into memory


def grid(test: Split, predictions: Predictions, confusion: np.ndarray, names: Sequence[str] = ()) -> dict | None:
    """The cells of the matrix by true class, and the thumbnails that they open; None for too many classes.

    `names` are the files of the test images, if they have any.

    The thumbnails of a class are one JPEG, its sheet, in which those of a cell follow each other, the most confident
    first. There are fewer a cell if all would take more than MOST_BYTES, and none if one a cell is still too many.
    """
    classes = len(confusion)
    if classes > MOST_CLASSES:
        return None
    order, rank = by_cell(predictions)
    order, rank = order[rank < PER_CELL[0]], rank[rank < PER_CELL[0]]
    small = thumbnails(test, order)
    most, sheets, kept = fitting(small, predictions.labels[order], rank, classes)
    by_class = [images_of(true, order[kept], predictions, sheets, names) for true in range(classes)] if most else []
    return {
        "rows": [cells(row, true) for true, row in enumerate(confusion)],
        "most": most,
        "opened": {"step": small.shape[1], "side": side_of(test), "columns": COLUMNS, "classes": by_class},
    }


def by_cell(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Images by true class, predicted class and falling confidence, and each one's rank in its cell: int64 (n,)."""
    probabilities = predictions.probabilities
    cell = predictions.labels * probabilities.shape[1] + probabilities.argmax(axis=1)
    order = np.lexsort((-probabilities.max(axis=1), cell))
    _, first, counts = np.unique(cell[order], return_index=True, return_counts=True)
    return order, np.arange(len(order)) - np.repeat(first, counts)


def thumbnails(split: Split, places: np.ndarray) -> np.ndarray:
    """Images of a split as thumbnails: uint8 (n, s, s, c), s a multiple of 16 as JPEG's blocks are.

    Larger images are made smaller, much smaller ones larger by a whole factor, and the rest of s is filled up.
    """
    side = side_of(split)
    batches = []
    for images, _ in pipeline.evaluation(split.take(places), BATCH):
        own = images.numpy()
        if split.size > SIDE:
            own = np.stack([shrunk(image) for image in own])
        factor = side // own.shape[1]
        batches.append(own.repeat(factor, axis=1).repeat(factor, axis=2))
    fill = (0, -side % 16)
    return np.pad(np.concatenate(batches), ((0, 0), fill, fill, (0, 0)), mode="edge")


def side_of(split: Split) -> int:
    """Pixels that a side of an image of this split has as a thumbnail."""
    return split.size * max(1, SIDE // split.size) if split.size <= SIDE else SIDE


def shrunk(image: np.ndarray) -> np.ndarray:
    """One image, uint8 (h, w, c), at the size of a thumbnail."""
    return np.asarray(picture(image).resize((SIDE, SIDE))).reshape(SIDE, SIDE, -1)


def fitting(small: np.ndarray, labels: np.ndarray, rank: np.ndarray, classes: int) -> tuple[int, list[str], np.ndarray]:
    """The most thumbnails a cell that fit, the sheet of each class, and which thumbnails these hold: bool (n,)."""
    for most in PER_CELL:
        kept = rank < most
        sheets = [sheet(small[kept & (labels == true)]) for true in range(classes)]
        if sum(map(len, sheets)) <= MOST_BYTES:
            return most, sheets, kept
    return 0, [], np.zeros(len(rank), bool)


def sheet(images: np.ndarray) -> str:
    """Images (n, s, s, c) row by row in one JPEG, as a data URI; an empty text if there are none."""
    if not len(images):
        return ""
    count, side, _, channels = images.shape
    rows = -(-count // COLUMNS)
    filled = np.zeros((rows * COLUMNS, side, side, channels), np.uint8)
    filled[:count] = images
    pixels = filled.reshape(rows, COLUMNS, side, side, channels).swapaxes(1, 2)
    return jpeg(pixels.reshape(rows * side, COLUMNS * side, channels), QUALITY)


def jpeg(pixels: np.ndarray, quality: int) -> str:
    """One image, uint8 (h, w, 1 or 3), as a data URI."""
    content = io.BytesIO()
    picture(pixels).save(content, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def picture(pixels: np.ndarray) -> Image.Image:
    """An array, uint8 (h, w, 1 or 3), as Pillow has it."""
    return Image.fromarray(pixels.squeeze(axis=-1) if pixels.shape[-1] == 1 else pixels)


def images_of(
    true: int, order: np.ndarray, predictions: Predictions, sheets: Sequence[str], names: Sequence[str]
) -> dict:
    """What the page has to know to open the cells of a class: its sheet, and whose thumbnails are in it."""
    own = order[predictions.labels[order] == true]
    probabilities = predictions.probabilities[own]
    predicted, first, counts = np.unique(probabilities.argmax(axis=1), return_index=True, return_counts=True)
    return {
        "sheet": sheets[true],
        "images": own.tolist(),
        "files": [names[image] for image in own] if names else [],
        "confidence": np.round(100 * probabilities.max(axis=1).astype(np.float64), 1).tolist(),
        "cells": {int(p): [int(f), int(c)] for p, f, c in zip(predicted, first, counts, strict=True)},
    }


def cells(row: np.ndarray, true: int) -> list[tuple[int, str]]:
    """Count and shade of each cell of a class: the root of its share, as a linear one hides a few percent."""
    shades = np.ceil(SHADES * np.sqrt(row / max(1, row.sum()))).astype(int)
    return [(int(n), f"{'r' if p == true else 'w'}{s}") for p, (n, s) in enumerate(zip(row, shades, strict=True))]


def mistakes(
    test: Split, predictions: Predictions, class_names: Sequence[str], names: Sequence[str] = ()
) -> list[Mapping]:
    """The wrong predictions of the highest confidence, each with its thumbnail, and with its file if it has one."""
    predicted, confidence = predictions.probabilities.argmax(axis=1), predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    if not len(wrong):
        return []
    side = side_of(test)
    return [
        {
            "data": jpeg(small[:side, :side], 80),
            "index": int(index),
            "file": names[int(index)] if names else "",
            "true": class_names[predictions.labels[index]],
            "predicted": class_names[predicted[index]],
            "confidence": 100 * float(confidence[index]),
        }
        for index, small in zip(wrong, thumbnails(test, wrong), strict=True)
    ]
