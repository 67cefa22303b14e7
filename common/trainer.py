"""The training of a model: a list of phases, each one compile and fit, resumable at any instant."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import keras
import numpy as np

from common import checkpoints, features, optimizers, run_page, setup, trained
from common.checkpointer import Checkpointer, load_weights
from common.data import pipeline
from common.data.splits import Dataset, Split
from common.forecast import Forecast, survey, work
from common.loop import Loop
from common.metrics import cross_entropy, evaluate
from common.objective import CLASSIFICATION, Objective
from common.phase import Phase
from common.progress import Progress
from common.result import Predictions, Result, brief, is_right, write_predictions
from common.runs import Run, write_environment
from common.words import count
from common.workarounds.executions import in_one_program, one_at_a_time, steps_per_execution
from common.workarounds.optimizer_variables import built
from common.workarounds.step_logs import TensorBoard, Unread

# Functions of a phase, which is of the task's own kind.
Configure = Callable[[Any], None]
MakeCut = Callable[[Any], features.Cut | None]
# Metrics of each split, and a classifier's predictions.
Measured = dict[str, tuple[dict, Predictions | None]]


def position(checkpoint: checkpoints.Checkpoint) -> Progress:
    """Where a checkpoint was written. Raises CheckpointError if code of other fields wrote it."""
    try:
        return Progress(**checkpoint.data)
    except TypeError as error:
        said = "was written by another version of the code, which goes on with it; --overwrite starts from scratch"
        raise checkpoints.CheckpointError(f"{checkpoint.path} {said}") from error


class Trainer:
    """Trains a model of uint8 images through all phases, from the last checkpoint if there is one, and measures it.

    Args:
        run: the open run directory.
        model: images to outputs; not compiled.
        data: what to train, validate and test with.
        objective: what to train for.
        resize: sets the size of the images that a phase sees, in training and when it is measured.
        configure: sets what else a phase changes in the model.
        rate_factor: of a variable, the factor between its learning rate and the phase's.
        cut: which part of the model a phase trains on what the rest, which is frozen, makes of the images.
        transform: changes training batches on the host, so nothing is computed of the images once, whatever `cut` says.
        callbacks: makes further callbacks of Keras for a phase, given this trainer.
    """

    def __init__(
        self,
        run: Run,
        model: keras.Model,
        data: Dataset,
        objective: Objective = CLASSIFICATION,
        *,
        resize: Configure | None = None,
        configure: Configure | None = None,
        rate_factor: optimizers.Factor | None = None,
        cut: MakeCut | None = None,
        transform: pipeline.Transform | None = None,
        callbacks: Callable[["Trainer"], Sequence[keras.callbacks.Callback]] | None = None,
    ):
        self.run = run
        self.model = model
        self.data = data
        self.objective = objective
        self.resize: Configure = resize or (lambda phase: None)
        self.configure: Configure = configure or (lambda phase: None)
        self.rate_factor = rate_factor
        self.cut: MakeCut = cut or (lambda phase: None)
        self.transform = transform
        self.callbacks: Callable[[Trainer], Sequence[keras.callbacks.Callback]] = callbacks or (lambda trainer: ())
        self.batch_size = run.config.batch_size
        self.steps = pipeline.steps_per_epoch(data.train, self.batch_size)
        self.phases: Sequence[Phase] = ()
        self.progress = Progress()

    def fit(self, phases: Sequence[Phase]) -> None:
        """Train through these phases, each from the best weights of the one before; the last one's best are kept.

        Raises Interrupted if the run is asked to stop, and Diverged at the first loss or weight that is not finite.
        """
        self.phases = phases
        with Checkpointer(self.run, self.model, phases, self.steps) as checkpointer:
            checkpoint = checkpointer.latest()
            if checkpoint:
                self.progress = position(checkpoint)
            elif self.run.files.history_file.is_file():
                print("note: the checkpoints of this run are gone, so it begins again from the start", flush=True)
            first = self.progress.phase
            forecast = not setup.on_gpu()
            for index in range(first, len(phases)):
                trains = self.progress.epoch < phases[index].epochs
                resumed = checkpoint if index == first else None
                self.fit_phase(checkpointer, resumed, index == first, forecast and trains)
                forecast = forecast and not trains
                checkpointer.load_best(self.progress, phases[index].name)
                self.progress.end_phase()
        if self.run.devices.is_primary:
            # A run that was killed between its last checkpoint and the history of that has no epoch left to write it.
            self.run.write_history(self.progress.rows)

    def fit_phase(
        self, checkpointer: Checkpointer, checkpoint: checkpoints.Checkpoint | None, is_first: bool, forecast: bool
    ) -> None:
        """Train the phase that the progress is in, from a checkpoint if there is one."""
        run, progress = self.run, self.progress
        ahead = self.phases[progress.phase :]
        phase = ahead[0]
        works = survey(self.model, ahead, self.prepare) if forecast else {}
        self.prepare(phase)
        part = self.cut(phase) if progress.epoch < phase.epochs and not self.transform else None
        foretold = Forecast(run.config, ahead, works, progress.epoch, self.data, part) if works else None
        fitted = part.upper if part else self.model
        config = run.config
        devices = config.devices * config.nodes
        execution_steps = steps_per_execution(config.steps_per_execution, devices, self.steps, progress.step)
        self.compile(fitted, phase, execution_steps)
        if is_first:
            self.record(fitted, execution_steps)
        if checkpoint:
            is_left = progress.epoch < phase.epochs
            place = f"epoch {progress.epoch + 1}, step {progress.step}" if is_left else "after its last epoch"
            print(f"resuming: phase {phase.name}, {place}", flush=True)
            checkpoints.assign("model", self.model.variables, checkpoint.arrays)
            checkpoints.assign("optimizer", fitted.optimizer.variables, checkpoint.arrays)
        self.announce(phase, execution_steps, fitted)
        begun = checkpoint.arrays if checkpoint and progress.step else None
        data: Dataset | None
        try:
            data, seconds = self.cached(part, foretold)
            progress.seconds += seconds  # a part of this epoch
            if begun is not None:
                self.make_metrics(fitted, data)
            loop = Loop(run, progress, self.phases, len(self.data.train), self.steps, checkpointer, begun, seconds)
            more = [*self.callbacks(self), *([foretold] if foretold and not part else [])]
            with closing(loop):
                self.fit_epochs(fitted, phase, data, [*more, loop], part.views if part else 0, execution_steps)
        finally:
            data = None  # and with it what `features.cached` has made
            features.forget(run)

    def record(self, fitted: keras.Model, execution_steps: int) -> None:
        """Write environment.json for this start."""
        devices = self.run.devices
        facts = setup.environment(self.run.config, devices, fitted)
        facts["epochs"] = sum(phase.epochs for phase in self.phases)
        facts |= {"steps_per_execution": execution_steps, "data": self.data.fingerprint()}
        facts["unread"] = self.data.unread()
        if devices.seeds:
            facts["seeds_together"] = devices.seeds
        write_environment(self.run, **facts)

    def prepare(self, phase: Phase) -> None:
        """Set all that a phase changes in the model."""
        self.resize(phase)
        self.configure(phase)

    def compile(self, fitted: keras.Model, phase: Phase, execution_steps: int) -> None:
        """Compile what is fitted, with every variable of its optimiser made, to run `execution_steps` at a time."""
        optimizer = built(optimizers.make(phase, self.steps, self.rate_factor), fitted)
        loss, metrics = self.run.devices.weighted(self.objective.loss), self.objective.metrics()
        own = execution_steps if keras.backend.backend() == "tensorflow" else 1  # Keras's number of steps
        fitted.compile(optimizer=optimizer, loss=loss, metrics=metrics, steps_per_execution=own)
        if own < execution_steps:
            in_one_program(fitted, execution_steps)
        fitted.optimizer.build(fitted.trainable_variables)
        self.run.devices.prepare(fitted, pipeline.evaluation(self.data.validation, 1))

    def announce(self, phase: Phase, execution_steps: int, fitted: keras.Model) -> None:
        """Print the line of a phase that begins."""
        at_once = f", {execution_steps} at a time" * (execution_steps > 1)
        print(
            f"phase {phase.name}: {count(phase.epochs, 'epoch')} of {self.steps} steps{at_once}{phase.remark()}, "
            f"{parameters(fitted.trainable_variables):,} of {parameters(self.model.weights):,} parameters trained",
            flush=True,
        )

    def cached(self, part: features.Cut | None, forecast: Forecast | None) -> tuple[Dataset, float]:
        """The data to train with, and the seconds that it took to compute what frozen layers make of it."""
        if not part:
            return self.data, 0.0
        began = time.monotonic()
        data = features.cached(self.run, part, self.data)
        seconds = time.monotonic() - began
        if forecast:
            images = len(self.data.train) * max(part.views, 1) + len(self.data.validation)
            forecast.print(seconds / (images * work(part.lower).forward))
        return data, seconds

    def make_metrics(self, fitted: keras.Model, data: Dataset) -> None:
        """Let Keras make the variables of metrics, which it does at the first batch."""
        one, number = self.evaluation(data.validation.take(np.arange(1)), 1)
        fitted.evaluate(one, verbose=0, steps=number)

    def fit_epochs(
        self,
        fitted: keras.Model,
        phase: Phase,
        data: Dataset,
        callbacks: Sequence[keras.callbacks.Callback],
        views: int,
        execution_steps: int,
    ) -> None:
        """The epochs of a phase that are left; a first, begun one by itself, since it has fewer steps."""
        run, progress = self.run, self.progress
        before = sum(p.epochs for p in self.phases[: progress.phase])
        begun = [range(progress.epoch, progress.epoch + 1)] if progress.step else []
        whole = range(progress.epoch + len(begun), phase.epochs)
        if run.config.tensorboard:
            callbacks = [*callbacks, TensorBoard(run.folder / "tensorboard" / phase.name)]
        validation, validation_steps = self.evaluation(data.validation, self.batch_size)
        run.devices.seed_replicas(fitted)
        with run.stop.deferred():
            for epochs in filter(len, [*begun, whole]):
                batches = pipeline.training(
                    data.train,
                    self.batch_size,
                    run.config.seed,
                    range(before + epochs.start, before + epochs.stop),
                    progress.step,
                    self.transform,
                    max(views, 1),
                    run.devices,
                )
                steps = self.steps - progress.step
                counted = execution_steps // fitted.steps_per_execution  # steps to what Keras counts as one
                params = {"verbose": 0, "epochs": epochs.stop, "steps": steps}
                run.devices.fit(
                    fitted,
                    run.devices.shard(batches),
                    initial_epoch=epochs.start,
                    epochs=epochs.stop,
                    steps_per_epoch=steps // counted,
                    validation_data=validation,
                    validation_steps=validation_steps,
                    callbacks=Unread(callbacks, execution_steps=counted, add_history=True, model=fitted, **params),
                    shuffle=False,  # done in the pipeline
                )
        run.stop.heed()  # asked for after the last epoch was saved

    def evaluation(self, split: Split, batch_size: int) -> tuple:
        """The split once, for all devices, and how many steps that takes if Keras has to know."""
        devices = self.run.devices
        size = devices.evaluation_batch(len(split), batch_size)
        batches = devices.shard(pipeline.evaluation(split, size, devices))
        return batches, devices.steps(pipeline.steps_per_epoch(split, size))

    def predict(self, split: Split) -> np.ndarray:
        """What the model gives for each image of a split, in its order: float32 (n, ...)."""
        batches, steps = self.evaluation(pipeline.filled(split, self.batch_size), self.batch_size)
        with one_at_a_time(self.model):
            return self.model.predict(batches, verbose=0, steps=steps)[: len(split)]

    def measure(self, split: Split) -> tuple[dict, Predictions | None]:
        """Metrics of the model as it is on a split, and a classifier's predictions."""
        metrics: dict[str, float] = {"n": len(split)}
        predictions = None
        if self.objective.scores_classes:
            scores = self.predict(split)
            predictions = Predictions(split.labels, trained.probabilities(scores))
            metrics = evaluate(split.labels, predictions.probabilities, self.data.class_names)
            metrics["loss"] = cross_entropy(split.labels, scores)
        if self.objective.reported == "loss":
            if not self.model.compiled:  # what was trained was a part of it
                self.compile(self.model, self.phases[-1], 1)
            batches, steps = self.evaluation(split, self.batch_size)
            metrics["loss"] = float(self.model.evaluate(batches, verbose=0, return_dict=True, steps=steps)["loss"])
        return metrics, predictions

    def evaluate(self, train: Split | None = None) -> Result:
        """Measure the best and the last epoch of each phase, and the last phase's reported one in full.

        On validation and test images, and on training images that are given. Writes predictions.npz and outcomes.json
        of a classifier. `running` is the training loss (and accuracy) as a mean over the steps of the epoch, dropout
        included. The model ends with the reported weights. To be called after training, when every choice has been made
        on the validation split.
        """
        run, data = self.run, self.data
        parts = ({} if train is None else {"train": train}) | {"validation": data.validation, "test": data.test}
        reported = run.config.REPORTED
        by_phase: dict[str, dict] = {}
        right: dict[str, np.ndarray] = {}
        final: Measured = {}
        for phase in self.phases:
            by_phase[phase.name], tested, final = self.measure_phase(phase, parts)
            right |= tested
        if run.devices.is_primary:
            trained.save(run, self.model)
        last = self.phases[-1].name
        predictions = {name: own for name, (_, own) in final.items() if own}
        if predictions:
            del right[f"{last}/{reported}"]  # the predictions say it
            write_predictions(run, data, predictions, right)
        counts = data.counts()
        metrics = {
            **{name: {k: v for k, v in metrics.items() if k != "confusion"} for name, (metrics, _) in final.items()},
            "reported": reported,
            "running": by_phase[last][reported]["running"],
            "phases": by_phase,
            "images": {name: int(count.sum()) for name, count in counts.items()},
            "class_counts": {name: count.tolist() for name, count in counts.items()},
            "notes": list(data.notes),
            **({"test_images_of": data.test_images_of} if data.test_images_of else {}),
        }
        confusion = {name: np.array(metrics["confusion"]) for name, (metrics, own) in final.items() if own}
        result = Result(
            metrics,
            self.progress.rows,
            predictions,
            confusion,
            self.objective.reports_trained_loss(self.model),
            self.objective.probabilities,
        )
        if run.devices.is_primary:
            run.write_page = functools.partial(run_page.write, run, data, result)
        return result

    def measure_phase(self, phase: Phase, parts: Mapping[str, Split]) -> tuple[dict, dict[str, np.ndarray], Measured]:
        """Measure the best and the last epoch of a phase; the model ends with the reported weights.

        Returns what metrics.json says of the phase, which test images were right in each state, and the reported one in
        full.
        """
        self.resize(phase)  # and no more: what is compiled goes by what the last phase trains
        reported = self.run.config.REPORTED
        rows = [row for row in self.progress.rows if row["phase"] == phase.name]
        measured: dict[int, Measured] = {}
        states: dict[str, dict] = {}
        right = {}
        for kind in ("last", "best") if reported == "best" else ("best", "last"):
            entry = getattr(self.progress, kind)[phase.name]
            epoch = entry["epoch"]
            if epoch not in measured:
                load_weights(self.run, self.model, entry)
                measured[epoch] = {name: self.measure(part) for name, part in parts.items()}
            states[kind] = {
                "epoch": epoch,
                "running": {key: rows[epoch - 1][key] for key in ("loss", "accuracy") if key in rows[epoch - 1]},
                **{name: brief(metrics) for name, (metrics, _) in measured[epoch].items()},
            }
            if self.objective.scores_classes and (tested := measured[epoch]["test"][1]):
                right[f"{phase.name}/{kind}"] = is_right(tested)
        content = {
            "epochs": len(rows),
            "best_epoch": states["best"]["epoch"],
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "images_per_second": float(np.median([row["images_per_second"] for row in rows])),
            **{name: states[reported][name] for name in parts},
            **states,
        }
        return content, right, measured[states[reported]["epoch"]]


def parameters(variables: Sequence) -> int:
    """How many numbers these variables hold."""
    return sum(math.prod(v.shape) for v in variables)
