"""`status` and `logs`: what they say of runs, from folders that are made here."""

import dataclasses
import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from slurm import __main__ as cli
from slurm import squeue, status, submissions
from slurm.submissions import this_process

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
GONE = {"pid": 1, "began": 0.0, "host": "node7"}
NAMES = [f"three_phase-cifar100-mobilenet_v2-{i:08x}-s{i}" for i in range(12)]


def at(seconds):
    """A moment after noon."""
    return (NOON + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def start(begun=0, ended=None, **fields):
    """A start in a record."""
    end = {} if ended is None else {"ended": at(ended)}
    return {"time": at(begun), "job": "1", "checkpoint": "", **GONE, **end, **fields}


def write_record(submission, run, state, *starts, reason=""):
    """What a job writes down."""
    content = {"state": state, "reason": reason, "starts": list(starts)}
    submission.record(run.name).write_text(json.dumps(content))


def write_run(run, *, epochs=(), of=None, starts=1, result=None):
    """A run directory: epochs as (phase, validation accuracy, seconds, images per second)."""
    folder = Path(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["phase,epoch,rate,loss,accuracy,val_loss,val_accuracy,seconds,images_per_second"]
    lines += [f"{phase},1,0.1,1.0,0.5,1.0,{accuracy},{took},{rate}" for phase, accuracy, took, rate in epochs]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    (folder / "environment.json").write_text(json.dumps({"epochs": of, "starts": [{"host": "n"}] * starts}))
    if result:
        (folder / "metrics.json").write_text(json.dumps(result))


@pytest.fixture
def one(make_submission, make_run):
    """A submission of one run on SLURM, as job 100."""

    def make(**fields):
        run = make_run(NAMES[0])
        values = {"jobs": {run.name: "100"}} | fields
        return make_submission(run, **values), run

    return make


def row_of(submission):
    (row,) = status.rows([submissions.load(submission.id)], accounts=True)
    return row


# States


def test_completed(one, fake_slurm):
    submission, run = one()
    write_run(run, epochs=[("head", 0.5, 10, 100)], of=1, result={"status": "completed"})
    write_record(submission, run, "running", start())  # the job was killed after its work was done
    row = row_of(submission)
    assert (row.state, row.reason, row.val_accuracy, row.epoch, row.epochs) == ("completed", "", 0.5, 1, 1)
    assert row.eta is None


def test_diverged(one, fake_slurm):
    submission, run = one()
    write_run(run, of=3, result={"status": "diverged", "diverged": {"reason": "loss is nan at phase head"}})
    row = row_of(submission)
    assert (row.state, row.reason) == ("diverged", "loss is nan at phase head")


def test_failed(one, fake_slurm):
    submission, run = one()
    write_record(submission, run, "failed", start(0, 9), reason="disk full")
    fake_slurm.queue(_100="COMPLETING|None")
    assert (row_of(submission).state, row_of(submission).reason) == ("failed", "disk full")


def test_queued(one, fake_slurm):
    submission, _ = one()
    fake_slurm.queue(_100="PENDING|QOSMaxJobsPerUserLimit")
    row = row_of(submission)
    assert (row.state, row.reason, row.job) == ("queued", "QOSMaxJobsPerUserLimit", "100")
    assert (row.elapsed, row.eta, row.epoch, row.host) == (None, None, None, None)


def test_running(one, fake_slurm):
    submission, run = one()
    write_record(submission, run, "running", start())
    write_run(run, epochs=[("head", 0.25, 10, 100), ("full", 0.75, 20, 50)], of=6)
    fake_slurm.queue(_100="RUNNING|None")
    row = row_of(submission)
    assert (row.state, row.reason, row.phase, row.host) == ("running", "", "full", "node7")
    assert (row.val_accuracy, row.images_per_second) == (0.75, 50)


@pytest.mark.parametrize("word", ["COMPLETING", "CONFIGURING", "SUSPENDED"])
def test_other_states_of_a_running_job_are_shown(one, fake_slurm, word):
    submission, run = one()
    write_record(submission, run, "running", start())
    fake_slurm.queue(_100=f"{word}|None")
    row = row_of(submission)
    assert (row.state, row.reason) == ("running", word.lower())


def test_requeued(one, fake_slurm):
    submission, run = one()
    write_record(submission, run, "requeued", start(0, 60))
    fake_slurm.queue(_100="PENDING|BeginTime")
    row = row_of(submission)
    assert (row.state, row.reason, row.elapsed) == ("requeued", "BeginTime", 60)


@pytest.mark.parametrize(
    "entry",
    [
        "PENDING|JobHeldUser",
        "PENDING|launch failed requeued held",
        "REQUEUE_HOLD|JobHoldMaxRequeue",
        "SPECIAL_EXIT|None",
    ],
)
def test_held_says_what_lets_it_go_on(one, fake_slurm, entry):
    submission, run = one()
    write_record(submission, run, "requeued", start(0, 60))
    fake_slurm.queue(_100=entry)
    row = row_of(submission)
    assert (row.state, row.reason) == ("held", f"{entry.split('|')[1]}; `scontrol release 100` lets it go on")
    assert "held" in status.ACTIVE  # so it is not submitted a second time
    assert "held" not in status.UNDER_WAY  # nobody waits for it


def test_a_threshold_is_no_hold(one, fake_slurm):
    submission, _ = one()
    fake_slurm.queue(_100="PENDING|QOSUsageThreshold")
    assert row_of(submission).state == "queued"


def test_squeue_is_asked_for_every_job_of_the_user(fake_slurm, monkeypatch):
    """Hidden partitions too, and whatever SQUEUE_* asks for."""
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    fake_slurm.add("squeue", 'echo "100|PENDING|${SQUEUE_STATES:-Priority}"')
    assert squeue.listed().get("100") == squeue.Entry("PENDING", "Priority")
    assert "--all" in fake_slurm.calls("squeue")[0]


def test_lines_that_a_wrapper_adds_are_no_answer(fake_slurm):
    fake_slurm.add(
        "squeue", "echo 'Your project has 5 GPUh'; case \"$*\" in *Restart*) echo 3;; *) echo 'RUNNING|None';; esac"
    )
    assert squeue.entry("100") == squeue.Entry("RUNNING", "None")
    assert squeue.restarts("100") == 3


def test_stopped(one, fake_slurm):
    submission, run = one()
    write_record(submission, run, "stopped", start(0, 60), reason="stopped by SIGTERM")
    assert (row_of(submission).state, row_of(submission).reason) == ("stopped", "stopped by SIGTERM")


def test_cancelled(one, fake_slurm):
    submission, run = one(cancelled=True)
    assert row_of(submission).state == "cancelled"
    write_record(submission, run, "stopped", start(0, 60), reason="stopped by SIGTERM")
    assert row_of(submission).state == "cancelled"
    fake_slurm.queue(_100="COMPLETING|None")
    assert row_of(submission).state == "running"


@pytest.mark.parametrize("written", [None, "running", "requeued"])
def test_lost(one, fake_slurm, written):
    submission, run = one()
    if written:
        write_record(submission, run, written, start())
    row = row_of(submission)
    assert row.state == "lost"
    assert "queue" in row.reason


def test_submission_cancelled_by_another_way_is_not_running(one, fake_slurm):
    """After a scancel by hand: the job is gone, whatever it wrote last."""
    submission, run = one()
    write_record(submission, run, "running", start())
    fake_slurm.queue(_101="RUNNING|None")
    assert row_of(submission).state == "lost"


@pytest.mark.parametrize(
    ("written", "alive", "state"),
    [
        (None, True, "queued"),
        ("running", True, "running"),
        ("stopped", True, "stopped"),
        (None, False, "cancelled"),
        ("running", False, "lost"),
        ("stopped", False, "stopped"),
        ("failed", False, "failed"),
        ("killed", False, "failed"),  # as it says within an allocation; nobody requeues it
    ],
)
def test_local_states(one, programs, written, alive, state):
    submission, run = one(cluster="local", jobs={}, runner=this_process() if alive else GONE)
    if written:
        write_record(submission, run, written, start())
    assert row_of(submission).state == state


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("running", "it was started on node7; only that host can tell whether it still runs"),
        (None, "it had not begun; its launcher was started on node7, and may still run there"),
    ],
)
def test_local_run_of_another_host_says_where_to_look(one, programs, written, said):
    submission, run = one(cluster="local", jobs={}, runner=GONE)
    if written:
        write_record(submission, run, written, start())
    assert row_of(submission).reason == said


