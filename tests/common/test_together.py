"""Several seeds as one program (JAX): each ends as by itself, whatever stops or fails meanwhile."""

import contextlib
import csv
import errno
import io
import os
import signal

import jax
import keras
import numpy as np
import pytest

from common import command, files
from common.config import Config
from common.data import sources
from common.errors import ConfigError
from common.files import StorageError
from common.loop import LossWatch
from common.phase import Phase
from common.run_folder import RunFolder
from common.trainer import Trainer

if keras.backend.backend() != "jax":
    pytest.skip("several seeds as one program need JAX: `make test` runs these with it", allow_module_level=True)

from common.devices.together import as_one, text

pytestmark = pytest.mark.usefixtures("float32_afterwards")

PRESETS = {"default": Config(preset="default", dataset="digits", batch_size=32, limit_train=330, limit_test=50)}
ONE = (Phase("first", 2, "adam", 1e-2),)
TWO = (*ONE, Phase("second", 1, "nadam", 1e-3, clip_norm=1.0))
STEPS = 10  # of an epoch, the last of them smaller


def dense(seed):
    """A network with dropout, and with a constant that depends on the seed."""
    image = keras.Input((8, 8, 1), dtype="uint8")
    order = np.random.default_rng(seed).permutation(64)
    x = keras.ops.take(keras.layers.Flatten()(image), order, axis=1)
    x = keras.layers.Rescaling(1 / 16, dtype="float32")(x)
    x = keras.layers.Dense(32, "relu", name="hidden")(x)
    x = keras.layers.Dropout(0.3, seed=seed, name="dropout")(x)
    return keras.Model(image, keras.layers.Dense(10, dtype="float32", name="head")(x))


def train(out, *flags, phases=ONE, network=dense, callbacks=lambda trainer: (), measured=False):
    """The command of a task; its exit code. A run that is not `measured` has its last validation loss as its result."""

    def experiment(config, run):
        keras.utils.clear_session(free_memory=False)  # names count from one again, as in a new process
        model = network(config.seed)
        trainer = Trainer(run, model, sources.load(config), callbacks=callbacks)
        trainer.fit(phases)
        loss = trainer.progress.rows[-1]["val_loss"]
        short = {"test": {"loss": loss, "n": 1}, "phases": {}, "notes": []}
        run.finish(trainer.evaluate().metrics if measured else short)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        command.main(PRESETS, "A task.", lambda config: None, experiment, ["--out", str(out), *flags])
    except SystemExit as stop:
        return stop.code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def folders(out):
    """The runs, by seed."""
    return {int(path.name.rpartition("-s")[2]): RunFolder(path) for path in sorted(out.glob("*/*"))}


def history(folder, epochs=2):
    """The numbers of history.csv, but for times: float (epochs, columns)."""
    with folder.history_file.open() as file:
        rows = list(csv.DictReader(file))[:epochs]
    assert len(rows) == epochs
    return np.array([[float(row[key]) for key in row if "loss" in key or "accuracy" in key] for row in rows])


class At(keras.callbacks.Callback):
    """Does something at a step of the whole training."""

    def __init__(self, step, act):
        super().__init__()
        self.left, self.act = step, act

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.act()


@pytest.fixture(scope="module")
def noted():
    """The loss of every step, in order: a running mean over the images of an epoch."""
    losses = []

    def note(self, loss):
        losses.append(float(loss))
        self.unread = loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossWatch, "note", note)
        yield losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory, noted):
    """The runs of three seeds, each by itself, and the losses of its first 20 steps."""
    out, first = tmp_path_factory.mktemp("alone"), []
    for seed in range(3):
        noted.clear()
        assert train(out, "--seed", str(seed), phases=TWO, measured=seed == 2) == 0
        first.append(noted[: 2 * STEPS])
    return folders(out), first


@pytest.fixture(scope="module")
def together(tmp_path_factory, noted):
    """The runs of the same seeds as one program, the losses of its first 20 steps, and what it printed."""
    out, printed = tmp_path_factory.mktemp("together"), io.StringIO()
    noted.clear()
    with contextlib.redirect_stdout(printed):
        assert train(out, "--seeds", "0:3", phases=TWO, measured=True) == 0
    return folders(out), np.reshape(noted, (-1, 3))[: 2 * STEPS].T, printed.getvalue()


def test_each_seed_is_trained_as_by_itself(alone, together):
    (found, losses, printed), (expected, own_losses) = together, alone
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(losses, own_losses, rtol=1e-5)
    for seed, folder in found.items():
        np.testing.assert_allclose(history(folder, 3), history(expected[seed], 3), rtol=1e-4, err_msg=f"seed {seed}")
        assert folder.environment()["seeds_together"] == 3
        assert folder.config()["config"] == expected[seed].config()["config"]
    assert found[2].metrics()["test"]["accuracy"] == expected[2].metrics()["test"]["accuracy"]
    assert not np.allclose(history(found[0]), history(found[1]), rtol=1e-2)
    assert printed.count("one program: seed 0, seed 1, seed 2") == len(TWO)
    assert "seed 1  second 1/1  loss" in printed
    assert f"test {found[2].metrics()['test']['accuracy']:.2%}" in printed.splitlines()[-1]


