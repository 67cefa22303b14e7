"""Runs on this machine: how many at once, how they are stopped, and on which GPUs."""

import io
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from common import files
from slurm import local, status, submissions
from slurm.local import Runner
from slurm.submissions import this_process

# The runs meet in the folder `met`: each says when it begins and ends, and may wait for another.
SAYS = """
import json, os, sys, time
from pathlib import Path
def wait_for(name):
    end = time.monotonic() + 60
    while not Path('met', name).exists():
        assert time.monotonic() < end, 'nobody came'
        time.sleep(0.01)
begun = time.time()
Path('met', '{name}').touch()
{does}
Path('met', '{name}.json').write_text(json.dumps([begun, time.time(), os.environ.get('CUDA_VISIBLE_DEVICES')]))
Path('runs', 'r-{name}-s0').mkdir(parents=True)
Path('runs', 'r-{name}-s0', 'metrics.json').write_text('{{"status": "completed"}}')
"""


@pytest.fixture
def run(tmp_path, make_run, make_submission, monkeypatch):
    """Runs Python programs, by name, as the runs of a submission; returns its rows by name."""
    monkeypatch.setattr(status, "REFRESH", 0.02)
    (tmp_path / "met").mkdir()
    output = io.StringIO()

    def call(programs, at_once, devices=None):
        sizes = devices or dict.fromkeys(programs, 1)
        runs = [
            make_run(f"r-{name}-s0", SAYS.format(name=name, does=does), label=name, devices=sizes[name])
            for name, does in programs.items()
        ]
        submission = make_submission(*runs, cluster="local")
        train = submission.code / "tasks" / "toy" / "train.py"
        train.parent.mkdir(parents=True)
        train.write_text("import sys\nexec(sys.argv[1])\n")
        rows = Runner(submission, at_once).run(Console(file=output))
        return {row.label: row for row in rows}

    return call


def said(tmp_path):
    """What each run said of itself: begun, ended, its GPUs."""
    return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "met").glob("*.json")}


def most_at_once(times):
    """The largest number of runs at the same time."""
    return max(sum(begun <= moment < ended for begun, ended, *_ in times) for moment, *_ in times)


# How many


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_never_more_at_once_than_asked_for(run, tmp_path, at_once):
    run({str(i): "time.sleep(0.05)" for i in range(6)}, at_once)
    found = said(tmp_path)
    assert sorted(found) == list("012345")
    assert most_at_once(found.values()) <= at_once


def test_as_many_at_once_as_asked_for(run, tmp_path):
    """Each waits for its partner, which would never come if they ran one by one."""
    run({str(i): f"wait_for('{i ^ 1}')" for i in range(4)}, 2)
    assert sorted(said(tmp_path)) == list("0123")


def test_one_at_a_time_keeps_the_order(run, tmp_path):
    run(dict.fromkeys("cab", ""), 1)
    found = said(tmp_path)
    assert sorted(found, key=lambda name: found[name][0]) == list("cab")


def test_failing_run_does_not_stop_the_others(run, tmp_path):
    rows = run({"a": "", "b": "sys.exit('error: too bad')", "c": ""}, 1)
    # No metrics.json: these stand-ins are written down as completed, and nothing else.
    assert {name: row.state for name, row in rows.items()} == {"a": "completed", "b": "failed", "c": "completed"}
    assert rows["b"].reason == "too bad"
    assert sorted(said(tmp_path)) == ["a", "c"]


def test_wave_waits_for_the_one_before(tmp_path, make_run, make_submission, monkeypatch):
    monkeypatch.setattr(status, "REFRESH", 0.02)
    (tmp_path / "met").mkdir()
    waves = {"late": 1, "x": 0, "y": 0, "last": 2}
    runs = [
        make_run(f"r-{name}-s0", SAYS.format(name=name, does="time.sleep(0.05)"), wave=wave)
        for name, wave in waves.items()
    ]
    submission = make_submission(*runs, cluster="local")
    train = submission.code / "tasks" / "toy" / "train.py"
    train.parent.mkdir(parents=True)
    train.write_text("import sys\nexec(sys.argv[1])\n")
    Runner(submission, 4).run(Console(file=io.StringIO()))
    found = said(tmp_path)
    assert found["late"][0] >= max(found["x"][1], found["y"][1])
    assert found["last"][0] >= found["late"][1]


def test_each_change_is_one_line(run, capsys):
    run({"a": "", "b": "sys.exit('error: too bad')"}, 1)
    lines = capsys.readouterr().out.splitlines()
    ends = [line.split("  ")[1:] for line in lines if "completed" in line or "failed" in line]
    assert ends == [["a-s0", "a", "completed"], ["b-s0", "b", "failed", "too bad"]]


