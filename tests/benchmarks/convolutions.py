"""Milliseconds of two kinds of convolution with their gradients: TensorFlow's own, and as the backbones compute them.

    python tests/benchmarks/convolutions.py               # medians of 15, in turns; two minutes on 2 cores

Batch 64, kernels of 3 x 3. The first four are of ResNet-18's last stage at 64, 96 and 128 pixels
(`common/workarounds/few_pixels.py`; training leaves the last of them to TensorFlow), the others MobileNetV2's depthwise
ones with a stride, at 96 pixels (`common/workarounds/strided_depthwise.py`). bfloat16 is for processors with its
instructions.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that

# isort: split
import keras
import tensorflow as tf

from common.workarounds import few_pixels, strided_depthwise

REPEATS = 15
few_pixels.MOST_PIXELS = 16
# Name: pixels, channels, filters (0: depthwise), stride.
CASES = {
    "2 x 2 pixels, 512 to 512": (2, 512, 512, 1),
    "4 x 4 to 2 x 2, 256 to 512": (4, 256, 512, 2),
    "3 x 3 pixels, 512 to 512": (3, 512, 512, 1),
    "4 x 4 pixels, 512 to 512": (4, 512, 512, 1),
    "depthwise, 48 x 48 to 24 x 24, 96": (48, 96, 0, 2),
    "depthwise, 24 x 24 to 12 x 12, 144": (24, 144, 0, 2),
    "depthwise, 12 x 12 to 6 x 6, 192": (12, 192, 0, 2),
    "depthwise, 6 x 6 to 3 x 3, 576": (6, 576, 0, 2),
}


def layer(filters: int, stride: int, ours: bool) -> keras.layers.Layer:
    """A convolution as a backbone has it."""
    kinds = (
        (keras.layers.DepthwiseConv2D, strided_depthwise.DepthwiseConv2D),
        (keras.layers.Conv2D, few_pixels.Conv2D),
    )
    kind = kinds[filters > 0][ours]
    padding = "same" if stride == 1 else "valid"
    return kind(*[filters][: filters > 0], 3, stride, padding, use_bias=False)


def step(side: int, channels: int, filters: int, stride: int, ours: bool) -> Callable[[], tuple]:
    """A compiled function of a layer's outputs and both gradients."""
    own = layer(filters, stride, ours)
    policy = keras.config.dtype_policy().compute_dtype
    images = tf.cast(tf.random.normal((64, side, side, channels)), policy)

    @tf.function
    def forward_and_back():
        with tf.GradientTape() as tape:
            tape.watch(images)
            framed = images if stride == 1 else tf.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
            outputs = own(framed)
        return outputs, *tape.gradient(outputs, (images, own.kernel.value), outputs)

    for _ in range(3):
        forward_and_back()
    return forward_and_back


def milliseconds(function: Callable[[], tuple]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    function()[0].numpy()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Take the readings in turns and print the medians."""
    parser = report.parser(__doc__)
    report.add_cases(parser, CASES)
    arguments = parser.parse_args()
    print(f"milliseconds, medians of {REPEATS}; {report.processor()}\n")
    print(f"{'':<36}{'':<10}{'TensorFlow':>12}{'ours':>8}{'ratio':>8}")
    readings = {}
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        for name in arguments.cases or CASES:
            steps = {"TensorFlow": step(*CASES[name], False), "ours": step(*CASES[name], True)}
            rounds = [{who: milliseconds(own) for who, own in steps.items()} for _ in range(REPEATS)]
            own, theirs = (report.medians(rounds)[who] for who in ("ours", "TensorFlow"))
            print(f"{name:<36}{policy[-8:]:<10}{theirs:>12.2f}{own:>8.2f}{theirs / own:>8.2f}", flush=True)
            readings[f"{name}, {policy}"] = rounds
    report.write(arguments.json, milliseconds=readings)


if __name__ == "__main__":
    main()
