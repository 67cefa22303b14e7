"""The training loop: a list of phases, each one compile and fit, resumable at any instant."""

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from scipy.special import softmax

from common import checkpoints, devices, features, optimizers
from common.callbacks import Keeper, Progress, TensorBoard, Unread, keep_state_as_it_is
from common.config import Config, Phase
from common.data import pipeline
from common.data.sources import Dataset, Split
from common.forecast import Forecast, survey, work
from common.metrics import confusion, cross_entropy, evaluate
from common.outcomes import packed
from common.runs import Interrupted, Run, write_environment


@dataclass(frozen=True)
class Objective:
    """What a model is trained for, and which of its epochs is the best.

    `loss` takes labels, int (b,), and the model's outputs; a model that is trained for something else than the labels
    overrides `compute_loss`. With `accuracy`, the outputs are a score a class, float (b, classes), and the best epoch
    is that of the highest accuracy on validation images; without, that of the lowest loss on them.
    """

    loss: keras.losses.Loss
    accuracy: bool = True

    def metrics(self) -> list[keras.metrics.Metric]:
        """New metrics to compile with."""
        return [keras.metrics.SparseCategoricalAccuracy("accuracy")] if self.accuracy else []


CLASSIFICATION = Objective(keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def set_up(config: Config) -> None:
    """Seed everything, choose devices and precision, and make repeats bit-identical where that is asked for."""
    import tensorflow as tf

    if not gc.isenabled():  # as runs.main leaves it
        gc.freeze()  # what was loaded so far stays to the end
        gc.enable()
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # tf.data must not take the memory that the model needs
    if keras.backend.backend() == "jax":
        keep_state_as_it_is()
    tf.get_logger().setLevel("ERROR")  # it warns of each phase's compilation
    devices.share(config)
    keras.utils.set_random_seed(config.seed)
    precision = config.precision
    if precision == "auto":
        precision = "mixed_float16" if on_gpu() else "float32"
    keras.config.set_dtype_policy(precision)
    if deterministic(config):
        tf.config.experimental.enable_op_determinism()


def on_gpu() -> bool:
    """Whether Keras's backend computes on a GPU."""
    return any(device.startswith("gpu") for device in keras.distribution.list_devices())


def deterministic(config: Config) -> bool:
    """Whether TensorFlow's operations must give the same bits each time."""
    return config.deterministic == "yes" or (config.deterministic == "auto" and not on_gpu())


def environment(config: Config, model: keras.Model) -> dict:
    """Facts of a compiled model's surroundings for environment.json."""
    return {
        "backend": keras.backend.backend(),
        "devices": devices.in_use(),
        "gpus": devices.gpus(),
        "precision": keras.config.dtype_policy().name,
        "jit_compile": bool(model.jit_compile),
        "steps_per_execution": model.steps_per_execution,
        "op_determinism": deterministic(config),
        "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1",
    }


def train(
    run: Run,
    model: keras.Model,
    phases: Sequence[Phase],
    data: Dataset,
    configure: Callable[[Phase], None],
    augment: pipeline.HostAugmentation | None = None,
    objective: Objective = CLASSIFICATION,
    callbacks: Callable[[Progress], Sequence[keras.callbacks.Callback]] = lambda progress: (),
    factor: optimizers.Factor | None = None,
    cut: Callable[[Phase], features.Cut | None] = lambda phase: None,
) -> Progress:
    """Train a model of uint8 images through all phases, from the last checkpoint if there is one.

    `configure` sets what a phase changes in the model; `callbacks` makes further ones; `factor` is for
    `optimizers.make`; `cut` says which part of the model a phase trains on what the rest, which is frozen, makes of the
    images.
    Each phase starts from the best weights of the one before; the last one's best are in the model at the end. Raises
    what `Keeper` raises.
    """
    steps = pipeline.steps_per_epoch(data.train, run.config.batch_size)
    checkpoint = last_checkpoint(run)
    progress = Progress(**checkpoint.data) if checkpoint else Progress()
    with Keeper(run, model, progress, phases, len(data.train), steps) as keeper:
        first, foreseen = progress.phase, on_gpu()
        for index in range(first, len(phases)):
            phase = phases[index]
            trains = progress.epoch < phase.epochs
            works = survey(run.config, model, phases[index:], configure) if trains and not foreseen else {}
            configure(phase)
            part = cut(phase) if trains else None
            ahead = Forecast(run.config, phases[index:], works, progress.epoch, data, part) if works else None
            foreseen = foreseen or trains
            trained = part.upper if part else model
            together = steps_per_execution(run.config, steps, progress.step)
            compile_for(trained, optimizers.make(phase, steps, factor), objective, together, data)
            if index == first:
                epochs = sum(phase.epochs for phase in phases)
                write_environment(run, epochs=epochs, **environment(run.config, trained))
            if index == first and checkpoint:
                print(f"resuming: phase {phase.name}, epoch {progress.epoch + 1}, step {progress.step}", flush=True)
                checkpoints.assign("model", model.variables, checkpoint.arrays)
                checkpoints.assign("optimizer", trained.optimizer.variables, checkpoint.arrays)
            announce(phase, steps, together, trained, model)
            metrics = checkpoint.arrays if progress.step else None
            fit_part(part, trained, keeper, phase, data, augment, callbacks(progress), metrics, ahead)
            load_weights(run, model, progress.best[phase.name], keeper.best)
            keeper.best = None
            progress.phase, progress.epoch, progress.seconds = index + 1, 0, 0.0
    if devices.is_first():
        # A run that was killed between its last checkpoint and the history of that has no epoch left to write it.
        run.write_history(progress.rows)
    return progress


def announce(phase: Phase, steps: int, together: int, trained: keras.Model, model: keras.Model) -> None:
    """The line of a phase that begins."""
    at_once = f", {together} at a time" * (together > 1)
    pixels = f" at {phase.image_size} pixels" if phase.image_size else ""
    print(
        f"phase {phase.name}: {phase.epochs} epochs of {steps} steps{at_once}{pixels}, "
        f"{parameters(trained.trainable_variables):,} of {parameters(model.weights):,} parameters trained",
        flush=True,
    )


def compile_for(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, objective: Objective, steps: int, data: Dataset
) -> None:
    """Compile a model to be trained `steps` at a time, with every variable of its optimizer made."""
    # Before compile: wrapped for mixed_float16, Keras 3.15's Nadam would lose track of one of its variables.
    optimizer.build(model.trainable_variables)
    loss, metrics = devices.weighed(objective.loss), objective.metrics()
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics, steps_per_execution=steps)
    model.optimizer.build(model.trainable_variables)
    devices.prepare(model, pipeline.evaluation(data.validation, 1))


