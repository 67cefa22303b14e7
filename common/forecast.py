"""A forecast of a run's time on a CPU, from the time of its first steps and the arithmetic of each phase."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from tqdm import tqdm

from common.config import Config
from common.data.splits import Dataset
from common.features import Cut
from common.phase import Phase

WAIT = 15.0  # seconds of steps, after the first one, from which the pace is measured
LONG = 7200.0  # seconds above which the forecast suggests a smaller preset
BACKWARD = 2  # a layer's two gradients (kernel, input) take twice its forward pass


@dataclass(frozen=True)
class Work:
    """Multiplications per image: in a forward pass, and in a training step of a phase."""

    forward: float
    step: float


def work(model: keras.Model) -> Work:
    """Count the multiplications of a model, given which of its layers are trainable now.

    Gradients are needed from the first trainable layer onwards. Normalisation and activations are not counted; they
    take a similar share of either pass. Layers of a backbone that takes any size have no shapes: each of them counts as
    if it had as many positions as the resized image, which gives the right ratios if everything is trained.
    """
    forward = backward = 0.0
    reached = False
    sides: list[int] = [layer.height for layer in model.layers if isinstance(layer, keras.layers.Resizing)]
    for layer in leaves(model):
        reached = reached or bool(layer.trainable_variables)
        if hasattr(layer, "kernel"):
            shape: Sequence[int | None] = layer.output.shape[1:-1]
            places = math.prod(sides[0] if place is None else place for place in shape)
            products = float(math.prod(layer.kernel.shape) * places)
            forward += products
            backward += BACKWARD * products * reached
    return Work(forward, forward + backward)


def leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of its nested models, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def survey(model: keras.Model, phases: Sequence[Phase], configure: Callable[[Any], None]) -> dict[str, Work]:
    """The work of each phase by name. Calls `configure` for each of them, ending with the first."""
    works = {}
    for phase in (*phases[1:], phases[0]):
        configure(phase)
        works[phase.name] = work(model)
    return works


class Forecast(keras.callbacks.Callback):
    """Prints once, within a minute of the first step, how long the remaining training will take."""

    def __init__(
        self,
        config: Config,
        phases: Sequence[Phase],
        works: Mapping[str, Work],
        done: int,
        data: Dataset,
        part: Cut | None = None,
    ):
        """`phases` are the remaining ones, the first with `done` epochs behind it; `part` is what it trains on a cache.

        In later phases, frozen layers are counted in every epoch, even if their outputs will be cached.
        """
        super().__init__()
        self.config = config
        self.here = work(part.upper) if part else works[phases[0].name]
        self.ahead = 0.0
        for phase in phases:
            whole = works[phase.name]
            each = self.here if phase == phases[0] else whole
            epochs = phase.epochs - (done if phase == phases[0] else 0)
            self.ahead += epochs * (len(data.train) * each.step + len(data.validation) * each.forward)
            self.ahead += (
                2 * (len(data.validation) + len(data.test)) * whole.forward
            )  # results of the best and the last epoch
        # The last batch, if it is smaller: JAX compiles for it.
        self.smaller = len(data.train) // config.batch_size if len(data.train) % config.batch_size else None
        self.begun: float | None = None
        self.said = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Measure from the end of the first execution, which compiles."""
        if self.said or batch == self.smaller:
            return
        if self.begun is None:
            self.begun, self.first = time.monotonic(), batch
            return
        self.taken, self.steps = time.monotonic() - self.begun, batch - self.first
        if self.taken > WAIT:
            self.say()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Print the forecast if the epoch ends before enough time has passed."""
        if not self.said and hasattr(self, "taken"):
            self.say()
        self.begun = None  # step numbers restart in the next epoch

    def say(self) -> None:
        """Print the forecast from the measured steps."""
        self.print(self.taken / (self.steps * self.config.batch_size * self.here.step))

    def print(self, pace: float) -> None:
        """Print the forecast, given the seconds per multiplication."""
        self.said = True
        smaller = self.config.SMALLER.get(self.config.preset)
        tqdm.write(sentence(self.ahead * pace, smaller))  # above the bar of the epoch, if there is one
        sys.stdout.flush()


def sentence(seconds: float, smaller: str | None) -> str:
    """The forecast in words."""
    minutes = max(round(seconds / 60), 1)
    hours = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
    text = f"all phases will take about {hours} on this processor"
    if seconds > LONG and smaller:
        text += f"; --preset {smaller} is made for a CPU"
    return text
