"""A linear support vector machine on raw pixels, with the hinge of Crammer and Singer or that of Weston and Watkins.

    python tasks/hinge_svm/train.py                                   # CIFAR-10, the source's best setting
    python tasks/hinge_svm/train.py --loss weston_watkins             # the sum over classes, in place of the maximum
    python tasks/hinge_svm/train.py --rate 1e-7 --regularisation 5e4 --batch-size 200
    python tasks/hinge_svm/train.py --preset demo                     # embedded digits: seconds, offline

What accuracy to expect, and over how many seeds: the table in README.md beside this file.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for `common`

from common import command
from common.config import Config
from common.errors import ConfigError, not_negative, positive
from common.phase import Phase
from common.runs import Run

if TYPE_CHECKING:  # `--help` does without
    import keras
    import numpy as np

    from common.data.splits import Dataset
    from common.result import Result


@dataclass(frozen=True)
class SVMConfig(Config):
    """What one run of this task depends on."""

    PROTOCOL = 2

    batch_size: int = 400
    """Images per step, on all devices together."""
    loss: Literal["crammer_singer", "weston_watkins"] = "crammer_singer"
    """Hinge of the strongest wrong class, or the sum of the hinges of all wrong classes."""
    rate: float = 3e-7
    """Learning rate of plain SGD."""
    regularisation: float = 1e4
    """Lambda: weight of the norm of W in the loss."""
    norm: Literal["L1", "L2"] = "L2"
    """Sum of |W|, or of W squared."""
    initial_deviation: float = 1e-4
    """Standard deviation of W before training; scores are near 0 then. 0: W starts as zeros."""
    epochs: int = 6
    """Passes over the training images."""
    validate_every: int = 100
    """Steps between two readings of training and validation loss."""

    SHOWN = ("dataset", "loss")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The one phase."""
        return (Phase("train", self.epochs, "sgd", self.rate),)

    def name_parts(self) -> tuple[str, ...]:
        """Preset, data set and loss."""
        return (*super().name_parts(), self.loss)

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        for name in ("regularisation", "initial_deviation"):
            not_negative(name.replace("_", "-"), getattr(self, name))
        positive("validate-every", self.validate_every)
        if self.validate_every % self.steps_per_execution:
            raise ConfigError(
                f"steps-per-execution is {self.steps_per_execution}; allowed: divisors of validate-every, "
                f"{self.validate_every}"
            )
        for phase in self.phases:
            phase.check()


PRESETS = {
    "best": SVMConfig(preset="best"),
    "demo": SVMConfig(
        preset="demo",
        dataset="digits",
        loss="weston_watkins",
        batch_size=50,
        rate=1e-5,
        regularisation=1.0,
        epochs=10,
        validate_every=10,
    ),
}


def provide(config: SVMConfig) -> None:
    """See that the data is on this machine; what is missing is fetched, unless offline."""
    from common.data import sources

    sources.provide(config)


def experiment(config: SVMConfig, run: Run) -> None:
    """Train one configuration; leave its metrics and figures."""
    from common.data import sources
    from common.objective import Objective
    from common.trainer import Trainer
    from tasks.hinge_svm import hinge

    data = sources.load(config)
    model = build(config, data)
    loss = hinge.LOSSES[config.loss]()

    trainer = Trainer(
        run,
        model,
        data,
        Objective(loss, reported="loss", probabilities=False),
        callbacks=lambda trainer: [hinge.ValidationLoss(trainer, loss, config.validate_every)],
    )
    trainer.fit(config.phases)
    result = trainer.evaluate(data.train)
    templates = templates_of(model, data)
    iterations = trainer.progress.extra["validation"]
    draw(config, run, data, result, iterations, templates)
    summary = hinge.summary(templates, data.class_names)
    run.finish(result.metrics | {"iterations": iterations, "templates": summary})


def build(config: SVMConfig, data: "Dataset") -> "keras.Model":
    """The whole model: uint8 images (b, h, w, c) to float32 scores (b, classes), W x + b of centred pixels."""
    import keras
    from keras import layers, ops, regularizers

    x = inputs = keras.Input((data.train.size, data.train.size, data.train.channels), dtype="uint8", name="image")
    # layers.Normalization would also divide every pixel, by one.
    x = ops.cast(layers.Flatten()(x), "float32") - mean_image(data).ravel().astype("float32")
    scores = layers.Dense(
        len(data.class_names),
        kernel_initializer=keras.initializers.RandomNormal(stddev=config.initial_deviation, seed=config.seed),
        kernel_regularizer={"L1": regularizers.L1, "L2": regularizers.L2}[config.norm](config.regularisation),
        dtype="float32",
        name="scores",
    )(x)
    return keras.Model(inputs, scores)


def mean_image(data: "Dataset") -> "np.ndarray":
    """Mean of the training images: float64 (h, w, c)."""
    import numpy as np

    from common.data import pipeline

    total = sum(images.numpy().sum(axis=0, dtype=np.int64) for images, _ in pipeline.evaluation(data.train, 1000))
    return total / len(data.train)


def templates_of(model: "keras.Model", data: "Dataset") -> "np.ndarray":
    """The weights of each class as an image: float32 (classes, h, w, c)."""
    import keras

    weights = keras.ops.convert_to_numpy(model.get_layer("scores").kernel)
    return weights.T.reshape(-1, data.train.size, data.train.size, data.train.channels)


def draw(
    config: SVMConfig, run: Run, data: "Dataset", result: "Result", iterations: list[dict], templates: "np.ndarray"
) -> None:
    """Every figure of a run, into the run directory."""
    import numpy as np

    from common import drawing, plots
    from common.data import pipeline

    drawing.classifier(run, data, result)
    plots.loss_by_step(iterations, run.figures / "loss_by_step.png")
    first = [int(np.flatnonzero(data.train.labels == label)[0]) for label in range(len(data.class_names))]
    samples = pipeline.pictures(data.train, np.array(first))
    plots.class_images(samples, data.class_names, "A training image of each class", run.figures / "samples.png")
    title = f"Weights of each class, from their least to their greatest ({config.loss})"
    plots.class_images(templates, data.class_names, title, run.figures / "templates.png")


if __name__ == "__main__":
    command.main(PRESETS, __doc__, provide, experiment)
