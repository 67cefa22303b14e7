"""Experiments that are followed up to their training, or to what a test is about, and no further."""

import keras
import numpy as np
import pytest

from common import runs
from common.command_line import parse_strictly
from common.normalisation import BatchNormalization
from common.trainer import Trainer


class Enough(Exception):
    """Ends an experiment where a test has seen enough."""


def until_enough(task, out, *flags):
    """Run an experiment, which something that is patched ends by `Enough`."""
    config = parse_strictly(task.PRESETS, "", [*flags, "--out", str(out)])
    name = task.experiment.__module__.split(".")[1]
    with runs.open_run(config, name, "") as run, pytest.raises(Enough):
        task.experiment(config, run)


def epochs_taken(task, out, monkeypatch, made, preset):
    """Which epoch's weights a transfer takes from another run, which `made` of the task finds: best or last."""
    kinds = []

    def load(model, folder, phase, names, kind):
        kinds.append(kind)
        raise Enough

    monkeypatch.setattr("common.checkpointer.load_layers", load)
    monkeypatch.setitem(task.experiment.__globals__, made, lambda config: out)
    until_enough(task, out, "--preset", preset, "--dataset", "digits")
    return kinds


def phases(task, out, monkeypatch, *flags):
    """What each phase would train and how, on the digits and a backbone of five convolutions.

    A dict a phase: rates of dropout, names of what is trained, whether each batch normalisation uses its batch, model.
    """
    seen = []

    def fit(trainer, phases):
        for phase in phases:
            trainer.prepare(phase)
            own = trainer.model.layers
            (backbone,) = [layer for layer in own if isinstance(layer, keras.Model)]
            norms = [layer for layer in backbone.layers if isinstance(layer, BatchNormalization)]
            paths = [variable.path for variable in trainer.model.trainable_variables]
            seen.append(
                {
                    "dropout": [layer.rate for layer in own if isinstance(layer, keras.layers.Dropout)],
                    "trained": sorted({path.split("/")[0].split(".")[0] for path in paths}),
                    "by batch": [uses_its_batch(layer) for layer in norms],
                    "model": trainer.model,
                }
            )
        raise Enough

    monkeypatch.setattr(Trainer, "fit", fit)
    until_enough(task, out, "--preset", "demo", "--backbone", "tiny", "--limit-train", "100", *flags)
    return seen


def uses_its_batch(layer):
    """Whether a batch normalisation normalises in training by other statistics than otherwise."""
    images = np.random.default_rng(0).normal(3, 2, (4, *layer.input.shape[1:])).astype("float32")
    return not np.allclose(layer(images, training=True), layer(images, training=False), atol=1e-3)
