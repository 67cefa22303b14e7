"""A small network of digits, trained in this process: for the tests of the trainer and of what it is given."""

import signal
from dataclasses import dataclass

import keras

from common import checkpoints, runs, setup
from common.config import Config
from common.devices import Devices
from common.normalisation import BatchNormalization
from common.phase import Phase
from common.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class SmallPhase(Phase):
    """A phase, and what of the network it trains."""

    trainable: str = "full"
    dropout: float = 0.0


PHASES = (
    SmallPhase("head", 2, "adam", 1e-3, trainable="head", dropout=0.3),
    SmallPhase("full", 2, "nadam", 1e-3, dropout=0.1, weight_decay=1e-3, clip_norm=1.0),
)


def small_model():
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 16, dtype="float32")(image)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(x)
    x = BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.5, seed=1, name="dropout")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(10, dtype="float32", name="head")(x))


def train(out, data, phases=PHASES, stop_after=None, on_phase=None, more=None, batch_norm=None, kind=Config, **fields):
    """Open, train or resume; the trainer. `stop_after` is a phase's first step; `more` goes to `Trainer`."""
    config = kind(preset="test", dataset="digits", out=out, batch_size=32, **fields)
    keras.utils.clear_session(free_memory=False)  # names count from one again, as in a new process
    setup.set_up(config, Devices())
    model = small_model()
    with runs.open_run(config, "test", "") as run:

        def configure(phase):
            model.get_layer("dropout").rate = phase.dropout
            model.get_layer("conv").trainable = model.get_layer("norm").trainable = phase.trainable == "full"
            if batch_norm:
                model.get_layer("norm").fine_tune(phase.trainable == "full", batch_norm)

        def begins(phase):
            if phase.name == stop_after:
                run.stop.signal = signal.SIGTERM
            if on_phase:
                on_phase(phase, model)

        trainer = Trainer(run, model, data, **{"configure": configure, "cut": begins} | (more or {}))
        trainer.fit(phases)
        return trainer


def state(model):
    return checkpoints.gather("model", model.variables) | checkpoints.gather("optimizer", model.optimizer.variables)


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
