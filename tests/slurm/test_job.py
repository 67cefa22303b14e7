"""One run as a job. Its train.py is Python from the flags: `flags=("print(1)",)`."""

import dataclasses
import errno
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import cloudpickle
import pytest

from common import files
from slurm.job import Job, RunFailed, wait

# Waits for the file `go` in its working directory; at SIGTERM it ends as train.py does.
WAITS = """
import signal, sys, time
from pathlib import Path
def stop(number, frame):
    print('saved')
    raise SystemExit({code})
signal.signal(signal.SIGTERM, stop)
print('ready')
while not Path('go').exists():
    time.sleep(0.01)
{end}
"""
TELL_PARENT_AND_STOP = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); raise SystemExit(143)"


# Does what it is told and, if that ends well, is finished as train.py is.
TRAIN = """
import os, sys
try:
    exec(sys.argv[1])
except SystemExit as end:
    if end.code:
        raise
os.makedirs({folder!r}, exist_ok=True)
with open({folder!r} + "/metrics.json", "w") as file:
    file.write('{{"status": "completed"}}')
"""


@pytest.fixture(autouse=True)
def own_handlers():
    """The handlers that a job sets end with the test, and SIGUSR2 does not end the tests."""
    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    received = []
    signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make(tmp_path):
    """Makes jobs of the stand-in; children that are left are ended."""
    train = tmp_path / "code" / "tasks" / "stand-in" / "train.py"
    train.parent.mkdir(parents=True)
    train.write_text(TRAIN.format(folder=str(tmp_path / "run")))
    (tmp_path / "work").mkdir()
    made = []

    def job(program="pass", **fields):
        values = {
            "task": "stand-in",
            "flags": (program,),
            "folder": tmp_path / "run",
            "code": tmp_path / "code",
            "directory": tmp_path / "work",
            "record": tmp_path / "record.json",
            "log": tmp_path / "run-0.5-s0.log",
            "backend": "tensorflow",
        }
        made.append(Job(**values | fields))
        return made[-1]

    yield job
    for one in made:
        if one.child:
            if one.child.poll() is None:
                one.child.kill()
            one.child.wait()


def record(job):
    return json.loads(job.record.read_text())


def started(job, wait_for):
    """The job, once its train.py says that it is ready."""
    begun = job.output.stat().st_size if job.output.exists() else 0
    job.start()
    wait_for(lambda: "ready" in job.output.read_text()[begun:])
    return job


def run_and_fail(job):
    """Run a job that must fail, and return the reason."""
    with pytest.raises(RunFailed) as caught:
        job()
    assert record(job)["state"] == "failed"
    assert record(job)["reason"] == str(caught.value)
    return str(caught.value)


# A start, and its record


