"""One run as a job: train.py as a child process, from the submission's copy of the code, with a record of each start.

Under SLURM submitit calls it, on this machine the local runner. Its result is the run directory; nothing is returned.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from common import files
from common.errors import ConfigError
from common.run_folder import RunFolder
from slurm import squeue
from slurm.plan import Planned
from slurm.submissions import Submission, recorded, this_process

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

# train.py was stopped by a signal: its own exit code, or Python's default before its handlers are set.
STOPPED = tuple(code for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) for code in (128 + number, -number))
# Without space for what it writes (120 is Python's own code for that), or while a process of a start before, whose node
# has failed, still holds the run directory.
KILLED = (files.DISK_FULL, files.IN_USE, 120)
REQUEUED = "requeued"  # why a job was told to end, for which SLURM gives no reason
PR_SET_PDEATHSIG = 1  # of prctl, Linux
PATIENCE = 600  # seconds for which a full disk is waited for
TRIES = 5  # starts without a new checkpoint, after which a run is not restarted automatically
TAIL = 4000  # bytes at the end of the log that are searched for a reason


class RunFailed(RuntimeError):
    """train.py failed through its own fault; the message is the reason."""


@dataclass
class Job:
    """What is needed to start one run, and to start it again after it was stopped."""

    task: str
    flags: tuple[str, ...]
    folder: Path
    """The run directory."""
    code: Path
    """The snapshot of the code."""
    directory: Path
    """Working directory, for relative paths in the flags."""
    record: Path
    """File of the starts."""
    log: Path
    """Output of train.py, over all starts."""
    backend: str
    """KERAS_BACKEND, whatever the job's surroundings say."""
    child: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    terminated: bool = field(default=False, init=False, repr=False)
    """Whether SLURM has told this process to end, not only train.py: the job was cancelled, or is ended otherwise."""
    why: str = field(default="", init=False, repr=False)
    """SLURM's reason for that: the text `None` if somebody cancelled the job, `REQUEUED` if somebody requeued it."""
    begun: dict = field(default_factory=dict, init=False, repr=False)
    """The last start, as the record has it."""
    size: int = field(default=0, init=False, repr=False)

    @classmethod
    def of(cls, submission: Submission, run: Planned) -> "Job":
        """The job of a run of a submission."""
        return cls(
            task=submission.task,
            flags=run.flags,
            folder=Path(run.folder),
            code=submission.code,
            directory=Path(submission.directory),
            record=submission.record(run.name),
            log=submission.log(run.name),
            backend=submission.backend,
        )

    def __call__(self) -> None:
        """Run under SLURM. Raises RunFailed, so that SLURM records the job as failed too."""
        signal.signal(signal.SIGTERM, self.on_term)
        code = wait(self.start())
        if rank() > 0:
            return  # the primary process reports for all
        entry = asked_slurm() if code in STOPPED and self.terminated else None
        if entry and entry.state == "RUNNING":
            os.kill(os.getpid(), signal.SIGUSR2)  # preempted with time left: makes submitit requeue the job
        self.why = entry.reason if entry else ""
        if self.end(code) != "completed":
            raise RunFailed(self.reason(code))  # if it was killed, the batch script requeues it (slurm/again.py)

    def on_term(self, number: int, frame: object) -> None:
        """Remember SIGTERM. SLURM sends it to train.py too, and a second one would keep that from saving."""
        self.terminated = True

    def checkpoint(self) -> "DelayedSubmission":
        """Stop train.py, which saves. submitit calls this at SIGUSR2, before it requeues the job."""
        from submitit.helpers import DelayedSubmission

        again = DelayedSubmission(dataclasses.replace(self))
        if self.child is None:
            return again
        if not self.terminated:
            os.kill(self.child.pid, signal.SIGTERM)
        code = wait(self.child)
        if code in STOPPED:
            self.close("requeued")
            return again
        # The run ended before the signal reached it: nothing to requeue.
        raise SystemExit(0 if self.end(code) == "completed" else 1)

    def start(self, env: Mapping[str, str] | None = None, start_new_session: bool = False) -> subprocess.Popen[bytes]:
        """Start train.py and record the start; the arguments are Popen's.

        Raises RunFailed after `TRIES` starts without a new checkpoint.
        """
        starts = self.read().get("starts", [])
        newest = newest_checkpoint(self.folder)
        idle = [start for start in starts[-TRIES:] if start["checkpoint"] == newest]
        if len(idle) == TRIES and rank() == 0:
            reason = f"no new checkpoint in {TRIES} starts"
            self.write(state="failed", reason=reason)
            raise RunFailed(reason)
        self.size = self.output.stat().st_size if self.output.exists() else 0
        command = [sys.executable, "-u", str(self.code / "tasks" / self.task / "train.py"), *self.flags]
        start = {"time": now(), "job": slurm_job(), "checkpoint": newest}
        # SLURM sends SIGUSR2 to every process of the job, and it would end train.py without saving.
        with self.output.open("ab") as output, blocked(signal.SIGUSR2):
            self.child = child = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(env or os.environ) | {"KERAS_BACKEND": self.backend},
                start_new_session=start_new_session,
                preexec_fn=end_with_parent if slurm_job() else None,
            )
            try:
                self.begun = start | this_process(child.pid)
                self.write(state="running", reason="", starts=[*starts, self.begun])
            except files.StorageError:
                child.terminate()  # it saves; without a record nobody could find it
                child.wait()
                raise
        return child

    @property
    def output(self) -> Path:
        """The log of this process."""
        return self.log if rank() == 0 else self.log.with_suffix(f".{rank()}.log")

    def end(self, code: int) -> str:
        """Record how a start ended, and return it: completed, stopped, failed or, under SLURM, killed."""
        if code == 0:
            state = "completed" if RunFolder(self.folder).is_finished else "failed"
        elif code in STOPPED:
            state = "stopped"
        else:
            state = "killed" if slurm_job() and (code < 0 or code in KILLED) else "failed"
        self.close(state, "" if state == "completed" else self.reason(code))
        return state

    def close(self, state: str, reason: str = "") -> None:
        """Record the end of a start."""
        starts = self.read().get("starts", [self.begun])
        ended = starts[-1] | {"ended": now()}
        facts = {"terminated": self.terminated, "why": self.why}
        self.write(state=state, reason=reason, starts=[*starts[:-1], ended], **facts)

    def reason(self, code: int) -> str:
        """Why a start ended with this exit code, in one line."""
        if code == 0:
            return (
                "it wrote to another folder: today's code, or a file of weights, gives it another name; submit it again"
            )
        if code in STOPPED:
            return f"stopped by {signal.Signals(abs(code) % 128).name}"
        if code == files.IN_USE:
            return "another process holds the run directory"
        if code in KILLED:
            return "no space left on the disk, or the quota is used up"
        if code < 0:
            memory = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{memory}"
        with self.output.open("rb") as log:
            log.seek(max(self.size, self.output.stat().st_size - TAIL))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or [f"exit code {code}"])[-1]

    def read(self) -> dict:
        """The record so far."""
        return recorded(self.record)

    def write(self, **fields: object) -> None:
        """Change fields of the record; only the primary process writes. Waits for space on a full disk."""
        if rank() == 0:
            write_patiently(self.record, self.read() | fields)


