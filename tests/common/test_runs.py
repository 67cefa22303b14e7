"""Run directories: the lock, what a finished run means, and every fault as one line."""

import contextlib
import errno
import gc
import json
import platform
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common import environment, files, runs
from common.config import Config
from common.devices import Devices
from common.errors import ConfigError
from common.progress import Diverged
from common.stopping import Interrupted

PRESETS = {"default": Config(preset="default", dataset="digits")}
RESULT = {"accuracy": 0.5, "macro_f1": 0.4, "loss": 1.0, "n": 10}
PHASE = {"epochs": 1, "best_epoch": 1, "validation": RESULT, "test": RESULT, "images_per_second": 1.0}


def complete(config, run):
    run.finish({"test": RESULT, "phases": {"head": PHASE}, "notes": ["a note"]})


def fail_with(error):
    def experiment(config, run):
        raise error

    return experiment


def command(out, experiment, *flags, provide=lambda config: None):
    """Exit code of a task's command."""
    try:
        runs.main(PRESETS, "A task.", provide, experiment, ["--out", str(out), *flags])
    except SystemExit as stop:
        return stop.code
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    return 0


def test_a_finished_run_is_left_alone_until_it_is_overwritten(tmp_path, capsys):
    calls = []

    def experiment(config, run):
        assert gc.isenabled()
        calls.append(run.folder)
        (run.figures / "old.png").write_bytes(b"")
        complete(config, run)

    def provide(config):
        assert not gc.isenabled()  # until setup.set_up

    assert command(tmp_path, experiment, provide=provide) == 0
    assert command(tmp_path, fail_with(AssertionError("trained again"))) == 0
    assert "this run is finished; --overwrite does it again" in capsys.readouterr().out
    assert command(tmp_path, complete, "--overwrite") == 0
    assert len(calls) == 1
    assert gc.isenabled()
    assert not (calls[0] / "figures" / "old.png").exists()
    assert json.loads((calls[0] / "metrics.json").read_text())["status"] == "completed"
    out = capsys.readouterr().out
    assert "accuracy 50.00%" in out
    assert "a note" in out


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

    monkeypatch.setattr(runs, "choose", lambda config, backend: Many())
    full = files.StorageError("cannot write")
    full.__cause__ = error
    assert command(tmp_path, fail_with(full)) == code
    assert left == [code]


def test_data_that_is_refused_leaves_no_folder_but_an_older_run_s(tmp_path, capsys):
    assert command(tmp_path, fail_with(ConfigError("too few images"))) == 2
    assert capsys.readouterr().err == "error: too few images\n"
    assert list(tmp_path.glob("*/*")) == []
    assert command(tmp_path, fail_with(runs.RunError("stopped"))) == 1
    (folder,) = tmp_path.glob("*/*")
    assert command(tmp_path, fail_with(ConfigError("the data is gone"))) == 2
    assert (folder / "config.json").is_file()


def test_overwrite_lets_a_linked_folder_be(tmp_path):
    """Checkpoints may lie on another disk: the link goes, and what it leads to stays."""
    assert command(tmp_path / "runs", complete) == 0
    (folder,) = (tmp_path / "runs").glob("*/*")
    elsewhere = tmp_path / "elsewhere"
    (folder / "checkpoints").rename(elsewhere)
    (elsewhere / "kept").touch()
    (folder / "checkpoints").symlink_to(elsewhere)
    assert command(tmp_path / "runs", complete, "--overwrite") == 0
    assert (elsewhere / "kept").is_file()


def test_overwrite_loses_nothing_while_something_is_missing(tmp_path):
    assert command(tmp_path, complete) == 0
    (result,) = tmp_path.glob("*/*/metrics.json")
    assert (
        command(tmp_path, complete, "--overwrite", provide=lambda config: fail_with(ConfigError("no data"))(0, 0)) == 2
    )
    assert result.is_file()
    assert command(tmp_path, complete, "--overwrite") == 0


