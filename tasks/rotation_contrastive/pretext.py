"""Data sets that these experiments make of another: half of the images turned; images in a random order."""

from dataclasses import replace

import numpy as np

from common.data import pipeline, splits
from common.data.sources import TEST_SEED
from common.data.splits import Dataset, Split


def half_turned(data: Dataset, seed: int) -> Dataset:
    """The same images, half of each split turned by 90 degrees; the labels are 0, upright, and 1, turned.

    Which ones are turned stays the same in all epochs. The seed draws them; those of the test split are the same ones
    for every seed.
    """
    return replace(
        data,
        class_names=("upright", "turned"),
        train=turned(data.train, seed),
        validation=turned(data.validation, seed + 1),
        test=turned(data.test, TEST_SEED),
    )


def turned(split: Split, seed: int) -> Split:
    """A split with half of its images, drawn by the seed, turned anticlockwise."""
    images = pipeline.pictures(split, np.arange(len(split)))
    labels = np.random.default_rng(seed).permutation(len(split)) % 2
    images[labels == 1] = np.rot90(images[labels == 1], axes=(1, 2))
    return replace(splits.whole(images, labels, split.size), origins=split.places)


def mixed(data: Dataset, seed: int) -> Dataset:
    """The same images, those of validation and test in a random order.

    The seed draws the order of the validation split; that of the test split is the same for every seed.
    """
    return replace(data, validation=shuffled(data.validation, seed), test=shuffled(data.test, TEST_SEED))


def shuffled(split: Split, seed: int) -> Split:
    """The same images in a random order, for pairs to be measured: neighbours on disk may be of one class."""
    return split.take(np.random.default_rng(seed).permutation(len(split)))
