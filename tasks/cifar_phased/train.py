"""Phased fine-tuning of an ImageNet backbone, with mixed precision on a GPU.

The head is trained first, then more of the backbone, each phase from the best state of the one before.

    python tasks/cifar_phased/train.py                        # three_phase: CIFAR-10, ResNet-18, 224 pixels
    python tasks/cifar_phased/train.py --dataset cifar100 --backbone mobilenet_v2 --seed 3
    python tasks/cifar_phased/train.py --preset two_phase     # CIFAR-100, Wide ResNet-50-2, AdamW then NAdam
    python tasks/cifar_phased/train.py --preset pretrain --dataset image_folder:photos   # a backbone from nothing
    python tasks/cifar_phased/train.py --backbone mobilenet_v2 --weights results/runs/cifar_phased/NAME  # and from it
    python tasks/cifar_phased/train.py --preset laptop        # MobileNetV2, 96 pixels, 10,000 images: 25 minutes
    python tasks/cifar_phased/train.py --preset one_phase     # laptop's 25 epochs in a single phase
    python tasks/cifar_phased/train.py --preset demo          # embedded digits: 1 to 3 minutes on 2 cores, offline

What accuracy to expect, and over how many seeds: the table in README.md beside this file.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for `common`

from common import command
from common.runs import Run
from tasks.cifar_phased.config import PhasedConfig, TuningPhase

if TYPE_CHECKING:  # `--help` does without
    import keras

    from common.backbones.networks import Backbone
    from common.data.pipeline import Transform
    from common.data.splits import Dataset

# Stages of the backbone that train in a phase; the head always does.
TRAINABLE = {
    "head": (),
    "last_block": ("layer4",),
    "full": ("stem", "layer1", "layer2", "layer3", "layer4"),
}


THREE_PHASES = (
    TuningPhase(name="head", trainable="head", epochs=5, optimizer="adam", rate=1e-3, dropout=0.5, convention="torch"),
    TuningPhase(
        name="last_block",
        trainable="last_block",
        epochs=5,
        optimizer="adam",
        rate=1e-4,
        dropout=0.3,
        convention="torch",
    ),
    TuningPhase(name="full", trainable="full", epochs=15, optimizer="adam", rate=1e-5, dropout=0.2, convention="torch"),
)
# Training everything from random weights.
from_random = functools.partial(
    TuningPhase,
    trainable="full",
    optimizer="sgd",
    momentum=0.9,
    weight_decay=5e-5,
    convention="torch",
    schedule="warmup_cosine",
)
# Each preset's `batch_norm` did best on validation images with its family of networks: the sweeps batch_norm*.
THREE_PHASE = PhasedConfig(
    preset="three_phase",
    weights="imagenet",
    batch_norm="follow",
    augment_at="input",
    head_init="torch",
    phases=THREE_PHASES,
)
# What 2 cores can do in 25 minutes.
LAPTOP = dataclasses.replace(
    THREE_PHASE, preset="laptop", limit_train=10_000, backbone="mobilenet_v2", image_size=96, batch_norm="keep"
)
PRESETS = {
    "three_phase": THREE_PHASE,
    "laptop": LAPTOP,
    # As many epochs as laptop has in all, in one phase: what is the recipe of phases worth?
    "one_phase": dataclasses.replace(
        LAPTOP,
        preset="one_phase",
        phases=(
            TuningPhase(
                name="full", trainable="full", epochs=25, optimizer="adam", rate=1e-4, dropout=0.2, convention="torch"
            ),
        ),
    ),
    "two_phase": PhasedConfig(
        preset="two_phase",
        dataset="cifar100",
        weights="imagenet",
        batch_size=72,
        backbone="wide_resnet50_2",
        batch_norm="follow",
        augmentation="affine_colour_blur",
        augment_at="input",
        head_init="he_normal",
        phases=(
            TuningPhase(
                name="head",
                trainable="head",
                epochs=10,
                optimizer="adamw",
                rate=5e-4,
                weight_decay=1e-4,
                convention="torch",
            ),
            TuningPhase(
                name="full",
                trainable="full",
                epochs=125,
                optimizer="nadam",
                rate=5e-4,
                weight_decay=1e-4,
                clip_norm=0.8,
                convention="torch",
                schedule="warmup_cosine",
                warmup_epochs=5,
                warmup_start=1 / 3,
                cosine_epochs=45,
                final_rate=5e-6,
                schedule_by="epoch",
            ),
        ),
    ),
    # All rates are one descent in three pieces: each phase begins with the last rate of the one before.
    "pretrain": PhasedConfig(
        preset="pretrain",
        dataset="cifar100",
        batch_size=128,
        backbone="mobilenet_v2",
        image_size=64,
        head_init="torch",
        phases=(
            from_random(name="small", epochs=4, rate=0.2, final_rate=0.13, warmup_epochs=1, image_size=32),
            from_random(name="medium", epochs=3, rate=0.13, final_rate=0.04, image_size=48),
            from_random(name="large", epochs=3, rate=0.04),
        ),
    ),
    "demo": PhasedConfig(
        preset="demo",
        dataset="digits",
        image_size=32,
        augmentation="none",
        phases=(
            TuningPhase(name="head", trainable="head", epochs=2, optimizer="adam", rate=1e-3, dropout=0.3),
            TuningPhase(name="last_block", trainable="last_block", epochs=3, optimizer="adam", rate=1e-3, dropout=0.2),
            TuningPhase(name="full", trainable="full", epochs=10, optimizer="adam", rate=1e-3, dropout=0.1),
        ),
    ),
}


def provide(config: PhasedConfig) -> None:
    """See that data and weights are on this machine; what is missing is fetched, unless offline."""
    from common import weights
    from common.data import sources

    sources.provide(config)
    weights.locate(config.backbone, config.weights_source(), config.is_offline)


def experiment(config: PhasedConfig, run: Run) -> None:
    """Train one configuration; leave its metrics and figures."""
    from common import features, weights
    from common.backbones import networks
    from common.data import sources
    from common.trainer import Trainer
    from tasks.cifar_phased import figures

    data = sources.load(config)
    sizes = {config.side(phase) for phase in config.phases}
    backbone = networks.build(
        config.backbone, config.image_size, config.weights_source(), config.is_offline, any_size=len(sizes) > 1
    )
    model = build(config, backbone, data)

    def resize(phase: TuningPhase) -> None:
        networks.set_image_size(model, config.side(phase))

    def configure(phase: TuningPhase) -> None:
        backbone.set_trainable(TRAINABLE[phase.trainable], config.batch_norm)
        model.get_layer("dropout").rate = phase.dropout

    def cut(phase: TuningPhase) -> features.Cut | None:
        changing = config.augmentation != "none" and not config.cache_views
        return features.cut(config, phase, model, backbone, data, changing, config.cache_views)

    trainer = Trainer(run, model, data, resize=resize, configure=configure, cut=cut, transform=host_transform(config))
    trainer.fit(config.phases)
    result = trainer.evaluate()
    weights.export(backbone.model, run.files.backbone_file)  # of the last phase's best epoch
    figures.draw(config, run, model, data, result)
    run.finish(result.metrics | {"channels": figures.channels(model, data.train)})


def host_transform(config: PhasedConfig) -> "Transform | None":
    """Augmentation in tf.data, if it is done there."""
    if config.augment_on == "device" or config.augmentation == "none":
        return None
    from common.augment.host import host_augment

    augment = host_augment(config.augmentation, config.seed)
    return lambda images, labels, batch_seed: (augment(images, batch_seed), labels)


def build(config: PhasedConfig, backbone: "Backbone", data: "Dataset") -> "keras.Model":
    """The whole model: uint8 images (b, h, w, c) to float32 logits (b, classes)."""
    import keras

    from common.augment.layer import Augment

    shape = (data.train.size, data.train.size, data.train.channels)
    inputs = keras.Input(shape, dtype="uint8", name="image")
    recipe = config.augmentation if config.augment_on == "device" else "none"
    augment = Augment(recipe, config.seed, config.augment_at, name="augment")
    if config.augment_at == "input":
        x = backbone.extract(inputs, config.image_size, augment)
    else:
        x = backbone.extract(augment(inputs), config.image_size)
    # Keras gives a layer its random generator only if its first rate is above zero.
    x = keras.layers.Dropout(0.5, seed=config.seed, name="dropout")(x)
    initial = head_initialisers(config.head_init, x.shape[-1])
    logits = keras.layers.Dense(len(data.class_names), dtype="float32", name="head", **initial)(x)
    return keras.Model(inputs, logits)


def head_initialisers(head_init: str, inputs: int) -> dict:
    """Keyword arguments of the head's layer. He's rule says nothing of a bias, which torch leaves as it was."""
    from common.initialisation import kernel_and_bias

    if head_init == "glorot_uniform":
        return {}
    kernel = {"kernel_initializer": "he_normal"} if head_init == "he_normal" else {}
    return kernel_and_bias("torch", inputs) | kernel


if __name__ == "__main__":
    command.main(PRESETS, __doc__, provide, experiment)
