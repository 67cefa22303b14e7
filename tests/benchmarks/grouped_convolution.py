"""Milliseconds of a grouped convolution with its gradients on a CPU: oneDNN's kernels, and a dense kernel with zeros.

    python tests/benchmarks/grouped_convolution.py              # medians of 5 readings of 10 calls, in turns

The layer is ResNeXt-50's first at 224 pixels: batch 8, 56x56x128, 3x3, 32 groups.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tensorflow as tf

from common.workarounds.grouped_convolution import dense_kernel

GROUPS, CALLS, REPEATS = 32, 10, 5


def gradients(kernel: tf.Tensor, images: tf.Tensor, expand: bool) -> Callable[[], tf.Tensor]:
    """A compiled function of the layer's gradients."""

    @tf.function
    def both():
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            own = dense_kernel(kernel, GROUPS) if expand else kernel
            loss = tf.reduce_sum(tf.nn.conv2d(images, own, 1, "SAME") ** 2)
        return tape.gradient(loss, [images, kernel])

    both()
    return both


def milliseconds(function: Callable[[], tf.Tensor]) -> float:
    """Of one call."""
    began = time.perf_counter()
    for _ in range(CALLS):
        found = function()
    found[0].numpy()
    return 1000 * (time.perf_counter() - began) / CALLS


def main() -> None:
    """Take the readings in turns and print the medians."""
    arguments = report.parser(__doc__).parse_args()
    images, kernel = tf.random.normal((8, 56, 56, 128)), tf.random.normal((3, 3, 128 // GROUPS, 128))
    ways = {"grouped": gradients(kernel, images, False), "dense with zeros": gradients(kernel, images, True)}
    rounds = [{name: milliseconds(way) for name, way in ways.items()} for _ in range(REPEATS)]
    for name, median in report.medians(rounds).items():
        print(f"{name:<18} {median:8.1f} ms")
    report.write(arguments.json, rounds=rounds)


if __name__ == "__main__":
    main()
