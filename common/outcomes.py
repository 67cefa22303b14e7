"""Which images a classifier got right, packed for a record, so that runs can be compared image by image."""

import base64
import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np


def packed(labels: np.ndarray, predicted: np.ndarray, right: Mapping[str, np.ndarray]) -> dict:
    """Pack outcomes as JSON data: 20 to 30 kB for 10,000 images of 100 classes.

    `labels` and `predicted` are classes below 65,536, int (n,). `right` says by state (such as a phase's best epoch)
    which predictions were right, bool (n,) each; it takes one bit per image.
    """
    return {
        "n": len(labels),
        "labels": text(labels.astype("<u2").view(np.uint8).reshape(-1, 2).T),
        "predicted": text(predicted.astype("<u2").view(np.uint8).reshape(-1, 2).T),
        "right": {state: text(np.packbits(each)) for state, each in right.items()},
    }


def unpacked(outcomes: Mapping) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The reverse of `packed`: labels and predicted classes, int64 (n,), and bool (n,) by state."""
    n = outcomes["n"]
    labels, predicted = (
        np.ascontiguousarray(array(outcomes[key]).reshape(2, n).T).view("<u2").ravel().astype(np.int64)
        for key in ("labels", "predicted")
    )
    right = {state: np.unpackbits(array(each), count=n).astype(bool) for state, each in outcomes["right"].items()}
    return labels, predicted, right


def text(values: np.ndarray) -> str:
    """Compress uint8 values to text."""
    return base64.b85encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()


@cache  # a run is compared with many others
def array(packed_text: str) -> np.ndarray:
    """The reverse of `text`: uint8 (n,), read-only."""
    return np.frombuffer(zlib.decompress(base64.b85decode(packed_text)), np.uint8)
