"""The command of a task: what a finished run means, and every fault as one line."""

import errno
import gc
import json
import signal

import pytest
import tensorflow as tf
from toy_command import code_of, complete, fail_with, leave_checkpoint

from common import command, environment, files, runs, together
from common.config import Config
from common.devices import Devices
from common.errors import ConfigError
from common.files import CheckpointError
from common.progress import Diverged
from common.stopping import Interrupted


def test_a_finished_run_is_left_alone_until_it_is_overwritten(tmp_path, capsys):
    calls = []

    def experiment(config, run):
        assert gc.isenabled()
        calls.append(run.folder)
        (run.figures / "old.png").write_bytes(b"")
        complete(config, run)

    def provide(config):
        assert not gc.isenabled()  # until setup.set_up

    assert code_of(tmp_path, experiment, provide=provide) == 0
    assert code_of(tmp_path, fail_with(AssertionError("trained again"))) == 0
    assert "this run is finished; --overwrite does it again" in capsys.readouterr().out
    assert code_of(tmp_path, complete, "--overwrite") == 0
    assert len(calls) == 1
    assert gc.isenabled()
    assert not (calls[0] / "figures" / "old.png").exists()
    assert json.loads((calls[0] / "metrics.json").read_text())["status"] == "completed"
    out = capsys.readouterr().out
    assert "accuracy 50.00%" in out
    assert "a note" in out


def test_a_finished_run_says_which_commit_trained_it_if_it_is_another(tmp_path, capsys, monkeypatch):
    def experiment(config, run):
        runs.write_environment(run, backend=environment.backend(), precision="float32")
        complete(config, run)

    monkeypatch.setattr(runs, "git_state", lambda task: {"commit": "a" * 40, "dirty": False})
    assert code_of(tmp_path, experiment) == 0
    for now, said in (("a" * 40, False), ("b" * 40, True), (None, False)):  # None: the code is in no checkout
        monkeypatch.setattr(command, "git_state", lambda task, now=now: {"commit": now, "dirty": False})
        capsys.readouterr()
        assert code_of(tmp_path, complete) == 0
        assert (
            "warning: it was trained by commit aaaaaaaaaa, and the code is at bbbbbbbbbb now\n"
            in capsys.readouterr().out
        ) == said


def test_damaged_metrics_are_made_again_once_they_are_deleted(tmp_path, capsys):
    assert code_of(tmp_path, complete) == 0
    (folder,) = tmp_path.glob("*/*")
    (folder / "metrics.json").write_text("{")
    assert code_of(tmp_path, complete) == 1
    assert capsys.readouterr().err.endswith("; --overwrite starts from scratch\n")  # without a checkpoint
    leave_checkpoint(folder)
    assert code_of(tmp_path, complete) == 1
    assert capsys.readouterr().err.endswith("; delete that file, and the same command makes it again\n")


def test_a_finished_run_whose_config_says_something_else_is_none_of_this_command(tmp_path, capsys):
    assert code_of(tmp_path, complete) == 0
    (folder,) = tmp_path.glob("*/*")
    path = folder / "config.json"
    text = path.read_text()
    for key, there, wrong in (("batch_size", 64, 65), ("seed", 0, 1)):
        path.write_text(text.replace(f'"{key}": {there}', f'"{key}": {wrong}'))
        capsys.readouterr()
        assert code_of(tmp_path, complete) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"config.json has {key} {wrong}, and this command has {there}: " in line
    path.unlink()
    assert code_of(tmp_path, complete) == 1
    path.write_text(text)
    assert code_of(tmp_path, complete) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(files.StorageError("cannot write"), 1), (OSError(errno.ENOSPC, "No space left on device"), 75)],
)
def test_several_processes_leave_with_the_code_of_a_full_disk_too(tmp_path, monkeypatch, error, code):
    """JAX's processes leave at once, by `Devices.leave`, which has to know the code."""
    left = []

    class Many(Devices):
        def leave(self, error):
            left.append(error.code)

    monkeypatch.setattr(command, "choose", lambda config, backend: Many())
    full = files.StorageError("cannot write")
    full.__cause__ = error
    assert code_of(tmp_path, fail_with(full)) == code
    assert left == [code]


def test_data_that_is_refused_leaves_no_folder_but_an_older_run_s(tmp_path, capsys):
    assert code_of(tmp_path, fail_with(ConfigError("too few images"))) == 2
    assert capsys.readouterr().err == "error: too few images\n"
    assert list(tmp_path.glob("*/*")) == []
    assert code_of(tmp_path, fail_with(runs.RunError("stopped"))) == 1
    (folder,) = tmp_path.glob("*/*")
    assert code_of(tmp_path, fail_with(ConfigError("the data is gone"))) == 2
    assert (folder / "config.json").is_file()


def test_missing_data_leaves_no_run_directory(tmp_path):
    assert code_of(tmp_path, complete, provide=lambda config: fail_with(ConfigError("no data"))(0, 0)) == 2
    assert not list(tmp_path.iterdir())


