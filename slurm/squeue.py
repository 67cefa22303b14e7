"""The queue, from SLURM's squeue and, if installed, sacct."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

BAD = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
PATIENCE = 30  # seconds after which a SLURM command counts as failed


@dataclass(frozen=True)
class Entry:
    """A job in the queue."""

    state: str
    reason: str


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
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def ask() -> Entries:
    """The user's jobs in the queue, one entry per array element."""
    # By user, not by job: squeue fails if a single id has left the queue.
    text = call("squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i|%T|%r")
    if text is None:
        return Entries(answered=False)
    fields = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]  # sites' wrappers add lines
    return Entries({job.strip(): Entry(state, reason) for job, state, reason in fields})


def endings(jobs: Sequence[str]) -> dict[str, str]:
    """How jobs that have left the queue ended (OUT_OF_MEMORY, NODE_FAIL, ...); empty if sacct does not answer."""
    arrays = ",".join(sorted({job.split("_")[0] for job in jobs}))
    command = ("sacct", "--noheader", "--parsable2", "--allocations", "--array", "--jobs", arrays)
    text = call(*command, "--format", "JobID,State")
    lines = [line.split("|") for line in (text or "").splitlines() if "|" in line]
    found = {job: state.split()[0] for job, state, *_ in lines if state.strip()}
    return {job: state for job, state in found.items() if state in BAD}