def test_local_run_outlives_its_launcher(one, programs):
    submission, run = one(cluster="local", jobs={}, runner=GONE)
    write_record(submission, run, "running", start(**this_process()))
    row = row_of(submission)
    assert row.state == "running"
    assert "the launcher has ended" in row.reason


@pytest.mark.parametrize(
    "content", ["", "[]", '{"state": "running"}', '{"state": "running", "reason": "", "starts": [{"pid": -1}]}']
)
def test_damaged_record_of_starts_is_shown_as_that(one, fake_slurm, content):
    submission, run = one()
    submission.record(run.name).write_text(content)
    row = row_of(submission)
    assert row.state == "damaged"
    assert row.reason.startswith("damaged: ")
    assert f"{run.name}.json" in row.reason


@pytest.mark.parametrize("closed", ["folder", "record"])
def test_files_that_another_user_has_closed_are_shown_as_that(one, fake_slurm, monkeypatch, closed):
    """As with a umask of 077; root, who may run the tests, can read everything."""
    submission, run = one()
    path = {"folder": Path(run.folder) / "environment.json", "record": submission.record(run.name)}[closed]
    is_file = Path.is_file

    def refuse(asked):
        if asked == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(asked))
        return is_file(asked)

    monkeypatch.setattr(Path, "is_file", refuse)
    row = row_of(submission)
    assert row.state == "damaged"
    assert row.reason.endswith(f"Permission denied: {str(path)!r}")


