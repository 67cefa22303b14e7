"""Killed runs go on: by their own batch script, or by the keeper. SLURM's programs are fakes (conftest.py)."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from common.errors import ConfigError
from slurm import again, squeue, status, submissions
from slurm.cluster import Profile

# Down for the first two looks, then up.
COMES_BACK = (
    "n=$(cat looks 2>/dev/null || echo 0); echo $((n + 1)) >looks; [ $n -lt 2 ] && echo ctld is DOWN || echo ctld is UP"
)
UNREACHABLE = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Waits are short."""
    monkeypatch.setattr(squeue, "PAUSE", 0.01)


@pytest.fixture
def killed(make_submission, make_run, fake_slurm, monkeypatch):
    """Two runs; the first was killed while it ran, as job 100_0, and the second is job 100_1."""
    monkeypatch.setenv("SLURM_JOB_ID", "9000")
    runs = [make_run(f"demo-s{seed}", seed=seed) for seed in (0, 1)]
    jobs = {run.name: f"100_{run.seed}" for run in runs}
    made = make_submission(*runs, jobs=jobs, keeper="9000", profile=vars(Profile()))
    for run in runs:
        begin(made, run)
    return made


def begin(submission, run, state="running"):
    """What a job leaves that has begun."""
    log = submission.job_log(submission.jobs[run.name])
    log.parent.mkdir(exist_ok=True)
    log.touch()
    write(submission, run, state=state)


def write(submission, run, **fields):
    """Change the record of a run."""
    path = submission.record(run.name)
    start = {"time": "2026-01-31T12:00:00+00:00", "host": "n1", "pid": 1, "began": 0.0, "checkpoint": ""}
    path.write_text(json.dumps({"reason": "", "starts": [start], **submissions.recorded(path), **fields}))


def finish(run):
    Path(run.folder).mkdir(parents=True)
    (Path(run.folder) / "metrics.json").write_text('{"status": "completed"}')


def states(submission):
    return [row.state for row in status.rows([submissions.load(submission.id)])]


def requeued(fake_slurm):
    """The jobs that were requeued."""
    return [call[1] for call in fake_slurm.calls("scontrol") if call[0] == "requeue"]


# The end of a batch script


def test_killed_run_is_requeued(killed, fake_slurm):
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    for written in ("running", "killed", "requeued"):
        write(killed, killed.runs[0], state=written, killed=[])
        again.requeue(killed, "100_0")
    assert requeued(fake_slurm) == ["100_0"] * 3


@pytest.mark.parametrize("written", ["failed", "stopped"])
def test_run_that_ended_by_itself_is_not_requeued(killed, fake_slurm, written):
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    write(killed, killed.runs[0], state=written)
    again.requeue(killed, "100_0")
    assert requeued(fake_slurm) == []


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING"])
def test_job_that_slurm_has_taken_away_is_not_requeued(killed, fake_slurm, state):
    fake_slurm.add("squeue", f"echo '{state}|None'")
    again.requeue(killed, "100_0")
    assert requeued(fake_slurm) == []


def test_finished_run_is_not_requeued(killed, fake_slurm):
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    finish(killed.runs[0])
    again.requeue(killed, "100_0")
    assert requeued(fake_slurm) == []


def test_run_that_gets_nowhere_fails_after_five_starts(killed, fake_slurm):
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    run = killed.runs[0]
    for _ in range(5):
        again.requeue(killed, "100_0")
    record = submissions.recorded(killed.record(run.name))
    assert (record["state"], record["reason"]) == ("failed", "killed in 5 starts without a new checkpoint")
    assert len(requeued(fake_slurm)) == 4


def test_run_that_gets_on_is_requeued_for_ever(killed, fake_slurm):
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    checkpoints = Path(killed.runs[0].folder) / "checkpoints"
    checkpoints.mkdir(parents=True)
    for step in range(6):
        (checkpoints / f"step-{step // 2:09d}-0123456789abcdef.safetensors").touch()
        again.requeue(killed, "100_0")
    assert len(requeued(fake_slurm)) == 6


