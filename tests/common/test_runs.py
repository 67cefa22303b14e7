"""Run directories: the lock, what --overwrite keeps, configurations, damaged files."""

import contextlib
import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from toy_command import RESULT, code_of, complete, fail_with, leave_checkpoint

from common import command, environment, files, runs
from common.config import Config
from common.errors import ConfigError
from common.stopping import Interrupted


def test_overwrite_lets_a_linked_folder_be(tmp_path):
    """Checkpoints may lie on another disk: the link goes, and what it leads to stays."""
    assert code_of(tmp_path / "runs", complete) == 0
    (folder,) = (tmp_path / "runs").glob("*/*")
    elsewhere = tmp_path / "elsewhere"
    (folder / "checkpoints").rename(elsewhere)
    (elsewhere / "kept").touch()
    (folder / "checkpoints").symlink_to(elsewhere)
    assert code_of(tmp_path / "runs", complete, "--overwrite") == 0
    assert (elsewhere / "kept").is_file()


def test_overwrite_loses_nothing_while_something_is_missing(tmp_path):
    assert code_of(tmp_path, complete) == 0
    (result,) = tmp_path.glob("*/*/metrics.json")
    assert (
        code_of(tmp_path, complete, "--overwrite", provide=lambda config: fail_with(ConfigError("no data"))(0, 0)) == 2
    )
    assert result.is_file()
    assert code_of(tmp_path, complete, "--overwrite") == 0


@pytest.mark.parametrize(
    "error", [ConfigError("class 'dogs' has no training image"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")]
)
def test_overwrite_gives_the_finished_run_back_if_training_has_not_begun(tmp_path, error):
    def experiment(config, run):
        (run.figures / "new.png").touch()
        raise error

    assert code_of(tmp_path, complete) == 0
    (folder,) = tmp_path.glob("*/*")
    (folder / "figures" / "old.png").touch()
    before = {path: path.stat().st_ino for path in folder.glob("**/*")}
    assert code_of(tmp_path, experiment, "--overwrite") in (2, 130, 75)
    assert {path: path.stat().st_ino for path in folder.glob("**/*")} == before


def test_overwrite_gives_the_finished_run_back_if_its_last_write_was_no_checkpoint(tmp_path):
    """The weights of the best epoch are written before the checkpoint, which needs more room."""

    def experiment(config, run):
        (run.checkpoints / "best-train-0123.safetensors").touch()
        (run.checkpoints / ".step-1.safetensors.9.tmp").touch()
        raise OSError(errno.ENOSPC, "full")

    assert code_of(tmp_path, complete) == 0
    (metrics,) = tmp_path.glob("*/*/metrics.json")
    before = metrics.read_bytes()
    assert code_of(tmp_path, experiment, "--overwrite") == 75
    assert metrics.read_bytes() == before


def test_overwrite_that_was_killed_gives_back_or_goes_on(tmp_path):
    assert code_of(tmp_path, complete) == 0
    (folder,) = tmp_path.glob("*/*")
    before = (folder / "metrics.json").read_bytes()
    runs.set_aside(folder)  # and here it is killed
    assert not (folder / "metrics.json").exists()
    assert code_of(tmp_path, fail_with(AssertionError("trained again"))) == 0
    assert (folder / "metrics.json").read_bytes() == before
    runs.set_aside(folder)
    leave_checkpoint(folder)
    assert code_of(tmp_path, complete) == 0
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


def test_two_processes_do_not_write_one_run(tmp_path, capsys):
    config = Config(preset="default", dataset="digits", out=tmp_path)
    with runs.open_run(config, "common", ""):
        assert code_of(tmp_path, complete) == 1
    assert "is being written by process" in capsys.readouterr().err
    assert code_of(tmp_path, complete) == 0


def test_a_directory_from_before_a_field_was_added_is_taken(tmp_path):
    code_of(tmp_path, fail_with(runs.RunError("stop")))
    path = next(tmp_path.glob("*/*/config.json"))
    content = json.loads(path.read_text())
    del content["config"]["deterministic"]
    path.write_text(json.dumps(content))
    assert code_of(tmp_path, complete) == 0


def test_looks_rise_with_a_later_start_and_never_fall(tmp_path):
    """A run that was begun before is of so many looks too; its name and all else of config.json stay."""
    found = []
    for looks in (1, 3, 1):
        assert code_of(tmp_path, fail_with(Interrupted(signal.SIGTERM)), "--looks", str(looks)) == 143
        (path,) = tmp_path.glob("*/*/config.json")
        found.append(json.loads(path.read_text()))
    assert [content["options"].pop("looks") for content in found] == [1, 3, 3]
    assert found[0] == found[1] == found[2]


def test_a_directory_of_another_configuration_is_refused(tmp_path, capsys):
    code_of(tmp_path, fail_with(runs.RunError("stop")))
    path = next(tmp_path.glob("*/*/config.json"))
    path.write_text(path.read_text().replace('"batch_size": 64', '"batch_size": 65'))
    assert code_of(tmp_path, complete) == 1
    said = "config.json has batch_size 65, and this command has 64: it was edited, or the folder renamed or copied; "
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"config": 1}', '{"starts": [], "unread": {"images": "many", "digest": "0"}}']
)
@pytest.mark.parametrize("name", ["config", "environment", "metrics"])
def test_a_damaged_file_is_one_line_and_overwrite_heals_it(tmp_path, capsys, name, content):
    def experiment(config, run):
        runs.write_environment(run, backend="tensorflow", precision="float32")
        complete(config, run)

    assert code_of(tmp_path, experiment) == 0
    (folder,) = tmp_path.glob("*/*")
    if name != "metrics":
        (folder / "metrics.json").unlink()
    (folder / f"{name}.json").write_text(content)
    capsys.readouterr()
    assert code_of(tmp_path, experiment) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert "--overwrite" in line
    assert code_of(tmp_path, experiment, "--overwrite") == 0


