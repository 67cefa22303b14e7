"""Images per second of recipe 001's augmentation (affine map, colour jitter, blur, flips) by three ways of doing it.

    python tests/benchmarks/augmentation.py                     # medians of 5; about 8 minutes on 2 cores

- layers: KerasCV's layers one after the other in tf.data, as one would write it without this project;
- host: this project's recipe by KerasCV's operations, in tf.data (`--augment-on host`);
- fused: the recipe in the compiled step (`common.augment.layer.Augment`).

At 32 and at 224 pixels, and from 32 pixels to 224, where `layers` resizes first, as its operations are applied to what
the network sees, and `fused` last. Then `fused` after a resize (`--augment-at input`), and the share that it has in a
training step, before and after the resize. Batches of 64 random images; the ways take turns. KERAS_BACKEND=jax measures
`fused` on JAX.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that

BATCH, RECIPE = 64, "affine_colour_blur"
RECIPES = (RECIPE, "flip_crop")
# Steps of cifar_phased, whose cheapest is that of a head on a small backbone.
STEPS = (("mobilenet_v2", 96, "head"), ("mobilenet_v2", 96, "full"), ("resnet18", 64, "full"))
SECONDS = 3.0  # of a reading


def images(side: int) -> np.ndarray:
    """Random images: uint8 (batch, side, side, 3)."""
    return np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)


def repeated(batch: np.ndarray):
    """A tf.data pipeline that gives the same batch for ever."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(batch).repeat()


def layers(side: int, seen: int):
    """KerasCV's layers, in an iterator of batches of `seen` pixels."""
    import keras
    import tensorflow as tf
    from keras_cv import layers

    steps = [
        layers.RandomRotation(10 / 360, fill_mode="constant"),
        layers.RandomTranslation(0.1, 0.1, fill_mode="constant"),
        layers.RandomZoom((-0.1, 0.1), fill_mode="constant"),
        layers.RandomShear(x_factor=float(np.tan(np.radians(10))), fill_mode="constant"),
        layers.RandomApply(
            layers.RandomColorJitter(
                value_range=(0, 255),
                brightness_factor=0.25,
                contrast_factor=0.25,
                saturation_factor=(0.375, 0.625),
                hue_factor=0.1,
            ),
            rate=0.5,
        ),
        layers.RandomApply(layers.RandomGaussianBlur(3, (0.1, 2.0)), rate=0.5),
        layers.RandomFlip("horizontal", rate=0.3),
        layers.RandomFlip("vertical", rate=0.3),
    ]
    resize = keras.layers.Resizing(seen, seen)

    def change(batch):
        batch = tf.cast(batch, tf.float32)
        if seen != side:
            batch = resize(batch)
        for step in steps:
            batch = step(batch, training=True)
        return batch

    return iter(repeated(images(side)).map(change, tf.data.AUTOTUNE)).__next__


def host(side: int, seen: int):
    """Batches by the recipe on the host, which ships what it was given: a resize is left to the network."""
    import tensorflow as tf

    from common.augment.host import host_augment

    if seen != side:
        return None
    augment = host_augment(RECIPE, 0)
    numbered = repeated(images(side)).enumerate()
    changed = numbered.map(lambda n, batch: augment(batch, tf.stack([n, n])), tf.data.AUTOTUNE)
    return iter(changed).__next__


def fused(side: int, seen: int, recipe: str = RECIPE, at: str = "native"):
    """Batches by a recipe in the compiled step."""
    import keras

    from common.augment.layer import Augment

    steps = [Augment(recipe, 0, at)]
    if seen != side:
        steps.append(keras.layers.Resizing(seen, seen, dtype="float32"))
    batch = keras.ops.convert_to_tensor(images(side))

    def change(batch):
        for step in steps:
            batch = step(batch, training=True)
        return batch

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        change = tf.function(change)
    else:
        import jax

        def stateless(variables, batch):
            with keras.StatelessScope(zip(seeds, variables, strict=True)):
                return change(batch)

        seeds = [variable for step in steps for variable in step.variables]
        compiled = jax.jit(stateless)
        values = [variable.value for variable in seeds]
        return lambda: compiled(values, batch)
    return lambda: change(batch)


