"""How near the autoencoder's training step is to what TensorFlow's kernels need for its matrix products and for Adam.

    python tests/benchmarks/autoencoder_limit.py                # medians of 5; four minutes on 2 cores

The bare step has the eleven matrix products of a step of the network with k = 300 on batches of 64, in their order, and
Adam's update of its four kernels: no biases, activations, loss or data. Then there is the update alone. Ours is the
loop of the task, as in pytorch.py; then there is the same with Keras's own dense layers. They take turns, each time in
a process of its own.
"""

import argparse
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytorch
import report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that

SIZES, BATCH = (784, 1000, 300, 1000, 784), 64
TOGETHER, CALLS = 4, 200  # as many steps in one go as in the task
SIDES = ("ours", "keras", "bare", "updates")


def bare(products: bool) -> float:
    """Images per second of a step of nothing but matrix products, each after those that it needs, and updates."""
    import tensorflow as tf

    shapes = list(pairwise(SIZES))
    # Others for each step: a product of the same would be computed once.
    inputs, ends = ([tf.random.normal((BATCH, SIZES[0])) for _ in range(TOGETHER)] for _ in range(2))
    kernels, means, squares = ([tf.Variable(tf.random.normal(s, stddev=s[0] ** -0.5)) for s in shapes] for _ in "wms")
    constants = [tf.random.normal(shape) for shape in shapes]

    def multiplied(number: int) -> list:
        """The gradient of each kernel of a linear network, from the last to the first."""
        below = [inputs[number]]
        for kernel in kernels:
            below.append(tf.matmul(below[-1], kernel))
        above, gradients = ends[number] + below.pop(), []
        for place in reversed(range(len(kernels))):
            gradients.append(tf.matmul(below[place], above, transpose_a=True))
            if place:
                above = tf.raw_ops.BatchMatMulV2(x=above[None], y=kernels[place][None], adj_y=True)[0]
        return gradients

    def update(place: int, gradient: tf.Tensor) -> None:
        tf.raw_ops.ResourceApplyAdam(
            var=kernels[place].handle,
            m=means[place].handle,
            v=squares[place].handle,
            beta1_power=0.9,
            beta2_power=0.999,
            lr=1e-9,  # so that no number grows
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-7,
            grad=gradient,
        )

    @tf.function
    def steps():
        for number in range(TOGETHER):
            gradients = multiplied(number) if products else constants[::-1]
            for place, gradient in zip(reversed(range(len(kernels))), gradients, strict=True):
                update(place, gradient)

    steps()
    began = time.perf_counter()
    for _ in range(CALLS):
        steps()
    return BATCH * TOGETHER * CALLS / (time.perf_counter() - began)


def ours(own: bool) -> float:
    """Images per second of the task's loop, with its own dense layers or Keras's."""
    import keras

    from common.workarounds.dense import Dense

    if not own:
        Dense.call = keras.layers.Dense.call
    return pytorch.ours("autoencoder", "float32")


def measure(side: str) -> float:
    """Images per second of one side, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--side", side], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print medians and the share of the bare step in ours."""
    parser = report.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each side (default 5)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        whole = arguments.side in ("ours", "keras")
        print(ours(own=arguments.side == "ours") if whole else bare(products=arguments.side == "bare"))
        return
    readings = [{side: measure(side) for side in SIDES} for _ in range(arguments.repeats)]
    median = report.medians(readings)
    print(f"{'step of':<12}{'images/s':>10}{'ms':>8}    medians of {arguments.repeats}")
    for side, rate in median.items():
        print(f"{side:<12}{rate:>10,.0f}{1000 * BATCH / rate:>8.2f}")
    print(f"ours is {median['ours'] / median['keras']:.2f} times the same with Keras's dense layers")
    print(f"products and updates are {median['ours'] / median['bare']:.0%} of our step")
    report.write(arguments.json, images_per_second=readings)


if __name__ == "__main__":
    main()