def test_a_run_goes_on_with_its_own_backend_alone(tmp_path, capsys, monkeypatch):
    """Said as soon as its directory is opened: the backend is not loaded for that."""

    def begin(config, run):
        runs.write_environment(run, backend=environment.backend(), precision="float32")
        raise runs.RunError("stop")

    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert code_of(tmp_path, begin) == 1
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    capsys.readouterr()
    assert code_of(tmp_path, fail_with(AssertionError("went on"))) == 1
    remedy = "KERAS_BACKEND=jax goes on with it, --overwrite starts from scratch"
    assert capsys.readouterr().err.endswith(f"was begun with jax, and KERAS_BACKEND is tensorflow; {remedy}\n")
    assert code_of(tmp_path, complete, "--overwrite") == 0


@pytest.mark.parametrize("again", [False, True])
def test_a_run_whose_folder_was_removed_writes_nothing_into_one_that_was_made_again(tmp_path, capsys, again):
    def experiment(config, run):
        shutil.rmtree(run.folder)
        if again:
            assert code_of(tmp_path, complete) == 0
            capsys.readouterr()
        run.finish({"test": RESULT, "phases": {}, "notes": ["of the first"]})

    assert code_of(tmp_path, experiment) == 1
    assert "was removed while this run wrote it, so nothing more is written there" in capsys.readouterr().err
    found = [json.loads(path.read_text())["notes"] for path in tmp_path.glob("*/*/metrics.json")]
    assert found == [["a note"]] * again


def test_a_start_with_bad_input_leaves_the_folder_of_another_process(tmp_path, capsys):
    made = tmp_path / "common" / "default-digits-86022b53-s0"

    def provide(config):
        made.mkdir(parents=True)
        lock = (made / ".lock").open("a+")
        files.take(lock)
        held.append(lock)
        raise ConfigError("no data")

    held = []
    assert code_of(tmp_path, complete, provide=provide) == 2
    assert made.is_dir()
    held.pop().close()
    (made / "metrics.json").write_text("{}")
    command.discard(made)
    assert made.is_dir()
    (made / "metrics.json").unlink()
    command.discard(made)
    assert not made.exists()


def test_other_code_than_that_of_the_start_before_is_said_once(tmp_path, capsys, monkeypatch):
    said = []
    for commit in "abba":
        monkeypatch.setattr(runs, "git_state", lambda _, commit=commit: {"commit": commit, "dirty": False})

        def begin(config, run):
            runs.write_environment(run, backend=environment.backend(), precision="float32")
            raise runs.RunError("stop")

        assert code_of(tmp_path, begin) == 1
        said.append("started by another version of the code" in capsys.readouterr().out)
    assert said == [False, True, False, True]


def test_other_versions_or_another_processor_than_those_of_the_start_before_are_said_once(
    tmp_path, capsys, monkeypatch
):
    """Those that a start had are written down with it."""
    made_with = [({"keras": "3.1", "jax": "0.1"}, "A"), ({"keras": "3.2", "jax": "0.2"}, "A"), ({"keras": "3.2"}, "B")]
    said = []
    for versions, name in (*made_with, made_with[-1]):
        monkeypatch.setattr(runs, "installed", lambda versions=versions: versions)
        monkeypatch.setattr(runs, "processor", lambda name=name: {"name": name, "instruction_sets": []})

        def begin(config, run):
            runs.write_environment(run, backend="tensorflow", precision="float32")
            raise runs.RunError("stop")

        assert code_of(tmp_path, begin) == 1
        said.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")])
    assert said == [
        [],
        ["warning: this run was started with other versions: now keras 3.2 in place of 3.1"],  # its backend is not JAX
        ["warning: this run was started on another processor: now B in place of A"],
        [],
    ]
    environment = json.loads(next(tmp_path.glob("*/*/environment.json")).read_text())
    assert [start["versions"] for start in environment["starts"]] == [
        *(versions for versions, _ in made_with),
        versions,
    ]


def test_leftovers_of_a_killed_write_are_cleared(tmp_path):
    code_of(tmp_path, fail_with(runs.RunError("stop")))
    leftover = next(tmp_path.glob("*/*/checkpoints")) / ".step.safetensors.1.tmp"
    leftover.write_bytes(b"half")
    code_of(tmp_path, complete)
    assert not leftover.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert code_of(tmp_path / "file", complete) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}/file")


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