def test_names_that_look_like_markup_are_shown_as_they_are(make_submission, make_run, capsys, monkeypatch, fake_slurm):
    label = "dataset=image_folder:/s[v1] [/red]"
    make_submission(make_run("r-[b]-aaaa1111-s0", label=label), make_run("r-bbbb2222-s0", label="[red]"))
    monkeypatch.setattr(sys, "argv", ["slurm", "status"])
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().out
    assert label in printed
    assert "[red]" in printed


# SLURM's answers


@pytest.mark.parametrize("body", ["exit 1", None])
@pytest.mark.parametrize(("written", "state"), [("running", "running"), (None, "queued"), ("stopped", "stopped")])
def test_without_an_answer_of_squeue_it_is_what_the_run_wrote(one, fake_slurm, body, written, state):
    submission, run = one()
    if written:
        write_record(submission, run, written, start())
    if body:
        fake_slurm.add("squeue", body)
    else:
        (fake_slurm.bin / "squeue").unlink()
    row = row_of(submission)
    assert row.state == state
    assert "squeue does not answer" in row.reason


def test_squeue_that_hangs_is_not_waited_for(one, fake_slurm, monkeypatch):
    submission, _ = one()
    fake_slurm.add("squeue", "exec sleep 600")
    monkeypatch.setattr(squeue, "PATIENCE", 0.1)
    assert "squeue does not answer" in row_of(submission).reason


def test_squeue_is_asked_once_and_for_this_user(make_submission, make_run, fake_slurm):
    runs = [make_run(name) for name in NAMES]
    submission = make_submission(*runs, jobs={run.name: f"100_{i}" for i, run in enumerate(runs)})
    fake_slurm.queue(_100_0="RUNNING|None", _100_1="PENDING|JobArrayTaskLimit", _7="RUNNING|None")
    states = [row.state for row in status.rows([submission])]
    assert states == ["running", "queued"] + ["lost"] * 10
    (call,) = fake_slurm.calls("squeue")
    assert call[call.index("--user") + 1] == str(os.getuid())
    assert "--array" in call


