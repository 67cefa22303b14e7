"""Submissions: what is remembered of them, and the code that goes with each."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from common import environment
from common.errors import ConfigError
from slurm import submissions
from slurm.plan import Planned
from slurm.submissions import find_run, is_alive, latest_runs, this_process

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def create(tree, monkeypatch, make_run):
    """Makes submissions from the tree."""
    monkeypatch.setattr(submissions, "REPOSITORY", tree)
    monkeypatch.setattr(submissions, "FOLDER", tree / "results" / "submissions")
    monkeypatch.chdir(tree)
    return lambda *names: submissions.create(
        "toy", "slurm", "a title", [make_run(name, "--a=1") for name in names], "tensorflow"
    )


def contents(folder):
    """Every file below a folder, but for compiled ones."""
    paths = (path for path in folder.glob("**/*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# The code


def test_code_is_what_was_there(create, tree):
    before = {name: contents(tree / name) for name in ("common", "tasks", "slurm")}
    (tree / "common" / "__pycache__").mkdir()
    (tree / "common" / "__pycache__" / "old.pyc").touch()
    made = create("r")
    assert {name: contents(made.code / name) for name in before} == before
    assert not list(made.code.glob("**/__pycache__"))


def test_editing_afterwards_changes_nothing(create, tree):
    made = create("r")
    before = contents(made.code)
    (tree / "tasks" / "toy" / "train.py").write_text("edited")
    (tree / "common" / "new.py").touch()
    shutil.rmtree(tree / "slurm")
    assert contents(made.code) == before


def test_snapshot_has_the_commit_that_it_was_made_from(create, monkeypatch):
    facts = environment.git_state("toy")
    made = create("r")
    assert json.loads((made.code / "snapshot.json").read_text()) == facts
    monkeypatch.setattr(environment, "REPOSITORY", made.code)
    assert environment.git_state("toy") == facts


def test_runs_of_a_snapshot_tell_its_commit_not_that_of_a_repository_around_it(create, tree, monkeypatch):
    """A job's code lies in results/, inside the checkout, whose commit may be another by then."""
    made = create("r")
    (made.code / "snapshot.json").write_text('{"commit": "abc", "dirty": true}')
    code = "from common import environment; print(environment.git_state('toy'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=made.code, capture_output=True, text=True, check=True)
    assert done.stdout == "{'commit': 'abc', 'dirty': True}\n"


def test_code_of_a_job_finds_its_submission(create):
    made = create("r")
    code = f"from slurm import submissions; print(submissions.load({made.id!r}).folder)"
    done = subprocess.run([sys.executable, "-c", code], cwd=made.code, capture_output=True, text=True, check=True)
    assert done.stdout == f"{made.folder}\n"


def test_commit_is_that_of_git():
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert environment.git_state("toy")["commit"] == (commit.stdout.strip() or None)


def test_what_is_no_code_is_left_out(create, tree):
    """Editors, file systems and people leave much beside a file that is open."""
    before = contents(tree / "tasks")
    toy = tree / "tasks" / "toy"
    (toy / ".#train.py").symlink_to("me@host.99:170")  # Emacs: a buffer that is not saved
    (toy / "data").symlink_to("/nowhere")
    for name in ("#train.py#", "train.py~", ".train.py.swp", "._train.py", ".nfs00000001"):
        (toy / name).write_bytes(b"\xff")
    os.mkfifo(toy / "pipe")
    (tree / "common" / ".ipynb_checkpoints").mkdir()
    assert contents(create("r").code / "tasks") == before
    assert not (create("r").code / "common" / ".ipynb_checkpoints").exists()


# What is remembered


def test_submission_is_remembered_as_it_was(create, tree):
    made = create("a", "b").changed(jobs={"a": "1_0", "b": "1_1"})
    assert submissions.load(made.id) == made
    assert (made.task, made.cluster, made.title, made.directory) == ("toy", "slurm", "a title", str(tree))
    assert made.id.startswith("toy-20")
    assert made.time.endswith("+00:00")


def test_two_in_one_second_have_two_names(create):
    made = [create("a").id for _ in range(2)]
    assert len(set(made)) == 2
    assert [one.id for one in submissions.every()] == made


def test_changed_is_kept_on_disk(create):
    made = create("a")
    assert not submissions.load(made.id).cancelled
    made.changed(cancelled=True)
    assert submissions.load(made.id).cancelled


def test_unknown_submission_names_the_latest(make_submission):
    for hour in (10, 11, 12, 13):
        make_submission(name=f"toy-20260131-{hour}0000", time=f"2026-01-31T{hour}:00:00+00:00")
    with pytest.raises(ConfigError, match="toy-20260131-110000, toy-20260131-120000, toy-20260131-130000"):
        submissions.load("toy-20260131-140000")


def test_without_submissions_there_is_nothing_to_name(make_submission):
    with pytest.raises(ConfigError, match="none yet"):
        submissions.load("toy")
    assert submissions.every() == []


RUN = dataclasses.asdict(Planned("a", "/runs/a", "a", 0, ()))