def test_several_steps_in_one_execution(tmp_path, alone):
    assert train(tmp_path, "--seeds", "0:2", "--steps-per-execution", "5") == 0
    for seed, folder in folders(tmp_path).items():
        np.testing.assert_allclose(history(folder), history(alone[0][seed]), rtol=1e-4)


def test_convolutions_and_batch_normalisation_too(tmp_path):
    from small_training import small_model

    assert train(tmp_path / "together", "--seeds", "0:2", network=lambda seed: small_model()) == 0
    assert train(tmp_path / "alone", network=lambda seed: small_model()) == 0
    together, own = (history(folders(tmp_path / name)[0]) for name in ("together", "alone"))
    np.testing.assert_allclose(together, own, rtol=1e-3)


@pytest.mark.parametrize("step", [14, 2 * STEPS])
def test_a_request_to_stop_saves_all_and_the_same_command_goes_on(tmp_path, together, step, capsys):
    def stop(trainer):
        return [At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))] if trainer.run.config.seed == 1 else []

    assert train(tmp_path, "--seeds", "0:3", callbacks=stop) == 143
    captured = capsys.readouterr()
    assert "stopped by SIGTERM; the same command goes on" in captured.err
    assert not any(folder.is_finished for folder in folders(tmp_path).values())
    assert train(tmp_path, "--seeds", "0:3") == 0
    assert capsys.readouterr().out.count("resuming: phase") == 3
    for seed, folder in folders(tmp_path).items():
        np.testing.assert_array_equal(history(folder), history(together[0][seed]), err_msg=f"seed {seed}")


def test_seeds_that_a_crash_left_at_different_points_catch_up(tmp_path, alone, capsys):
    def stop(trainer):
        return [At(STEPS + 3, lambda: os.kill(os.getpid(), signal.SIGTERM))]

    assert train(tmp_path, "--seed", "1", phases=TWO, callbacks=stop) == 143
    capsys.readouterr()
    assert train(tmp_path, "--seeds", "0:3", phases=TWO) == 0
    printed = capsys.readouterr().out
    assert "one program: seed 1\n" in printed  # what is left of its epoch
    assert "one program: seed 0, seed 2\n" in printed
    assert "one program: seed 0, seed 1, seed 2\n" in printed  # the second phase
    for seed, folder in folders(tmp_path).items():
        np.testing.assert_allclose(history(folder, 3), history(alone[0][seed], 3), rtol=1e-4)


def test_a_seed_that_diverges_leaves_the_others_alone(tmp_path, alone, capsys):
    def network(seed):
        model = dense(seed)
        if seed == 1:
            model.get_layer("head").kernel.assign(np.full((32, 10), np.nan))
        return model

    assert train(tmp_path, "--seeds", "0:3", network=network) == 0
    found = folders(tmp_path)
    assert [found[seed].metrics()["status"] for seed in range(3)] == ["completed", "diverged", "completed"]
    assert found[1].metrics()["diverged"]["step"] == 1
    for seed in (0, 2):
        np.testing.assert_allclose(history(found[seed]), history(alone[0][seed]), rtol=1e-4)
    assert "seed 1     diverged" in capsys.readouterr().out


def test_seeds_with_as_many_executions_left_but_not_as_many_steps_are_apart(tmp_path, alone, capsys):
    def stop(step):
        return lambda trainer: [At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))]

    assert train(tmp_path, "--seed", "0", callbacks=stop(4)) == 143
    assert train(tmp_path, "--seed", "1", callbacks=stop(7)) == 143
    assert train(tmp_path, "--seeds", "0:2", "--steps-per-execution", "4") == 0  # 3 executions of 2 steps, and 3 of 1
    for seed, folder in folders(tmp_path).items():
        np.testing.assert_allclose(history(folder), history(alone[0][seed]), rtol=1e-4)
    assert "one program: seed 0\n" in capsys.readouterr().out


def test_a_seed_that_diverged_is_finished_before_a_stop(tmp_path, capsys):
    def network(seed):
        model = dense(seed)
        if seed == 1:
            model.get_layer("head").kernel.assign(np.full((32, 10), np.nan))
        return model

    def stop(trainer):
        return [At(6, lambda: os.kill(os.getpid(), signal.SIGTERM))] if trainer.run.config.seed == 0 else []

    assert train(tmp_path, "--seeds", "0:2", network=network, callbacks=stop) == 143
    assert [folder.is_finished for folder in folders(tmp_path).values()] == [False, True]


@pytest.mark.parametrize(("step", "left"), [(1, [0]), (15, [0, 1])])
def test_data_that_does_not_suit_leaves_no_empty_folder_and_takes_none_that_was_trained(tmp_path, capsys, step, left):
    def unsuitable(trainer):
        def act():
            raise ConfigError("no such thing")

        return [At(step, act)] if trainer.run.config.seed == 1 else []

    assert train(tmp_path, "--seeds", "0:2", callbacks=unsuitable) == 2
    assert list(folders(tmp_path)) == left
    assert folders(tmp_path)[0].is_finished
    printed = capsys.readouterr()
    assert printed.err == "error: no such thing\n"
    assert "seed 1  failed: no such thing" in printed.out
    assert "seed 1     not finished" in printed.out