def test_squeue_is_asked_for_those_who_submitted(make_submission, make_run, fake_slurm, monkeypatch):
    """Several people may use one clone."""
    monkeypatch.setattr(submissions.Submission, "owner", property(lambda made: 7 if "-13" in made.id else 8))
    made = [
        make_submission(make_run(name), name=f"toy-20260131-{hour}0000", jobs={name: f"{hour}0"})
        for hour, name in ((12, "a"), (13, "b"))
    ]
    fake_slurm.add("squeue", 'case "$*" in *"--user 7,8 "*) echo "120|RUNNING|None"; echo "130|RUNNING|None";; esac')
    assert [row.state for row in status.rows(made)] == ["running"] * 2


def test_squeue_is_not_asked_when_all_is_done(one, fake_slurm):
    submission, run = one()
    write_run(run, result={"status": "completed"})
    assert row_of(submission).state == "completed"
    assert fake_slurm.calls("squeue") == []


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("OUT_OF_MEMORY", "failed"),
        ("FAILED", "failed"),
        ("NODE_FAIL", "lost"),
        ("PREEMPTED", "lost"),
        ("TIMEOUT", "lost"),
        ("CANCELLED by 1000", "cancelled"),
    ],
)
@pytest.mark.parametrize("version", ["22.05", "23.02"])
def test_sacct_says_how_a_lost_run_ended(one, fake_slurm, told, state, version):
    """Before 23.02 it has no --array."""
    submission, _ = one()
    old = 'case "$*" in *--array*) echo "sacct: unrecognized option" >&2; exit 1;; esac; ' * (version == "22.05")
    fake_slurm.add("sacct", f"{old}echo '100|{told}'")
    row = row_of(submission)
    assert (row.state, row.reason) == (state, f"SLURM says {told.split()[0]}")


def test_a_finished_run_whose_folder_was_moved_is_not_lost(one, fake_slurm):
    """Its keeper would begin it again."""
    submission, run = one(keeper="9000")
    fake_slurm.queue(_9000="PENDING|Dependency")
    submission.job_log("100").parent.mkdir()
    submission.job_log("100").touch()
    write_record(submission, run, "completed", start(0, 60))
    row = row_of(submission)
    assert (row.state, row.reason) == ("stopped", "it had finished; its folder holds no results any more")


def test_sacct_of_an_array_is_read_by_its_elements(make_submission, make_run, fake_slurm):
    runs = [make_run(name) for name in NAMES[:3]]
    submission = make_submission(*runs, jobs={run.name: f"100_{i}" for i, run in enumerate(runs)})
    fake_slurm.add("sacct", "echo '100_0|OUT_OF_MEMORY'; echo '100_1|TIMEOUT'")
    assert [(row.state, row.reason) for row in status.rows([submission], accounts=True)] == [
        ("failed", "SLURM says OUT_OF_MEMORY"),
        ("lost", "SLURM says TIMEOUT"),
        ("lost", "no longer in SLURM's queue, and it wrote no reason"),
    ]
    (call,) = fake_slurm.calls("sacct")
    assert call[call.index("--jobs") + 1] == "100"


def test_sacct_is_not_asked_every_other_second(one, fake_slurm):
    submission, _ = one()
    fake_slurm.add("sacct", "echo '100|FAILED'")
    assert [row.state for row in status.rows([submission])] == ["lost"]
    assert fake_slurm.calls("sacct") == []


@pytest.mark.parametrize("told", ["PENDING", "RUNNING", "COMPLETED"])
def test_sacct_that_lags_behind_does_not_make_a_run_failed(one, fake_slurm, told):
    submission, _ = one()
    fake_slurm.add("sacct", f"echo '100|{told}'")
    assert row_of(submission).state == "lost"


def test_a_failed_run_that_slurm_has_requeued_is_requeued(one, fake_slurm):
    """One of several nodes fails: the first process sees an error, and SLURM, later, the node."""
    submission, run = one()
    write_record(submission, run, "failed", start(0, 60), reason="another process has ended")
    fake_slurm.queue(_100="PENDING|BeginTime")
    assert row_of(submission).state == "requeued"
    fake_slurm.queue()
    assert row_of(submission).state == "failed"


@pytest.mark.parametrize("body", [None, "echo 'Slurm accounting storage is disabled' >&2; exit 1"])
def test_without_accounts_a_lost_run_is_lost(one, fake_slurm, body):
    submission, _ = one()
    if body:
        fake_slurm.add("sacct", body)
    assert row_of(submission).state == "lost"


