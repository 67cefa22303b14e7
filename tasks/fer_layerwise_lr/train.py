"""Learning rates by depth in fine-tuning, against one rate for all and against a frozen backbone.

A backbone with ImageNet weights and a new head learn to read expressions from faces. Five arms, each a preset: rates
that rise with depth (by_depth), the head's rate for all (one_rate), and a backbone that stays as it is (frozen); and,
to separate the effect of their order from that of their size, the same rates in reverse order (reversed), and their
geometric mean for all (geometric_mean).

    python tasks/fer_layerwise_lr/train.py                      # by_depth: FER-2013, ResNet-18, 224 pixels
    python tasks/fer_layerwise_lr/train.py --preset one_rate
    python tasks/fer_layerwise_lr/train.py --preset frozen
    python tasks/fer_layerwise_lr/train.py --preset reversed
    python tasks/fer_layerwise_lr/train.py --preset reversed --rates.head 1e-3    # all but the new layer in reverse
    python tasks/fer_layerwise_lr/train.py --preset geometric_mean
    python tasks/fer_layerwise_lr/train.py --backbone mobilenet_v2 --image-size 96 --rates.stem 0
    python tasks/fer_layerwise_lr/train.py --preset demo        # embedded digits: under a minute on 2 cores, offline

What accuracy to expect, and over how many seeds: the table in README.md beside this file.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for `common`

from tyro.conf import arg

from common import command
from common.backbones import STAGES
from common.data import NAMES
from common.errors import not_negative, positive
from common.fine_tuning import FineTuning
from common.phase import Phase
from common.runs import Run

if TYPE_CHECKING:  # `--help` does without
    import keras

    from common.backbones.networks import Backbone
    from common.data.splits import Dataset
    from common.result import Predictions


@dataclass(frozen=True)
class Rates:
    """Learning rate of each group of layers, from the image to the classes. 0: the group stays as it is."""

    stem: float
    """Everything before the first stage."""
    layer1: float
    """First stage of the backbone."""
    layer2: float
    """Second stage."""
    layer3: float
    """Third stage."""
    layer4: float
    """Last stage."""
    head: float
    """The new linear layer."""


@dataclass(frozen=True)
class LayerwiseConfig(FineTuning):
    """What one run of this task depends on."""

    PROTOCOL = 2

    dataset: Annotated[str, arg(help=f"{NAMES}.")] = "fer2013"
    weights: str = "imagenet"
    """Initial weights of the backbone: imagenet, none, a file, or a finished run (folder, or end of its name)."""
    epochs: int = 10
    """Passes over the training images."""
    momentum: float = 0.9
    """Momentum of SGD."""
    rates: Rates = Rates(stem=1e-5, layer1=1e-5, layer2=5e-5, layer3=1e-4, layer4=5e-4, head=1e-3)
    """Learning rates by depth."""
    initialisation: Literal["keras", "torch"] = "keras"
    """Initial weights of the new head: Keras's (Glorot uniform, biases zero) or torch's (kernel and bias uniform within
    1/sqrt(fan_in))."""

    SHOWN = ("dataset", "backbone", "image_size", "batch_norm")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The one phase. Its rate is the head's; the other groups' are fractions of it."""
        return (Phase("train", self.epochs, "sgd", self.rates.head, momentum=self.momentum),)

    def name_parts(self) -> tuple[str, ...]:
        """Preset, data set, backbone and image size."""
        return (*super().name_parts(), self.backbone, str(self.image_size))

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        positive("rates.head", self.rates.head)
        for group, rate in dataclasses.asdict(self.rates).items():
            not_negative(f"rates.{group}", rate)
        for phase in self.phases:
            phase.check()


# Initial weights as in the source's framework. It most likely followed the batches, as the sweep `published` does.
SOURCE: dict[str, Any] = {"initialisation": "torch", "batch_norm": "keep"}
PRESETS = {
    "by_depth": LayerwiseConfig(preset="by_depth", **SOURCE),
    "one_rate": LayerwiseConfig(preset="one_rate", rates=Rates(*6 * [1e-3]), **SOURCE),
    "frozen": LayerwiseConfig(preset="frozen", rates=Rates(0.0, 0.0, 0.0, 0.0, 0.0, 1e-3), **SOURCE),
    "reversed": LayerwiseConfig(preset="reversed", rates=Rates(1e-3, 5e-4, 1e-4, 5e-5, 1e-5, 1e-5), **SOURCE),
    # (1e-5 1e-5 5e-5 1e-4 5e-4 1e-3) ** (1/6), to three digits, as it is a part of the run's name
    "geometric_mean": LayerwiseConfig(preset="geometric_mean", rates=Rates(*6 * [7.94e-5]), **SOURCE),
    "demo": LayerwiseConfig(
        preset="demo",
        dataset="digits",
        weights="none",
        image_size=32,
        epochs=3,
        rates=Rates(stem=2e-3, layer1=2e-3, layer2=5e-3, layer3=1e-2, layer4=2e-2, head=2e-2),
    ),
}