@pytest.mark.parametrize(
    "error", [ConfigError("class 'dogs' has no training image"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")]
)
def test_overwrite_gives_the_finished_run_back_if_training_has_not_begun(tmp_path, error):
    def experiment(config, run):
        (run.figures / "new.png").touch()
        raise error

    assert command(tmp_path, complete) == 0
    (folder,) = tmp_path.glob("*/*")
    (folder / "figures" / "old.png").touch()
    before = {path: path.stat().st_ino for path in folder.glob("**/*")}
    assert command(tmp_path, experiment, "--overwrite") in (2, 130, 75)
    assert {path: path.stat().st_ino for path in folder.glob("**/*")} == before


def test_overwrite_that_was_killed_gives_back_or_goes_on(tmp_path):
    assert command(tmp_path, complete) == 0
    (folder,) = tmp_path.glob("*/*")
    before = (folder / "metrics.json").read_bytes()
    runs.set_aside(folder)  # and here it is killed
    assert not (folder / "metrics.json").exists()
    assert command(tmp_path, fail_with(AssertionError("trained again"))) == 0
    assert (folder / "metrics.json").read_bytes() == before
    runs.set_aside(folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-1.safetensors").touch()
    assert command(tmp_path, complete) == 0
    assert {path.name for path in folder.iterdir()} >= {"checkpoints", "config.json", "metrics.json"}
    assert not (folder / ".replaced").exists()
    assert (folder / "checkpoints" / "step-1.safetensors").exists()


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("moves", range(7))
def test_a_kill_while_a_run_is_set_aside_or_comes_back_loses_nothing(tmp_path, monkeypatch, back, moves):
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/step-1.safetensors", "config.json", "history.csv", "metrics.json"):
        (tmp_path / name).write_text(name)
    before = {path: path.stat().st_ino for path in tmp_path.glob("**/*")}
    if back:
        runs.set_aside(tmp_path)
    whole, left = Path.rename, [moves]

    def killed(path, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with contextlib.suppress(KeyboardInterrupt):
            (runs.settle if back else runs.set_aside)(tmp_path)
    runs.settle(tmp_path)
    assert {path: path.stat().st_ino for path in tmp_path.glob("**/*")} == before


def test_missing_data_leaves_no_run_directory(tmp_path):
    assert command(tmp_path, complete, provide=lambda config: fail_with(ConfigError("no data"))(0, 0)) == 2
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_not_written_to(tmp_path):
    command(tmp_path, complete)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/*")}
    command(tmp_path, fail_with(AssertionError("trained again")))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/*")}


def test_an_unknown_or_missing_backend_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    assert command(tmp_path, complete) == 2
    assert capsys.readouterr().err == "error: unknown KERAS_BACKEND 'theano'; allowed: tensorflow, jax\n"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(runs, "find_spec", lambda name: None)
    assert command(tmp_path, complete) == 2
    assert capsys.readouterr().err.startswith("error: KERAS_BACKEND is jax, which is not installed")


def test_two_processes_do_not_write_one_run(tmp_path, capsys):
    config = Config(preset="default", dataset="digits", out=tmp_path)
    with runs.open_run(config, "common", ""):
        assert command(tmp_path, complete) == 1
    assert "is being written by process" in capsys.readouterr().err
    assert command(tmp_path, complete) == 0


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
    assert command(tmp_path, fail_with(error)) == code
    captured = capsys.readouterr().err
    assert captured.startswith(line)
    assert captured.count("\n") == 1
    assert not list(tmp_path.glob("*/*/metrics.json"))


def test_a_run_that_was_begun_anew_goes_on_without_that_flag(tmp_path, capsys):
    assert command(tmp_path, fail_with(Interrupted(signal.SIGINT)), "--overwrite") == 130
    assert capsys.readouterr().err == "stopped by SIGINT; the same command without --overwrite goes on\n"
    while_fetching = fail_with(KeyboardInterrupt())  # nothing has been thrown away yet
    assert command(tmp_path, complete, "--overwrite", provide=lambda config: while_fetching(0, 0)) == 130
    assert capsys.readouterr().err == "stopped by SIGINT; the same command goes on\n"


def test_a_diverged_run_is_a_result(tmp_path, capsys):
    where = {"phase": "full", "epoch": 2, "step": 7}
    assert command(tmp_path, fail_with(Diverged("loss is nan", where))) == 0
    result = json.loads(next(tmp_path.glob("*/*/metrics.json")).read_text())
    assert result["status"] == "diverged"
    assert result["diverged"] == {"reason": "loss is nan at phase full, epoch 2, step 7", **where}
    assert command(tmp_path, fail_with(AssertionError("trained again"))) == 0


def test_a_directory_from_before_a_field_was_added_is_taken(tmp_path):
    command(tmp_path, fail_with(runs.RunError("stop")))
    path = next(tmp_path.glob("*/*/config.json"))
    content = json.loads(path.read_text())
    del content["config"]["deterministic"]
    path.write_text(json.dumps(content))
    assert command(tmp_path, complete) == 0


def test_looks_rise_with_a_later_start_and_never_fall(tmp_path):
    """A run that was begun before is of so many looks too; its name and all else of config.json stay."""
    found = []
    for looks in (1, 3, 1):
        assert command(tmp_path, fail_with(Interrupted(signal.SIGTERM)), "--looks", str(looks)) == 143
        (path,) = tmp_path.glob("*/*/config.json")
        found.append(json.loads(path.read_text()))
    assert [content["options"].pop("looks") for content in found] == [1, 3, 3]
    assert found[0] == found[1] == found[2]


def test_looks_below_one_are_refused(tmp_path, capsys):
    assert command(tmp_path, complete, "--looks", "0") == 2
    assert capsys.readouterr().err.splitlines() == ["error: looks is 0; it must be above zero"]


def test_processor_names_the_instruction_sets_that_the_kernel_does():
    found = environment.processor()
    if Path("/proc/cpuinfo").is_file() and platform.machine() == "x86_64":
        flags = set(re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
        assert set(found["instruction_sets"]) == set(environment.INSTRUCTION_SETS) & flags
        assert found["name"]


def test_a_directory_of_another_configuration_is_refused(tmp_path, capsys):
    command(tmp_path, fail_with(runs.RunError("stop")))
    path = next(tmp_path.glob("*/*/config.json"))
    path.write_text(path.read_text().replace('"batch_size": 64', '"batch_size": 65'))
    assert command(tmp_path, complete) == 1
    assert "belongs to another configuration; --overwrite starts from scratch" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 1}'])
@pytest.mark.parametrize("name", ["config", "environment", "metrics"])
def test_a_damaged_file_is_one_line_and_overwrite_heals_it(tmp_path, capsys, name, content):
    def experiment(config, run):
        runs.write_environment(run, backend="tensorflow", precision="float32")
        complete(config, run)

    assert command(tmp_path, experiment) == 0
    (folder,) = tmp_path.glob("*/*")
    if name != "metrics":
        (folder / "metrics.json").unlink()
    (folder / f"{name}.json").write_text(content)
    capsys.readouterr()
    assert command(tmp_path, experiment) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert "--overwrite" in line
    assert command(tmp_path, experiment, "--overwrite") == 0


def test_leftovers_of_a_killed_write_are_cleared(tmp_path):
    command(tmp_path, fail_with(runs.RunError("stop")))
    leftover = next(tmp_path.glob("*/*/checkpoints")) / ".step.safetensors.1.tmp"
    leftover.write_bytes(b"half")
    command(tmp_path, complete)
    assert not leftover.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command(tmp_path / "file", complete) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}/file")


def test_git_state_knows_commit_and_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "REPOSITORY", tmp_path)
    assert environment.git_state("toy") == {"commit": None, "dirty": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment.git_state("toy") == {"commit": head, "dirty": False}
    (tmp_path / "results.csv").write_text("")  # a table is no code
    assert environment.git_state("toy") == {"commit": head, "dirty": False}
    for task, dirty in (("other", False), ("toy", True)):  # a new task that is under way changes no other
        (tmp_path / "tasks" / task).mkdir(parents=True)
        (tmp_path / "tasks" / task / "train.py").write_text("")
        assert environment.git_state("toy") == {"commit": head, "dirty": dirty}
    subprocess.run([*git, "add", "tasks"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "tasks"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment.git_state("toy") == {"commit": head, "dirty": False}
    (tmp_path / "tasks" / "other" / "train.py").write_text("changed")  # which another may import
    assert environment.git_state("toy") == {"commit": head, "dirty": True}
    subprocess.run([*git, "checkout", "-q", "."], check=True)
    (tmp_path / "common" / "data").mkdir(parents=True)
    (tmp_path / "common" / "data" / "new.py").write_text("")
    assert environment.git_state("toy") == {"commit": head, "dirty": True}


def test_an_editors_files_are_no_change(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    (tmp_path / "tasks" / "toy").mkdir(parents=True)
    (tmp_path / "tasks" / "toy" / ".#train.py").symlink_to("me@host.99:170")
    assert environment.git_state("toy", tmp_path)["dirty"] is False


def test_a_checkout_of_another_user_is_told_as_what_it_is(tmp_path, monkeypatch):
    """What git says there; without it, such code looked like code outside of any checkout."""
    said = f"fatal: detected dubious ownership in repository at '{tmp_path}'"
    (tmp_path / "git").write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n')
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment.git_state("toy", tmp_path)
    assert found == {"commit": None, "dirty": None, "git": "detected dubious ownership"}


@pytest.mark.parametrize("content", ["", "[]", '{"commit": 7}', '{"commit": "abc", "commit": "abd"}'])
def test_a_damaged_snapshot_is_no_commit(tmp_path, content):
    (tmp_path / environment.SNAPSHOT).write_text(content)
    found = environment.git_state("toy", tmp_path)
    assert (found["commit"], found["dirty"]) == (None, None)
    assert found["git"].startswith("snapshot.json")


@pytest.mark.parametrize(("job", "code"), [(None, 1), ("17", files.IN_USE)])
def test_a_run_that_another_node_still_holds_is_requeued(tmp_path, monkeypatch, capsys, job, code):
    """The lock of a node that has failed may outlive it: under SLURM another start may get it."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    config = Config(dataset="digits", out=tmp_path)
    with pytest.raises(SystemExit) as end, runs.known_faults([], config, Devices()):
        raise runs.InUse(f"{tmp_path} is being written by process 1 on n1")
    assert end.value.code == code
    assert "is being written by process 1 on n1" in capsys.readouterr().err


def test_a_requeued_job_waits_for_the_end_of_its_former_start(tmp_path, monkeypatch):
    """Under SLURM alone: on a terminal one wants to hear at once that another process has the run."""
    config = Config(dataset="digits", out=tmp_path)
    hold = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path; from common import runs, config\n"
        "with runs.open_run(config.Config(dataset='digits', out=Path(sys.argv[1])), 'task', ''):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], **pipes, text=True)
    with other:
        assert other.stdout.readline() == "held\n"
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        with pytest.raises(runs.RunError, match=f"process {other.pid}"), runs.open_run(config, "task", ""):
            pass
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        threading.Timer(0.5, other.stdin.close).start()
        with runs.open_run(config, "task", ""):
            assert other.wait(10) == 0