def test_a_run_that_ends_well_in_another_folder_has_failed(make, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    reason = run_and_fail(make("pass", folder=tmp_path / "elsewhere"))
    assert reason.startswith("it wrote to another folder")


def test_completed_run_is_written_down(make, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    job = make("import os; print('in', os.getcwd())")
    job()
    found = record(job)
    (start,) = found["starts"]
    assert (found["state"], found["reason"]) == ("completed", "")
    assert (start["host"], start["pid"], start["job"], start["checkpoint"]) == (
        socket.gethostname(),
        job.child.pid,
        "17",
        "",
    )
    assert start["time"] <= start["ended"]
    assert job.log.read_text() == f"in {job.directory}\n"


def test_a_run_has_the_backend_of_its_submission(make, monkeypatch):
    """Not that of the job's surroundings."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    job = make("import os; print(os.environ['KERAS_BACKEND'])", backend="jax")
    job()
    assert job.log.read_text() == "jax\n"


def test_record_says_running_while_it_runs(make, wait_for):
    job = started(make(WAITS.format(code=143, end="")), wait_for)
    assert record(job)["state"] == "running"
    assert "ended" not in record(job)["starts"][0]
    (job.directory / "go").touch()
    assert job.end(wait(job.child)) == "completed"
    assert record(job)["state"] == "completed"


def test_a_start_that_cannot_be_written_down_leaves_no_process_behind(make, monkeypatch):
    job = make("import time; time.sleep(60)")

    def full(path, content):
        raise files.StorageError("no space")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(files.StorageError, match="no space"):
        job.start()
    assert job.child.poll() == -signal.SIGTERM


def test_array_element_is_named_as_squeue_has_it(make, monkeypatch):
    for name, value in (("JOB_ID", "23"), ("ARRAY_JOB_ID", "20"), ("ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    job = make()
    job()
    assert record(job)["starts"][0]["job"] == "20_3"


def test_log_and_record_go_on_over_starts(make):
    for text in ("one", "two"):
        make(f"print({text!r})")()
    job = make("import sys; print('three'); print('on stderr', file=sys.stderr)")
    job()
    assert job.log.read_text().splitlines() == ["one", "two", "three", "on stderr"]
    assert len(record(job)["starts"]) == 3
    assert all("ended" in start for start in record(job)["starts"])


def test_child_reads_nothing_from_the_terminal(make):
    make("import sys; assert sys.stdin.read() == ''")()


def test_output_arrives_as_it_is_printed(make, wait_for):
    """Python's own buffer would hold a log back for hours."""
    job = started(make("import time\nprint('ready')\nwhile True: time.sleep(1)"), wait_for)
    assert job.child.poll() is None


# Failures


def test_reason_is_the_error_line(make):
    program = "import sys; print('error: no such file', file=sys.stderr); print('bye'); sys.exit(2)"
    assert run_and_fail(make(program)) == "no such file"


def test_reason_is_the_last_line_of_a_traceback(make):
    assert run_and_fail(make("print('error in a word'); raise ValueError('bad value')")) == "ValueError: bad value"


def test_reason_of_silence_is_the_exit_code(make):
    assert run_and_fail(make("raise SystemExit(7)")) == "exit code 7"


def test_reason_is_that_of_this_start(make):
    run_and_fail(make("print('error: old'); raise SystemExit(1)"))
    assert run_and_fail(make("raise SystemExit(7)")) == "exit code 7"


def test_reason_at_the_end_of_a_long_log(make):
    program = "print('x' * 79 + '\\n', end='' ); [print('y' * 79) for _ in range(1000)]; print('error: late'); exit(1)"
    assert run_and_fail(make(program)) == "late"


def test_reason_of_bytes_that_are_no_text(make):
    program = "import sys; sys.stdout.buffer.write(b'error: \\xff\\xfe\\n'); sys.exit(1)"
    assert run_and_fail(make(program)).strip("\ufffd") == ""


def test_killed_run_says_by_what(make):
    reason = run_and_fail(make("import os; os.kill(os.getpid(), 9)"))
    assert reason == "killed by SIGKILL (out of memory?)"
    assert run_and_fail(make("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")) == "killed by SIGSEGV"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?)"),
        (f"raise SystemExit({files.IN_USE})", "another process holds the run directory"),
        (f"raise SystemExit({files.DISK_FULL})", "no space left on the disk, or the quota is used up"),
        # Python's own code if what a process has said cannot be written as it ends.
        ("raise SystemExit(120)", "no space left on the disk, or the quota is used up"),
    ],
)
def test_killed_run_has_not_failed_under_slurm(make, monkeypatch, end, reason):
    """The end of its batch script requeues it (test_again.py)."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    job = make(end)
    with pytest.raises(RunFailed):
        job()
    assert (record(job)["state"], record(job)["reason"]) == ("killed", reason)


def test_run_ends_with_its_wrapper_under_slurm(make, tmp_path, wait_for):
    """A wrapper that is killed leaves nothing behind that holds the run's folder."""
    pid, saved = tmp_path / "pid", tmp_path / "work" / "saved"
    program = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "signal.signal(signal.SIGTERM, lambda *_: (Path('saved').touch(), sys.exit(143)))\n"
        f"Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "while True: time.sleep(0.01)"  # not one long sleep: a signal just before it is heard after it
    )
    job = dataclasses.replace(make(), flags=(program,))
    code = f"import pickle; pickle.loads({pickle.dumps(job)!r})()"
    variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "SLURM_JOB_ID": "17"}
    wrapper = subprocess.Popen([sys.executable, "-c", code], env=os.environ | variables)
    wait_for(pid.exists)
    wrapper.kill()
    wrapper.wait()
    wait_for(saved.exists)


def test_record_waits_for_space_on_a_full_disk(make, monkeypatch):
    write, tries = files.write_json, []

    def full(path, content):
        tries.append(path)
        if len(tries) % 3:
            raise files.StorageError("no space") from OSError(errno.ENOSPC, "")
        write(path, content)

    monkeypatch.setattr(files, "write_json", full)
    monkeypatch.setattr("slurm.job.time.sleep", lambda seconds: None)
    job = make()
    job()
    assert record(job)["state"] == "completed"
    assert len(tries) == 6  # for its start, and for its end


