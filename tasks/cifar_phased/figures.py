"""The figures of one run, in its directory."""

import keras
import numpy as np

from common import drawing, plots
from common.augment.layer import Augment
from common.data import pipeline
from common.data.splits import Dataset, Split
from common.result import Result
from common.runs import Run
from tasks.cifar_phased.config import PhasedConfig

# Classes whose images are followed to where they are predicted; of other data the WEAKEST, by recall.
CHOSEN = {"cifar10": ("frog",), "cifar100": ("apple", "woman")}
WEAKEST = 3


def draw(config: PhasedConfig, run: Run, model: keras.Model, data: Dataset, result: Result) -> None:
    """Draw every figure of a run."""
    folder = run.figures
    drawing.classifier(run, data, result)
    plots.learning_rate(result.rows, folder / "learning_rate.png")
    plots.generalisation_gap(result.rows, folder / "generalisation_gap.png")
    plots.phase_bars(result.metrics["phases"], folder / "phases.png")
    there = [scores for scores in result.metrics["test"]["per_class"] if scores["support"]]
    ranked = sorted(there, key=lambda scores: scores["recall"])
    weakest = [scores["class"] for scores in ranked[:WEAKEST] if scores["recall"] < 1] or [ranked[0]["class"]]
    chosen = CHOSEN.get(config.dataset, weakest)
    why = "" if config.dataset in CHOSEN else "the classes with the lowest recall"
    plots.class_destinations(result.confusion["test"], data.class_names, chosen, folder / "destinations.png", why)
    test = result.predictions["test"]
    plots.mistaken_images(
        lambda places: pipeline.pictures(data.test, places),
        test.labels,
        test.probabilities,
        data.class_names,
        chosen,
        folder / "mistaken.png",
    )

    images = pipeline.pictures(data.train, np.linspace(0, len(data.train) - 1, 256, dtype=int))
    steps = augmentation_steps(config, model, images[:: len(images) // plots.STEPPED_IMAGES])
    plots.image_steps(steps, "What the network sees of a training image", folder / "augmentation.png")
    layer = model.get_layer("normalise")
    scale, offset = normalisation(model)
    normalised = keras.Model(model.input, layer.output).predict_on_batch(images)
    mean, deviation = (-offset / (255 * scale)).tolist(), (1 / (255 * scale)).tolist()
    plots.channel_intensities(normalised, mean, deviation, folder / "intensities.png")


def normalisation(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset (3,) of the colour channels, whose values are 0 to 255.

    value * scale + offset is (value / 255 - mean) / deviation.
    """
    layer = model.get_layer("normalise")
    return np.broadcast_to(layer.scale, 3), np.broadcast_to(layer.offset, 3)


def channels(model: keras.Model, split: Split) -> dict[str, list[float]]:
    """Mean and deviation of each normalised colour channel over all images of a split, at their own size."""
    values = np.arange(256)
    counts = np.zeros((split.channels, len(values)), np.int64)
    for images, _ in pipeline.evaluation(split, 256):
        for own, pixels in zip(counts, np.moveaxis(images.numpy(), -1, 0), strict=True):
            own += np.bincount(pixels.ravel(), minlength=len(values))
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ values
    deviations = np.sqrt(shares @ values**2 - means**2)
    scale, offset = normalisation(model)  # three channels, also for grey images
    measured = {"mean": means * scale + offset, "deviation": deviations * scale}
    return {name: [round(float(each), 4) for each in found] for name, found in measured.items()}


def augmentation_steps(config: PhasedConfig, model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Images (n, h, w, c), uint8, at their own size, at the network's, and augmented: by the name of each step."""
    resize = model.get_layer("resize")
    augment = Augment(config.augmentation, config.seed, config.augment_at)
    resized = resize(keras.ops.cast(images, "float32"))  # of integers it would make integers on JAX
    after = config.augment_at == "input"
    augmented = augment(resized, training=True) if after else resize(augment(images, training=True))
    steps = {"original": images, "resized": resized, f"augmented ({config.augmentation})": augmented}
    return {name: keras.ops.convert_to_numpy(step) for name, step in steps.items()}