def test_every_is_by_time(make_submission):
    for name, hour in (("b", 10), ("c", 9), ("a", 11)):
        make_submission(name=name, time=f"2026-01-31T{hour:02}:00:00+00:00")
    assert [one.id for one in submissions.every()] == ["c", "b", "a"]


def test_folder_without_its_file_is_no_submission(make_submission):
    made = make_submission(name="whole")
    (made.folder.parent / "half").mkdir()
    assert [one.id for one in submissions.every()] == ["whole"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\0" * 50,
        b"\xff",
        {"id": "../other"},
        {"runs": [{}]},
        {"runs": None},
        {"jobs": {"a": "-1"}},
        {"runner": {"pid": -1, "began": 0.0, "host": "here"}},
        {"directory": "x" * 5000},
        {"unknown": 1},
        {"keeper": ["12"]},
        {"root": None},
        {"runs": [RUN | {"wave": None}]},
        {"runs": [RUN | {"nodes": 0}]},
    ],
)
def test_damaged_submission_is_named_and_hides_no_other(make_submission, make_run, capsys, content):
    damaged = make_submission(make_run("a"), name="damaged")
    make_submission(make_run("b"), name="whole")
    path = damaged.folder / "submission.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content).encode()
    path.write_bytes(content)
    assert [one.id for one in submissions.every()] == ["whole"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: submission damaged is damaged: ")
    with pytest.raises(ConfigError, match="submission damaged is damaged: "):
        submissions.load("damaged")


def test_run_is_that_of_the_last_submission(make_submission, make_run):
    first = make_submission(make_run("a"), make_run("b"), name="first", time="2026-01-31T10:00:00+00:00")
    second = make_submission(make_run("b"), name="second", time="2026-01-31T11:00:00+00:00")
    found = {run.name: one.id for one, run in latest_runs([first, second]).values()}
    assert found == {"a": "first", "b": "second"}


# Finding a run


@pytest.fixture
def three(make_submission, make_run):
    runs = [
        make_run("demo-digits-0a1b2c3d-s0"),
        make_run("demo-digits-0a1b2c3d-s1"),
        make_run("demo-mnist-ffff0000-s0"),
    ]
    return make_submission(*runs)


@pytest.mark.parametrize("text", ["demo-digits-0a1b2c3d-s1", "digits-0a1b2c3d-s1", "0a1b2c3d-s1", "b2c3d-s1", "s1"])
def test_run_is_found_by_the_end_of_its_name(three, text):
    submission, run = find_run(text)
    assert (submission.id, run.name) == (three.id, "demo-digits-0a1b2c3d-s1")


def test_ambiguous_end_names_the_candidates(three):
    with pytest.raises(ConfigError, match="run 's0' fits 2 runs: demo-digits-0a1b2c3d-s0, demo-mnist-ffff0000-s0"):
        find_run("s0")


@pytest.mark.parametrize("text", ["demo", "0a1b2c3d", "", "s"])
def test_part_that_is_no_end_finds_nothing(three, text):
    with pytest.raises(ConfigError, match="not found"):
        find_run(text)


def test_run_of_several_submissions_is_that_of_the_last(three, make_submission, make_run):
    again = make_submission(make_run("demo-mnist-ffff0000-s0"), name="again", time="2026-02-01T00:00:00+00:00")
    assert find_run("ffff0000-s0")[0].id == again.id


def test_the_last_submission_is_the_last_even_if_the_clock_was_set_back(make_submission, make_run):
    made = make_submission(make_run("a-s0"), name="toy-20990101-000000", time="2099-01-01T00:00:00+00:00")
    assert submissions.time_of_creation() == "2099-01-01T00:00:01+00:00"
    (made.folder / "submission.json").write_text("{")
    assert submissions.time_of_creation() < "2099"


# Processes


def test_this_process_is_alive():
    assert is_alive(this_process())
    assert this_process()["pid"] == os.getpid()


def test_process_that_ended_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = this_process(child.pid)
    assert is_alive(known)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert not is_alive(known)  # ended, and not yet reaped
    child.wait()
    assert not is_alive(known)


def test_other_process_of_the_same_number_is_another():
    ticks, _, boot = this_process()["began"].partition(" ")
    assert not is_alive(this_process() | {"began": f"{int(ticks) - 1} {boot}"})
    assert not is_alive(this_process() | {"began": f"{ticks} ticks after boot of another day"})
    for seconds in (-100, 100):
        older = {"began": psutil.Process().create_time() + seconds}  # as older code wrote it
        assert not is_alive(this_process() | older)


def test_a_clock_that_is_set_makes_no_process_another(monkeypatch):
    """Linux counts from the boot, whose time moves with the clock; so does what older code wrote down."""
    known = this_process()
    older = known | {"began": psutil.Process().create_time()}
    true = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: true(process) + 1)
    assert is_alive(known)
    assert is_alive(older)


def test_processes_of_other_hosts_count_as_ended():
    assert not is_alive(this_process() | {"host": "elsewhere"})
    assert not is_alive(None)


def test_process_survives_its_way_through_json():
    assert is_alive(json.loads(json.dumps(this_process())))