def test_handlers_are_given_back(run):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run({"a": ""}, 1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# GPUs


LISTING = """
cat <<'END'
GPU 0: NVIDIA GeForce RTX 4090 Laptop GPU (UUID: GPU-11111111-2222-3333-4444-555555555555)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-21111111-2222-3333-4444-555555555555)
END
"""


def gpu_listing(count):
    """A body of nvidia-smi for so many GPUs."""
    return "".join(f"echo 'GPU {i}: NVIDIA A100-SXM4-40GB (UUID: GPU-{i})'\n" for i in range(count))


def test_gpus_are_those_that_nvidia_smi_lists(programs):
    programs.add("nvidia-smi", LISTING)
    assert local.gpus() == ["0", "1"]


@pytest.mark.parametrize("body", [None, "exit 9", "echo 'No devices were found'"])
def test_no_gpus(programs, body):
    if body:
        programs.add("nvidia-smi", body)
    assert local.gpus() == []


@pytest.mark.parametrize(("visible", "meant"), [("2,3", ["2", "3"]), ("", []), ("GPU-ab,GPU-cd", ["GPU-ab", "GPU-cd"])])
def test_gpus_are_those_that_the_user_allows(programs, monkeypatch, visible, meant):
    programs.add("nvidia-smi", gpu_listing(8))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local.gpus() == meant


def test_runs_beside_each_other_have_different_gpus(run, programs, tmp_path):
    programs.add("nvidia-smi", gpu_listing(2))
    run({str(i): f"wait_for('{i ^ 1}')" for i in range(4)}, 2)
    gpus = {name: gpu for name, (_, _, gpu) in said(tmp_path).items()}
    assert {gpus["0"], gpus["1"]} == {gpus["2"], gpus["3"]} == {"0", "1"}


def test_one_run_at_a_time_has_the_first_gpu(run, programs, tmp_path):
    programs.add("nvidia-smi", gpu_listing(2))
    run({"a": "", "b": ""}, 1)
    assert {gpu for _, _, gpu in said(tmp_path).values()} == {"0"}


def test_more_runs_than_gpus_share_them(run, programs, tmp_path):
    programs.add("nvidia-smi", gpu_listing(2))
    run({str(i): "".join(f"wait_for('{j}')\n" for j in range(4)) for i in range(4)}, 4)
    assert sorted(gpu for _, _, gpu in said(tmp_path).values()) == ["0", "0", "1", "1"]


def test_runs_that_share_a_gpu_take_its_memory_as_they_need_it(programs, make_run, make_submission):
    programs.add("nvidia-smi", gpu_listing(2))
    planned = make_run("r-a-s0")
    submission = make_submission(planned, cluster="local")
    for at_once, shared in ((1, False), (2, False), (3, True)):
        chosen = Runner(submission, at_once).environment(planned, 0)
        assert (chosen.get("TF_FORCE_GPU_ALLOW_GROWTH") == "true") == shared
        assert (chosen.get("XLA_PYTHON_CLIENT_PREALLOCATE") == "false") == shared


def test_a_hangup_that_nohup_ignores_stays_ignored(run, tmp_path, capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        rows = run({"a": "import signal; os.kill(os.getppid(), signal.SIGHUP); time.sleep(0.2)"}, 1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert rows["a"].state == "completed"
    assert "stopping" not in capsys.readouterr().out


def test_without_gpus_none_are_assigned(run, programs, tmp_path):
    run({"a": ""}, 1)
    assert said(tmp_path)["a"][2] is None


def test_runs_of_several_devices_have_as_many_gpus(run, programs, tmp_path):
    programs.add("nvidia-smi", gpu_listing(4))
    run({"0": "wait_for('1')", "1": "wait_for('0')"}, 2, devices={"0": 2, "1": 2})
    assert {gpu for _, _, gpu in said(tmp_path).values()} == {"0,1", "2,3"}


def test_groups_of_gpus_are_whole(run, programs, tmp_path):
    """Of three GPUs, two runs of two devices share: one device less would be another run."""
    programs.add("nvidia-smi", gpu_listing(3))
    run({"0": "wait_for('1')", "1": "wait_for('0')"}, 2, devices={"0": 2, "1": 2})
    assert {len(gpu.split(",")) for _, _, gpu in said(tmp_path).values()} == {2}


# As a user runs it


def test_runs_of_a_sweep_are_done_here(launch, tree):
    told = launch("submit", "toy", "--sweep", "colours", "--cluster", "local", "--jobs", "2")
    assert (told.code, told.err) == (0, "")
    assert "8 completed" in told.out
    folders = list((tree / "results" / "runs" / "toy").iterdir())
    assert len(folders) == 8
    assert all((folder / "metrics.json").exists() for folder in folders)


def test_failed_run_is_shown_with_its_reason_and_exit_code_1(launch):
    does = "does=assert config.width != 2, 'two is too much'"
    told = launch("submit", "toy", "--grid", "width=1,2,3", "--set", does, "--cluster", "local")
    assert told.code == 1
    assert "2 completed, 1 failed" in told.out
    (line,) = [
        line
        for line in told.out.splitlines()
        if "failed  AssertionError: two is too much" in line and "-s0  width=2" in line and line.startswith("  ")
    ]
    assert line


def test_finished_runs_are_left_out_by_the_next_submit(launch):
    launch("submit", "toy", "--grid", "width=1,2", "--cluster", "local")
    told = launch("submit", "toy", "--grid", "width=1,2,3", "--cluster", "local", "--dry-run")
    assert "left out: 2 finished" in told.out
    assert "1 of 3 runs to do" in told.out


def test_runs_under_way_elsewhere_are_left_out(launch, fake_slurm):
    """On SLURM, and by another launcher of this machine."""
    launch("submit", "toy", "--set", "width=1")
    fake_slurm.queue(_100="PENDING|Priority")
    second = launch("submit", "toy", "--set", "width=2", "does=raise SystemExit(143)", "--cluster", "local")
    submission = submissions.load(second.submission)
    submission.changed(runner=this_process())
    again = ("does=raise SystemExit(143)", "--cluster", "local", "--dry-run")
    assert (
        f"left out: 1 queued in {submissions.every()[0].id}"
        in launch("submit", "toy", "--set", "width=1", "--cluster", "local", "--dry-run").out
    )
    record = submission.record(submission.runs[0].name)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "running"}))
    assert f"left out: 1 running in {submission.id}" in launch("submit", "toy", "--set", "width=2", *again).out


