"""What is in a data set: classes, counts, sizes, files that are not used, and copies within and across its splits."""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from common.config import Config
from common.data import folder_of, image_files, near_copies, pipeline, sources
from common.data.listing import list_images
from common.data.splits import SPLITS, Dataset, digests


@dataclass(frozen=True)
class Published:
    """How many of the test images have a copy among the training images, or else among the test images."""

    source: str
    share: str
    in_train: int
    in_test: int


BARZ = "Barz and Denzler 2020, doi.org/10.3390/jimaging6060041; counts: their lists, github.com/cvjena/cifair"
PUBLISHED = {"cifar10": Published(BARZ, "3.3 %", 286, 39), "cifar100": Published(BARZ, "10 %", 891, 104)}


@dataclass(frozen=True)
class Copies:
    """Which of all images of a data set, splits one after the other, are copies of each other.

    `splits` int64 (n,): the split of each image, by its place in SPLITS. `groups` int64 (n,): the same number for exact
    copies. `near`: pairs of groups, as the indices of their first images; none if they cannot be recognised
    from pictures of different things, which are `deviations` away.
    """

    splits: np.ndarray
    groups: np.ndarray
    near: near_copies.Pairs
    deviations: float

    @property
    def tells_near(self) -> bool:
        """Whether near copies can be distinguished from pictures of different things."""
        return self.deviations >= near_copies.DEVIATIONS

    def members(self) -> np.ndarray:
        """How many images of each split a group has: int64 (groups, splits)."""
        counts = np.zeros((self.groups.max() + 1, len(SPLITS)), np.int64)
        np.add.at(counts, (self.groups, self.splits), 1)
        return counts

    def exact(self, split: int, other: int) -> np.ndarray:
        """For each image of a split, whether another image, of the other split, is an exact copy: bool."""
        own = self.groups[self.splits == split]
        return self.members()[own, other] > (split == other)

    def near_or_exact(self, split: int, other: int) -> np.ndarray:
        """For each image of a split, whether another image, of the other split, is a near or an exact copy: bool."""
        there = self.members()[:, other] > 0
        beside = np.zeros_like(there)
        pairs = self.groups[self.near.indices]
        np.logical_or.at(beside, pairs[:, 0], there[pairs[:, 1]])
        np.logical_or.at(beside, pairs[:, 1], there[pairs[:, 0]])
        return self.exact(split, other) | beside[self.groups[self.splits == split]]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    `sizes` counts (width, height). `unused` has the paths by the reason.
    """

    data: Dataset
    sizes: Mapping[tuple[int, int], int]
    unused: Mapping[str, list[str]]
    copies: Copies


def inspect(config: Config) -> Inspection:
    """Inspect a config's data set, with the splits that a run of its seed has.

    Reads and decodes every image. Raises ConfigError if the data is missing or unsuitable.
    """
    config.check()
    data = sources.load(config)
    root = folder_of(config.dataset)
    unused = list_images(root).unused if root else {}
    readable = [name for name in data.files if name not in data.unreadable]
    return Inspection(data, file_sizes(readable) if readable else memory_sizes(data), unused, find_copies(data))


def memory_sizes(data: Dataset) -> Counter[tuple[int, int]]:
    """Width and height of images in memory, and how many have them."""
    sizes: Counter[tuple[int, int]] = Counter()
    for split in data.splits:
        sizes[split.store.shape[2], split.store.shape[1]] += len(split)
    return sizes


def file_sizes(names: list[str]) -> Counter[tuple[int, int]]:
    """Width and height of images in files, and how many have them; only the headers are decoded."""
    with ThreadPoolExecutor() as pool:
        return Counter(pool.map(image_files.size, names))


def find_copies(data: Dataset) -> Copies:
    """Compare all images of all splits."""
    from tqdm import tqdm

    splits = np.repeat(np.arange(len(SPLITS)), [len(split) for split in data.splits])
    contents = [digest for split in data.splits for digest in digests(split)]
    _, firsts, groups = np.unique(contents, return_index=True, return_inverse=True)
    labels = np.concatenate([split.labels for split in data.splits])
    bar = tqdm(total=len(firsts), desc="reading images", unit="image", disable=None, leave=False)
    originals = np.sort(firsts)

    def batches() -> Iterator[np.ndarray]:
        for number, split in enumerate(data.splits):
            start = int(np.searchsorted(splits, number))
            own = originals[(originals >= start) & (originals < start + len(split))] - start
            if not len(own):
                continue
            for images, _ in pipeline.evaluation(split.take(own), 256).as_numpy_iterator():
                yield images
                bar.update(len(images))

    with bar:
        hashes, pictures = near_copies.fingerprints(batches())
    away = near_copies.deviations(pictures, labels[originals])
    near = near_copies.Pairs(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    if away >= near_copies.DEVIATIONS:
        near = near_copies.near_copies(hashes, pictures)
    return Copies(splits, groups, replace(near, indices=originals[near.indices]), away)
