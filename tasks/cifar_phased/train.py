"""Phased fine-tuning of an ImageNet backbone, with mixed precision on a GPU.

The head is trained first, then more of the backbone, each phase from the best state of the one before.

    python tasks/cifar_phased/train.py                        # three_phase: CIFAR-10, ResNet-18, 224 pixels
    python tasks/cifar_phased/train.py --dataset cifar100 --backbone mobilenet_v2 --seed 3
    python tasks/cifar_phased/train.py --preset two_phase     # CIFAR-100, Wide ResNet-50-2, AdamW then NAdam
    python tasks/cifar_phased/train.py --preset demo          # embedded digits: 3 minutes on 2 cores, no network

What accuracy to expect, and over how many seeds: the table in README.md beside this file.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for `common`

from common import runs
from common.config import AUGMENTATIONS, ConfigError, FineTuning, Phase, choice, data_dir, offline

# Stages of the backbone that train in a phase; the head always does.
TRAINABLE = {
    "head": (),
    "last_block": ("layer4",),
    "full": ("stem", "layer1", "layer2", "layer3", "layer4"),
}
# Classes whose images are followed to where they are predicted; elsewhere it is the class with the lowest F1.
CHOSEN = {"cifar10": ("frog",), "cifar100": ("apple", "woman")}


@dataclass(frozen=True)
class PhasedConfig(FineTuning):
    """What one run of this study depends on."""

    augmentation: str = "flip_crop"
    """none, flip_crop (source 000) or affine_colour_blur (source 001)."""
    augment_on: Literal["device", "host"] = "device"
    """In the compiled step, or in tf.data with KerasCV."""
    augment_at: Literal["native", "input"] = "native"
    """native: images of their own size, before they are resized to image-size; input: afterwards."""
    cache_views: int = 0
    """Augmented versions of an image while layers are frozen, one an epoch in turn. 0: a new one in every epoch."""
    head_init: Literal["glorot_uniform", "he_normal"] = "glorot_uniform"
    """Initial weights of the head."""
    phases: tuple[Phase, ...] = ()
    """The phases, in order."""

    SHOWN = ("dataset", "backbone")

    def headline(self) -> tuple[str, ...]:
        """Preset, data set and backbone."""
        return (*super().headline(), self.backbone)

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        choice("augmentation", self.augmentation, AUGMENTATIONS)
        self.check_cache()
        if self.augment_on == "host" and self.augment_at == "input":
            raise ConfigError(
                "augment-on is host, which augments before the resize, and augment-at is input; "
                "allowed: --augment-at native, or --augment-on device"
            )
        for phase in self.phases:
            phase.check()
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ConfigError(f"phases need different names; these are {', '.join(names)}")

    def check_cache(self) -> None:
        """Raise ConfigError where there is nothing that could be cached, or no way to."""
        frozen = [phase.epochs for phase in self.phases if phase.trainable != "full"]
        most = max(min(frozen, default=0) - 1, 0)  # with as many as there are epochs nothing would be saved
        if not 0 <= self.cache_views <= most:
            raise ConfigError(f"cache-views is {self.cache_views}; allowed with these phases: 0 to {most}")
        if self.cache_features == "on" and self.augmentation != "none" and not self.cache_views:
            raise ConfigError(
                f"cache-features is on, and augmentation {self.augmentation} changes every image in every epoch; "
                "allowed: --augmentation none, or --cache-views with how many versions an image has"
            )
        if self.cache_views and (self.augmentation == "none" or self.augment_on == "host"):
            raise ConfigError("cache-views is for an augmentation on the device; allowed without one: 0")
        if self.cache_views and (self.cache_features == "off" or self.devices * self.nodes > 1):
            raise ConfigError("cache-views needs cache-features, which is off, or not to be had on several devices")

    def identity(self) -> dict:
        """As every config's; a run without cached views is named as before there were any."""
        fields = super().identity()
        return fields if self.cache_views else {k: v for k, v in fields.items() if k != "cache_views"}


