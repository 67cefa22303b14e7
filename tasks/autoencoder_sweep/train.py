"""Autoencoders with a bottleneck of k numbers, principal components beside them, and what their encoder is good for.

One run is one autoencoder (k and dropout), or one classifier on top of an encoder.

    python tasks/autoencoder_sweep/train.py                          # MNIST, k = 300, no dropout
    python tasks/autoencoder_sweep/train.py --k 50 --dropout 0.1
    python tasks/autoencoder_sweep/train.py --preset transfer        # a classifier; needs the first command's run
    python tasks/autoencoder_sweep/train.py --preset transfer --encoder random --no-train-encoder
    python tasks/autoencoder_sweep/train.py --preset demo            # embedded digits: seconds, offline

What loss to expect, and over how many seeds: the table in README.md beside this file.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for `common`

from common import command
from common.config import Config
from common.errors import ConfigError, positive
from common.phase import Phase
from common.run_folder import find_run, finished_run
from common.runs import Run

if TYPE_CHECKING:  # `--help` does without
    import keras
    import numpy as np

    from common.data.splits import Dataset
    from common.result import Result


@dataclass(frozen=True)
class SweepConfig(Config):
    """What one run of this task depends on."""

    PROTOCOL = 2
    REPORTED = "last"  # source 003
    FOLDER_SIDE = 28

    task: Literal["reconstruct", "classify"] = "reconstruct"
    """Train an autoencoder, or a classifier on top of an encoder."""
    k: int = 300
    """Numbers in the bottleneck."""
    hidden: int = 1000
    """Units of the hidden layer between image and bottleneck, and of its mirror image."""
    dropout: float = 0.0
    """Dropout rate after each hidden layer."""
    input_dropout: float = 0.0
    """reconstruct: dropout rate of the input pixels; the loss compares with all of them."""
    initialisation: Literal["keras", "torch"] = "keras"
    """Initial weights: Keras's (Glorot uniform, biases zero) or torch's (kernel and bias uniform within
    1/sqrt(fan_in))."""
    encoder: str = "random"
    """classify: random; pretrained, which is the finished autoencoder of the same seed in --out; or a run, by its
    folder or the end of its name in --out."""
    train_encoder: bool = True
    """classify: train the encoder too, or leave it as it is."""
    epochs: int = 10
    """Passes over the training images."""
    rate: float = 1e-3
    """Learning rate of Adam."""
    convention: Literal["keras", "torch"] = "keras"
    """Whose formulas Adam follows if the two differ."""
    steps_per_execution: int = 4  # of 844 in an epoch of MNIST
    """Most steps between two checks of loss, stop requests and clock: the greatest common divisor with an epoch's is
    used. Several devices: 1."""

    def shown(self) -> tuple[str, ...]:
        """What a row of the table always names."""
        return ("dataset", "k") if self.task == "reconstruct" else ("dataset", "encoder", "train_encoder")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The one phase."""
        return (Phase("train", self.epochs, "adam", self.rate, convention=self.convention),)

    def name_parts(self) -> tuple[str, ...]:
        """Preset, data set, and the bottleneck or the encoder."""
        last = f"k{self.k}" if self.task == "reconstruct" else f"{self.encoder_named()}-encoder"
        return (*super().name_parts(), last)

    def identity(self) -> dict:
        """Everything that the result depends on; an encoder's run by its name, wherever it lies."""
        return super().identity() | {"encoder": self.encoder_named()}

    def encoder_named(self) -> str:
        """random, pretrained, or the name of a run. Raises ConfigError if there is no such run."""
        return self.encoder if self.encoder in ENCODERS else self.encoder_folder().resolve().name

    def encoder_folder(self) -> Path:
        """The folder of the run that `encoder` names. Raises ConfigError if there is none."""
        return find_run(self.encoder, self.out, "encoder", f"{', '.join(ENCODERS)}, or ")

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        for field in ("k", "hidden"):
            positive(field, getattr(self, field))
        self.encoder_named()
        if self.task == "reconstruct" and (self.encoder != "random" or not self.train_encoder):
            raise ConfigError("encoder and train-encoder are for --task classify")
        for name, rate in (("dropout", self.dropout), ("input-dropout", self.input_dropout)):
            if not 0 <= rate < 1:
                raise ConfigError(f"{name} is {rate}; allowed: 0 <= {name} < 1")
        if self.task == "classify" and self.input_dropout:
            raise ConfigError("input-dropout is for --task reconstruct")
        for phase in self.phases:
            phase.check()