def provide(config: LayerwiseConfig) -> None:
    """See that data and weights are on this machine; what is missing is fetched, unless offline."""
    from common import weights
    from common.data import sources

    sources.provide(config)
    weights.locate(config.backbone, config.weights_source(), config.is_offline)


def experiment(config: LayerwiseConfig, run: Run) -> None:
    """Train one configuration; leave its metrics and figures."""
    from common import drawing, features, plots, weights
    from common.backbones import networks
    from common.data import sources
    from common.trainer import Trainer

    data = sources.load(config)
    backbone = networks.build(config.backbone, config.image_size, config.weights_source(), config.is_offline)
    model = build(config, backbone, data)
    rates = dataclasses.asdict(config.rates)
    backbone.set_trainable([stage for stage in STAGES if rates[stage] > 0], config.batch_norm)
    print("rates:", ", ".join(f"{group} {rate:g}" for group, rate in rates.items()), flush=True)
    group_of = groups(backbone, model)

    trainer = Trainer(
        run,
        model,
        data,
        rate_factor=lambda variable: rates[group_of[variable.path]] / rates["head"],
        cut=lambda phase: features.cut(config, phase, model, backbone, data),
    )
    trainer.fit(config.phases)
    result = trainer.evaluate()
    weights.export(backbone.model, run.files.backbone_file)  # of the best epoch
    apart, by_name = without_copies(data, result.predictions["test"])
    drawing.classifier(run, data, result)
    plots.group_rates(rates, run.figures / "rates.png")
    by_name |= by_class(result.metrics["test"])
    run.finish(result.metrics | {"rates": rates, "test_without_copies": apart, "by_name": by_name})


def build(config: LayerwiseConfig, backbone: "Backbone", data: "Dataset") -> "keras.Model":
    """The whole model: uint8 images (b, h, w, c) to float32 logits (b, classes)."""
    import keras

    from common.initialisation import dense

    inputs = keras.Input((data.train.size, data.train.size, data.train.channels), dtype="uint8", name="image")
    x = backbone.extract(inputs)
    return keras.Model(inputs, dense(x, len(data.class_names), config.initialisation, dtype="float32", name="head"))


def groups(backbone: "Backbone", model: "keras.Model") -> dict[str, str]:
    """The group of each variable that may be trained, by the variable's path."""
    layers = {stage: backbone.stage_layers(stage) for stage in STAGES} | {"head": [model.get_layer("head")]}
    return {variable.path: group for group, own in layers.items() for layer in own for variable in layer.weights}


def without_copies(data: "Dataset", test: "Predictions") -> tuple[dict, dict]:
    """Metrics of the test images that are not, pixel by pixel, among those trained or validated with; and the count.

    FER-2013 holds many of its pictures twice, on either side of the split. If no test image is left, the count is all.
    """
    from common.data import splits
    from common.metrics import evaluate

    own = splits.without_copies(data.test, data.train, data.validation)
    counted = {"test images that are training images too": len(data.test) - len(own)}
    if not len(own):
        return {"n": 0}, counted
    apart = evaluate(test.labels[own], test.probabilities[own], data.class_names)
    del apart["confusion"]
    return apart, counted | {
        "test accuracy without these (%)": 100 * apart["accuracy"],
        "test macro F1 without these (%)": 100 * apart["macro_f1"],
    }


def by_class(test: dict) -> dict[str, float]:
    """F1 of each class on the test split: classes are of very different sizes here, which a mean would hide."""
    there = [scores for scores in test["per_class"] if scores["support"]]
    return {f"test F1 of {scores['class']} (%)": 100 * scores["f1"] for scores in there}


if __name__ == "__main__":
    command.main(PRESETS, __doc__, provide, experiment)
