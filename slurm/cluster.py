"""Submission to SLURM through submitit: cluster profiles, job arrays, batch scripts."""

import contextlib
import dataclasses
import io
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import ConfigError, choice
from common.files import Damaged, read_text
from slurm import squeue
from slurm.job import Job
from slurm.plan import Planned
from slurm.submissions import Submission

PROFILES = Path(__file__).parent / "clusters"
FOREVER = 10**6  # submitit's limit on timeouts; slurm/job.py has its own, which counts starts without progress


@dataclass(frozen=True)
class Profile:
    """What a cluster needs to know about a job; the keys of slurm/clusters/*.toml."""

    time: str = "24:00:00"
    """Time limit of one start: minutes, H:MM:SS or D-HH:MM:SS."""
    cpus: int = 8
    """CPU cores on each node of a run."""
    memory: str = "32G"
    """Memory on each node of a run."""
    gpus: int = 1
    """GPUs per device of a run; 0 if the cluster has none."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    max_parallel: int = 16
    """Most runs at the same time."""
    signal_seconds: int = 120
    """Seconds before the time limit at which a run is signalled to save."""
    setup: tuple[str, ...] = ()
    """Shell commands to run before train.py, such as `module load cuda`."""
    sbatch: Mapping[str, str | int] = field(default_factory=dict)
    """Any other option of sbatch, by its long name."""

    def check(self) -> None:
        """Raise ConfigError for values that SLURM would reject."""
        for key in ("partition", "account", "qos", "constraint"):
            if not isinstance(getattr(self, key), str | None):
                raise ConfigError(f"{key} is {getattr(self, key)!r}; allowed: a text")
        for key, least in (("cpus", 1), ("gpus", 0), ("max_parallel", 1), ("signal_seconds", 1)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise ConfigError(f"{key} is {value!r}; allowed: whole numbers from {least}")
        if not re.fullmatch(r"\d+[KMGT]?", str(self.memory)):
            raise ConfigError(f"memory is {self.memory!r}; allowed: a number with K, M, G or T, such as 32G")
        if not isinstance(self.setup, list | tuple) or not all(isinstance(line, str) for line in self.setup):
            raise ConfigError(f"setup is {self.setup!r}; allowed: a list of lines")
        if not isinstance(self.sbatch, dict) or not all(type(v) in (str, int, bool) for v in self.sbatch.values()):
            raise ConfigError(f"sbatch is {self.sbatch!r}; allowed: a table of sbatch's options")
        minutes(self.time)

    def signal_before(self) -> int:
        """Seconds before the limit at which SLURM signals; at most about half of it, so that a start gets work done.

        SLURM checks every 30 s and may signal up to a minute early.
        """
        return max(5, min(self.signal_seconds, (60 * minutes(self.time) - 60) // 2))


def minutes(text: str | int) -> int:
    """A time limit in minutes, rounded up. Raises ConfigError for zero and for formats that SLURM does not have."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?", str(text))
    if not match:
        raise ConfigError(f"time is {text!r}; allowed: minutes, MM:SS, H:MM:SS, or D-HH:MM:SS")
    days, first, second, third = match.groups()
    if days:
        seconds = int(days) * 86400 + int(first) * 3600 + int(second or 0) * 60 + int(third or 0)
    elif third:
        seconds = int(first) * 3600 + int(second) * 60 + int(third)
    else:
        seconds = int(first) * 60 + int(second or 0)
    if not seconds:
        raise ConfigError(f"time is {text!r}; it must be above zero")
    return -(-seconds // 60)


def load_profile(name: str) -> dict:
    """The keys and values of a profile, given by its name in slurm/clusters or by its path.

    Raises ConfigError if it does not exist, is not TOML, or has a key that is not allowed.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.toml")))
        raise ConfigError(f"no cluster profile {path}; allowed: {known}, or the path of a .toml file")
    try:
        content = tomllib.loads(read_text(path))
    except (Damaged, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    check_keys(content, str(path))
    return content


def check_keys(content: Mapping, where: str) -> None:
    """Raise ConfigError for a key that no profile has."""
    for key in content:
        choice(f"key in {where}", key, [f.name for f in dataclasses.fields(Profile)])


@dataclass(frozen=True)
class Array:
    """The runs of one job array."""

    runs: tuple[Planned, ...]
    parameters: Mapping[str, Any]
    """Parameters of submitit's SlurmExecutor."""


def arrays(runs: Sequence[Planned], profile: Profile, code: Path, name: str) -> Iterator[Array]:
    """Group the runs by wave, nodes and devices, in arrays no longer than the cluster allows."""

    def needs(run: Planned) -> tuple[int, int, int]:
        return run.wave, run.nodes, run.devices

    longest = max_array_size()
    for (_, nodes, devices), group in itertools.groupby(sorted(runs, key=needs), needs):
        for chunk in chunks(tuple(group), longest):
            yield Array(chunk, parameters(profile, nodes, devices, code, name))


def chunks(runs: tuple[Planned, ...], longest: int) -> Iterator[tuple[Planned, ...]]:
    """Cut the runs into pieces of at most `longest`."""
    for first in range(0, len(runs), longest):
        yield runs[first : first + longest]


def max_array_size() -> int:
    """How many jobs an array of this cluster may have; SLURM's default if it does not say."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", squeue.call("scontrol", "show", "config") or "", re.MULTILINE)
    return int(match[1]) if match else 1001


def parameters(profile: Profile, nodes: int, devices: int, code: Path, name: str) -> dict[str, Any]:
    """Parameters of submitit's SlurmExecutor for runs on this many nodes with this many devices each."""
    chosen = {
        "job_name": name,
        "time": minutes(profile.time),
        "nodes": nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": profile.cpus,
        "gpus_per_node": profile.gpus * devices or None,
        "mem": profile.memory,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "signal_delay_s": profile.signal_before(),
        "array_parallelism": profile.max_parallel,
        # The job imports the submission's copy of the code.
        "setup": [*profile.setup, f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"],
        # Since SLURM 22.05 srun does not inherit the number of CPUs from sbatch.
        "srun_args": ["--cpus-per-task", str(profile.cpus)],
        "additional_parameters": {"requeue": True} | dict(profile.sbatch),
    }
    return {key: value for key, value in chosen.items() if value is not None}


def script(array: Array, folder: Path) -> str:
    """The batch script of an array, as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    count = len(array.runs) if len(array.runs) > 1 else None
    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder)])
    return _make_sbatch_string(command=command, folder=folder, map_count=count, **array.parameters)


def submit(submission: Submission, profile: Profile) -> Submission:
    """Submit the runs to SLURM. Raises ConfigError with SLURM's own message if it refuses them."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    before: dict[str, str] = {}
    try:
        executor = SlurmExecutor(submission.folder / "submitit", max_num_timeout=FOREVER)
        for array in arrays(submission.runs, profile, submission.code, submission.task):
            executor.update_parameters(**array.parameters, **before)
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                jobs = executor.submit_array([Job.of(submission, run) for run in array.runs])
            ids = {run.name: submitted.job_id for run, submitted in zip(array.runs, jobs, strict=True)}
            submission = submission.changed(jobs={**submission.jobs, **ids})
            # One array after the other: max_parallel then limits all of them, and a wave waits for the one before.
            before = {"dependency": f"afterany:{jobs[0].job_id.split('_')[0]}"}
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        if not submission.jobs:
            shutil.rmtree(submission.folder)
            raise ConfigError(f"SLURM refused: {error}") from None
        count = len(submission.jobs)
        raise ConfigError(f"SLURM refused: {error}; {count} runs were submitted before, as {submission.id}") from None
    return submission


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that are running save and stop. Raises ConfigError if SLURM refuses."""
    # By array: a thousand elements would be a long list, and scancel fails for an id that has left the queue.
    arrays = sorted({job.split("_")[0] for job in jobs}, key=int)
    done = subprocess.run(["scancel", *arrays], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"scancel failed: {done.stderr.strip()}")
