"""The trainer on a small network: phases, best states, resume, divergence, precision, schedules."""

import dataclasses
import json
import math
import shutil
import signal
import threading
import time
from concurrent import futures

import keras
import numpy as np
import pytest
import scipy.special
from small_training import PHASES, SmallPhase, small_model, state, train, untimed

from common import checkpoints, files, optimizers, runs
from common.checkpointer import Checkpointer, load_layers, load_weights
from common.config import Config
from common.data import sources
from common.loop import Loop
from common.objective import CLASSIFICATION, Objective
from common.optimizers import WarmupCosine
from common.outcomes import unpacked
from common.phase import Phase
from common.progress import Diverged, Progress
from common.run_folder import RunFolder
from common.stopping import Interrupted
from common.workarounds.executions import steps_per_execution

pytestmark = pytest.mark.usefixtures("float32_afterwards")


@pytest.fixture(scope="module")
def data():
    return sources.load(Config(dataset="digits", limit_train=200))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A function from a precision to the trainer of a run that nothing stopped, made once; only read it."""
    made = {}

    def trained(precision="float32"):
        if precision not in made:
            made[precision] = train(tmp_path_factory.mktemp("whole"), data, precision=precision)
        return made[precision]

    return trained


@pytest.fixture(scope="module")
def measured(tmp_path_factory, data, whole):
    """The trainer of a finished run, to measure with; its weights are those that a test has put there."""
    return train(copy_of(whole(), tmp_path_factory.mktemp("measured")), data)  # nothing is left to train


def copy_of(trainer, folder):
    """A place below a folder with a copy of a trainer's run, to go on with."""
    return shutil.copytree(trainer.run.config.out, folder / "runs")


@pytest.fixture(scope="module")
def one_phase(tmp_path_factory, data):
    """The trainer of a finished run of the second phase alone; only read it."""
    return train(tmp_path_factory.mktemp("one_phase"), data, PHASES[1:])


def assert_same_state(one, other):
    expected, found = state(one.model), state(other.model)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("phase", ["head", "full"])
def test_stopped_in_the_middle_of_an_epoch_and_resumed(tmp_path, data, whole, phase, precision, capsys):
    expected = whole(precision)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", data, stop_after=phase, precision=precision)
    resumed = train(tmp_path / "parts", data, precision=precision)
    assert f"resuming: phase {phase}, epoch 1, step 1" in capsys.readouterr().out
    assert untimed(resumed.progress.rows) == untimed(expected.progress.rows)
    assert resumed.progress.best == expected.progress.best
    assert_same_state(expected, resumed)


@pytest.mark.parametrize(("regime", "phase"), [("layer", "full"), ("keep", "full"), ("follow", "head")])
def test_each_regime_of_batch_norm_resumes_exactly(tmp_path, data, regime, phase):
    starts = []
    whole = train(tmp_path / "whole", data, batch_norm=regime, on_phase=lambda p, m: starts.append(statistics(m)))
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", data, stop_after=phase, batch_norm=regime)
    resumed = train(tmp_path / "parts", data, batch_norm=regime)
    assert_same_state(whole, resumed)
    first, second = starts
    moved = (not np.array_equal(first, second), not np.array_equal(second, statistics(whole.model)))
    assert moved == {"layer": (False, True), "keep": (False, False), "follow": (True, True)}[regime]


def statistics(model):
    return np.array(model.get_layer("norm").moving_mean)


def test_a_signal_in_the_midst_of_a_layer_stops_the_run(tmp_path):
    """Keras makes an Exception that leaves a layer anew, from its text alone."""
    run = runs.Run(tmp_path, "task", Config(dataset="digits"))

    class Signalled(keras.layers.Layer):
        def call(self, images):
            run.stop.on_signal(signal.SIGTERM, None)  # which comes when it wants
            return images

    with pytest.raises(Interrupted, match=r"^SIGTERM$"):
        keras.Sequential([Signalled()])(np.zeros((1, 2), "float32"))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw", "nadam"])
