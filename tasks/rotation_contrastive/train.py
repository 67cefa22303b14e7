"""What a network learns from telling turned images from upright ones, and from pairs of images.

One run is one experiment, and each experiment is a preset: the classifier from nothing (base), the pretext task
(rotation), the classifier on the first blocks of the rotation network (transfer), the rotation task on the blocks of
the classifier (reverse), and an embedding in the plane (contrastive).

    python tasks/rotation_contrastive/train.py                       # base: CIFAR-10, ten classes
    python tasks/rotation_contrastive/train.py --preset rotation     # is the image turned by 90 degrees?
    python tasks/rotation_contrastive/train.py --preset transfer --blocks 2     # needs the second command's run
    python tasks/rotation_contrastive/train.py --preset transfer --blocks 2 --no-train-blocks
    python tasks/rotation_contrastive/train.py --preset reverse      # needs the first command's run
    python tasks/rotation_contrastive/train.py --preset contrastive
    python tasks/rotation_contrastive/train.py --preset demo         # embedded digits: seconds, offline

What accuracy to expect, and over how many seeds: the table in README.md beside this file.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for `common`

from common import command
from common.config import Config
from common.errors import ConfigError, positive
from common.phase import Phase
from common.run_folder import find_run, finished_run
from common.runs import Run

if TYPE_CHECKING:  # `--help` does without
    import numpy as np

    from common.data.splits import Dataset
    from common.result import Result

Experiment = Literal["base", "rotation", "transfer", "reverse", "contrastive"]


@dataclass(frozen=True)
class RotationConfig(Config):
    """What one run of this task depends on."""

    PROTOCOL = 2
    REPORTED = "last"  # source 003

    experiment: Experiment = "base"
    """What is trained; the presets of these names set it, and the rest that goes with it."""
    blocks: int = 2
    """transfer, reverse: how many of the first blocks come from another run, 1 to 3."""
    train_blocks: bool = True
    """transfer, reverse: train these blocks too, or leave them as they are."""
    pretext_run: str = "own"
    """transfer, reverse: own, which is the finished rotation run (reverse: base run) of the same seed in --out; or a
    run, by its folder or the end of its name in --out."""
    margin: float = 2.0
    """contrastive: squared distance up to which images of different classes are pushed apart."""
    dropout: float = 0.25
    """Dropout rate after each block, and after the hidden layer."""
    initialisation: Literal["keras", "torch"] = "keras"
    """Initial weights: Keras's (Glorot uniform, biases zero) or torch's (kernel and bias uniform within
    1/sqrt(fan_in))."""
    epochs: int = 22
    """Passes over the training images."""
    rate: float = 1e-3
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """Weight decay, decoupled or added to the gradient: see convention."""
    convention: Literal["keras", "torch"] = "keras"
    """keras: weight decay is decoupled (Loshchilov and Hutter 2019), times the rate at each step; torch: it is added to
    the gradient, as PyTorch's Adam does, and Adam's epsilon is 1e-8."""

    def shown(self) -> tuple[str, ...]:
        """What a row of the table always names."""
        more = {"transfer": ("blocks", "train_blocks"), "reverse": ("train_blocks",)}
        return ("dataset", *more.get(self.experiment, ()))

    @property
    def architecture(self) -> str:
        """The base CNN; empty for contrastive, whose network ends in other layers."""
        return "" if self.experiment == "contrastive" else "base_cnn"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The one phase."""
        decay, convention = self.weight_decay, self.convention
        return (Phase("train", self.epochs, "adam", self.rate, weight_decay=decay, convention=convention),)

    def name_parts(self) -> tuple[str, ...]:
        """Preset, data set, and what is transferred."""
        if self.experiment not in PRETEXT:
            return super().name_parts()
        return (*super().name_parts(), f"{self.blocks}blocks", "trained" if self.train_blocks else "frozen")

    def identity(self) -> dict:
        """Everything that the result of this experiment depends on; a pretext run by its name, wherever it lies."""
        named = "own" if self.pretext_run == "own" else self.pretext_folder().resolve().name
        fields = super().identity() | {"pretext_run": named}
        return {key: value for key, value in fields.items() if self.experiment in ONLY_IN.get(key, (self.experiment,))}

    def pretext_folder(self) -> Path:
        """The folder of the run that `pretext_run` names. Raises ConfigError if there is none."""
        return find_run(self.pretext_run, self.out, "pretext-run", "own, or ")

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        if not 1 <= self.blocks <= BLOCKS:
            raise ConfigError(f"blocks is {self.blocks}; allowed: 1 to {BLOCKS}")
        positive("margin", self.margin)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; allowed: 0 <= dropout < 1")
        if self.pretext_run != "own":
            self.pretext_folder()
        for key, experiments in ONLY_IN.items():
            if self.experiment not in experiments and getattr(self, key) != getattr(RotationConfig, key):
                raise ConfigError(f"{key.replace('_', '-')} is for --preset {' and '.join(experiments)}")
        if self.experiment == "contrastive" and self.devices > 1 and os.environ.get("KERAS_BACKEND") != "jax":
            raise ConfigError("TensorFlow would pair images within each device's part alone: one device, or JAX")
        for phase in self.phases:
            phase.check()