PRESETS = {
    "three_phase": PhasedConfig(
        preset="three_phase",
        weights="imagenet",
        augment_at="input",
        phases=(
            Phase("head", "head", epochs=5, optimizer="adam", rate=1e-3, dropout=0.5),
            Phase("last_block", "last_block", epochs=5, optimizer="adam", rate=1e-4, dropout=0.3),
            Phase("full", "full", epochs=15, optimizer="adam", rate=1e-5, dropout=0.2),
        ),
    ),
    "two_phase": PhasedConfig(
        preset="two_phase",
        dataset="cifar100",
        weights="imagenet",
        batch_size=72,
        backbone="wide_resnet50_2",
        augmentation="affine_colour_blur",
        augment_at="input",
        head_init="he_normal",
        phases=(
            Phase("head", "head", epochs=10, optimizer="adamw", rate=5e-4, weight_decay=1e-4, clip_norm=0.8),
            Phase(
                "full",
                "full",
                epochs=125,
                optimizer="nadam",
                rate=5e-4,
                weight_decay=1e-4,
                clip_norm=0.8,
                schedule="warmup_cosine",
                warmup_epochs=5,
                cosine_epochs=45,
                final_rate=5e-6,
            ),
        ),
    ),
    "demo": PhasedConfig(
        preset="demo",
        dataset="digits",
        image_size=32,
        augmentation="none",
        phases=(
            Phase("head", "head", epochs=2, optimizer="adam", rate=1e-3, dropout=0.3),
            Phase("last_block", "last_block", epochs=3, optimizer="adam", rate=1e-3, dropout=0.2),
            Phase("full", "full", epochs=10, optimizer="adam", rate=1e-3, dropout=0.1),
        ),
    ),
}


def provide(config: PhasedConfig) -> None:
    """See that data and weights are on this machine; what is missing is fetched, unless offline."""
    from common import weights
    from common.data import sources

    sources.provide(config.dataset, data_dir(config), offline(config))
    weights.locate(config.backbone, config.weights, offline(config), config.image_size)


def study(config: PhasedConfig, run: runs.Run) -> None:
    """Train one configuration and leave its figures."""
    from common import augment, backbones, features, training
    from common.data import sources

    training.set_up(config)
    data = sources.load(
        config.dataset, data_dir(config), config.seed, config.image_size, config.limit_train, config.limit_test
    )
    backbone = backbones.build(config.backbone, config.image_size, config.weights, offline(config))
    model = build(config, backbone, data)

    def configure(phase: Phase) -> None:
        backbone.set_trainable(TRAINABLE[phase.trainable])
        model.get_layer("dropout").rate = phase.dropout

    def cut(phase: Phase) -> features.Cut | None:
        changing = config.augmentation != "none" and not config.cache_views
        return features.cut(config, phase, model, backbone, data, changing, config.cache_views)

    on_host = config.augment_on == "host"
    host_augment = augment.host_augment(config.augmentation, config.seed) if on_host else None
    progress = training.train(run, model, config.phases, data, configure, host_augment, cut=cut)
    metrics = training.results(run, model, config.phases, data, progress)
    draw(config, run, model, data, progress, metrics)
    run.finish("completed", metrics)


def build(config: PhasedConfig, backbone, data):
    """The whole model: uint8 images (b, h, w, c) to float32 logits (b, classes)."""
    import keras

    from common.augment import Augment

    shape = (data.train.size, data.train.size, data.train.channels)
    inputs = keras.Input(shape, dtype="uint8", name="image")
    recipe = config.augmentation if config.augment_on == "device" else "none"
    augment = Augment(recipe, config.seed, config.augment_at, name="augment")
    x = backbone.extract(inputs, augment) if config.augment_at == "input" else backbone.extract(augment(inputs))
    # Keras gives a layer its random generator only if its first rate is above zero.
    x = keras.layers.Dropout(0.5, seed=config.seed, name="dropout")(x)
    logits = keras.layers.Dense(
        len(data.class_names), kernel_initializer=config.head_init, dtype="float32", name="head"
    )(x)
    return keras.Model(inputs, logits)


def draw(config: PhasedConfig, run: runs.Run, model, data, progress, metrics) -> None:
    """Every figure of the study, into the run directory."""
    import keras
    import numpy as np

    from common import plots, training
    from common.augment import Augment
    from common.data import pipeline

    folder = run.figures
    confusion = training.draw_classifier(run, data, progress, metrics)
    plots.learning_rate(progress.rows, folder / "learning_rate.png")
    plots.generalisation_gap(progress.rows, folder / "generalisation_gap.png")
    plots.phase_bars(metrics["phases"], folder / "phases.png")
    weakest = min(metrics["test"]["per_class"], key=lambda scores: scores["f1"])["class"]
    chosen = CHOSEN.get(config.dataset, (weakest,))
    plots.class_destinations(confusion, data.class_names, chosen, folder / "destinations.png")

    images = pipeline.pictures(data.train, np.linspace(0, len(data.train) - 1, 256, dtype=int))
    unchanged = keras.Model(model.input, model.get_layer("augment").input)(images[::32])
    changed = Augment(config.augmentation, config.seed, config.augment_at)(unchanged, training=True)
    plots.image_pairs(images[::32], keras.ops.convert_to_numpy(changed), folder / "augmentation.png")
    normalise = keras.Model(model.input, model.get_layer("normalise").output)
    plots.channel_intensities(normalise.predict(images, verbose=0), folder / "intensities.png")


if __name__ == "__main__":
    runs.main(PRESETS, __doc__, provide, study)