def steps_per_execution(config: Config, steps: int, done: int) -> int:
    """How many steps Keras runs in one go: a divisor of an epoch's steps, and of those that are left of a begun one.

    Keras 3.15 would run past the end of an epoch otherwise. On JAX it warns at the end of an evaluation, and on several
    devices it fails: there it is one.
    """
    if keras.backend.backend() == "jax" or config.devices > 1:
        return 1
    return math.gcd(config.steps_per_execution, steps, done)


def last_checkpoint(run: Run) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from: the one that the first process finds, for all."""
    found = checkpoints.latest(run.checkpoints) if devices.is_first() else None
    name = devices.tell(found.path.name if found else "")
    return checkpoints.load(run.checkpoints / name) if name and not found else found


def fit_part(
    part: features.Cut | None,
    model: keras.Model,
    keeper: Keeper,
    phase: Phase,
    data: Dataset,
    augment: pipeline.HostAugmentation | None,
    callbacks: Sequence[keras.callbacks.Callback],
    metrics: Mapping[str, np.ndarray] | None,
    ahead: Forecast | None,
) -> None:
    """`fit`, on what the frozen part below the model makes of the images if there is one.

    `metrics`: those of a begun epoch; `ahead`: the forecast, if it is to be said in this phase.
    """
    try:
        began = time.monotonic()
        seen = features.cached(keeper.run, part, data) if part else data
        keeper.once = time.monotonic() - began
        keeper.progress.seconds += keeper.once  # a part of this epoch
        if ahead and part:
            images = len(data.train) * max(part.views, 1) + len(data.validation)
            ahead.print(keeper.once / (images * work(part.lower).forward))
        elif ahead:
            callbacks = [*callbacks, ahead]
        if metrics is not None:
            # Keras makes the variables of metrics at the first batch.
            one, number = evaluation(seen.validation.take(np.arange(1)), 1)
            model.evaluate(one, verbose=0, steps=number)
            keeper.metric_arrays = metrics
        fit(model, keeper, phase, seen, augment, callbacks, part.views if part else 0)
    finally:
        seen = None  # and with it what `features.cached` has made
        features.forget(keeper.run)


def fit(
    model: keras.Model,
    keeper: Keeper,
    phase: Phase,
    data: Dataset,
    augment: pipeline.HostAugmentation | None,
    callbacks: Sequence[keras.callbacks.Callback],
    views: int,
) -> None:
    """The epochs of a phase that are left; a first, begun one by itself, since it has fewer steps."""
    run, progress = keeper.run, keeper.progress
    before = sum(p.epochs for p in keeper.phases[: progress.phase])
    begun = [range(progress.epoch, progress.epoch + 1)] if progress.step else []
    whole = range(progress.epoch + len(begun), phase.epochs)
    callbacks = [*callbacks, keeper]  # the keeper last: it saves what the others have put into the progress
    if run.config.tensorboard:
        callbacks.append(TensorBoard(run.folder / "tensorboard" / phase.name))
    validation, validation_steps = evaluation(data.validation, run.config.batch_size)
    devices.own_draws(model)
    run.can_save = True
    for epochs in [*begun, whole]:
        if len(epochs) == 0:
            continue
        counted = range(before + epochs.start, before + epochs.stop)
        batches = pipeline.training(
            data.train, run.config.batch_size, run.config.seed, counted, progress.step, augment, max(views, 1)
        )
        steps = keeper.steps - progress.step
        verbose = 1 if sys.stdout.isatty() else 0
        params = {"verbose": verbose, "epochs": epochs.stop, "steps": steps}
        model.fit(
            devices.spread(batches),
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            steps_per_epoch=steps,
            validation_data=validation,
            validation_steps=validation_steps,
            callbacks=Unread(callbacks, add_history=True, add_progbar=verbose > 0, model=model, **params),
            shuffle=False,  # done in the pipeline
        )
    run.can_save = False
    if run.stop:  # asked for after the last epoch was saved
        raise Interrupted(run.stop)


def evaluation(split: Split, batch_size: int) -> tuple:
    """The split once, for all devices, and how many steps that takes where Keras must be told."""
    size = devices.evaluation_batch(len(split), batch_size)
    steps = devices.steps(pipeline.steps_per_epoch(split, size))
    return devices.spread(pipeline.evaluation(split, size, shared=True)), steps


def load_weights(run: Run, model: keras.Model, entry: Mapping, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Put the weights of an epoch, an entry of the progress, into the model; random generators stay.

    From their file if they are not given.
    """
    if arrays is None:
        arrays = checkpoints.load(run.checkpoints / devices.tell(entry["file"])).arrays
    checkpoints.assign("weights", model.weights, arrays)