def test_controller_that_is_down_is_waited_for(killed, fake_slurm):
    fails = "n=$(cat {0} 2>/dev/null || echo 0); echo $((n + 1)) >{0}; [ $n -lt {1} ] && exit 1"
    fake_slurm.add("squeue", f"{fails.format('asked', 2)}; echo 'RUNNING|None'")
    times = again.REFUSALS + 1  # a controller that is there would not be asked as often
    fake_slurm.add("scontrol", f"[ $1 = ping ] && echo ctld is DOWN && exit; {fails.format('told', times)}; exit 0")
    again.requeue(killed, "100_0")
    assert requeued(fake_slurm) == ["100_0"] * (times + 1)  # the last of which it heard


def test_controller_that_refuses_is_not_asked_for_an_hour(killed, fake_slurm):
    """A site may forbid to requeue: the processor would be held idle; the keeper submits the run again."""
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    fake_slurm.add("scontrol", "[ $1 = ping ] && echo 'Slurmctld(primary) is UP' || exit 1")
    with pytest.raises(ConfigError, match="does not requeue job 100_0"):
        again.requeue(killed, "100_0")
    assert len(requeued(fake_slurm)) == again.REFUSALS


def test_node_without_squeue_does_not_wait_for_it(killed, fake_slurm):
    (fake_slurm.bin / "squeue").unlink()
    again.requeue(killed, "100_0")
    assert requeued(fake_slurm) == []


def test_run_that_never_began_fails_with_the_words_of_its_job(killed, fake_slurm):
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    run = killed.runs[0]
    write(killed, run, starts=[])
    killed.job_log("100_0").write_text("srun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_NODE exclude each other\n")
    for _ in range(5):
        again.requeue(killed, "100_0")
    reason = submissions.recorded(killed.record(run.name))["reason"]
    assert reason.startswith(
        "killed in 5 starts without a new checkpoint; its job's log ends with: srun: fatal: SLURM_M"
    )


# What the end of a run sees to


def test_job_that_is_held_after_a_failed_launch_is_released(killed, fake_slurm):
    fake_slurm.queue(
        _100_0="PENDING|launch failed requeued held", _100_1="PENDING|JobHeldUser", _9000="PENDING|Dependency"
    )
    again.watch(killed.id)
    assert [call for call in fake_slurm.calls("scontrol") if call[0] == "release"] == [["release", "100_0"]]


def test_keeper_that_slurm_has_forgotten_is_submitted_again(killed, fake_slurm, read_directives):
    fake_slurm.queue(_100_1="RUNNING|None")
    again.watch(killed.id)
    assert read_directives(fake_slurm.keeper)["dependency"] == "afterany:100"
    assert submissions.load(killed.id).keeper == "9000"  # the number that the stand-in for sbatch gives
    assert fake_slurm.scripts == []


@pytest.mark.parametrize(
    "queue", [{"_9000": "PENDING|Dependency", "_100_1": "RUNNING|None"}, {"_9000": "CANCELLED|None"}, {}]
)
def test_keeper_that_is_there_or_not_needed_is_not_submitted_again(killed, fake_slurm, queue):
    fake_slurm.queue(**queue)
    again.watch(killed.id)
    assert fake_slurm.calls("sbatch") == []


@pytest.mark.parametrize("fields", [{"keeper": None}, {"cancelled": True}])
def test_keeper_that_was_refused_or_cancelled_stays_away(killed, fake_slurm, fields):
    killed.changed(**fields)
    fake_slurm.queue(_100_1="RUNNING|None")
    again.watch(killed.id)
    assert fake_slurm.calls("sbatch") == []


def test_keeper_is_not_lost_while_squeue_does_not_answer(killed, fake_slurm):
    fake_slurm.add("squeue", "exit 1")
    again.watch(killed.id)
    assert fake_slurm.calls("sbatch") == []


# The keeper


@pytest.mark.parametrize(("code", "restarts", "requeues"), [(0, 0, False), (1, 0, True), (1, 9, True), (1, 10, False)])
def test_a_killed_keeper_is_requeued_ten_times(killed, fake_slurm, code, restarts, requeues):
    """By the end of its batch script, which the controller may not hear at once."""
    again.keep(killed.id)
    (last,) = [line for line in fake_slurm.keeper.splitlines() if "scontrol requeue" in line]
    fake_slurm.add("sleep", ":")
    fake_slurm.add("scontrol", "[ -e heard ] || { touch heard; exit 1; }")
    variables = os.environ | {"SLURM_JOB_ID": "9000", "SLURM_RESTART_COUNT": str(restarts)}
    subprocess.run(["/bin/bash", "-c", f"(exit {code})\n{last}"], env=variables, cwd=fake_slurm.folder, check=False)
    assert requeued(fake_slurm) == ["9000", "9000"] * requeues


