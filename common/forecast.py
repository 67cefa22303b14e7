"""How long a run will take on a CPU, from the time of its first steps and the arithmetic of each phase."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras

from common.config import Config, Phase
from common.data.sources import Dataset

WAIT = 15.0  # seconds of steps after the first one that the rate is taken from
LONG = 7200.0  # seconds from which on a smaller preset is named
BACKWARD = 2  # a layer's gradients by its kernel and by its input take twice its forward pass


@dataclass(frozen=True)
class Work:
    """Multiplications an image: of a forward pass, and of a training step with what a phase trains."""

    forward: float
    step: float


def work(model: keras.Model, phase: Phase) -> Work:
    """Count the products of a model whose layers are as trainable as in the phase.

    Gradients are needed from the first layer that is trained on. Normalisation and activations are left out: they are
    some share of either pass. A model of any image size has no shapes; all of its layers then go by the phase's.
    """
    forward = backward = 0.0
    reached = False
    for layer in leaves(model):
        reached = reached or bool(layer.trainable_variables)
        if hasattr(layer, "kernel"):
            places = math.prod(side or 1 for side in layer.output.shape[1:-1])
            products = math.prod(layer.kernel.shape) * places * (phase.image_size or 1) ** 2
            forward += products
            backward += BACKWARD * products * reached
    return Work(forward, forward + backward)


def leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models in it, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


class Forecast(keras.callbacks.Callback):
    """Says once, within a minute of the first step, how long all phases of the run will take from here."""

    def __init__(self, config: Config, here: Work, ahead: float):
        """`here`: the phase that begins; `ahead`: multiplications that the run still has to do."""
        super().__init__()
        self.config = config
        self.here = here
        self.ahead = ahead
        self.begun: float | None = None
        self.steps = 0
        self.said = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Take the time from the end of the first execution, which compiles."""
        if self.said:
            return
        if self.begun is None:
            self.begun, self.before = time.monotonic(), batch + 1
            return
        taken = time.monotonic() - self.begun
        self.steps = batch + 1 - self.before
        if taken > WAIT:
            self.say(taken)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """An epoch that is over before says it too; the next ones compile nothing."""
        if self.begun is not None and not self.said and self.steps:
            self.say(time.monotonic() - self.begun)

    def say(self, taken: float) -> None:
        """Print the forecast, from the time of these steps."""
        self.print(taken / (self.steps * self.config.batch_size * self.here.step))

    def print(self, pace: float) -> None:
        """Print the forecast, given the seconds that a multiplication takes."""
        self.said = True
        print(sentence(self.ahead * pace, self.config.SMALLER, self.config.preset), flush=True)


def sentence(seconds: float, smaller: str | None, preset: str) -> str:
    """The forecast in words."""
    minutes = max(round(seconds / 60), 1)
    hours = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
    text = f"all phases will take about {hours} on this processor"
    if seconds > LONG and smaller and smaller != preset:
        text += f"; --preset {smaller} is made for a CPU"
    return text


def forecast(
    config: Config,
    model: keras.Model,
    phases: Sequence[Phase],
    configure: Callable[[Phase], None],
    done: int,
    data: Dataset,
) -> Forecast:
    """The forecast of a run that has these phases ahead of it, and `done` epochs of the first one behind it.

    Calls `configure` for each phase, the first one last. Frozen layers whose outputs are cached count in every epoch.
    """
    works = {}
    for phase in (*phases[1:], phases[0]):
        configure(phase)
        works[phase.name] = work(model, phase)
    ahead = 0.0
    for phase in phases:
        each, epochs = works[phase.name], phase.epochs - (done if phase == phases[0] else 0)
        ahead += epochs * (len(data.train) * each.step + len(data.validation) * each.forward)
        ahead += 2 * (len(data.validation) + len(data.test)) * each.forward  # the best and the last epoch, measured
    return Forecast(config, works[phases[0].name], ahead)