def training_step(backbone: str, size: int, phase: str):
    """A step of cifar_phased without augmentation."""
    import keras

    from slurm.plan import load_task

    task = load_task("cifar_phased")
    from common.backbones import networks
    from common.data import splits

    network = networks.build(backbone, size)
    pixels, labels = images(32), np.zeros(BATCH, np.int64)
    split = splits.whole(pixels, labels, 32)
    data = splits.Dataset("random", tuple("ABCDEFGHIJ"), split, split, split)
    model = task.build(dataclasses.replace(task.PRESETS["three_phase"], augmentation="none"), network, data)
    network.set_trainable(task.TRAINABLE[phase])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return lambda: np.full((1, 1, 1, 1), model.train_on_batch(pixels, labels))


WAYS = {"layers": layers, "host": host, "fused": fused}


def rate(step) -> float:
    """Images per second over some seconds, after half as long without a look at the clock."""
    for seconds in (SECONDS / 2, SECONDS):
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            done = step()
            steps += 1
        np.asarray(done[0, 0, 0, 0])  # on a GPU steps are only queued
        elapsed = time.perf_counter() - began
    return steps * BATCH / elapsed


def after_the_resize(repeats: int, readings: dict) -> None:
    """Print what the recipes make of images of the size that a network sees."""
    print("\nafter the resize, images/s")
    for side in (96, 224):
        ways = {recipe: fused(side, side, recipe, "input") for recipe in RECIPES}
        name = f"{side} pixels, input"
        readings[name] = [{way: rate(step) for way, step in ways.items()} for _ in range(repeats)]
        median = report.medians(readings[name])
        print(f"{name:<18} {', '.join(f'{recipe} {median[recipe]:,.0f}' for recipe in RECIPES)}", flush=True)


def shares_of_a_step(repeats: int, readings: dict) -> None:
    """Print the share that augmentation has in a training step with it, before and after the resize."""
    print("\nof a training step with it, augmentation takes")
    for backbone, size, phase in STEPS:
        ways = {"step": training_step(backbone, size, phase)}
        for at, side in (("native", 32), ("input", size)):
            ways |= {f"{recipe} {at}": fused(side, side, recipe, at) for recipe in RECIPES}
        name = f"{backbone}, {size} pixels, {phase}"
        readings[name] = [{way: rate(step) for way, step in ways.items()} for _ in range(repeats)]
        median = report.medians(readings[name])
        step = median.pop("step")
        shares = (f"{way} {1 / (1 + each / step):.1%}" for way, each in median.items())
        print(f"{name:<32} {', '.join(shares)} (step alone: {step:,.0f} images/s)", flush=True)


def main() -> None:
    """Print medians and ratios."""
    parser = report.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each way (default 5)")
    arguments = parser.parse_args()
    import keras

    print(f"images/s of recipe {RECIPE}, medians of {arguments.repeats}, fused on {keras.backend.backend()}")
    print(f"{'pixels':<12}" + "".join(f"{way:>10}" for way in WAYS) + f"{'fused/layers':>14}{'fused/host':>12}")
    readings, medians = {}, {}
    for side, seen in ((32, 32), (224, 224), (32, 224)):
        steps = {way: step for way, make in WAYS.items() if (step := make(side, seen))}
        rounds = [{way: rate(step) for way, step in steps.items()} for _ in range(arguments.repeats)]
        name = f"{side}" if side == seen else f"{side} to {seen}"
        readings[name], medians[name] = rounds, (median := report.medians(rounds))
        line = "".join(f"{median[way]:>10,.0f}" if way in median else f"{'':>10}" for way in WAYS)
        ratios = f"{median['fused'] / median['layers']:>14.1f}"
        ratios += f"{median['fused'] / median['host']:>12.1f}" if "host" in median else ""
        print(f"{name:<12}{line}{ratios}", flush=True)
    first, second = medians["32 to 224"]["fused"], medians["224"]["layers"]
    print(f"32 pixels, fused, one resize to 224, against layers at 224: {first / second:.1f}")
    after_the_resize(arguments.repeats, readings)
    shares_of_a_step(arguments.repeats, readings)
    report.write(arguments.json, images_per_second=readings)


if __name__ == "__main__":
    main()
