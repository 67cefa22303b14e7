"""Near copies among images: the same picture, re-encoded, brightened, recoloured, or moved by a pixel or two.

Two steps. A perceptual hash (pHash: which of the 64 lowest frequencies are above their median) proposes pairs,
generously. The fine detail of the pictures then decides: two pictures of similar things share coarse shapes, but not
their detail.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

SIDE = 32  # of the grey pictures that are compared; pHash too reduces an image to this
HASH_DISTANCE = 14  # bits of 64 at most; independent hashes differ in 32 ± 4
SHIFT = 2  # pixels of SIDE, in each direction
COARSE = 2.0  # standard deviation of the blur, in pixels of SIDE, that takes the detail away
CORRELATION = 0.7  # of the detail, at least
BLOCK = 1000  # pairs at once
TRIED = 5_000  # random pairs
# CORRELATION must be so far from random pairs of different classes, or near copies are not counted. Of two billion
# pairs chance brings one 6 away; photographs gave 9 and more, drawn digits and letters 6 and less.
DEVIATIONS = 8

CRITERION = (
    f"pHashes differ in at most {HASH_DISTANCE} of 64 bits, and the fine detail of the pictures "
    f"(grey, {SIDE}×{SIDE}, less its blur by {COARSE:g} pixels) correlates by at least {CORRELATION}, "
    f"if one is moved by up to {SHIFT} pixels"
)


@dataclass(frozen=True)
class Pairs:
    """Pairs of images: indices int64 (n, 2), the first less than the second, and their correlation float32 (n,)."""

    indices: np.ndarray
    correlations: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


def fingerprints(batches: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """pHashes, uint64 (n,), and small grey pictures, uint8 (n, SIDE, SIDE), of images: uint8 (b, h, w, 1 or 3)."""
    import imagehash
    from PIL import Image

    hashes, pictures = [], []
    for image in (image for batch in batches for image in batch):
        grey = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).convert("L")
        small = grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        hashes.append(np.packbits(imagehash.phash(small).hash).view(np.uint64))
        pictures.append(np.asarray(small))
    return np.concatenate(hashes), np.stack(pictures)


def near_copies(hashes: np.ndarray, pictures: np.ndarray) -> Pairs:
    """All pairs among the images of `fingerprints` that are near copies, the most alike first."""
    indices, found = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for pairs in candidates(hashes, HASH_DISTANCE):
        own = correlations(pictures, pairs)
        indices.append(pairs[own >= CORRELATION])
        found.append(own[own >= CORRELATION])
    together = np.concatenate(found)
    order = np.argsort(-together, kind="stable")
    return Pairs(np.concatenate(indices)[order], together[order])


def candidates(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """All pairs of hashes, uint64 (n,), that differ in at most so many bits: blocks int64 (m, 2). None is skipped."""
    from tqdm import tqdm

    waiting, count = [], 0
    # A row at a time stays in the processor's cache: 60,000 hashes take 3 s, in blocks of 256 rows three times as long.
    for i in tqdm(range(len(hashes)), "comparing images", unit="image", disable=None, leave=False):
        near = np.flatnonzero(np.bitwise_count(hashes[i] ^ hashes[i + 1 :]) <= distance)
        if len(near):
            waiting.append(np.stack([np.full(len(near), i), near + i + 1], axis=1))
            count += len(near)
        if waiting and (count >= BLOCK or i == len(hashes) - 1):
            pairs, waiting, count = np.concatenate(waiting), [], 0
            yield from (pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK))


def deviations(pictures: np.ndarray, labels: np.ndarray) -> float:
    """How far CORRELATION lies above the correlation of random pairs of different classes, in standard deviations.

    Of Fisher's z (atanh), since correlations near 1 are crowded; from its median and 90 % quantile, since a few copies
    with two classes would swell the standard deviation itself. 0 if there is one class alone.
    """
    if (labels == labels[0]).all():
        return 0.0
    pairs = of_two_classes(labels, np.random.default_rng(0))
    found = np.concatenate([correlations(pictures, pairs[i : i + BLOCK]) for i in range(0, len(pairs), BLOCK)])
    middle, upper = np.quantile(np.arctanh(np.minimum(found, 0.999)), [0.5, 0.9])
    deviation = (upper - middle) / 1.2816  # the 90 % quantile of the normal distribution
    return float((np.arctanh(CORRELATION) - middle) / max(deviation, 1e-6))


def of_two_classes(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs of images of different classes, the first one of any: int64 (TRIED, 2)."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    first = rng.integers(0, len(labels), TRIED)
    own = labels[first]
    other = rng.integers(0, len(labels) - counts[own])  # among the images of the other classes
    other += np.where(other >= starts[own], counts[own], 0)
    return np.stack([first, order[other]], axis=1)


def correlations(pictures: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The greatest correlation of the detail of each pair over all shifts: float32 (m,), 0 if one has no detail."""
    still, moving = (detail(pictures[places]) for places in pairs.T)
    inside = SIDE - 2 * SHIFT
    still = normalised(still[:, SHIFT:-SHIFT, SHIFT:-SHIFT])
    greatest = np.zeros(len(pairs), np.float32)
    for y in range(2 * SHIFT + 1):
        for x in range(2 * SHIFT + 1):
            moved = normalised(moving[:, y : y + inside, x : x + inside])
            np.maximum(greatest, np.einsum("ij,ij->i", still, moved), out=greatest)
    return greatest


def detail(pictures: np.ndarray) -> np.ndarray:
    """Grey pictures less their blur: float32 (n, SIDE, SIDE)."""
    from scipy.ndimage import gaussian_filter

    fine = pictures.astype(np.float32)
    return fine - gaussian_filter(fine, (0, COARSE, COARSE))


def normalised(pictures: np.ndarray) -> np.ndarray:
    """Each picture as a row of mean 0 and length 1; of zeros if all its pixels are the same."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-3)