def load_layers(model: keras.Model, folder: Path, phase: str, names: Sequence[str], kind: str = "best") -> None:
    """Put layers of a finished run into another model, by their names, as they were at an epoch of a phase.

    `kind` is best or last. Raises CheckpointError if a layer is not there, or does not fit.
    """
    kept = folder / "checkpoints"
    newest = checkpoints.latest(kept)
    if newest is None or phase not in newest.data.get(kind, {}):
        raise checkpoints.CheckpointError(f"{folder} has no checkpoint of its phase {phase}")
    arrays = checkpoints.load(kept / newest.data[kind][phase]["file"]).arrays
    for name in names:
        for variable in model.get_layer(name).weights:
            found = [array for key, array in arrays.items() if key.endswith(f"/{name}/{variable.name}")]
            if [array.shape for array in found] != [tuple(variable.shape)]:
                raise checkpoints.CheckpointError(
                    f"{folder} has no {variable.name} of shape {tuple(variable.shape)} for the layer {name}"
                )
            variable.assign(found[0])


def parameters(variables: Sequence) -> int:
    """How many numbers these variables hold."""
    return sum(math.prod(v.shape) for v in variables)


def predict(model: keras.Model, split: Split, batch_size: int) -> np.ndarray:
    """What the model gives for each image of a split, in its order: float32 (n, ...)."""
    batches, steps = evaluation(split, batch_size)
    # Keras 3.15 would put a copy of the network for each of several steps into one graph.
    together, model.steps_per_execution = model.steps_per_execution, 1
    try:
        return model.predict(batches, verbose=0, steps=steps)[: len(split)]
    finally:
        model.steps_per_execution = together