STOPPABLE = """does=
import signal
def stop(number, frame):
    (folder / 'saved').touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, stop)
print('goes on' if (folder / 'began').exists() else 'begins')
(folder / 'began').touch()
end = time.monotonic() + 100  # so that none outlives the tests for long, whatever happens
while config.width > 1 and not (config.out / 'go').exists() and time.monotonic() < end:
    time.sleep(0.01)
"""
STOPPED_GRID = ("submit", "toy", "--cluster", "local", "--jobs", "2", "--grid", "width=1,2,3,4,5", "--set", STOPPABLE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_and_go_on(start_launcher, launch, tree, wait_for, number):
    """The first run finishes; two are under way when the stop comes; two have not begun."""
    process = start_launcher(*STOPPED_GRID)
    wait_for(lambda: len(list(tree.glob("results/runs/toy/*/began"))) == 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""
    (submission,) = submissions.every()
    assert f"python -m slurm resubmit {submission.id}" in out
    assert "2 cancelled" in out
    assert "queued" not in out
    records = [submission.record(run.name) for run in submission.runs]
    states = [json.loads(path.read_text())["state"] if path.exists() else None for path in records]
    assert states == ["completed", "stopped", "stopped", None, None]
    assert len(list(tree.glob("results/runs/toy/*/saved"))) == 2
    for path in records[:3]:
        (start,) = json.loads(path.read_text())["starts"]
        assert start["ended"]
        assert not submissions.is_alive(start)
    rows = json.loads(launch("status", "--json").out)
    assert [row["state"] for row in rows] == ["completed", "stopped", "stopped", "cancelled", "cancelled"]

    (tree / "results" / "runs" / "go").touch()
    again = launch(*STOPPED_GRID)
    assert again.code == 0
    assert "left out: 1 finished" in again.out
    assert "4 completed" in again.out
    second = submissions.load(again.submission)
    first_lines = [second.log(run.name).read_text().splitlines()[0] for run in second.runs]
    assert first_lines == ["goes on", "goes on", "begins", "begins"]


def test_a_stop_does_not_wait_for_a_start_that_waits_for_space(tmp_path, make_run, make_submission, monkeypatch):
    """The run whose start is not on the disk yet is stopped once it is."""
    run = make_run("r-a-s0", "import time\ntime.sleep(100)")
    submission = make_submission(run, cluster="local")
    train = submission.code / "tasks" / "toy" / "train.py"
    train.parent.mkdir(parents=True)
    train.write_text("import sys\nexec(sys.argv[1])\n")
    runner, write = Runner(submission, 1), files.write_json
    full, space = threading.Event(), threading.Event()

    def wait_for_space(path, content):
        full.set()
        space.wait(60)
        write(path, content)

    monkeypatch.setattr(files, "write_json", wait_for_space)
    worker = threading.Thread(target=runner.one, args=(run,))
    stop = threading.Thread(target=runner.on_signal, args=(signal.SIGINT, None))
    worker.start()
    assert full.wait(60)
    stop.start()
    stop.join(5)
    was_handled = not stop.is_alive()
    space.set()
    worker.join(60)
    stop.join(60)
    assert was_handled
    assert json.loads(submission.record(run.name).read_text())["state"] == "stopped"


def test_ctrl_c_in_the_terminal_reaches_each_run_once(start_launcher, tree, wait_for):
    """The terminal signals the whole group; a second signal would not let a run save."""
    process = start_launcher(*STOPPED_GRID)
    wait_for(lambda: len(list(tree.glob("results/runs/toy/*/began"))) == 3)
    groups = [os.getpgid(int(pid)) for pid in children(process.pid)]
    assert len(groups) == 2
    assert os.getpgid(process.pid) not in groups


def children(pid):
    """Numbers of the processes that a process has started."""
    return [pid for task in Path(f"/proc/{pid}/task").iterdir() for pid in (task / "children").read_text().split()]


def test_cancel_stops_a_local_submission(start_launcher, launch, tree, wait_for):
    process = start_launcher(*STOPPED_GRID)
    wait_for(lambda: len(list(tree.glob("results/runs/toy/*/began"))) == 3)
    (submission,) = submissions.every()
    told = launch("cancel", submission.id)
    assert told.code == 0
    assert "2 running" in told.out
    assert "2 queued" in told.out
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(list(tree.glob("results/runs/toy/*/saved"))) == 2


def test_a_finished_run_whose_folder_was_deleted_is_made_again(launch):
    told = launch("submit", "toy", "--set", "width=1", "--cluster", "local")
    submission = submissions.load(told.submission)
    submission.changed(runner=this_process() | {"began": 0.0})  # the launcher has ended
    shutil.rmtree(submission.runs[0].folder)
    (row,) = json.loads(launch("status", "--json").out)
    assert (row["state"], row["reason"]) == ("stopped", "it had finished; its folder holds no results any more")
    assert "1 of 1 runs to do" in launch("resubmit", told.submission, "--dry-run").out


def test_cancel_of_another_users_submission_is_one_line(launch, monkeypatch):
    def refuse(number, sent):
        raise PermissionError(1, "Operation not permitted")

    told = launch("submit", "toy", "--set", "width=1", "does=raise SystemExit(143)", "--cluster", "local")
    submission = submissions.load(told.submission)
    record = submission.record(submission.runs[0].name)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"state": "running"}))
    submission.changed(runner=this_process())
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        answer = launch("cancel", told.submission)
    assert answer.code == 2
    assert f"{told.submission} belongs to {submission.folder.owner()}, who alone can cancel it" in answer.line