BLOCKS = 3  # of the classifier
# The experiment whose run another one takes blocks from.
PRETEXT: dict[Experiment, Experiment] = {"transfer": "rotation", "reverse": "base"}
# Fields that other experiments do not have.
ONLY_IN = dict.fromkeys(("blocks", "train_blocks", "pretext_run"), tuple(PRETEXT)) | {"margin": ("contrastive",)}
# What the source's framework does by default; for classifiers, the batch that the sweep `protocol` chose by validation.
SOURCE: dict[str, Any] = {"convention": "torch", "initialisation": "torch"}
CLASSIFIER: dict[str, Any] = SOURCE | {"batch_size": 128}
PRESETS = {
    "base": RotationConfig(preset="base", **CLASSIFIER),
    "rotation": RotationConfig(preset="rotation", experiment="rotation", **CLASSIFIER),
    "transfer": RotationConfig(preset="transfer", experiment="transfer", **CLASSIFIER),
    "reverse": RotationConfig(preset="reverse", experiment="reverse", blocks=BLOCKS, **CLASSIFIER),
    "contrastive": RotationConfig(preset="contrastive", experiment="contrastive", dropout=0.1, epochs=20, **SOURCE),
    "demo": RotationConfig(preset="demo", dataset="digits", epochs=10),
}
SMALLEST = 8  # pixels: three maxima over 2x2 leave one


def provide(config: RotationConfig) -> None:
    """See that the data and the pretext run are on this machine; missing data is fetched, unless offline."""
    from common.data import sources

    sources.provide(config)
    if config.experiment in PRETEXT:
        pretext_run(config)


def pretext_run(config: RotationConfig) -> Path:
    """The finished run that the blocks are taken from. Raises ConfigError if it is not there, or does not fit."""
    import dataclasses

    experiment = PRETEXT[config.experiment]
    inert = {key: getattr(RotationConfig, key) for key, experiments in ONLY_IN.items() if experiment not in experiments}
    pretext = dataclasses.replace(config, preset=experiment, experiment=experiment, **inert)
    own = config.out / "rotation_contrastive" / pretext.name()
    folder = own if config.pretext_run == "own" else config.pretext_folder()
    return finished_run(
        folder,
        f"{experiment} run",
        # With another seed, or other images, it would have been trained on what validates here.
        {key: pretext.identity()[key] for key in ("experiment", "dataset", "seed", "limit_train")},
        f"`python tasks/rotation_contrastive/train.py --preset {experiment} --seed {config.seed}`, with the other "
        "flags as here, makes it",
    )


def experiment(config: RotationConfig, run: Run) -> None:
    """Train one configuration; leave its metrics and figures."""
    from common.data import sources

    data = sources.load(config)
    if data.train.size < SMALLEST:
        raise ConfigError(f"{config.dataset} has images of {data.train.size} pixels; the network needs {SMALLEST}")
    (embed if config.experiment == "contrastive" else classify)(config, run, data)


def classify(config: RotationConfig, run: Run, data: "Dataset") -> None:
    """Train the classifier: of the classes, or of upright and turned images."""
    from common import drawing
    from common.checkpointer import load_layers
    from common.trainer import Trainer
    from tasks.rotation_contrastive import networks, pretext

    if config.experiment in ("rotation", "reverse"):
        data = pretext.half_turned(data, config.seed)
    model = networks.classifier(config, data)
    if config.experiment in PRETEXT:
        taken = [networks.block(number) for number in range(1, config.blocks + 1)]
        load_layers(model, pretext_run(config), "train", taken, config.REPORTED)
        for name in taken:
            model.get_layer(name).trainable = config.train_blocks
    trainer = Trainer(run, model, data)
    trainer.fit(config.phases)
    result = trainer.evaluate(data.train)
    drawing.classifier(run, data, result)
    run.finish(result.metrics)


def embed(config: RotationConfig, run: Run, data: "Dataset") -> None:
    """Train the embedding, and measure how well the classes part in it."""
    from common.objective import Objective
    from common.trainer import Trainer
    from tasks.rotation_contrastive import embedding, networks, pretext

    data = pretext.mixed(data, config.seed)
    model = networks.embedder(config, data)
    objective = Objective(networks.ContrastiveLoss(config.margin), scores_classes=False, reported="loss")
    trainer = Trainer(run, model, data, objective)

    def points() -> dict[str, "np.ndarray"]:
        return {name: trainer.predict(getattr(data, name)) for name in ("train", "test")}

    initial = model.get_weights()
    trainer.fit(config.phases)
    result = trainer.evaluate(pretext.shuffled(data.train, config.seed))
    after = points()
    model.set_weights(initial)
    before = points()
    untrained, trained = (
        embedding.scores((places["train"], data.train.labels), (places["test"], data.test.labels))
        for places in (before, after)
    )
    by_name = trained | {f"untrained: {name}": value for name, value in untrained.items()}
    draw_embedding(run, data, result, before["test"], after["test"], by_name)
    centroids = embedding.centroids(after["test"], data.test.labels, data.class_names)
    run.finish(result.metrics | {"by_name": by_name, "centroids": centroids})


def draw_embedding(
    run: Run, data: "Dataset", result: "Result", before: "np.ndarray", after: "np.ndarray", by_name: dict
) -> None:
    """Every figure of an embedding, into the run directory."""
    from common import plots

    plots.learning_curves(result.rows, run.figures / "learning_curves.png", result.metrics)
    plots.class_counts(data.counts(), data.class_names, run.figures / "classes.png")
    panels = {}
    for title, points, prefix in (("before training", before, "untrained: "), ("after training", after, "")):
        scores = ", ".join(
            f"{name.removesuffix(' accuracy (%)')} {by_name[prefix + name]:.1f} %"
            for name in by_name
            if not name.startswith("untrained")
        )
        panels[f"{title}\n{scores}"] = points
    plots.embeddings(panels, data.test.labels, data.class_names, run.figures / "embedding.png")


if __name__ == "__main__":
    command.main(PRESETS, __doc__, provide, experiment)