def test_what_is_gathered_stays_as_it_is_while_training_goes_on(data, optimizer):
    """It shares memory with the variables where it can, before a step as after `assign`."""
    momentum = {"optimizer": "sgd", "momentum": 0.9} if optimizer == "momentum" else {"optimizer": optimizer}
    phase = Phase("full", epochs=1, rate=0.1, **momentum)
    keras.utils.set_random_seed(0)
    model = small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers.make(phase, 2), loss)
    images, labels = data.train.store.numpy()[data.train.places[:64]], data.train.labels[:64]
    model.fit(images, labels, batch_size=32, verbose=0)
    arrays = state(model)
    before = {name: array.copy() for name, array in arrays.items()}
    for _ in range(2):
        model.fit(images, labels, batch_size=32, verbose=0)
        after = state(model)
        assert all((after[name] != before[name]).any() for name in before if name.startswith("optimizer/0000"))
        for name, array in before.items():
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)
        assert (after["model/0001/conv/bias"] != before["model/0001/conv/bias"]).any()
        checkpoints.assign("model", model.variables, arrays)
        checkpoints.assign("optimizer", model.optimizer.variables, arrays)


def test_another_backend_or_precision_does_not_go_on(tmp_path, data):
    with pytest.raises(Interrupted):
        train(tmp_path, data, stop_after="head")
    environment = next(tmp_path.glob("*/*/environment.json"))
    environment.write_text(environment.read_text().replace('"precision": "float32"', '"precision": "mixed_float16"'))
    with pytest.raises(runs.RunError, match="begun in mixed_float16, and --precision auto is float32 here"):
        train(tmp_path, data)


def test_a_phase_starts_from_the_best_state_of_the_one_before(tmp_path, data):
    # The rate of the first phase rises until it ruins the weights; the second phase hardly moves them.
    spoil = SmallPhase("head", 4, "sgd", 2.0, schedule="warmup_cosine", warmup_epochs=3)
    still = SmallPhase("full", 1, "sgd", 1e-30, trainable="head")
    seen = {}
    trainer = train(tmp_path, data, (spoil, still), on_phase=lambda p, m: seen.update({p.name: m.get_weights()}))
    progress = trainer.progress
    best = checkpoints.load(trainer.run.checkpoints / progress.best["head"]["file"])
    for array, name in zip(seen["full"], sorted(best.arrays), strict=True):
        np.testing.assert_array_equal(array, best.arrays[name])
    *spoilt, last = progress.rows
    accuracies = [row["val_accuracy"] for row in spoilt]
    assert progress.best["head"]["epoch"] == np.argmax(accuracies) + 1 < len(spoilt)
    assert last["val_accuracy"] == max(accuracies) > accuracies[-1]


def test_frozen_layers_do_not_move_and_trained_ones_do(tmp_path, data):
    seen = []
    trainer = train(tmp_path, data, on_phase=lambda phase, model: seen.append(model.get_layer("norm").get_weights()))
    before, after_head, after_full = *seen, trainer.model.get_layer("norm").get_weights()
    for one, two, three in zip(before, after_head, after_full, strict=True):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(two, three)


@pytest.mark.parametrize("rate", [1e20, 1e38])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path, data, rate):
    phases = (PHASES[0], dataclasses.replace(PHASES[1], optimizer="sgd", rate=rate, clip_norm=None))
    with pytest.raises(Diverged, match=r"at phase full, epoch 1, step \d") as caught:
        train(tmp_path, data, phases)
    assert caught.value.where["phase"] == "full"
    checkpoint = checkpoints.latest(next(tmp_path.glob("*/*/checkpoints")))
    assert (checkpoint.data["phase"], checkpoint.data["epoch"]) == (0, 2)
    assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())


class Loss:
    """A loss on its way: it keeps when it was read, which on an accelerator waits for its step to end."""

    def __init__(self, value, step, read):
        self.value, self.step, self.read = value, step, read

    def __float__(self):
        self.read.append(self.step)
        return self.value


def four_steps(folder, bad, before=lambda run, step: None):
    """Feed a loop an epoch of four steps; the losses that were read after each, and where it found one not finite."""
    config, read, when = Config(preset="test", dataset="digits", out=folder), [], []
    with runs.open_run(config, "test", "") as run:
        loop = Loop(run, Progress(), PHASES, 256, 4, Checkpointer(run, None, PHASES, 4), metrics=None, once=0.0)
        loop.on_epoch_begin(0)
        try:
            for step in range(1, 5):
                before(run, step)
                loop.on_train_batch_end(step - 1, {"loss": Loss(math.nan if step == bad else 1.0, step, read)})
                when.append(sorted(set(read)))
        except Diverged as error:
            return when, error.where["step"]
    return when, None