def test_cancel_from_another_host_names_that_of_the_launcher(launch, tree):
    told = launch("submit", "toy", "--set", "width=1", "does=raise SystemExit(143)", "--cluster", "local")
    submission = submissions.load(told.submission)
    submission.changed(runner={**this_process(), "host": "login2"})
    assert (
        launch("cancel", told.submission).out == "nothing of it is queued or running here; it was started on login2\n"
    )


def test_runs_whose_launcher_was_killed_are_still_shown_and_can_be_cancelled(start_launcher, launch, tree, wait_for):
    process = start_launcher(*STOPPED_GRID)
    wait_for(lambda: len(list(tree.glob("results/runs/toy/*/began"))) == 3)
    process.kill()
    process.communicate(timeout=60)
    rows = json.loads(launch("status", "--json").out)
    assert [row["state"] for row in rows] == ["completed", "running", "running", "cancelled", "cancelled"]
    launch("cancel", rows[0]["submission"])
    wait_for(lambda: len(list(tree.glob("results/runs/toy/*/saved"))) == 2)
    rows = wait_for(
        lambda: (
            [r for r in json.loads(launch("status", "--json").out) if r["state"] == "lost"][1:]
            and json.loads(launch("status", "--json").out)
        )
    )
    assert [row["state"] for row in rows] == ["completed", "lost", "lost", "cancelled", "cancelled"]