@pytest.mark.parametrize(
    ("slurm_says", "why", "state"),
    [
        ("FAILED", "JobLaunchFailure", "queued"),
        ("CANCELLED", "None", "cancelled"),
        ("NODE_FAIL", "None", "queued"),
        (None, "None", "cancelled"),
        (None, "JobLaunchFailure", "queued"),
        (None, "requeued", "queued"),  # and its next start was killed before it was written down
        (None, "", "queued"),  # the controller was away, which is needed for scancel
    ],
)
def test_keeper_tells_a_killed_batch_script_from_scancel(killed, fake_slurm, slurm_says, why, state):
    """In both cases SLURM tells the job to end, and the run saves. SLURM forgets how it ended after minutes."""
    finish(killed.runs[1])
    write(killed, killed.runs[0], state="stopped", terminated=True, why=why)
    told = f"echo '100_0|{slurm_says}|None'" if slurm_says else ":"
    fake_slurm.add("squeue", f"case \"$*\" in *--states=all*) {told};; esac; echo '9000|RUNNING|None'")
    # If there was no reason to end, nobody has to wait for the keeper to learn that it was cancelled.
    assert states(killed)[0] == ("cancelled" if why == "None" else "killed")
    again.keep(killed.id)
    assert len(fake_slurm.scripts) == (state == "queued")
    fake_slurm.queue()
    fake_slurm.add("squeue", "echo '100|PENDING|Priority'")
    assert states(killed)[0] == ("requeued" if state == "queued" else state)


def test_what_was_cancelled_is_written_down_before_slurm_forgets_it(killed, fake_slurm):
    """A job that was requeued, and cancelled while it waited, has left a record that knows of the requeue alone."""
    for run in killed.runs:
        write(killed, run, state="stopped", terminated=True, why="requeued")
    fake_slurm.queue(_100_0="CANCELLED|None", _100_1="RUNNING|None", _9000="PENDING|Dependency")
    again.watch(killed.id)
    fake_slurm.queue(_9000="RUNNING|None")  # minutes later, in the keeper
    assert states(killed) == ["cancelled", "killed"]
    again.keep(killed.id)
    assert len(fake_slurm.scripts) == 1
    assert submissions.load(killed.id).jobs[killed.runs[0].name] == "100_0"


def test_a_run_that_failed_stays_failed_if_its_job_is_cancelled(killed, fake_slurm):
    write(killed, killed.runs[0], state="failed", reason="a fault of its own")
    fake_slurm.queue(_100_0="CANCELLED|None", _9000="PENDING|Dependency")
    again.watch(killed.id)
    assert submissions.recorded(killed.record(killed.runs[0].name))["reason"] == "a fault of its own"


def test_a_run_that_its_batch_script_requeued_is_not_taken_for_cancelled(killed, fake_slurm):
    """The controller is killed before it has written the requeue down, and tells the run to end for no reason."""
    finish(killed.runs[1])
    write(killed, killed.runs[0])
    fake_slurm.add("squeue", "echo 'RUNNING|None'")
    again.requeue(killed, "100_0")
    record = submissions.recorded(killed.record(killed.runs[0].name))
    write(killed, killed.runs[0], **record | {"state": "stopped", "terminated": True, "why": "None"})
    fake_slurm.add("squeue", "echo '9000|RUNNING|None'")
    again.keep(killed.id)
    assert len(fake_slurm.scripts) == 1


def test_keeper_submits_killed_runs_again(killed, fake_slurm, read_directives):
    finish(killed.runs[1])
    assert states(killed) == ["lost", "completed"]
    fake_slurm.queue(_9000="RUNNING|None")
    assert states(killed) == ["killed", "completed"]
    again.keep(killed.id)
    (script,) = fake_slurm.scripts
    assert "array" not in read_directives(script)
    after = submissions.load(killed.id)
    assert after.jobs == {"demo-s0": "100", "demo-s1": "100_1"}
    assert read_directives(fake_slurm.keeper)["dependency"] == "afterany:100"
    fake_slurm.queue(_100="PENDING|Resources", _9000="PENDING|Dependency")
    assert states(killed) == ["requeued", "completed"]


