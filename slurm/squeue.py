"""The queue, from SLURM's squeue and, if installed, sacct."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import ConfigError

OWN_FAULT = ("DEADLINE", "FAILED", "OUT_OF_MEMORY")
BAD = (*OWN_FAULT, "BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "TIMEOUT")
PATIENCE = 30  # seconds after which a SLURM command counts as failed
AWAY = 600  # seconds for which a controller that is down is waited for
PAUSE = 5  # seconds between two looks whether it is back


@dataclass(frozen=True)
class Entry:
    """A job in the queue."""

    state: str
    reason: str

    @property
    def is_held(self) -> bool:
        """Whether it waits for `scontrol release`: JobHeldUser, "launch failed requeued held" and their like."""
        waits = self.state == "PENDING" and re.search("[Hh]eld|JobHold", self.reason)
        return self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT") or bool(waits)


@dataclass(frozen=True)
class Entries:
    """The queue by job, and whether squeue answered at all."""

    jobs: dict[str, Entry] = field(default_factory=dict)
    answered: bool = True

    def get(self, job: str | None) -> Entry | None:
        """The entry of a job, if it is in the queue."""
        return self.jobs.get(job) if job else None


def call(*command: str) -> str | None:
    """Output of a command; None if it does not exist, fails, or takes longer than `PATIENCE`."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, **by_itself(), capture_output=True, text=True, errors="replace", check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def by_itself() -> dict[str, Any]:
    """How to start a SLURM command so that it does what its arguments say, and asks nobody.

    A user's SQUEUE_STATES or SCANCEL_PARTITION would hide jobs, SCANCEL_INTERACTIVE would wait for an answer.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}
    return {"env": own, "stdin": subprocess.DEVNULL}


def is_away() -> bool:
    """Whether SLURM's controller is down. One that is slow counts as there.

    `scontrol ping` says it at once; squeue and sbatch try for 20 s.
    """
    if shutil.which("scontrol") is None:
        return False
    try:
        done = subprocess.run(("scontrol", "ping"), capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return "is DOWN" in done.stdout and "is UP" not in done.stdout


def wait_until_back() -> None:
    """Wait while SLURM's controller is down, with a line that says so. Raises ConfigError when the time is over."""
    end = time.monotonic() + AWAY
    if is_away():
        print(f"SLURM's controller is down (scontrol ping); waiting up to {AWAY / 60:.0f} minutes", flush=True)
    while is_away():
        if time.monotonic() > end:
            raise ConfigError(f"SLURM's controller is down (scontrol ping), for {AWAY / 60:.0f} minutes by now")
        time.sleep(PAUSE)


def ask(users: Collection[int]) -> Entries:
    """The jobs of these users, by their ids, in the queue: one entry per array element."""
    if is_away():
        return Entries(answered=False)
    return listed(users=users)


def listed(*options: str, users: Collection[int] = ()) -> Entries:
    """What squeue lists of the jobs of these users (none: whoever asks), with further options."""
    # By user, not by job: squeue fails if a single id has left the queue. --all: hidden partitions too.
    names = ",".join(map(str, sorted(users) or [os.getuid()]))
    text = call("squeue", "--noheader", "--all", "--array", "--user", names, "--format", "%i|%T|%r", *options)
    if text is None:
        return Entries(answered=False)
    fields = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]  # sites' wrappers add lines
    return Entries({job.strip(): Entry(state, reason) for job, state, reason in fields})


def state(job: str) -> str | None:
    """State of a job that is in the queue; None if squeue does not answer, or does not know it."""
    found = entry(job)
    return found.state if found else None


def entry(job: str) -> Entry | None:
    """A job that is in the queue; None if squeue does not answer, or does not know it."""
    text = call("squeue", "--noheader", "--all", "--jobs", job, "--format", "%T|%r") or ""
    found = [Entry(*line.strip().split("|", 1)) for line in text.splitlines() if "|" in line]  # wrappers add lines
    return found[-1] if found else None


def restarts(job: str) -> int:
    """How often a job has been requeued, the time that is under way included; 0 if squeue does not say it."""
    text = call("squeue", "--noheader", "--all", "--jobs", job, "--Format", "RestartCnt") or ""
    told = [line.strip() for line in text.splitlines() if line.strip().isdecimal()]
    return int(told[-1]) if told else 0


def endings(jobs: Sequence[str]) -> dict[str, str]:
    """How jobs that have left the queue ended (OUT_OF_MEMORY, NODE_FAIL, ...); empty if sacct does not answer."""
    arrays = ",".join(sorted({job.split("_")[0] for job in jobs}))
    command = ("sacct", "--noheader", "--parsable2", "--allocations", "--jobs", arrays, "--format", "JobID,State")
    text = call(*command, "--array")
    if text is None:  # SLURM before 23.02 has no --array, and lists elements that have ended one by one anyway
        text = call(*command)
    lines = [line.split("|") for line in (text or "").splitlines() if "|" in line]
    found = {job: state.split()[0] for job, state, *_ in lines if state.strip()}
    return {job: state for job, state in found.items() if state in BAD}
