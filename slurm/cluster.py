"""Submission to SLURM through submitit: cluster profiles, job arrays, batch scripts."""

import contextlib
import dataclasses
import functools
import io
import itertools
import locale
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import ConfigError, choice
from common.files import Damaged, StorageError, read_text
from common.words import count
from slurm import squeue
from slurm.job import Job, blocked
from slurm.plan import Planned
from slurm.submissions import Submission

if TYPE_CHECKING:
    from submitit import SlurmExecutor

T = TypeVar("T")
PROFILES = Path(__file__).parent / "clusters"
PYTHON = (sys.executable, "-P")  # -P: otherwise the code of the working directory comes before the copy
NO_ANSWER = "Unable to contact slurm controller"  # sbatch, if the controller has surely not heard of the job
KEEPER_RESTARTS = 10
# Options of sbatch that no profile may set, and those for which it has a key.
SET_BY_LAUNCHER = (
    "array",
    "dependency",
    "error",
    "job-name",
    "no-requeue",
    "open-mode",
    "output",
    "requeue",
    "signal",
)
SET_BY_KEYS = (
    "account",
    "constraint",
    "cpus-per-task",
    "gpus-per-node",
    "mem",
    "nodes",
    "ntasks-per-node",
    "partition",
    "qos",
    "time",
)
LEFT_TO_THE_SITE = ("account", "constraint", "partition", "qos")  # keys that a profile may leave out
# Variables of sbatch that are not called SBATCH_ and the option's name.
VARIABLES = {
    "array": ("ARRAY_INX",),
    "gpus-per-node": ("GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK"),
    "mem": ("MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"),
    "time": ("TIMELIMIT",),
}
ALL_VARIABLES = "export SLURM_EXPORT_ENV=ALL"  # if sbatch was told --export=NONE, srun would drop what is set here
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
    gpu_type: str | None = None
    """SLURM's name for the kind of GPU, if the cluster asks for one, such as a100."""
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
    keeper: Mapping[str, str | int] = field(default_factory=dict)
    """Options of sbatch for the job that submits killed runs again, if it cannot run where the others do."""

    def check(self) -> None:
        """Raise ConfigError for values that SLURM would reject."""
        for key in ("partition", "account", "qos", "constraint", "gpu_type"):
            if not isinstance(getattr(self, key), str | None):
                raise ConfigError(f"{key} is {getattr(self, key)!r}; allowed: a text")
        for key, least in (("cpus", 1), ("gpus", 0), ("max_parallel", 1), ("signal_seconds", 1)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise ConfigError(f"{key} is {value!r}; allowed: whole numbers from {least}")
        if not re.fullmatch(r"(\d+[KMGT]?)?", str(self.memory)):
            allowed = 'a number with K, M, G or T, such as 32G, or "" for the cluster\'s default'
            raise ConfigError(f"memory is {self.memory!r}; allowed: {allowed}")
        if not isinstance(self.setup, list | tuple) or not all(isinstance(line, str) for line in self.setup):
            raise ConfigError(f"setup is {self.setup!r}; allowed: a list of lines")
        check_options("sbatch", self.sbatch, (*SET_BY_LAUNCHER, *SET_BY_KEYS))
        asked = [key for key, value in self.sbatch.items() if key == "gpus" or (key == "gres" and "gpu" in str(value))]
        if self.gpus and asked:
            raise ConfigError(f"[sbatch] has {asked[0]}, and gpus is {self.gpus}: use gpus and gpu_type, or gpus = 0")
        check_options("keeper", self.keeper, SET_BY_LAUNCHER)
        if type(self.time) not in (int, str):  # TOML has a type for a time of day
            raise ConfigError(f'time is {self.time}; allowed: minutes, or a text in quotes such as "8:00:00"')
        minutes(self.time)
        encoding = locale.getpreferredencoding(False)  # in which the scripts are written
        if not "".join(self.setup).isascii() and encoding.lower() != "utf-8":
            raise ConfigError(f"setup has letters that are not ASCII: it needs a locale of UTF-8, not of {encoding}")

    def signal_before(self) -> int:
        """Seconds before the limit at which SLURM signals; at most about half of it, so that a start gets work done.

        SLURM checks every 30 s and may signal up to a minute early.
        """
        return max(5, min(self.signal_seconds, (60 * minutes(self.time) - 60) // 2))


def check_options(table: str, options: Mapping, taken: Sequence[str]) -> None:
    """Raise ConfigError unless these are options of sbatch, and none that the launcher sets itself."""
    if not isinstance(options, dict) or not all(type(value) in (str, int, bool) for value in options.values()):
        raise ConfigError(f"{table} is {options!r}; allowed: a table of sbatch's options")
    for key in options:
        name = key.replace("_", "-")
        if name == "clusters":
            raise ConfigError(f"[{table}] has clusters, which squeue would not know: export SLURM_CLUSTERS")
        if name in taken:
            raise ConfigError(f"[{table}] has {key}, which the launcher sets itself, from the other keys")
        if options[key] is False:
            raise ConfigError(f"[{table}] has {key} = false, which sbatch does not know; leave it out")


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
    """How many jobs an array of this cluster may have, 1 for no array; SLURM's default if it does not say."""
    told = squeue.call("scontrol", "show", "config") or ""
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", told, re.MULTILINE)  # 0: no arrays at all
    tasks = re.search(r"^SchedulerParameters\s*=.*\bmax_array_tasks=(\d+)", told, re.MULTILINE)
    return max(1, min([int(match[1]) for match in (size, tasks) if match], default=1001))


def parameters(profile: Profile, nodes: int, devices: int, code: Path, name: str) -> dict[str, Any]:
    """Parameters of submitit's SlurmExecutor for runs on this many nodes with this many devices each."""
    chosen = {
        "job_name": name,
        "time": minutes(profile.time),
        "nodes": nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": profile.cpus,
        "gpus_per_node": gpus(profile, devices),
        "mem": profile.memory or None,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "signal_delay_s": profile.signal_before(),
        "array_parallelism": profile.max_parallel,
        "setup": [*profile.setup, ALL_VARIABLES, import_from(code)],
        # A run that was killed is requeued; its code is that of srun.
        "teardown": [
            "code=$?",
            again("watch", code.parent.name),
            f"[ $code = 0 ] || {again('requeue', code.parent.name)}",
            "exit $code",
        ],
        # Since SLURM 22.05 srun does not inherit the number of CPUs from sbatch.
        "srun_args": ["--cpus-per-task", str(profile.cpus)],
        "additional_parameters": {"requeue": True} | dict(profile.sbatch),
    }
    return {key: value for key, value in chosen.items() if value is not None}


def gpus(profile: Profile, devices: int) -> str | int | None:
    """The GPUs of a node, as sbatch has them; None for none."""
    number = profile.gpus * devices
    return f"{profile.gpu_type}:{number}" if profile.gpu_type and number else number or None


def import_from(code: Path) -> str:
    """The line of shell that lets a job import the submission's copy of the code."""
    return f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"


def again(action: str, submission: str) -> str:
    """The shell command of slurm/again.py."""
    return shlex.join([*PYTHON, "-m", "slurm.again", action, submission])


def script(array: Array, folder: Path) -> str:
    """The batch script of an array, as submitit writes it."""
    from submitit.slurm.slurm import _make_sbatch_string

    several = len(array.runs) if len(array.runs) > 1 else None
    command = shlex.join([*PYTHON, "-u", "-m", "submitit.core._submit", str(folder)])
    return _make_sbatch_string(command=command, folder=folder, map_count=several, **array.parameters)


def submit_array(executor: "SlurmExecutor", submission: Submission, runs: Sequence[Planned]) -> Submission:
    """Submit one array, and write down its jobs: one that nobody knows would run in vain, so signals wait for that."""
    with blocked(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        jobs = executor.submit_array([Job.of(submission, run) for run in runs])
        return with_jobs(submission, {run.name: job.job_id for run, job in zip(runs, jobs, strict=True)})


def with_jobs(submission: Submission, ids: Mapping[str, str]) -> Submission:
    """A submission that has these jobs, by run; they are cancelled if that cannot be written, as on a full disk."""
    try:
        return submission.changed(jobs={**submission.jobs, **ids})
    except StorageError:
        cancel(list(ids.values()))
        raise


def submit(submission: Submission, profile: Profile, runs: Sequence[Planned] | None = None) -> Submission:
    """Submit all runs to SLURM, or some of them again. Raises ConfigError with SLURM's own message if it refuses them.

    While SLURM's controller is down, it is waited for.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    begun: list[str] = []
    try:
        folder = submission.folder / "submitit"
        executor = SlurmExecutor(folder, max_num_timeout=FOREVER, python=shlex.join(PYTHON))
        for array in arrays(runs or submission.runs, profile, submission.code, submission.task):
            # One array after the other: max_parallel then limits all of them, and a wave waits for those before it.
            # After all of them, not the last alone: that may be cancelled while the others run.
            after = {"dependency": f"afterany:{':'.join(array_ids(begun))}"} if begun else {}
            executor.update_parameters(**array.parameters, **after)
            with script_alone(profile, profile.sbatch):
                submission = patiently(functools.partial(submit_array, executor, submission, array.runs))
            begun += [submission.jobs[run.name] for run in array.runs]
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        if not submission.jobs:
            shutil.rmtree(submission.folder)
            raise ConfigError(f"SLURM refused: {error}") from None
        if runs is None:
            keep(submission, profile, list(submission.jobs.values()))  # of the arrays that it did take
        known = f"submitted before, as {submission.id}: {count(len(submission.jobs), 'run')}"
        raise ConfigError(f"SLURM refused: {error}; {known}") from None
    return submission


def patiently(submit_: Callable[[], T]) -> T:
    """What a submission by submitit returns; while SLURM's controller is down, it is tried again."""
    from submitit.core.utils import FailedJobError

    end = time.monotonic() + squeue.AWAY
    while True:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                return submit_()
        except FailedJobError as error:
            if NO_ANSWER not in str(error) or time.monotonic() > end:
                raise
        print("sbatch cannot reach SLURM's controller; trying again", flush=True)
        time.sleep(squeue.PAUSE)


def keep(submission: Submission, profile: Profile, jobs: Sequence[str]) -> Submission:
    """Submit the keeper: a small job that begins when these have ended, and looks for runs that were killed.

    If SLURM refuses it, a line says so, and the runs go on without it.
    """
    from submitit.core.utils import CommandFunction, FailedJobError

    path = submission.folder / "keeper.sh"
    path.write_text(keeper_script(submission, profile, jobs), "utf-8")
    try:
        with script_alone(profile, profile.keeper):
            told = patiently(CommandFunction(["sbatch", str(path)], verbose=False))
        if not (number := re.search(r"job (\d+)", told)):
            raise FailedJobError(f"sbatch says {told!r}")
        return submission.changed(keeper=number[1])
    except FailedJobError as error:
        why = " ".join(str(error).split())
        print(f"SLURM refused the job that submits killed runs again, so they wait for `resubmit`: {why}", flush=True)
        return submission.changed(keeper=None)


def keeper_script(submission: Submission, profile: Profile, jobs: Sequence[str]) -> str:
    """The batch script of the keeper; if it is killed itself, it is requeued."""
    from submitit.slurm.slurm import _make_sbatch_string

    options = {
        "time": 15,
        "nodes": 1,
        "cpus_per_task": 1,
        "mem": "1G" if profile.memory else None,  # some clusters take no job that asks for memory
        "requeue": True,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        **{key.replace("-", "_"): value for key, value in profile.keeper.items()},
    }
    requeue = "until scontrol requeue $SLURM_JOB_ID; do sleep 10; done"
    return _make_sbatch_string(
        command=again("keep", submission.id),
        folder=submission.folder / "submitit",
        job_name=f"keep-{submission.task}",
        dependency=f"afterany:{':'.join(array_ids(jobs))}",
        setup=[*profile.setup, ALL_VARIABLES, import_from(submission.code)],
        teardown=[f"[ $? = 0 ] || [ ${{SLURM_RESTART_COUNT:-0}} -ge {KEEPER_RESTARTS} ] || {requeue}"],
        use_srun=False,
        additional_parameters={key: value for key, value in options.items() if value not in (None, "")},
    )


def array_ids(jobs: Sequence[str]) -> list[str]:
    """Ids of the arrays that jobs are elements of."""
    return sorted({job.split("_")[0] for job in jobs}, key=int)


@contextlib.contextmanager
def script_alone(profile: Profile, more: Collection[str]) -> Iterator[None]:
    """Hide the variables of sbatch that it would heed in place of its script's options, and the one to wait.

    `more` are options of the script beside those that all have.
    """
    optional = {"mem": profile.memory} | {name: getattr(profile, name) for name in LEFT_TO_THE_SITE}
    unset = {option for option, value in optional.items() if not value}
    options = ({*SET_BY_LAUNCHER, *SET_BY_KEYS, "wait"} - unset) | set(more)
    names = [f"SBATCH_{name}" for o in options for name in VARIABLES.get(o, (o.upper().replace("-", "_"),))]
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def outside_of_job() -> None:
    """Forget the size of a job that this process runs in: sbatch would pass it on to the jobs that it submits."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_")) and name not in ("SLURM_CONF", "SLURM_CLUSTERS"):
            del os.environ[name]


def cancel(jobs: Sequence[str], keeper: str | None = None) -> None:
    """Cancel jobs and their keeper; those that are running save and stop. Raises ConfigError if SLURM refuses."""
    if jobs:
        # By array: a thousand elements would be a long list, and scancel fails for an id that has left the queue.
        command = ["scancel", *array_ids(jobs)]
        done = subprocess.run(command, **squeue.by_itself(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"scancel failed: {done.stderr.strip()}")
    if keeper:
        squeue.call("scancel", keeper)
