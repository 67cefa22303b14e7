"""What was submitted, when and how: one folder per submission, so that any later command can read it.

submission.json   the runs, their flags, the jobs of the scheduler
code/             a copy of the code at submission, which the jobs run
runs/<run>.json   a record of each run's starts, written by its job
logs/<run>.log    output of train.py, over all starts
submitit/         submitit's own files
"""

import contextlib
import dataclasses
import json
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from common import files
from common.config import REPOSITORY
from common.environment import SNAPSHOT, git_state
from common.errors import ConfigError
from slurm.plan import Planned

# A job's code is its submission's copy.
IS_COPY = (REPOSITORY.parent / "submission.json").is_file()
FOLDER = REPOSITORY.parents[1] if IS_COPY else REPOSITORY / "results" / "submissions"
CODE = ("common", "tasks", "slurm")


@dataclass(frozen=True)
class Submission:
    """One call of `submit`."""

    id: str
    task: str
    cluster: str
    """slurm or local."""
    title: str
    """What was asked for, as text."""
    time: str
    """ISO 8601, UTC."""
    directory: str
    """Where it was submitted from; relative paths in the flags start here."""
    runs: tuple[Planned, ...]
    jobs: Mapping[str, str]
    """SLURM's job id by run, as squeue writes it: 1234_5."""
    profile: Mapping | None = None
    """The cluster profile that was used."""
    runner: Mapping | None = None
    """The process that makes the local runs."""
    cancelled: bool = False
    keeper: str | None = None
    """The job that waits for all others, and submits killed runs again (slurm/again.py)."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        return FOLDER / self.id

    @property
    def code(self) -> Path:
        """The copy of the code that the jobs run."""
        return self.folder / "code"

    def record(self, run: str) -> Path:
        """File of a run's starts."""
        return self.folder / "runs" / f"{run}.json"

    def log(self, run: str) -> Path:
        """File of a run's output."""
        return self.folder / "logs" / f"{run}.log"

    def job_log(self, job: str) -> Path:
        """File of what SLURM and submitit say of a job; it is there as soon as the job has begun."""
        return self.folder / "submitit" / f"{job}_0_log.err"

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Hold this submission, so that nobody else submits or cancels jobs of it meanwhile."""
        return files.alone(self.folder / ".lock")

    def changed(self, **fields: Any) -> "Submission":
        """A copy with some fields changed, which is also written to disk."""
        after = dataclasses.replace(self, **fields)
        files.write_json(self.folder / "submission.json", dataclasses.asdict(after))
        return after


def create(
    task: str,
    cluster: str,
    title: str,
    runs: Sequence[Planned],
    profile: Mapping | None = None,
    code: Path | None = None,
) -> Submission:
    """Create a submission's folder with a copy of the current code or, if `code` is given, of that folder.

    Raises StorageError if the folder cannot be written.
    """
    source = code or REPOSITORY
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        folder = new_folder(task)
        for name in ("runs", "logs"):
            (folder / name).mkdir()
        for name in CODE:
            shutil.copytree(source / name, folder / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise files.StorageError(f"cannot write {FOLDER}: {error}") from error
    files.write_json(folder / "code" / SNAPSHOT, git_state(code))
    return Submission(
        id=folder.name,
        task=task,
        cluster=cluster,
        title=title,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        directory=str(Path.cwd()),
        runs=tuple(runs),
        jobs={},
        profile=profile,
    ).changed()


def new_folder(task: str) -> Path:
    """Create a folder named after the task and the time."""
    while True:
        folder = FOLDER / f"{task}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        try:
            folder.mkdir()
        except FileExistsError:
            time.sleep(0.2)  # another submission in the same second
        else:
            return folder


def load(name: str) -> Submission:
    """A submission by its id. Raises ConfigError, with the latest ids, if there is none."""
    try:
        content = json.loads((FOLDER / name / "submission.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        latest = ", ".join(s.id for s in every()[-3:]) or "none yet"
        raise ConfigError(f"no submission {name!r}; the latest: {latest}") from None
    runs = tuple(planned(run) for run in content.pop("runs"))
    return Submission(**content, runs=runs)


def planned(run: Mapping) -> Planned:
    """A run as submission.json has it; until November 2026 its wave was called stage."""
    renamed = {"wave" if key == "stage" else key: value for key, value in run.items()}
    return Planned(**renamed | {"flags": tuple(run["flags"])})


def every() -> list[Submission]:
    """All submissions, the oldest first."""
    found = [load(path.parent.name) for path in FOLDER.glob("*/submission.json")]
    return sorted(found, key=lambda submission: (submission.time, submission.id))


def latest_runs(chosen: Sequence[Submission]) -> dict[str, tuple[Submission, Planned]]:
    """Each run directory with the last submission that has it."""
    return {run.folder: (submission, run) for submission in chosen for run in submission.runs}


def find_run(text: str) -> tuple[Submission, Planned]:
    """The run with this name, or with a name that ends in it; of several folders the one submitted last.

    Raises ConfigError if there is none, or if runs of different names match.
    """
    matches = {
        run.name: (submission, run)
        for submission in every()
        for run in submission.runs
        if run.name == text or run.name.endswith(f"-{text}")
    }
    if not matches:
        raise ConfigError(f"no run {text!r} was submitted; `python -m slurm status` lists them")
    if len(matches) > 1:
        raise ConfigError(f"{text!r} may be {' or '.join(sorted(matches)[:5])}")
    return next(iter(matches.values()))


def this_process(pid: int | None = None) -> dict:
    """What identifies a process even after its number is reused: number, start time, host."""
    process = psutil.Process(pid)
    return {"pid": process.pid, "began": process.create_time(), "host": socket.gethostname()}


def is_alive(process: Mapping | None) -> bool:
    """Whether a process is running on this host; processes of other hosts count as ended."""
    if process is None or process["host"] != socket.gethostname():
        return False
    try:
        there = psutil.Process(process["pid"])
        return there.create_time() == process["began"] and there.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
