"""What happens beside the training step: watching the loss, keeping the state, telling the user."""

import copy
import functools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from common import checkpoints, devices
from common.config import Phase
from common.optimizers import learning_rate
from common.runs import Diverged, Interrupted, Run

TELL_EVERY = 60.0  # seconds between lines within an epoch, where there is no progress bar


@dataclass
class Progress:
    """How far a run has come: `step` batches and `seconds` into epoch `epoch` (from 0) of phase `phase` (from 0).

    `rows` are those of history.csv. `best` names, for each phase begun, its best epoch and the file with its weights;
    `last`, for each phase that has ended, its last epoch. `extra` is what a task's own callbacks keep, as JSON data.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    rows: list[dict] = field(default_factory=list)
    best: dict[str, dict] = field(default_factory=dict)
    last: dict[str, dict] = field(default_factory=dict)
    extra: dict = field(default_factory=dict)


class Unread(keras.callbacks.CallbackList):
    """Hands a step's logs on as they are on the device. Keras would read them, and so wait for each step to end."""

    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class TensorBoard(keras.callbacks.TensorBoard):
    """Writes by the epoch; Keras's own reads the logs of each step as well, and makes nothing of them."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)


@functools.cache
def keep_state_as_it_is() -> None:
    """Let Keras not look for layers in the state that a step on JAX has given.

    Keras 3.15 takes that state for an attribute like any other, and goes through its arrays, some hundreds, after each
    step. A GPU that trains ResNet-18 waits for it (tests/benchmarks/README.md).
    """
    from keras.src.backend.jax.trainer import JAXTrainer

    def set_attribute(self, name, value):
        if name == "_jax_state":
            object.__setattr__(self, name, value)
        else:
            super(JAXTrainer, self).__setattr__(name, value)

    JAXTrainer.__setattr__ = set_attribute


class Keeper(keras.callbacks.Callback):
    """Writes what a phase must not lose: at each epoch's end a row, a checkpoint, and the weights of the best and last.

    Also within an epoch, when the run is asked to stop or `checkpoint_minutes` have passed. Raises Interrupted after
    the former, and Diverged at the first loss that is not finite. Files are written beside the training; when the
    `with` block of a keeper ends, they are there.
    """

    def __init__(
        self, run: Run, whole: keras.Model, progress: Progress, phases: Sequence[Phase], images: int, steps: int
    ):
        super().__init__()
        self.run = run
        # Whose variables are kept; what is trained, `self.model`, may be a part of it.
        self.whole = whole
        self.progress = progress
        self.phases = phases
        self.images = images
        self.steps = steps
        # Running means of an epoch that was left in its middle, to go on with.
        self.metric_arrays: Mapping[str, np.ndarray] | None = None
        self.saved_at = time.monotonic()
        self.writer = futures.ThreadPoolExecutor(1)
        self.written: futures.Future | None = None
        # Weights of the phase's best epoch, where this start has trained it.
        self.best: Mapping[str, np.ndarray] | None = None
        # Seconds of the epoch that no other epoch of its phase will take.
        self.once = 0.0

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind, fault, traceback) -> None:
        """Wait for the files. If another exception is on its way, a failed write is only a warning.

        Raises Interrupted where the run is asked to stop meanwhile.
        """
        self.run.can_save = True  # a signal waits too
        try:
            self.wait()
        except OSError as error:
            if fault is None:
                raise
            print(f"warning: {error}", flush=True)
        finally:
            self.run.can_save = False
            self.writer.shutdown(wait=False)
        if self.run.stop and fault is None:
            raise Interrupted(self.run.stop)

    @property
    def phase(self) -> Phase:
        """The phase that is being trained."""
        return self.phases[self.progress.phase]

    def on_epoch_begin(self, epoch, logs=None):
        if self.metric_arrays is not None:
            self.assign_metrics(self.metric_arrays)
            self.metric_arrays = None
        self.first_step = self.progress.step
        self.started = self.told_at = time.monotonic()
        self.seconds_before = self.progress.seconds
        self.first_executed = 0
        self.unread: Any = None  # the loss of the last step, where it was not checked yet

    def on_train_batch_end(self, batch, logs=None):
        # Of the step before: a GPU would have nothing to do while this step's loss is read and the next one is sent.
        self.check_loss()
        self.progress.step = self.first_step + batch + 1
        self.unread = logs["loss"]
        ends = self.progress.step == self.steps
        if ends or not self.first_executed:
            self.check_loss()  # which waits for the step, so that the times are right
        now = time.monotonic()
        if not self.first_executed:
            self.first_executed, self.after_first = batch + 1, now
        self.after_last = now
        if ends:
            return  # the epoch's end saves
        if not sys.stdout.isatty() and now - self.told_at > TELL_EVERY:
            self.check_loss()
            print(
                f"{self.phase.name} {self.progress.epoch + 1}/{self.phase.epochs}  step {self.progress.step} of "
                f"{self.steps}  loss {float(logs['loss']):.4f}",
                flush=True,
            )
            self.told_at = now
        if self.run.stop or now - self.saved_at > 60 * self.run.config.checkpoint_minutes:
            self.check_loss()
            self.progress.seconds = self.elapsed()
            self.save(self.state() | self.metrics())
        if self.run.stop:
            raise Interrupted(self.run.stop)

    def check_loss(self) -> None:
        """Wait for the last step, unless that was done, and raise Diverged where its loss is not finite."""
        if self.unread is not None:
            loss, self.unread = float(self.unread), None
            if not math.isfinite(loss):
                raise Diverged(f"loss is {loss}", self.where())

    def on_epoch_end(self, epoch, logs=None):
        if not all(math.isfinite(value) for value in logs.values()):
            raise Diverged(f"validation loss is {logs['val_loss']}", self.where())
        state = self.state()
        row = {
            "phase": self.phase.name,
            "epoch": epoch + 1,
            "rate": self.rate(),
            **{key: logs[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy") if key in logs},
            "seconds": round(self.elapsed(), 3),
            "images_per_second": round(self.images_per_second(), 1),
        }
        self.progress.rows.append(row)
        self.progress.epoch, self.progress.step, self.progress.seconds = epoch + 1, 0, 0.0
        kinds = self.kinds_of(row)
        weights = self.weights(state) if kinds else None
        if "best" in kinds:
            self.best = weights
        self.save(state, weights, kinds)
        self.report(row)
        if self.run.stop:
            raise Interrupted(self.run.stop)

    def rate(self) -> float:
        """The rate of the last step that moved the weights; the optimiser's own is that of the step to come."""
        rate = learning_rate(self.phase, self.steps)
        if callable(rate):
            optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
            rate = rate(keras.ops.maximum(optimizer.iterations - 1, 0))
        return float(keras.ops.convert_to_numpy(rate))

    def elapsed(self) -> float:
        """Seconds of the epoch so far, those before a resume included."""
        return self.seconds_before + time.monotonic() - self.started

    def images_per_second(self) -> float:
        """Rate of the epoch's steps after the first execution, which compiles; validation is left out."""
        batch = self.run.config.batch_size
        done = self.first_step + self.first_executed
        if self.steps == done:
            return (self.images - self.first_step * batch) / (self.after_last - self.started)
        return (self.images - done * batch) / (self.after_last - self.after_first)

    def where(self) -> dict:
        """Phase, epoch and step (both from 1), for messages."""
        return {"phase": self.phase.name, "epoch": self.progress.epoch + 1, "step": self.progress.step}

    def kinds_of(self, row: Mapping) -> list[str]:
        """What this epoch is of its phase, noted in the progress: best so far, last.

        The best has the highest validation accuracy, if there is one, then the lowest loss.
        """

        def merit(epoch: Mapping) -> tuple[float, float]:
            return epoch.get("val_accuracy", 0.0), -epoch["val_loss"]

        best = self.progress.best.get(self.phase.name)
        kinds = {"best": best is None or merit(best) < merit(row), "last": row["epoch"] == self.phase.epochs}
        entry = {key: row[key] for key in ("epoch", "val_accuracy", "val_loss") if key in row}
        for kind in (chosen := [kind for kind, holds in kinds.items() if holds]):
            getattr(self.progress, kind)[self.phase.name] = {"file": "", **entry}
        return chosen

    def weights(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's weights, as a part of `state`."""
        variables, weights = self.whole.variables, self.whole.weights
        arrays = {id(v): state[name] for name, v in zip(checkpoints.names("model", variables), variables, strict=True)}
        return {name: arrays[id(v)] for name, v in zip(checkpoints.names("weights", weights), weights, strict=True)}

    def state(self) -> dict[str, np.ndarray]:
        """All variables as they are now, when none is left to be written. Raises Diverged where one is not finite."""
        self.wait()
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # during fit the variables are elsewhere
        arrays = checkpoints.gather("model", self.whole.variables)
        arrays |= checkpoints.gather("optimizer", self.model.optimizer.variables)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Diverged(f"variable {name} is not finite", self.where())
        return arrays

    def metrics(self) -> dict[str, np.ndarray]:
        """Running sums of the epoch; where devices have their own, theirs too, since rounding depends on them."""
        variables = self.model.metrics_variables
        arrays = checkpoints.gather("metrics", variables)
        for number, copies in enumerate(devices.copies(variables)):
            arrays |= checkpoints.gather(f"metrics-{number}", copies)
        return arrays

    def assign_metrics(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The reverse of `metrics`, from so many devices as well as from others."""
        variables = self.model.metrics_variables
        checkpoints.assign("metrics", variables, arrays)
        own = devices.copies(variables)
        if len({name.split("/")[0] for name in arrays if name.startswith("metrics-")}) == len(own):
            for number, copies in enumerate(own):
                checkpoints.assign(f"metrics-{number}", copies, arrays)

    def save(
        self,
        arrays: Mapping[str, np.ndarray],
        weights: Mapping[str, np.ndarray] | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        """Begin to checkpoint these arrays with the position in training; the first process alone does.

        `weights` are the best or the last of the phase, or both, as `kinds` says.
        """
        if devices.is_first():
            progress = copy.deepcopy(self.progress)
            self.written = self.writer.submit(self.write, arrays, weights, kinds, self.phase.name, progress)
        self.saved_at = time.monotonic()

    def write(
        self,
        arrays: Mapping[str, np.ndarray],
        weights: Mapping[str, np.ndarray] | None,
        kinds: Sequence[str],
        phase: str,
        progress: Progress,
    ) -> None:
        """What `save` begins: the weights, then the checkpoint that names them, then history.csv."""
        if weights:
            # No times in its data: the file of a run that was stopped and resumed has the same digest.
            data = {key: value for key, value in getattr(progress, kinds[0])[phase].items() if key != "file"}
            file = checkpoints.save(self.run.checkpoints, f"{kinds[0]}-{phase}", weights, data).name
            for kind in kinds:
                getattr(self.progress, kind)[phase]["file"] = getattr(progress, kind)[phase]["file"] = file
        done = sum(phase.epochs for phase in self.phases[: progress.phase]) + progress.epoch
        checkpoints.save_step(self.run.checkpoints, done * self.steps + progress.step, arrays, asdict(progress))
        if progress.rows:
            self.run.write_history(progress.rows)

    def wait(self) -> None:
        """Until all that was saved is written. Raises StorageError where it could not be."""
        if self.written:
            futures.wait([self.written])  # which a signal may end
            written, self.written = self.written, None
            written.result()

    def report(self, row: Mapping) -> None:
        """One line an epoch, with the time that the rest of the run would take at this epoch's pace."""
        left = sum(phase.epochs for phase in self.phases[self.progress.phase :]) - row["epoch"]
        minutes, seconds = divmod(round(left * (row["seconds"] - self.once)), 60)
        self.once = 0.0
        accuracy, val_accuracy = (
            f" accuracy {row[key]:.2%}" if key in row else "" for key in ("accuracy", "val_accuracy")
        )
        print(
            f"{row['phase']} {row['epoch']}/{self.phase.epochs}  "
            f"loss {row['loss']:.4f}{accuracy}  validation loss {row['val_loss']:.4f}{val_accuracy}  "
            f"{row['images_per_second']:,.0f} images/s  {row['seconds']:.0f} s  "
            f"at this pace {minutes}:{seconds:02d} min left",
            flush=True,
        )