def test_a_lost_run_is_shown_with_the_last_line_of_its_job(one, fake_slurm):
    submission, _ = one()
    folder = submission.folder / "submitit"
    folder.mkdir()
    words = "slurmstepd: error: *** STEP 100.0 ON node1 CANCELLED AT 2026-01-31T12:00:00 DUE TO TIME LIMIT ***"
    (folder / "100_0_log.err").write_text(f"first\n{words}\n\n")
    row = row_of(submission)
    assert row.state == "lost"
    assert row.reason.endswith(words)


# Times and counts


def test_times_by_hand(one, fake_slurm, monkeypatch):
    """Two starts of 60 and 30 s that were stopped, and one since 15 s; 4 of 10 epochs, the last in 12.5 s."""
    submission, run = one()
    write_record(submission, run, "running", start(0, 60), start(100, 130), start(200))
    write_run(run, epochs=[("head", 0.1, 99, 1)] * 3 + [("full", 0.2, 12.5, 40)], of=10, starts=3)
    fake_slurm.queue(_100="RUNNING|None")
    freeze(monkeypatch, 215)
    row = row_of(submission)
    assert row.elapsed == 60 + 30 + 15
    assert row.eta == 6 * 12.5
    assert (row.epoch, row.epochs, row.restarts) == (4, 10, 2)