def test_keeper_waits_on_for_what_is_under_way(killed, fake_slurm, read_directives):
    finish(killed.runs[1])
    fake_slurm.queue(_9000="RUNNING|None", _100_0="PENDING|BeginTime")
    again.keep(killed.id)
    assert fake_slurm.scripts == []
    assert read_directives(fake_slurm.keeper)["dependency"] == "afterany:100"


def test_refused_submission_is_no_start_without_progress(killed, fake_slurm):
    """Job limits, used-up hours: the run has not even begun."""
    finish(killed.runs[1])
    fake_slurm.queue(_9000="RUNNING|None")
    fake_slurm.refuse(after=0, words="job limit")
    before = submissions.recorded(killed.record("demo-s0"))
    for _ in range(6):
        with pytest.raises(ConfigError, match="job limit"):
            again.keep(killed.id)
    assert submissions.recorded(killed.record("demo-s0")) == before
    assert states(killed)[0] == "killed"


def test_killed_run_names_what_its_keeper_waits_for(killed, fake_slurm):
    fake_slurm.queue(_9000="PENDING|QOSMinGRES", _100_1="RUNNING|None")
    assert status.rows([killed])[0].reason.endswith("when the others have ended, and waits for QOSMinGRES")
    fake_slurm.queue(_9000="PENDING|Dependency", _100_1="RUNNING|None")
    assert status.rows([killed])[0].reason.endswith("when the others have ended")


@pytest.mark.parametrize("written", ["failed", "stopped"])
def test_keeper_leaves_alone_what_ended_by_itself(killed, fake_slurm, written):
    for run in killed.runs:
        write(killed, run, state=written)
    fake_slurm.queue(_9000="RUNNING|None")
    again.keep(killed.id)
    assert fake_slurm.calls("sbatch") == []
    assert states(killed) == [written] * 2


def test_keeper_leaves_alone_what_was_cancelled_by_hand(killed, fake_slurm):
    """The first while it ran, which SLURM remembers; the second before it had begun, which SLURM has forgotten."""
    killed.job_log("100_1").unlink()
    fake_slurm.add(
        "squeue", "case \"$*\" in *--states=all*) echo '100_0|CANCELLED|None';; esac; echo '9000|RUNNING|None'"
    )
    again.keep(killed.id)
    assert fake_slurm.calls("sbatch") == []
    assert states(killed) == ["cancelled"] * 2


def test_keeper_of_a_cancelled_submission_does_nothing(killed, fake_slurm):
    killed.changed(cancelled=True)
    fake_slurm.queue(_9000="RUNNING|None")
    again.keep(killed.id)
    assert fake_slurm.calls("sbatch") == []


def test_keeper_leaves_alone_what_was_submitted_again_by_hand(killed, make_submission, fake_slurm):
    later = make_submission(*killed.runs, name="toy-20260131-130000", time="2026-01-31T13:00:00+00:00", jobs={})
    assert later.id != killed.id
    fake_slurm.queue(_9000="RUNNING|None")
    again.keep(killed.id)
    assert fake_slurm.calls("sbatch") == []


def test_keeper_and_submit_take_turns(killed, make_submission, fake_slurm, capfd, wait_for):
    """Otherwise somebody who sees a killed run submits it while the keeper does."""
    finish(killed.runs[1])
    fake_slurm.queue(_9000="RUNNING|None")
    keeper = threading.Thread(target=again.keep, args=(killed.id,))
    said = ""
    with submissions.alone():
        keeper.start()
        while "waiting for another process" not in said:
            assert keeper.is_alive()
            said += capfd.readouterr().out
        make_submission(killed.runs[0], name="toy-20260131-130000", time="2026-01-31T13:00:00+00:00", jobs={})
    keeper.join()
    assert fake_slurm.calls("sbatch") == []


