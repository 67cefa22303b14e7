"""What happens beside the steps of a phase: watching the loss, taking the time, saying how it goes, saving."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from common import words
from common.checkpointer import Checkpointer
from common.optimizers import learning_rate
from common.phase import Phase
from common.progress import Diverged, Progress
from common.runs import Run

LINE_EVERY = 60.0  # seconds between lines within an epoch without a progress bar


class LossWatch:
    """Reads the loss, Keras's mean over the epoch's steps so far, a step late: a GPU has the next one to do meanwhile.

    `last` is the latest.
    """

    def __init__(self) -> None:
        self.unread: Any = None
        self.last = math.nan

    def note(self, loss: Any) -> None:
        """Keep the loss up to a step, which may not have ended yet."""
        self.unread = loss

    def read(self, where: Mapping) -> None:
        """Wait for the step, unless that was done, and raise Diverged if its loss is not finite."""
        if self.unread is not None:
            self.last, self.unread = float(self.unread), None
            if not math.isfinite(self.last):
                raise Diverged(f"loss is {self.last}", where)


class Clock:
    """The time of an epoch, and the rate of its steps without those that compile.

    These are the first execution and, on JAX, that of a last batch that is smaller.
    """

    def __init__(self, first_step: int, seconds_before: float):
        self.first_step = first_step
        self.seconds_before = seconds_before
        self.started = time.monotonic()
        # Of the first and the last two executions: steps since the epoch began or was resumed, and when they had ended.
        self.ends: list[tuple[int, float]] = []

    @property
    def executed(self) -> int:
        """Steps of the first execution; 0 before its end."""
        return self.ends[0][0] if self.ends else 0

    def tick(self, steps: int) -> None:
        """An execution has ended, which makes `steps` since the epoch began or was resumed."""
        self.ends = [*self.ends[:1], *self.ends[1:][-1:], (steps, time.monotonic())]

    def elapsed(self) -> float:
        """Seconds of the epoch so far, those before a resume included."""
        return self.seconds_before + time.monotonic() - self.started

    def images_per_second(self, images: int, batch_size: int) -> float:
        """Images per second of an epoch with so many images, without validation."""
        (begun, since), (ended, until) = self.ends[0], self.ends[-1]
        if len(self.ends) == 1:
            begun, since = 0, self.started
        elif len(self.ends) == 3 and images % batch_size:
            ended, until = self.ends[1]
        before = (self.first_step + begun) * batch_size
        return (min((self.first_step + ended) * batch_size, images) - before) / (until - since)

    def compiling(self, images: int, batch_size: int) -> float:
        """Seconds that the steps took more than they would have at that rate."""
        seconds = (images - self.first_step * batch_size) / self.images_per_second(images, batch_size)
        return max(self.ends[-1][1] - self.started - seconds, 0.0)


class PhaseLines:
    """The lines of a phase: one an epoch, and within an epoch a progress bar in a terminal, elsewhere one a minute."""

    def __init__(self, phase: Phase, epochs: int, once: float):
        """`epochs` of the run are left when the phase begins; its first epoch takes `once` seconds more than others."""
        self.phase = phase
        self.epochs = epochs
        self.once = once
        self.bar: tqdm | None = None

    def begin(self, epoch: int, step: int, steps: int) -> None:
        """An epoch, numbered from 0, goes on from a step."""
        self.name = f"{self.phase.name} {epoch + 1}/{self.phase.epochs}"
        self.steps = steps
        self.said_at = time.monotonic()
        self.bar = tqdm(
            desc=self.name,
            initial=step,
            total=steps,
            unit=" steps",
            leave=False,
            disable=None,  # unless this is a terminal
            file=sys.stdout,
            dynamic_ncols=True,
        )

    def step(self, step: int, loss: float) -> None:
        """A step has ended; the loss is the latest that is known."""
        if self.bar and not self.bar.disable:
            self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self.bar.update(step - self.bar.n)
        elif time.monotonic() - self.said_at > LINE_EVERY:
            print(f"{self.name}  step {step} of {self.steps}  loss {loss:.4f}", flush=True)
            self.said_at = time.monotonic()

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self.bar:
            self.bar.close()

    def epoch(self, row: Mapping, compiling: float) -> None:
        """The line of an epoch, with the time that the rest of the run would take at its pace without the compiling."""
        self.close()
        left = (self.epochs - row["epoch"]) * (row["seconds"] - self.once - compiling)
        self.once = 0.0
        accuracy, val_accuracy = (
            f" accuracy {row[key]:.2%}" if key in row else "" for key in ("accuracy", "val_accuracy")
        )
        print(
            f"{row['phase']} {row['epoch']}/{self.phase.epochs}  "
            f"loss {row['loss']:.4f}{accuracy}  validation loss {row['val_loss']:.4f}{val_accuracy}  "
            f"{row['images_per_second']:,.0f} images/s  {row['seconds']:.0f} s  "
            f"{words.duration(left)} left",
            flush=True,
        )


class Loop(keras.callbacks.Callback):
    """Saves a row, a checkpoint, and the best and last weights at each epoch's end, and the state within an epoch.

    The latter if the run is asked to stop, and when `checkpoint_minutes` have passed. Raises Interrupted once it has
    saved for a request to stop, and Diverged at the first loss that is not finite.
    """

    def __init__(
        self,
        run: Run,
        progress: Progress,
        phases: Sequence[Phase],
        images: int,
        steps: int,
        checkpointer: Checkpointer,
        metrics: Mapping[str, np.ndarray] | None,
        once: float,
    ):
        """`metrics` are the running sums of an epoch that was left in its middle; `once`: see PhaseLines."""
        super().__init__()
        self.run = run
        self.progress = progress
        self.phase = phases[progress.phase]
        self.images = images
        self.steps = steps
        self.checkpointer = checkpointer
        self.begun = metrics
        self.watch = LossWatch()
        self.lines = PhaseLines(self.phase, sum(phase.epochs for phase in phases[progress.phase :]), once)

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        if self.begun is not None:
            self.checkpointer.assign_metrics(self.model, self.begun)
            self.begun = None
        self.clock = Clock(self.progress.step, self.progress.seconds)
        self.lines.begin(epoch, self.progress.step, self.steps)

    def on_train_batch_end(self, batch: int, logs: Mapping) -> None:
        self.read_loss()
        self.progress.step = self.clock.first_step + batch + 1
        self.watch.note(logs["loss"])
        left = self.steps - self.progress.step
        if not self.clock.executed or left <= self.clock.executed:
            self.read_loss()  # which waits for the step, so that the times are right
        self.clock.tick(batch + 1)
        self.lines.step(self.progress.step, self.watch.last)
        if not left:
            return  # the epoch's end saves
        asked = self.run.stop.signal is not None
        if asked or self.checkpointer.is_due():
            self.read_loss()
            self.progress.seconds = self.clock.elapsed()
            self.checkpointer.save_step(self.model, self.progress)
        if asked:  # by a request that came before the state was saved
            self.run.stop.heed()

    def on_epoch_end(self, epoch: int, logs: Mapping) -> None:
        for name, value in logs.items():
            if not math.isfinite(value):
                said = f"{name.replace('val_', 'validation ')} is {value}"
                raise Diverged(said, self.progress.where(self.phase.name))
        size = self.images, self.run.config.batch_size
        row = {
            "phase": self.phase.name,
            "epoch": epoch + 1,
            "rate": self.rate(),
            **{key: logs[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy") if key in logs},
            "seconds": round(self.clock.elapsed(), 3),
            "images_per_second": round(self.clock.images_per_second(*size), 1),
        }
        self.checkpointer.save_epoch(self.model, self.progress, row)
        self.lines.epoch(row, self.clock.compiling(*size))
        self.run.stop.heed()

    def close(self) -> None:
        """The phase has ended, or was left."""
        self.lines.close()

    def read_loss(self) -> None:
        """Wait for the last step. Raises Diverged if its loss is not finite."""
        self.watch.read(self.progress.where(self.phase.name))

    def rate(self) -> float:
        """The rate of the last step that moved the weights; the optimiser's own is that of the step to come."""
        rate = learning_rate(self.phase, self.steps)
        if callable(rate):
            optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
            rate = rate(keras.ops.maximum(optimizer.iterations - 1, 0))
        return float(keras.ops.convert_to_numpy(rate))
