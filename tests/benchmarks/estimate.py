"""Arithmetic of the published protocols of cifar_phased, and the time that it takes at the rate of a GPU.

    python tests/benchmarks/estimate.py                     # a minute; no GPU needed
    python tests/benchmarks/estimate.py --rate 120          # TFLOP/s that another card sustains

A paper estimate. XLA counts the floating-point operations of each phase's training step (loss and gradients of what
the phase trains; a multiplication with its addition are two) and of a forward pass. The rates are those of one and of
eight A100 that NVIDIA publishes for ResNet-50 in mixed precision (DeepLearningExamples, PyTorch,
Classification/ConvNets/resnet50v1.5, "Training performance"). Waiting for data, compiling and figures are not in it.
The rate of a matrix product on this machine is printed for growth.py's images per second to be held against.
"""

import dataclasses
import os
import statistics
import sys
import time
from pathlib import Path

import report

os.environ["KERAS_BACKEND"] = "jax"  # its compiler counts without compiling
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that

TRAIN, VALIDATION, TEST = 45_000, 5_000, 10_000  # CIFAR's images, as the tasks split them
RATE = 2_470 * 3 * 2 * 4.1e9 / 1e12  # TFLOP/s: images/s of an A100, and operations of ResNet-50 for one
SPEEDUP = 6.72  # of eight of them, at the same batch a card
BATCH = 8  # images in the step that is counted
PRODUCT = 2048  # side of the matrices


def counted(preset: str) -> list[dict]:
    """For each phase of a preset: name, epochs, and GFLOP an image of a training step and of a forward pass."""
    import jax
    import keras
    import numpy as np

    from common.backbones import networks
    from common.data import splits
    from slurm.plan import load_task

    task = load_task("cifar_phased")
    config = dataclasses.replace(task.PRESETS[preset], precision="float32")
    classes = tuple(map(str, range(100 if config.dataset == "cifar100" else 10)))
    pixels = np.zeros((BATCH, 32, 32, 3), np.uint8)
    split = splits.whole(pixels, np.zeros(BATCH, np.int64), config.image_size)
    backbone = networks.build(config.backbone, config.image_size)
    model = task.build(config, backbone, splits.Dataset(config.dataset, classes, split, split, split))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = jax.numpy.asarray(pixels), jax.numpy.zeros(BATCH, int)

    def step(trained, others, images, labels):
        scores, others = model.stateless_call(trained, others, images, training=True)
        return loss(labels, scores), others

    def forward(trained, others, images):
        return model.stateless_call(trained, others, images, training=False)[0]

    def gigaflops(function, *arguments) -> float:
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"] / BATCH / 1e9

    rows = []
    for phase in config.phases:
        backbone.set_trainable(task.TRAINABLE[phase.trainable])
        trained = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]
        training = gigaflops(jax.value_and_grad(step, has_aux=True), trained, others, images, labels)
        row = {"phase": phase.name, "epochs": phase.epochs, "training": training}
        rows.append(row | {"forward": gigaflops(forward, trained, others, images)})
    return rows


def matrix_rate() -> float:
    """GFLOP/s of a float32 matrix product on this machine, median of 9."""
    import jax

    product = jax.jit(lambda a: a @ a)
    a = jax.random.normal(jax.random.key(0), (PRODUCT, PRODUCT))
    product(a).block_until_ready()
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * PRODUCT**3 / statistics.median(seconds) / 1e9


def main() -> None:
    """Print a table a protocol."""
    parser = report.parser(__doc__)
    parser.add_argument("--rate", type=float, default=RATE, help=f"TFLOP/s of a card (default {RATE:.0f}, an A100)")
    arguments = parser.parse_args()
    rate, phases = matrix_rate(), {}
    print(f"a matrix product on this machine, float32: {rate:,.0f} GFLOP/s")
    for preset in ("three_phase", "two_phase"):
        print(f"\n{preset:<14}{'epochs':>8}{'step':>8}{'forward':>9}  GFLOP an image{'PFLOP':>9}")
        total = 0.0
        phases[preset] = rows = counted(preset)
        for row in rows:
            work = row["epochs"] * (TRAIN * row["training"] + VALIDATION * row["forward"]) / 1e6
            total += work
            print(f"{row['phase']:<14}{row['epochs']:>8}{row['training']:>8.2f}{row['forward']:>9.2f}{work:>25.2f}")
        total += TEST * rows[-1]["forward"] / 1e6
        print(f"{'with the test':<14}{total:>50.2f}")
        minutes = total * 1e3 / arguments.rate / 60
        print(f"at {arguments.rate:.0f} TFLOP/s: {minutes:.1f} minutes on a card, {minutes / SPEEDUP:.1f} on eight")
    report.write(arguments.json, matrix_gigaflops=rate, card_teraflops=arguments.rate, gigaflops=phases)


if __name__ == "__main__":
    main()