def test_keeper_gives_up_on_a_run_that_gets_nowhere(killed, fake_slurm):
    finish(killed.runs[1])
    write(killed, killed.runs[0], killed=[""] * 4)
    fake_slurm.queue(_9000="RUNNING|None")
    again.keep(killed.id)
    assert fake_slurm.calls("sbatch") == []
    assert states(killed) == ["failed", "completed"]


def test_keeper_judges_nothing_while_squeue_does_not_answer(killed, fake_slurm, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["again", "keep", killed.id])
    fake_slurm.add("squeue", "exit 1")
    with pytest.raises(SystemExit) as end:
        again.main()
    assert end.value.code == 1
    assert "squeue does not answer" in capsys.readouterr().err
    assert fake_slurm.calls("sbatch") == []


# The launcher


def test_submission_has_a_keeper(launch, fake_slurm, read_directives):
    told = launch("submit", "toy", "--sweep", "colours", "--partition", "gpu", "--gpus", "2")
    found = read_directives(fake_slurm.keeper)
    names = ("job-name", "cpus-per-task", "partition", "dependency", "requeue")
    assert [found[name] for name in names] == ["keep-toy", "1", "gpu", "afterany:100", ""]
    assert "gpus-per-node" not in found
    fake_slurm.queue(_100_0="RUNNING|None", _9000="PENDING|Dependency")
    launch("cancel", told.submission)
    assert fake_slurm.calls("scancel") == [["100"], ["9000"]]


def test_refused_keeper_is_one_line_and_the_runs_go_on(launch, fake_slurm):
    path = fake_slurm.bin / "sbatch"
    path.write_text(path.read_text().replace('cp "$1" keeper', "echo 'sbatch: error: no GPU asked for' >&2; exit 1"))
    told = launch("submit", "toy", "--set", "width=1")
    assert told.code == 0
    (line,) = [line for line in told.out.splitlines() if "no GPU asked for" in line]
    assert "wait for `resubmit`" in line
    assert submissions.load(told.submission).keeper is None


def test_submit_tries_again_while_the_controller_is_away(launch, fake_slurm):
    path = fake_slurm.bin / "sbatch"
    fails = f"if [ ! -e failed ]; then touch failed; echo '{UNREACHABLE}' >&2; exit 1; fi\n"
    path.write_text(path.read_text().replace("if grep", f"{fails}if grep", 1))
    told = launch("submit", "toy", "--set", "width=1")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("sbatch cannot reach SLURM's controller; trying again") == 1
    assert submissions.load(told.submission).jobs == {submissions.load(told.submission).runs[0].name: "100"}


def test_submit_waits_for_a_controller_that_is_down(launch, fake_slurm):
    fake_slurm.add("scontrol", COMES_BACK)
    told = launch("submit", "toy", "--set", "width=1")
    assert told.code == 0
    assert told.out.startswith("SLURM's controller is down (scontrol ping); waiting up to 10 minutes\n")


def test_status_does_not_wait_for_a_controller_that_is_down(launch, fake_slurm):
    """By itself, squeue tries for 20 s."""
    told = launch("submit", "toy", "--set", "width=1")
    fake_slurm.add("scontrol", "echo 'Slurmctld(primary) at n0 is DOWN'")
    fake_slurm.add("squeue", "exec sleep 20")
    began = time.monotonic()
    answer = launch("status", told.submission)
    assert time.monotonic() - began < 10
    assert "squeue does not answer; this is the last state that the run wrote" in answer.out


def test_slow_squeue_is_waited_for(launch, fake_slurm):
    launch("submit", "toy", "--set", "width=1")
    fake_slurm.add("scontrol", "echo 'Slurmctld(primary) at n0 is DOWN'; echo 'Slurmctld(backup) at n1 is UP'")
    fake_slurm.add("squeue", "sleep 1; echo '100|RUNNING|None'")
    assert "left out: 1 running in" in launch("submit", "toy", "--set", "width=1").out


def test_without_an_answer_of_squeue_nothing_is_submitted(launch, fake_slurm):
    launch("submit", "toy", "--set", "width=1")
    fake_slurm.add("squeue", "exit 1")
    told = launch("submit", "toy", "--set", "width=1")
    assert told.code == 2
    assert "squeue does not answer" in told.line