ENCODERS = ("random", "pretrained")  # which are no runs
PRESETS = {
    "autoencoder": SweepConfig(preset="autoencoder", dataset="mnist", initialisation="torch", convention="torch"),
    "transfer": SweepConfig(
        preset="transfer",
        dataset="mnist",
        task="classify",
        encoder="pretrained",
        initialisation="torch",
        convention="torch",
    ),
    "demo": SweepConfig(preset="demo", dataset="digits", k=16, epochs=20),
}


def provide(config: SweepConfig) -> None:
    """See that the data and the encoder are on this machine; missing data is fetched, unless offline."""
    from common.data import sources

    sources.provide(config)
    if config.encoder != "random":
        encoder_run(config)


def encoder_run(config: SweepConfig) -> Path:
    """The finished run that the encoder is taken from. Raises ConfigError where it is not there, or does not fit."""
    import dataclasses

    fields = config.identity()
    if config.encoder == "pretrained":
        own = dataclasses.replace(
            config, preset="autoencoder", task="reconstruct", encoder="random", train_encoder=True
        )
        folder = config.out / "autoencoder_sweep" / own.name()
    else:
        folder = config.encoder_folder()
    return finished_run(
        folder,
        "autoencoder",
        # With another seed, or other images, it would have been trained on what validates here.
        {"task": "reconstruct"} | {key: fields[key] for key in ("dataset", "k", "hidden", "seed", "limit_train")},
        f"`python tasks/autoencoder_sweep/train.py --k {config.k} --hidden {config.hidden} --seed {config.seed}`, "
        "with the flags as here but those of the classifier, makes it",
    )


def experiment(config: SweepConfig, run: Run) -> None:
    """Train one configuration; leave its metrics and figures."""
    from common.data import sources

    data = sources.load(config)
    (reconstruct if config.task == "reconstruct" else classify)(config, run, data)


def reconstruct(config: SweepConfig, run: Run, data: "Dataset") -> None:
    """Train an autoencoder, and measure principal components beside it."""
    import keras

    from common.objective import Objective
    from common.trainer import Trainer
    from tasks.autoencoder_sweep import networks, pca

    model = networks.autoencoder(config, data)
    objective = Objective(keras.losses.MeanSquaredError(), scores_classes=False, reported="loss")
    trainer = Trainer(run, model, data, objective)
    trainer.fit(config.phases)
    result = trainer.evaluate()
    curves = pca.curves(data)
    draw_reconstructions(run, model, data, result, curves)
    run.finish(result.metrics | {"by_name": pca.losses(curves, config.k)})


def classify(config: SweepConfig, run: Run, data: "Dataset") -> None:
    """Train a classifier on top of an encoder."""
    from common import drawing
    from common.checkpointer import load_layers
    from common.trainer import Trainer
    from tasks.autoencoder_sweep import networks

    model = networks.classifier(config, data)
    if config.encoder != "random":
        load_layers(model, encoder_run(config), "train", networks.ENCODER, config.REPORTED)
    trainer = Trainer(run, model, data)
    trainer.fit(config.phases)
    result = trainer.evaluate(data.train)
    drawing.classifier(run, data, result)
    run.finish(result.metrics)


def draw_reconstructions(
    run: Run, model: "keras.Model", data: "Dataset", result: "Result", curves: dict[str, "np.ndarray"]
) -> None:
    """Every figure of an autoencoder, into the run directory."""
    import numpy as np

    from common import plots
    from common.data import pipeline

    plots.learning_curves(result.rows, run.figures / "learning_curves.png", result.metrics)
    images = pipeline.pictures(data.test, np.linspace(0, len(data.test) - 1, plots.IMAGES_PER_ROW, dtype=int))
    again = model.predict_on_batch(images).reshape(images.shape)
    names = ("original", "reconstructed")
    plots.image_pairs(images, again, run.figures / "reconstructions.png", names, "Test images and what comes back")
    plots.cumulative_variance(curves["variance"], run.figures / "pca_variance.png")


if __name__ == "__main__":
    command.main(PRESETS, __doc__, provide, experiment)