def freeze(monkeypatch, seconds):
    """Let it be so many seconds after noon."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return NOON.astimezone(tz) + timedelta(seconds=seconds)

    monkeypatch.setattr(status, "datetime", Clock)


def test_elapsed_leaves_out_what_was_not_written_down(one, fake_slurm, monkeypatch):
    """A start whose node died has no end; it has not run until now, for there is a later one."""
    submission, run = one()
    write_record(submission, run, "running", start(0), start(1000))
    fake_slurm.queue(_100="RUNNING|None")
    freeze(monkeypatch, 1010)
    assert row_of(submission).elapsed == 10


def test_run_that_has_ended_has_no_time_left(one, fake_slurm):
    submission, run = one()
    write_record(submission, run, "failed", start(0, 60), reason="x")
    write_run(run, epochs=[("head", 0.1, 10, 1)], of=10)
    assert (row_of(submission).eta, row_of(submission).elapsed) == (None, 60)


def test_run_before_its_first_epoch(one, fake_slurm):
    submission, run = one()
    write_record(submission, run, "running", start())
    write_run(run, of=10)
    fake_slurm.queue(_100="RUNNING|None")
    row = row_of(submission)
    assert (row.epoch, row.epochs, row.eta, row.phase, row.restarts) == (None, 10, None, None, 0)


# The table


@pytest.fixture
def all_states(make_submission, make_run, fake_slurm):
    """A submission with long names, and a run in each of many states."""
    runs = [make_run(name, label=f"dataset=cifar100 phases.1.rate={3 * i}e-05") for i, name in enumerate(NAMES[:8])]
    submission = make_submission(*runs, jobs={run.name: f"100_{i}" for i, run in enumerate(runs)}, title="sweep s")
    done, diverged, failed, running, requeued, stopped, *_ = runs
    write_run(done, epochs=[("last_block", 0.93123, 10, 12345.6)] * 25, of=25, result={"status": "completed"})
    write_run(diverged, result={"status": "diverged", "diverged": {"reason": "loss is nan at phase head, epoch 1"}})
    write_record(submission, failed, "failed", start(0, 9), reason="cannot write /a/long/path: No space left on device")
    for run in (running, requeued):
        write_run(run, epochs=[("last_block", 0.5, 100, 1500)] * 7, of=25, starts=3)
    write_record(submission, running, "running", start(0, 3600))
    write_record(submission, requeued, "requeued", start(0, 7200))
    write_record(submission, stopped, "stopped", start(0, 5), reason="stopped by SIGTERM")
    fake_slurm.queue(_100_3="RUNNING|None", _100_4="PENDING|BeginTime", _100_6="PENDING|Priority")
    return submission


STATES = ["completed", "diverged", "failed", "running", "requeued", "stopped", "queued", "lost"]


def printed(submission, width):
    file = io.StringIO()
    rows = status.rows([submission])
    Console(file=file, width=width).print(status.table(rows, {submission.id: submission.title}, width))
    return file.getvalue()


def test_a_narrow_terminal_loses_the_least_important_columns_first(all_states):
    rows, orders = status.rows([all_states]), []
    for width in range(200, 60, -2):
        columns = [column.header for column in status.one_table(rows, width).columns]
        assert {"run", "what", "state", "epoch", "val. acc.", "left"} <= {*columns}
        orders.append(tuple(name for name in status.LEAST_IMPORTANT if name in columns))
    most = orders[0]
    assert list(dict.fromkeys(orders)) == [most[n:] for n in range(len({*orders}))]
    assert len(most) >= 3


@pytest.mark.parametrize("width", [80, 120, 220])
def test_names_and_states_are_whole_at_any_width(all_states, width):
    text = printed(all_states, width)
    for i, state in enumerate(STATES):
        assert re.search(rf"^{i:08x}-s{i} .*\b{state}\b", text, re.MULTILINE), f"{state} at {width} columns:\n{text}"
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_each_run_is_one_line_if_there_is_room(all_states):
    lines = printed(all_states, 220).splitlines()
    assert lines[0] == f"{all_states.id}  sweep s: " + ", ".join(
        f"1 {state}"
        for state in ("completed", "running", "queued", "requeued", "diverged", "failed", "lost", "stopped")
    )
    (running,) = [line for line in lines if re.match(r"00000003-s3 .*running", line)]
    columns = re.split(r" {2,}", running.rstrip())
    for cell in ("last_block", "7/25", "50.00%", "1,500", "1:00:00", "30:00"):
        assert cell in columns
    assert any("No space left on device" in line for line in lines)


def test_json_has_every_row_with_all_of_its_fields(all_states, launch):
    rows = json.loads(launch("status", "--json").out)
    assert [row["state"] for row in rows] == STATES
    assert set(rows[0]) == {field.name for field in dataclasses.fields(status.Row)}
    assert [row["run"] for row in rows] == NAMES[:8]
    assert rows[3]["eta"] == 18 * 100
    assert rows[3]["restarts"] == 2


def test_table_of_many_submissions_names_each_once(make_submission, make_run, fake_slurm, launch):
    made = [
        make_submission(make_run(NAMES[i]), name=f"toy-20260131-1{i}0000", time=at(i), title=f"grid {i}")
        for i in range(3)
    ]
    text = launch("status").out
    assert [text.count(one.id) for one in made] == [1, 1, 1]
    assert launch("status", "toy").out == text
    alone = launch("status", made[1].id).out
    assert "grid 1" in alone
    assert "grid 0" not in alone


def test_nothing_submitted_is_reported(launch):
    told = launch("status")
    assert (told.code, told.out.strip()) == (0, "nothing was submitted yet")


def test_status_of_a_submission_shows_its_own_runs_even_if_a_later_one_has_them(make_submission, make_run, fake_slurm):
    run = make_run(NAMES[0])
    first = make_submission(run, make_run(NAMES[1]), name="first", time=at(0))
    make_submission(run, name="second", time=at(1))
    assert [row.run for row in status.rows([first])] == NAMES[:2]


def test_watch_ends_when_nothing_is_under_way(all_states, launch, fake_slurm, monkeypatch):
    """After the second look the queue is empty."""
    looks, sleep = [], time.sleep

    def look_or_sleep(seconds):
        if seconds != status.REFRESH:  # another's
            return sleep(seconds)
        looks.append(seconds)
        if len(looks) == 2:
            fake_slurm.queue()

    monkeypatch.setattr(time, "sleep", look_or_sleep)
    told = launch("status", "--watch")
    assert (told.code, told.err) == (0, "")
    assert len(looks) == 2
    assert "lost" in told.out


# logs


@pytest.fixture
def logged(make_submission, make_run, launch, programs):
    """A local submission of two runs, the first with a log; its launcher is this process."""
    runs = [make_run(name) for name in NAMES[:2]]
    made = make_submission(*runs, cluster="local", runner=this_process())
    made.log(runs[0].name).write_bytes(b"first line\n\xff no text\r50%\r100%\n")
    write_record(made, runs[0], "running", start(**this_process()))
    return made


def test_logs_prints_the_log_as_it_is(logged):
    code = (
        f"import sys; from pathlib import Path; from slurm import submissions, __main__\n"
        f"submissions.FOLDER = Path({str(logged.folder.parent)!r})\n"
        "sys.argv = ['slurm', 'logs', '00000000-s0']\n__main__.main()"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert done.stdout == b"first line\n\xff no text\r50%\r100%\n"


def test_logs_of_a_run_that_has_not_begun_say_so(logged, launch):
    told = launch("logs", "00000001-s1")
    assert told.code == 2
    assert "has no output yet" in told.line
    assert "queued" in told.line


def test_follow_prints_what_comes_and_ends_with_the_run(logged, launch, monkeypatch):
    """The run prints a line at each look, and its last line just before it is done."""
    run = logged.runs[0]
    log = logged.log(run.name)
    log.write_text("one\n")
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        with log.open("a") as file:
            file.write(f"look {len(looks)}\n")
        if len(looks) == 3:
            write_run(run, result={"status": "completed"})

    monkeypatch.setattr(time, "sleep", sleep)
    told = launch("logs", run.name, "--follow")
    assert (told.code, told.err) == (0, "")
    assert told.out == "one\nlook 1\nlook 2\nlook 3\n"


def test_follow_waits_for_a_run_that_is_queued(logged, launch, monkeypatch):
    run = logged.runs[1]

    def sleep(seconds):
        logged.log(run.name).write_text("at last\n")
        write_record(logged, run, "failed", start(0, 1), reason="x")

    monkeypatch.setattr(time, "sleep", sleep)
    assert launch("logs", run.name, "--follow").out == "at last\n"


@pytest.mark.parametrize("queue", [{}, {"_1_0": "PENDING|JobHeldUser"}])
def test_follow_goes_on_while_a_killed_run_waits_for_its_keeper(
    make_submission, make_run, launch, fake_slurm, monkeypatch, queue
):
    """Or for somebody to release it. The keeper submits it again, under another job."""
    run = make_run(NAMES[0])
    made = make_submission(run, jobs={run.name: "1_0"}, keeper="2", profile={})
    write_record(made, run, "killed", start(0, 1), reason="SIGKILL")
    made.job_log("1_0").parent.mkdir()
    made.job_log("1_0").touch()
    made.log(run.name).write_text("one\n")
    fake_slurm.queue(_2="PENDING|Dependency", **queue)
    looks, pause = [], time.sleep

    def sleep(seconds):
        if seconds != status.REFRESH_SLURM:
            return pause(seconds)  # of subprocess
        looks.append(seconds)
        if len(looks) == 1:
            made.changed(jobs={run.name: "3_0"})
            fake_slurm.queue(_3_0="RUNNING|None")
            write_record(made, run, "running", start(0, 1), start(2))
        else:
            made.log(run.name).write_text("one\ntwo\n")
            write_run(run, result={"status": "completed"})
        return None

    monkeypatch.setattr(time, "sleep", sleep)
    told = launch("logs", run.name, "--follow")
    assert (told.out, told.err, len(looks)) == ("one\ntwo\n", "", 2)


def test_logs_of_an_ambiguous_end_name_the_runs(make_submission, make_run, launch):
    make_submission(make_run("demo-a-s0"), make_run("demo-b-s0"))
    told = launch("logs", "s0")
    assert told.code == 2
    assert "demo-a-s0, demo-b-s0" in told.line


@pytest.mark.parametrize(
    ("does", "command"),
    [("print('x' * 1000000)", ("logs", "s0")), ("pass", ("status", "--json"))],
    ids=["much", "less than a buffer"],
)
def test_reader_that_goes_away_is_no_traceback(launch, start_launcher, does, command):
    launch("submit", "toy", "--cluster", "local", "--set", f"does={does}")
    process = start_launcher(*command)
    process.stdout.close()
    errors = process.stderr.read()
    process.wait()
    process.stdout = None
    assert (errors, process.returncode) == ("", 1)