@pytest.mark.parametrize("end", ["raise SystemExit(143)", "import os; os.kill(os.getpid(), 15)"])
def test_run_that_was_stopped_has_not_failed(make, end):
    job = make(end)
    with pytest.raises(RunFailed, match="stopped by SIGTERM"):
        job()
    assert (record(job)["state"], record(job)["reason"]) == ("stopped", "stopped by SIGTERM")


# Signals


def test_sigusr2_does_not_reach_train_py(make, wait_for):
    """SLURM sends it to every process of a job."""
    job = started(make(WAITS.format(code=143, end="")), wait_for)
    os.kill(job.child.pid, signal.SIGUSR2)
    (job.directory / "go").touch()
    assert wait(job.child) == 0


def test_this_process_still_hears_sigusr2(make, own_handlers):
    make()()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert own_handlers == [signal.SIGUSR2]


def test_checkpoint_stops_the_run_and_asks_for_an_equal_job(make, wait_for):
    job = started(make(WAITS.format(code=143, end="")), wait_for)
    again = job.checkpoint()
    assert job.log.read_text().splitlines() == ["ready", "saved"]
    assert record(job)["state"] == "requeued"
    assert "ended" in record(job)["starts"][0]
    assert dataclasses.replace(again.function) == dataclasses.replace(job)
    assert (again.function.child, again.args, again.kwargs) == (None, (), {})


def test_checkpoint_of_a_run_that_does_not_listen_yet(make, wait_for):
    """Before train.py has its handlers, Python ends by SIGTERM as by default."""
    job = started(make("import time\nprint('ready')\nwhile True: time.sleep(1)"), wait_for)
    assert job.checkpoint().function.flags == job.flags
    assert record(job)["state"] == "requeued"


def test_checkpoint_before_the_start_asks_for_the_same(make):
    job = make()
    assert job.checkpoint().function == job
    assert not job.record.exists()


def test_checkpoint_of_a_run_that_finishes_meanwhile_ends_well(make, wait_for):
    job = started(make(WAITS.format(code=0, end="")), wait_for)
    with pytest.raises(SystemExit) as end:
        job.checkpoint()
    assert end.value.code == 0
    assert record(job)["state"] == "completed"


def test_checkpoint_of_a_run_that_fails_meanwhile_ends_badly(make, wait_for):
    job = started(make(WAITS.format(code="'error: disk full'", end="")), wait_for)
    with pytest.raises(SystemExit) as end:
        job.checkpoint()
    assert end.value.code == 1
    assert (record(job)["state"], record(job)["reason"]) == ("failed", "disk full")


def test_checkpoint_in_the_middle_of_a_run(make, wait_for):
    """As submitit calls it: from the signal's handler, on top of the wait for train.py."""
    job = make(WAITS.format(code=143, end=""))
    asked = []

    def requeue(number, frame):
        asked.append(job.checkpoint())
        raise SystemExit(99)

    signal.signal(signal.SIGUSR2, requeue)

    def signal_when_ready():
        wait_for(lambda: job.log.exists() and "ready" in job.log.read_text())
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=signal_when_ready)
    thread.start()
    with pytest.raises(SystemExit) as end:
        job()
    thread.join()
    assert end.value.code == 99
    assert asked[0].function.flags == job.flags
    assert record(job)["state"] == "requeued"


def test_run_that_slurm_has_signalled_is_not_signalled_again(make, wait_for):
    """SIGTERM goes to every process of a job; train.py would take a second one for "at once"."""
    end = "time.sleep(0.3); raise SystemExit(143)"
    program = WAITS.format(code=1, end=end)  # a SIGTERM from us would end it with 1
    job = started(make(program), wait_for)
    job.on_term(signal.SIGTERM, None)
    (job.directory / "go").touch()
    job.checkpoint()
    assert record(job)["state"] == "requeued"
    assert "saved" not in job.log.read_text()