@pytest.mark.parametrize("bad", [None, 1, 3, 4])
def test_a_loss_is_read_when_the_next_step_is_on_its_way(tmp_path, bad):
    when, failed = four_steps(tmp_path, bad)
    assert failed == bad
    # The first and the last two of an epoch are waited for at once: the rate is that of the steps between.
    assert when == [[1], [1], [1, 2, 3], [1, 2, 3, 4]][: {None: 4, 1: 0, 3: 2, 4: 3}[bad]]


def test_a_loss_is_read_before_a_run_that_stops_is_saved(tmp_path, monkeypatch):
    def stop(run, step):
        run.stop.signal = signal.SIGTERM if step == 3 else None

    monkeypatch.delattr(Checkpointer, "save_step")
    assert four_steps(tmp_path, 3, stop) == ([[1], [1]], 3)


def test_keras_does_not_read_what_a_step_gave(tmp_path, data):
    class Types(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.update(map(type, logs.values()))

    seen = set()
    train(tmp_path, data, PHASES[:1], more={"callbacks": lambda trainer: [Types()]})
    assert seen
    assert float not in seen


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow's variables hold the state themselves")
def test_keras_does_not_look_for_layers_in_the_state(tmp_path, data):
    class Kinds(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.update((type(self.model._jax_state), *map(type, self.model._jax_state.values())))

    seen = set()
    train(tmp_path, data, PHASES[:1], more={"callbacks": lambda trainer: [Kinds()]})
    assert seen == {dict, list}


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_the_precision_survives_to_the_last_phase(tmp_path, data, precision):
    seen = []

    def look(phase, model):
        features = keras.Model(model.input, model.get_layer("conv").output)(np.zeros((1, 8, 8, 1), "uint8"))
        seen.append(
            (phase.name, model.get_layer("conv").compute_dtype, keras.backend.standardize_dtype(features.dtype))
        )

    model = train(tmp_path, data, precision=precision, on_phase=look).model
    half = precision.removeprefix("mixed_")
    assert seen == [("head", half, half), ("full", half, half)]
    logits = model(np.zeros((1, 8, 8, 1), "uint8"))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


def test_results_are_those_of_the_best_states(measured):
    trainer = measured
    results = trainer.evaluate().metrics
    for phase in PHASES:
        expected = max(r["val_accuracy"] for r in trainer.progress.rows if r["phase"] == phase.name)
        assert results["phases"][phase.name]["validation"]["accuracy"] == pytest.approx(expected, abs=1e-6)
    with np.load(trainer.run.folder / "predictions.npz", allow_pickle=False) as saved:
        accuracy = np.mean(saved["test_probabilities"].argmax(axis=1) == saved["test_labels"])
        np.testing.assert_allclose(saved["test_probabilities"].sum(axis=1), 1, atol=1e-5)
    assert results["test"]["accuracy"] == pytest.approx(accuracy)
    assert results["images"] == {"train": 180, "validation": 20, "test": 360}


def test_the_loss_of_a_model_that_is_sure_and_wrong_is_that_of_training(measured, data):
    trainer = measured
    head = trainer.model.get_layer("head")
    head.set_weights([1000 * array for array in head.get_weights()])
    assert trainer.objective is CLASSIFICATION
    metrics, _ = trainer.measure(data.test)
    batches, steps = trainer.evaluation(data.test, 32)
    expected = trainer.model.evaluate(batches, steps=steps, verbose=0, return_dict=True)["loss"]
    assert metrics["loss"] > 20  # else it is no test of certainty
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_run_that_was_killed_before_its_last_history_writes_it_at_the_next_start(tmp_path, data, capsys):
    history = train(tmp_path, data).run.folder / "history.csv"
    whole = history.read_text()
    history.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    train(tmp_path, data)
    assert history.read_text() == whole
    assert "resuming: phase full, after its last epoch\n" in capsys.readouterr().out


# --- objectives, and what tasks add

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOSS_ALONE = Objective(LOSS, scores_classes=False, reported="loss")


def logits_of(trainer, split):
    return trainer.predict(split).astype(np.float64)


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_probabilities[np.arange(len(labels)), labels].mean()


def test_without_scores_of_classes_the_best_epoch_is_that_of_the_lowest_validation_loss(tmp_path, data):
    # The rate rises until it ruins the weights.
    spoil = SmallPhase("train", 4, "sgd", 2.0, schedule="warmup_cosine", warmup_epochs=3)
    trainer = train(tmp_path, data, (spoil,), more={"objective": LOSS_ALONE})
    progress = trainer.progress
    assert not {key for row in progress.rows for key in row if "accuracy" in key}
    losses = [row["val_loss"] for row in progress.rows]
    best = int(np.argmin(losses))
    assert losses[best] < losses[-1]
    assert progress.best["train"]["epoch"] == best + 1
    assert "val_accuracy" not in progress.best["train"]
    results = trainer.evaluate().metrics
    assert results["phases"]["train"]["best_epoch"] == best + 1
    assert results["running"] == {"loss": progress.rows[best]["loss"]}
    assert results["validation"] == {"n": 20, "loss": pytest.approx(losses[best], rel=1e-5)}
    expected = cross_entropy(logits_of(trainer, data.test), data.test.labels)
    assert results["test"] == {"n": 360, "loss": pytest.approx(expected, rel=1e-4)}
    assert not (trainer.run.folder / "predictions.npz").exists()


def test_with_scores_of_classes_another_loss_is_measured_and_accuracy_chooses(tmp_path, data):
    trainer = train(tmp_path, data, more={"objective": Objective(LOSS, reported="loss")})
    accuracies = [row["val_accuracy"] for row in trainer.progress.rows if row["phase"] == "full"]
    assert trainer.progress.best["full"]["val_accuracy"] == max(accuracies)
    results = trainer.evaluate().metrics
    expected = cross_entropy(logits_of(trainer, data.test), data.test.labels)
    assert results["test"]["loss"] == pytest.approx(expected, rel=1e-4)


def test_results_of_the_splits_that_are_asked_for(measured, data):
    trainer = measured
    saved_at = trainer.run.folder / "predictions.npz"
    results = trainer.evaluate(trainer.data.train).metrics
    right = logits_of(trainer, data.train).argmax(axis=1) == data.train.labels
    assert results["train"]["accuracy"] == pytest.approx(right.mean())
    assert results["train"]["n"] == 180
    assert results["phases"]["full"]["train"]["accuracy"] == results["train"]["accuracy"]
    with np.load(saved_at, allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["train_labels"], data.train.labels)
        assert saved["train_probabilities"].shape == (180, 10)
    usual = trainer.evaluate().metrics
    assert "train" not in usual
    assert "train" not in usual["phases"]["full"]
    assert usual["test"] == results["test"]
    with np.load(saved_at, allow_pickle=False) as saved:
        assert {"train_labels", "train_probabilities"}.isdisjoint(saved)


def test_history_has_the_rate_that_an_epoch_was_trained_with(tmp_path, data):
    shape = {"schedule": "warmup_cosine", "warmup_epochs": 2, "warmup_start": 0.5}
    by_epoch = SmallPhase("epochs", 3, "sgd", 0.1, trainable="head", schedule_by="epoch", **shape)
    by_step = SmallPhase("steps", 3, "sgd", 0.1, trainable="head", **shape)
    rows = train(tmp_path, data, (by_epoch, by_step)).progress.rows
    # Of 6 steps an epoch: half of the peak, three quarters, the peak; by step those of steps 6, 12 and 18.
    assert [row["rate"] for row in rows[:3]] == pytest.approx([0.05, 0.075, 0.1])
    fall = 0.05 * (1 + math.cos(math.pi * 5 / 6))
    assert [row["rate"] for row in rows[3:]] == pytest.approx([0.05 * (1 + 5 / 12), 0.05 * (1 + 11 / 12), fall])


class LastConfig(Config):
    REPORTED = "last"


def measured_apart(trainer, split):
    """Accuracy and cross-entropy, by NumPy and SciPy."""
    scores = logits_of(trainer, split)
    losses = -scipy.special.log_softmax(scores.astype(float), axis=1)[np.arange(len(split)), split.labels]
    return np.mean(scores.argmax(axis=1) == split.labels), losses.mean()


@pytest.mark.parametrize("kind", [Config, LastConfig])
def test_best_and_last_epoch_are_both_measured_and_one_is_reported(tmp_path, data, kind, monkeypatch):
    # In its last epoch each phase climbs up the loss, so that this epoch is the worst on any backend and processor.
    monkeypatch.setattr(WarmupCosine, "__call__", lambda _, step: keras.ops.where(step < 3 * 6, 0.1, -1.0))
    spoil = SmallPhase("head", 4, "sgd", 2.0, schedule="warmup_cosine")
    trainer = train(tmp_path, data, (spoil, dataclasses.replace(spoil, name="full")), kind=kind)
    run, progress = trainer.run, trainer.progress
    results = trainer.evaluate().metrics
    outcomes = unpacked(json.loads((run.folder / "outcomes.json").read_text()))
    np.testing.assert_array_equal(outcomes[0], data.test.labels)
    reported = kind.REPORTED
    assert results["reported"] == reported
    other = {"best": "last", "last": "best"}[reported]
    assert set(outcomes[2]) == {"head/best", "head/last", f"full/{other}"}
    for name, phase in results["phases"].items():
        assert phase["best"]["epoch"] < phase["last"]["epoch"] == 4
        assert phase["best"]["validation"]["accuracy"] > phase["last"]["validation"]["accuracy"]
        for epoch in ("best", "last"):
            row = next(r for r in progress.rows if (r["phase"], r["epoch"]) == (name, phase[epoch]["epoch"]))
            assert phase[epoch]["running"] == {"loss": row["loss"], "accuracy": row["accuracy"]}
            assert phase[epoch]["validation"]["accuracy"] == pytest.approx(row["val_accuracy"])
            load_weights(run, trainer.model, getattr(progress, epoch)[name])
            accuracy, loss = measured_apart(trainer, data.test)
            assert phase[epoch]["test"]["accuracy"] == pytest.approx(accuracy)
            assert phase[epoch]["test"]["loss"] == pytest.approx(loss, rel=1e-4)
            if (name, epoch) != ("full", reported):
                assert outcomes[2][f"{name}/{epoch}"].mean() == pytest.approx(accuracy)
            else:
                assert np.mean(outcomes[1] == outcomes[0]) == pytest.approx(accuracy)
        assert phase["test"] == phase[reported]["test"]
    assert results["running"] == results["phases"]["full"][reported]["running"]
    assert results["test"]["accuracy"] == results["phases"]["full"][reported]["test"]["accuracy"]
    assert results["class_counts"]["test"] == np.bincount(data.test.labels).tolist()


def test_running_figures_are_those_of_the_last_phases_best_epoch(measured, monkeypatch):
    trainer, progress = measured, measured.progress
    for best in (1, 2):
        monkeypatch.setitem(progress.best, "full", progress.best["full"] | {"epoch": best})
        (row,) = [r for r in progress.rows if (r["phase"], r["epoch"]) == ("full", best)]
        results = trainer.evaluate().metrics
        assert results["running"] == {"loss": row["loss"], "accuracy": row["accuracy"]}


class Steps(keras.callbacks.Callback):
    """Keeps the phase, the epoch and the step of every batch; something happens once at one of them."""

    def __init__(self, trainer, place, happens):
        super().__init__()
        self.trainer = trainer
        self.progress = trainer.progress
        self.seen = self.progress.extra.setdefault("seen", [])
        self.place = place
        self.happens = happens

    def on_epoch_begin(self, epoch, logs=None):
        self.first = self.progress.step

    def on_train_batch_end(self, batch, logs=None):
        place = [self.progress.phase, self.progress.epoch, self.first + batch + 1]
        self.seen.append(place)
        if place == self.place:
            self.happens(self.trainer)


def with_steps(place=None, happens=None):
    return {"callbacks": lambda trainer: [Steps(trainer, place, happens)]}


EVERY_STEP = [[phase, epoch, step] for phase in (0, 1) for epoch in (0, 1) for step in range(1, 7)]


def test_callbacks_of_a_task_see_every_step_and_keep_what_they_saw(tmp_path, data):
    trainer = train(tmp_path, data, more=with_steps())
    progress = trainer.progress
    assert progress.extra == {"seen": EVERY_STEP}
    assert checkpoints.latest(trainer.run.checkpoints).data["extra"] == progress.extra


@pytest.mark.parametrize("place", [[0, 0, 4], [0, 1, 6], [1, 1, 3]])
def test_what_callbacks_keep_survives_a_stop(tmp_path, data, place):
    stop = with_steps(place, lambda trainer: setattr(trainer.run.stop, "signal", signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(tmp_path, data, more=stop)
    (folder,) = tmp_path.glob("*/*")
    seen = checkpoints.latest(folder / "checkpoints").data["extra"]["seen"]
    assert seen == EVERY_STEP[: EVERY_STEP.index(place) + 1]
    progress = train(tmp_path, data, more=with_steps()).progress
    assert progress.extra == {"seen": EVERY_STEP}


def test_what_callbacks_keep_falls_back_with_the_checkpoint_after_a_fault(tmp_path, data):
    def fail(trainer):
        raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(tmp_path, data, more=with_steps([1, 0, 4], fail))
    progress = train(tmp_path, data, more=with_steps()).progress
    assert progress.extra == {"seen": EVERY_STEP}  # steps 1 to 3 of that epoch are there once


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, data, monkeypatch):
    """The first one is finished only after the next epoch's fourth step."""
    began, reached, save_step = threading.Event(), threading.Event(), checkpoints.save_step

    def slow(*arguments):
        began.set()
        assert reached.wait(60)
        return save_step(*arguments)

    def happens(trainer):
        assert began.wait(60)
        assert not list(tmp_path.glob("*/*/checkpoints/step-*"))
        reached.set()

    monkeypatch.setattr(checkpoints, "save_step", slow)
    trainer = train(tmp_path, data, PHASES[:1], more=with_steps([0, 1, 4], happens))
    assert checkpoints.latest(trainer.run.checkpoints).data["rows"] == trainer.progress.rows


@pytest.mark.parametrize("step", [6, 12, 24])
def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path, data, step, monkeypatch):
    """That of an epoch within a phase, the last one of a phase, and the last one of all."""
    write = files.write

    def full(path, *parts):
        if path.name.startswith(f"step-{step:09d}"):
            raise files.StorageError(f"cannot write {path}: no space")
        write(path, *parts)

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(files.StorageError, match=rf"cannot write .*checkpoints/step-{step:09d}.*: no space"):
        train(tmp_path, data)
    kept = sorted(path.name[: len("step-000000000")] for path in tmp_path.glob("*/*/checkpoints/step-*"))
    assert kept == [f"step-{done:09d}" for done in range(6, step, 6)][-2:]


def test_a_checkpoint_that_could_not_be_written_is_due_again_at_once(tmp_path):
    run = runs.Run(tmp_path, "common", Config(checkpoint_minutes=60.0))
    with Checkpointer(run, None, (), 1) as checkpointer:
        assert not checkpointer.is_due()
        checkpointer.written = futures.Future()
        assert not checkpointer.is_due()
        checkpointer.written.set_exception(files.StorageError("no space"))
        assert checkpointer.is_due()
        checkpointer.written = None


def test_a_checkpoint_is_due_so_many_minutes_after_the_last(tmp_path, data, monkeypatch):
    trainer = train(tmp_path, data, PHASES[:1])
    now = time.monotonic()
    run = runs.Run(tmp_path / "other", "test", Config(checkpoint_minutes=2.0))
    run.checkpoints.mkdir(parents=True)
    with Checkpointer(run, trainer.model, PHASES[:1], 6) as checkpointer:
        for minutes, due in ((1, False), (1.9, False), (2.1, True), (60, True)):
            monkeypatch.setattr(time, "monotonic", lambda minutes=minutes: now + 60 * minutes)
            assert checkpointer.is_due() == due
        checkpointer.save_step(trainer.model, dataclasses.replace(trainer.progress, phase=0))
        assert not checkpointer.is_due()


def test_a_phase_begins_while_the_last_checkpoint_of_the_one_before_is_written(tmp_path, data, monkeypatch):
    reached, save_step = threading.Event(), checkpoints.save_step

    def slow(folder, step, *rest):
        assert step != 12 or reached.wait(60)
        return save_step(folder, step, *rest)

    monkeypatch.setattr(checkpoints, "save_step", slow)
    trainer = train(tmp_path, data, more=with_steps([1, 0, 1], lambda trainer: reached.set()))
    assert checkpoints.latest(trainer.run.checkpoints).data["rows"] == trainer.progress.rows


def test_a_signal_waits_for_the_last_checkpoint(tmp_path, data, monkeypatch):
    """It comes when all steps are done, and the last checkpoint is still being written."""
    opened, save_step = [], checkpoints.save_step

    def slow(folder, step, *rest):
        if step == 24:
            timer = threading.Timer(0.5, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM))
            timer.start()
            timer.join()
            time.sleep(1)
        return save_step(folder, step, *rest)

    monkeypatch.setattr(checkpoints, "save_step", slow)
    before = signal.signal(signal.SIGTERM, lambda *arguments: opened[0].stop.on_signal(*arguments))
    try:
        with pytest.raises(Interrupted):
            train(tmp_path, data, more={"callbacks": lambda trainer: opened.append(trainer.run) or ()})
    finally:
        signal.signal(signal.SIGTERM, before)
    (folder,) = tmp_path.glob("*/*/checkpoints")
    assert checkpoints.step_of(checkpoints.steps(folder)[0]) == 24


# --- several steps in one go


def test_several_steps_in_one_go_are_the_same_steps(tmp_path, data, whole):
    """Also from one number to another in the middle of an epoch: of 6 steps 4 in one go are taken down to 2.

    JAX compiles them to another program, which may round otherwise; resumed, it is the same program again.
    """
    exact = keras.backend.backend() != "jax"
    one = whole()
    same = train(tmp_path / "two", data, more=with_steps(), steps_per_execution=4)
    assert same.progress.extra == {"seen": [place for place in EVERY_STEP if place[2] % 2 == 0]}
    assert_same_training(same, one, exact)

    def stop_at(phase, epoch, step):
        def happens(trainer):
            raise RuntimeError("the machine is gone")

        return with_steps([phase, epoch, step], happens)

    parts = {"out": tmp_path / "parts", "data": data, "checkpoint_minutes": 1e-9}
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(**parts, more=stop_at(0, 0, 4))
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(**parts, more=stop_at(1, 0, 6), steps_per_execution=4)
    resumed = train(**parts, more=with_steps(), steps_per_execution=4)
    seen = resumed.progress.extra["seen"]
    assert [place for place in seen if place[0] == 0] == EVERY_STEP[:12]  # 3 steps were left, and 2 is no divisor
    assert [step for phase, _, step in seen if phase == 1] == [2, 4, 6, 2, 4, 6]
    assert_same_training(resumed, one, exact)
    if exact:
        return
    parts["out"] = tmp_path / "same parts"
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(**parts, more=stop_at(1, 0, 4), steps_per_execution=4)
    assert_same_training(train(**parts, more=with_steps(), steps_per_execution=4), same, exact=True)


def assert_same_training(trainer, other, exact):
    """Losses and variables, to the bit or to float32's rounding."""
    rows, others = untimed(trainer.progress.rows), untimed(other.progress.rows)
    if exact:
        assert rows == others
        assert_same_state(trainer, other)
        return
    for row, expected in zip(rows, others, strict=True):
        assert row == {k: pytest.approx(v, rel=1e-4) if isinstance(v, float) else v for k, v in expected.items()}
    for one, another in zip(trainer.model.variables, other.model.variables, strict=True):
        assert np.allclose(one, another, rtol=1e-3, atol=1e-5), one.path


@pytest.mark.parametrize(
    ("wanted", "devices", "steps", "done", "expected"),
    [(16, 1, 844, 0, 4), (16, 1, 113, 0, 1), (4, 1, 844, 6, 2), (844, 1, 844, 0, 844), (4, 2, 844, 0, 1)],
)
def test_steps_in_one_go_divide_those_that_are_left(wanted, devices, steps, done, expected):
    assert steps_per_execution(wanted, devices, steps, done) == expected


# --- a learning rate for each variable


def by_depth(variable):
    return 0.1 if variable.path.split("/")[0] in ("conv", "norm") else 1.0


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_resumes_exactly_with_rates_by_variable(tmp_path, data, one_phase, precision):
    more = {"rate_factor": by_depth}
    whole = train(tmp_path / "whole", data, PHASES[1:], precision=precision, more=more)
    one_rate = one_phase if precision == "float32" else train(tmp_path, data, PHASES[1:], precision=precision)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", data, PHASES[1:], "full", precision=precision, more=more)
    resumed = train(tmp_path / "parts", data, PHASES[1:], precision=precision, more=more)
    assert untimed(resumed.progress.rows) == untimed(whole.progress.rows)
    assert_same_state(whole, resumed)
    assert any((array != state(one_rate.model)[name]).any() for name, array in state(whole.model).items())


def test_a_run_that_was_pruned_does_not_go_on(tmp_path, data):
    folder = train(tmp_path, data, PHASES[:1]).run.folder
    assert RunFolder(folder).can_resume
    checkpoints.prune(folder / "checkpoints")
    assert not RunFolder(folder).can_resume
    with pytest.raises(checkpoints.CheckpointError, match=r"was finished and pruned, .*; --overwrite starts"):
        train(tmp_path, data, PHASES[:1])


def test_a_checkpoint_of_newer_code_is_one_line(tmp_path, data):
    folder = train(tmp_path, data, PHASES[:1]).run.folder / "checkpoints"
    newest = checkpoints.latest(folder)
    checkpoints.save(folder, "step-000000099", newest.arrays, newest.data | {"mood": "good"})
    with pytest.raises(
        checkpoints.CheckpointError, match=r"step-000000099.* was written by another version of the code"
    ):
        train(tmp_path, data, PHASES[:1])


def test_layers_of_a_run_go_into_another_model_by_their_names(one_phase):
    trainer = one_phase
    keras.utils.clear_session()
    other = small_model()
    before = {layer.name: layer.get_weights() for layer in other.layers}
    load_layers(other, trainer.run.folder, "full", ["conv", "norm"], "best")
    for name in ("conv", "norm"):
        for ours, theirs in zip(other.get_layer(name).weights, trainer.model.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    for ours, old in zip(other.get_layer("head").get_weights(), before["head"], strict=True):
        np.testing.assert_array_equal(ours, old)


def test_layers_are_those_of_the_epoch_that_is_asked_for(tmp_path, one_phase):
    folder = shutil.copytree(one_phase.run.folder, tmp_path / "run")
    kept = folder / "checkpoints"
    newest = checkpoints.latest(kept)
    best = checkpoints.load(kept / newest.data["best"]["full"]["file"]).arrays
    other = checkpoints.save(kept, "last-full", {name: array + 1 for name, array in best.items()}, {}).name
    data = newest.data | {"last": {"full": newest.data["last"]["full"] | {"file": other}}}
    checkpoints.save(kept, "step-000000099", newest.arrays, data)
    (saved,) = (array for key, array in best.items() if key.endswith("/conv/kernel"))
    for kind, added in (("best", 0), ("last", 1)):
        model = small_model()
        load_layers(model, folder, "full", ["conv"], kind)
        np.testing.assert_array_equal(np.array(model.get_layer("conv").kernel), saved + added)


def test_layers_that_are_not_in_a_run_are_told_of(one_phase):
    image = keras.Input((8, 8, 1))
    wider = keras.Model(image, keras.layers.Conv2D(9, 3, name="conv")(image))
    other = keras.Model(image, keras.layers.Conv2D(8, 3, name="convolution")(image))
    for model, name in ((wider, "conv"), (other, "convolution")):
        with pytest.raises(checkpoints.CheckpointError, match=f"no kernel of shape .* for the layer {name}"):
            load_layers(model, one_phase.run.folder, "full", [name], "best")


def test_a_run_without_its_checkpoints_is_told_of(tmp_path, one_phase):
    folder, model = shutil.copytree(one_phase.run.folder, tmp_path / "run"), one_phase.model
    with pytest.raises(checkpoints.CheckpointError, match="has no checkpoint of its phase head"):
        load_layers(model, folder, "head", ["conv"], "best")
    for path in folder.glob("checkpoints/*"):
        path.unlink()
    with pytest.raises(checkpoints.CheckpointError, match="has no checkpoint of its phase full"):
        load_layers(model, folder, "full", ["conv"], "best")