def write_patiently(record: Path, content: Mapping) -> None:
    """Write a record. On a full disk again and again, for `PATIENCE`; then it raises StorageError."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return files.write_json(record, content)
        except files.StorageError as error:
            if not files.is_full(error) or time.monotonic() > end:
                raise
        time.sleep(1)


def end_with_parent() -> None:
    """Let the kernel send this process SIGTERM when its parent is killed: else it would hold the run's folder for long.

    SLURM does not find it by itself where it tracks processes by their parents (proctrack/linuxproc, pgid).
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def rank() -> int:
    """Rank of this process in its job, from 0."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def slurm_job() -> str | None:
    """SLURM's id of this job as squeue writes it, 1234 or 1234_5."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def asked_slurm() -> squeue.Entry | None:
    """The job as SLURM lists it: running if it is neither cancelled nor requeued, so about to be preempted.

    One that somebody requeued looks like a cancelled one, but has been restarted once more than this start knows.
    """
    job = slurm_job() or ""
    with blocked(signal.SIGTERM):  # SLURM may send it again, and it would end squeue before that has answered
        with contextlib.suppress(ConfigError):
            squeue.wait_until_back()
        entry = squeue.entry(job)
        if entry and squeue.restarts(job) > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            return squeue.Entry(entry.state, REQUEUED)
        return entry


@contextlib.contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Block signals here, and for good in processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def newest_checkpoint(folder: Path) -> str:
    """Name of a run's last checkpoint without the digest, which changes with the recorded seconds; empty if none."""
    return max((path.name.rpartition("-")[0] for path in RunFolder(folder).checkpoints.glob("step-*")), default="")


def now() -> str:
    """The current time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def wait(child: subprocess.Popen[bytes]) -> int:
    """Exit code of a child, as Popen gives it; the child is not reaped.

    Unlike Popen.wait, this may be called in a signal handler that interrupts the same wait.
    """
    result = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert result is not None  # it is None only with WNOHANG
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