@pytest.mark.parametrize(
    ("state", "restarts", "why", "signals"),
    [
        ("RUNNING", "0", "None", [signal.SIGUSR2]),
        ("COMPLETING", "2", "None", []),  # cancelled
        ("COMPLETING", "3", "requeued", []),  # by somebody: SLURM counts it at once
        ("COMPLETING", "", "None", []),  # a squeue that does not count
        ("", "", "", []),
    ],
)
def test_stopped_run_is_requeued_if_slurm_gives_it_time(
    make, own_handlers, programs, monkeypatch, state, restarts, why, signals
):
    """Told to stop, and still running for SLURM: preemption with a grace time, so submitit is to requeue. Else not."""
    told = f"echo '{state}{'|None' * bool(state)}'"
    programs.add("squeue", f"case \"$*\" in *RestartCnt*) echo '{restarts}';; *) {told};; esac")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    job = make(TELL_PARENT_AND_STOP)
    with pytest.raises(RunFailed, match="stopped by SIGTERM"):
        job()
    assert own_handlers == signals
    assert record(job)["why"] == why
    calls = programs.calls("squeue")
    assert len(calls) == (2 if state else 1)
    assert all(call[call.index("--jobs") + 1] == "17" for call in calls)


def test_squeue_survives_a_second_sigterm(make, own_handlers, programs, monkeypatch):
    """The one that srun passes on, after it was sent one itself, goes to every process of the job."""
    programs.add("squeue", "kill -TERM $$; echo 'COMPLETING|None'")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    job = make(TELL_PARENT_AND_STOP)
    with pytest.raises(RunFailed, match="stopped by SIGTERM"):
        job()
    assert record(job)["why"] == "None"


def test_run_that_ends_by_itself_asks_slurm_nothing(make, programs, monkeypatch):
    programs.add("squeue")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    make()()
    with pytest.raises(RunFailed):
        make("raise SystemExit(143)")()  # not by SLURM
    assert programs.calls("squeue") == []


# Starts without progress


def test_run_that_gets_nowhere_is_given_up_after_five_starts(make):
    for _ in range(5):
        job = make("raise SystemExit(143)")
        with pytest.raises(RunFailed, match="stopped"):
            job()
    job = make("print('a sixth start')")
    assert run_and_fail(job) == "no new checkpoint in 5 starts"
    assert "a sixth start" not in job.log.read_text()
    assert len(record(job)["starts"]) == 5


def test_run_that_gets_on_is_never_given_up(make):
    checkpoints = make().folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    for step in range(2, 14, 2):  # a checkpoint more at every second start
        for _ in range(2):
            with pytest.raises(RunFailed, match="stopped"):
                make("raise SystemExit(143)")()
        (checkpoints / f"step-{step:09d}-0123456789abcdef.safetensors").touch()
    job = make()
    job()
    assert record(job)["state"] == "completed"
    assert record(job)["starts"][-1]["checkpoint"].startswith("step-000000012")


# Several processes


def test_other_ranks_write_no_record(make, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    job = make("print('rank one'); raise SystemExit(3)")
    job()  # the first rank tells what became of the run
    assert not job.record.exists()
    assert not job.log.exists()
    assert job.log.with_name("run-0.5-s0.1.log").read_text() == "rank one\n"


def test_other_ranks_do_not_judge_progress(make, monkeypatch):
    """The first rank may have written this very start down before; its judgement holds for all."""
    for _ in range(5):
        with pytest.raises(RunFailed, match="stopped"):
            make("raise SystemExit(143)")()
    monkeypatch.setenv("SLURM_PROCID", "1")
    job = make("print('here')")
    job()
    assert "here" in job.output.read_text()


# On its way through submitit


def test_job_survives_pickling(make):
    job = make("print('from afar')")
    again = pickle.loads(cloudpickle.dumps(job))
    assert again == job
    again()
    again.child.wait()
    assert "from afar" in job.log.read_text()


def test_job_of_a_submission_runs_its_snapshot(make_submission, make_run):
    run = make_run("r-s0", "--a=1", "--seed=0")
    submission = make_submission(run)
    job = Job.of(submission, run)
    assert (job.task, job.flags, job.folder) == ("toy", ("--a=1", "--seed=0"), Path(run.folder))
    assert job.code == submission.folder / "code"
    assert job.directory == Path(submission.directory)


def test_wait_gives_the_code_as_popen_does_and_leaves_the_child(make):
    for program in ("pass", "raise SystemExit(5)", "import os; os.kill(os.getpid(), 9)"):
        job = make(program)
        job.start()
        code = wait(job.child)
        assert job.child.poll() == code