def test_a_finished_run_of_another_backend_says_so(tmp_path, capsys, monkeypatch):
    def experiment(config, run):
        runs.write_environment(run, backend=environment.backend(), precision="float32")
        complete(config, run)

    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert code_of(tmp_path, experiment) == 0
    assert code_of(tmp_path, experiment) == 0
    assert "warning" not in capsys.readouterr().out
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert code_of(tmp_path, experiment) == 0
    said = "warning: it was trained with jax, and KERAS_BACKEND is tensorflow; with another --out you have both\n"
    assert said in capsys.readouterr().out


def test_a_finished_run_is_not_written_to(tmp_path):
    code_of(tmp_path, complete)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/*")}
    code_of(tmp_path, fail_with(AssertionError("trained again")))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/*")}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("cifar10 is not\nthere"), 2, "error: cifar10 is not there\n"),
        (files.StorageError("cannot write x: Permission denied"), 1, "error: cannot write x: Permission denied\n"),
        (files.StorageError("cannot write x: No space left on device"), 75, "error: cannot write x: No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 75, "error: [Errno 122] Disk quota exceeded\n"),
        (runs.RunError("begun with backend jax"), 1, "error: begun with backend jax\n"),
        (Interrupted(signal.SIGTERM), 143, "stopped by SIGTERM; the same command goes on\n"),
        (Interrupted(signal.SIGINT), 130, "stopped by SIGINT; the same command goes on\n"),
    ],
)
def test_known_faults_are_one_line(tmp_path, capsys, error, code, line):
    assert code_of(tmp_path, fail_with(error)) == code
    captured = capsys.readouterr().err
    assert captured.startswith(line)
    assert captured.count("\n") == 1
    assert not list(tmp_path.glob("*/*/metrics.json"))


def test_an_image_that_is_gone_is_one_line(tmp_path, capsys):
    def read(config, run):
        names = tf.data.Dataset.from_tensors(tf.constant(str(tmp_path / "a photo.png")))
        next(iter(names.map(tf.io.read_file)))

    assert code_of(tmp_path, read) == 1
    said = f"error: {tmp_path}/a photo.png cannot be read any more (No such file or directory); with it back, "
    assert capsys.readouterr().err == f"{said}the same command goes on\n"


def test_a_run_that_was_begun_anew_goes_on_without_that_flag(tmp_path, capsys):
    def train(config, run):
        leave_checkpoint(run.folder)
        raise Interrupted(signal.SIGINT)

    assert code_of(tmp_path, train, "--overwrite") == 130
    assert capsys.readouterr().err == "stopped by SIGINT; the same command without --overwrite goes on\n"
    while_fetching = fail_with(KeyboardInterrupt())  # nothing has been thrown away yet
    assert code_of(tmp_path, complete, "--overwrite", provide=lambda config: while_fetching(0, 0)) == 130
    assert capsys.readouterr().err == "stopped by SIGINT; the same command goes on\n"


def test_stopped_before_its_first_checkpoint_the_run_that_was_there_is_back(tmp_path, capsys):
    assert code_of(tmp_path, complete) == 0
    capsys.readouterr()
    assert code_of(tmp_path, fail_with(Interrupted(signal.SIGINT)), "--overwrite") == 130
    assert capsys.readouterr().err == "stopped by SIGINT; the same command goes on\n"
    assert list(tmp_path.glob("*/*/metrics.json"))


@pytest.mark.parametrize("error", [CheckpointError, runs.RunError])
def test_of_several_seeds_the_remedy_is_for_one(error):
    said = r"from scratch \(with --seed 3 in place of --seeds: that seed alone\)"
    with pytest.raises(runs.RunError, match=said), together.alone(Config(seed=3)):
        raise error("no checkpoint is intact; --overwrite starts from scratch")


def test_a_diverged_run_is_a_result(tmp_path, capsys):
    where = {"phase": "full", "epoch": 2, "step": 7}
    assert code_of(tmp_path, fail_with(Diverged("loss is nan", where))) == 0
    result = json.loads(next(tmp_path.glob("*/*/metrics.json")).read_text())
    assert result["status"] == "diverged"
    assert result["diverged"] == {"reason": "loss is nan at phase full, epoch 2, step 7", **where}
    assert code_of(tmp_path, fail_with(AssertionError("trained again"))) == 0


def test_looks_below_one_are_refused(tmp_path, capsys):
    assert code_of(tmp_path, complete, "--looks", "0") == 2
    assert capsys.readouterr().err.splitlines() == ["error: looks is 0; it must be above zero"]


@pytest.mark.parametrize(("job", "code"), [(None, 1), ("17", files.IN_USE)])
def test_a_run_that_another_node_still_holds_is_requeued(tmp_path, monkeypatch, capsys, job, code):
    """The lock of a node that has failed may outlive it: under SLURM another start may get it."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    config = Config(dataset="digits", out=tmp_path)
    with pytest.raises(SystemExit) as end, command.known_faults([], config, Devices()):
        raise runs.InUse(f"{tmp_path} is being written by process 1 on n1")
    assert end.value.code == code
    assert "is being written by process 1 on n1" in capsys.readouterr().err