def results(
    run: Run,
    model: keras.Model,
    phases: Sequence[Phase],
    data: Dataset,
    progress: Progress,
    objective: Objective = CLASSIFICATION,
    of: Sequence[str] = ("validation", "test"),
    configure: Callable[[Phase], None] = lambda phase: None,
) -> dict:
    """Metrics of the best and the last epoch of each phase, and of the last phase's reported one in full.

    `of` names the splits; `configure` sets what a phase changes in the model. Writes predictions.npz and outcomes.json
    of a classifier. `running` is the training loss (and accuracy) as a mean over the steps of the epoch, dropout
    included. The model ends with the reported weights. To be called after training, when every choice has been made on
    the validation split.
    """
    splits = {name: getattr(data, name) for name in of}
    reported = run.config.REPORTED
    by_phase, right, final = {}, {}, {}
    for phase in phases:
        configure(phase)
        rows = [row for row in progress.rows if row["phase"] == phase.name]
        measured, states = {}, {}
        for kind in sorted(("best", "last"), key=reported.__eq__):  # the reported one last: its weights stay
            entry = getattr(progress, kind)[phase.name]
            epoch = entry["epoch"]
            if epoch not in measured:
                load_weights(run, model, entry)
                measured[epoch] = {name: measure(run, model, part, data, objective) for name, part in splits.items()}
            final = measured[epoch]
            states[kind] = {
                "epoch": epoch,
                "running": {key: rows[epoch - 1][key] for key in ("loss", "accuracy") if key in rows[epoch - 1]},
                **{name: brief(metrics) for name, (metrics, _) in final.items()},
            }
            if objective.accuracy:
                right[f"{phase.name}/{kind}"] = final["test"][1].argmax(axis=1) == data.test.labels
        by_phase[phase.name] = {
            "epochs": len(rows),
            "best_epoch": states["best"]["epoch"],
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "images_per_second": float(np.median([row["images_per_second"] for row in rows])),
            **{name: states[reported][name] for name in splits},
            **states,
        }
    last = phases[-1].name
    if objective.accuracy:
        labels = {f"{name}_labels": split.labels for name, split in splits.items()}
        arrays = {f"{name}_probabilities": probabilities for name, (_, probabilities) in final.items()}
        run.write_predictions(data.class_names, **labels, **arrays)
        del right[f"{last}/{reported}"]  # the predictions say it
        run.write_outcomes(packed(data.test.labels, final["test"][1].argmax(axis=1), right))
    counts = data.counts()
    return {
        **{name: {k: v for k, v in metrics.items() if k != "confusion"} for name, (metrics, _) in final.items()},
        "reported": reported,
        "running": by_phase[last][reported]["running"],
        "phases": by_phase,
        "images": {name: int(count.sum()) for name, count in counts.items()},
        "class_counts": {name: count.tolist() for name, count in counts.items()},
        "notes": list(data.notes),
    }


def brief(metrics: Mapping) -> dict:
    """What `phases` holds of a state on a split."""
    return {key: metrics[key] for key in ("n", "accuracy", "loss", "macro_f1") if key in metrics}


def draw_classifier(run: Run, data: Dataset, progress: Progress, metrics: Mapping) -> np.ndarray:
    """Draw what every classifier has, from what `results` gave and wrote; the confusion matrix of the test images."""
    from common import plots  # a second, that the first step need not wait for

    plots.learning_curves(progress.rows, run.figures / "learning_curves.png", metrics)
    plots.class_counts(data.counts(), data.class_names, run.figures / "classes.png")
    plots.per_class_scores(metrics["test"]["per_class"], run.figures / "per_class.png")
    with np.load(run.folder / "predictions.npz") as saved:
        labels, probabilities = saved["test_labels"], saved["test_probabilities"]
    counts = confusion(labels, probabilities.argmax(axis=1), len(data.class_names))
    plots.confusion_matrix(counts, data.class_names, run.figures / "confusion.png")
    plots.predictions_grid(
        lambda places: pipeline.pictures(data.test, places),
        labels,
        probabilities,
        data.class_names,
        run.figures / "predictions.png",
    )
    return counts


def measure(
    run: Run, model: keras.Model, split: Split, data: Dataset, objective: Objective
) -> tuple[dict, np.ndarray | None]:
    """Metrics of a model on a split, and its class probabilities if it is a classifier."""
    batch_size = run.config.batch_size
    metrics, probabilities = {"n": len(split)}, None
    if objective.accuracy:
        scores = predict(model, split, batch_size)
        probabilities = softmax(scores.astype(np.float64), axis=1).astype(np.float32)
        metrics = evaluate(split.labels, probabilities, data.class_names)
        metrics["loss"] = cross_entropy(split.labels, scores)
    if objective is not CLASSIFICATION:
        batches, steps = evaluation(split, batch_size)
        told = model.evaluate(batches, verbose=0, return_dict=True, steps=steps)
        metrics["loss"] = float(told["loss"])
    return metrics, probabilities