def test_a_fault_of_one_seed_is_one_line_and_the_others_go_on(tmp_path, capsys):
    def fault(trainer):
        return [At(15, lambda: full(trainer.run))] if trainer.run.config.seed == 1 else []

    def full(run):
        raise StorageError(f"cannot write {run.folder}")

    assert train(tmp_path, "--seeds", "0:3", callbacks=fault) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: cannot write")
    assert captured.err.count("\n") == 1
    assert [folder.is_finished for folder in folders(tmp_path).values()] == [True, False, True]
    assert train(tmp_path, "--seeds", "0:3") == 0


def test_of_several_faults_a_full_disk_is_the_one_that_ends_it(tmp_path, capsys):
    """Its code has the launcher wait and begin again."""

    def fault(trainer):
        return [At(15, lambda: end(trainer.run.config.seed))] if trainer.run.config.seed else []

    def end(seed):
        raise StorageError("cannot write") from OSError(errno.ENOSPC, "full") if seed == 2 else None

    assert train(tmp_path, "--seeds", "0:3", callbacks=fault) == files.DISK_FULL


def test_a_damaged_seed_is_started_from_scratch_alone(tmp_path, capsys):
    """--overwrite with --seeds would do the others again too."""
    assert train(tmp_path, "--seeds", "0:2") == 0
    metrics = folders(tmp_path)[1].metrics_file
    metrics.write_text("{")
    assert train(tmp_path, "--seeds", "0:2") == 1
    assert capsys.readouterr().err.endswith("; delete that file, and the same command makes it again\n")
    metrics.unlink()
    assert train(tmp_path, "--seeds", "0:2") == 0
    folders(tmp_path)[1].config_file.write_text("{")
    assert train(tmp_path, "--seeds", "0:2") == 1
    said = "--overwrite starts from scratch (with --seed 1 in place of --seeds: that seed alone)\n"
    assert capsys.readouterr().err.endswith(said)


def test_finished_seeds_of_another_backend_say_so(tmp_path, capsys):
    assert train(tmp_path, "--seeds", "0:2") == 0
    path = folders(tmp_path)[1].environment_file
    path.write_text(path.read_text().replace('"backend": "jax"', '"backend": "tensorflow"'))
    capsys.readouterr()
    assert train(tmp_path, "--seeds", "0:2") == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    said = "was trained with tensorflow, and KERAS_BACKEND is jax; with another --out you have both"
    assert warnings == [f"warning: seed 1 {said}"]


def test_finished_seeds_say_that_images_have_changed(tmp_path, capsys, monkeypatch):
    """The folder is listed once for all of them."""
    assert train(tmp_path, "--seeds", "0:2") == 0
    listed = []
    monkeypatch.setattr(command, "images_of", lambda config: listed.append(config) or {"images": 999, "digest": "new"})
    capsys.readouterr()
    assert train(tmp_path, "--seeds", "0:2") == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [f"warning: seed {n} was begun with 380 images; now there are 999" for n in range(2)]
    assert len(listed) == 1


def test_finished_seeds_are_left_alone(tmp_path, capsys):
    assert train(tmp_path, "--seed", "1") == 0
    before = folders(tmp_path)[1].metrics_file.stat().st_mtime_ns
    for _ in range(2):
        assert train(tmp_path, "--seeds", "1,4") == 0
    assert folders(tmp_path)[1].metrics_file.stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert "1 of 2 seeds to do" in printed
    assert "0 of 2 seeds to do" in printed


def test_networks_that_compute_something_else_are_told_apart():
    def computed(seed, rate):
        model = dense(seed)
        model.get_layer("dropout").rate = rate
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        batch = (np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int32))
        model.train_on_batch(*batch)
        parts = (model.trainable_variables, model.non_trainable_variables)
        parts += (model.optimizer.variables, model.metrics_variables)
        return text(model.train_step, tuple([each.value for each in part] for part in parts), batch)

    one, other_constant, other_rate = computed(0, 0.3), computed(1, 0.3), computed(0, 0.4)
    assert one == other_constant
    assert one != other_rate


def test_constants_of_inner_functions_are_compared():
    def step(values):
        inner = jax.jit(lambda x: x * np.asarray(values, np.float32))
        return lambda state, batch: (inner(batch), state)

    batch = np.ones(3, np.float32)
    texts = [text(step(values), (), batch) for values in ([1, 2, 3], [1, 2, 3], [1, 2, 4])]
    assert texts[0] == texts[1]
    logs, _ = as_one([step([1, 2, 3]), step([1, 2, 4])])((), np.ones((2, 3), np.float32))
    computed = np.array_equal(logs, [[1, 2, 3], [1, 2, 4]])
    assert computed or texts[0] != texts[2]  # stacked, or told apart
