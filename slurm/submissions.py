"""What was submitted, when and how: one folder per submission, so that any later command can read it.

submission.json   the runs, their flags, the jobs of the scheduler
code/             a copy of the code at submission, which the jobs run
runs/<run>.json   a record of each run's starts, written by its job
logs/<run>.log    output of train.py, over all starts
submitit/         submitit's own files
"""

import contextlib
import dataclasses
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from common import files
from common.config import REPOSITORY
from common.environment import SNAPSHOT, git_state
from common.errors import ConfigError
from common.files import Damaged, holding, read_json
from common.run_folder import meant
from slurm.plan import Planned

# A job's code is its submission's copy.
IS_COPY = (REPOSITORY.parent / "submission.json").is_file()
FOLDER = REPOSITORY.parents[1] if IS_COPY else REPOSITORY / "results" / "submissions"
CODE = ("common", "tasks", "slurm")
CLUSTERS = ("slurm", "local")
# States that a job, the end of its batch script or the keeper writes down.
WRITTEN = ("running", "completed", "stopped", "failed", "requeued", "killed", "cancelled")
CLOCK_STEP = 5.0  # seconds by which the clock may have been set since a process began


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
    backend: str
    """KERAS_BACKEND of the runs."""
    root: str
    """The project's folder."""
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
    def owner(self) -> int:
        """The user id of who made it."""
        return self.folder.stat().st_uid

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
        return job_log(self.folder, job)

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
    backend: str,
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
            shutil.copytree(source / name, folder / "code" / name, ignore=foreign)
    except shutil.Error as error:  # of many files; the first says why
        shutil.rmtree(folder, ignore_errors=True)
        raise files.StorageError(f"cannot write {folder}: {error.args[0][0][2]}") from error
    except OSError as error:
        raise files.StorageError(f"cannot write {FOLDER}: {error}") from error
    files.write_json(folder / "code" / SNAPSHOT, git_state(task, code))
    return Submission(
        id=folder.name,
        task=task,
        cluster=cluster,
        title=title,
        time=time_of_creation(),
        directory=str(Path.cwd()),
        root=str(FOLDER.parents[1]),
        runs=tuple(runs),
        jobs={},
        backend=backend,
        profile=profile,
    ).changed()


def time_of_creation() -> str:
    """Now or, if the clock was set back, a second after the newest submission, so that the last stays the last."""
    times = [datetime.now(UTC)]
    for path in FOLDER.glob("*/submission.json"):
        with contextlib.suppress(Damaged):  # `every` names it
            times.append(datetime.fromisoformat(read(path).time) + timedelta(seconds=1))
    return max(times).isoformat(timespec="seconds")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the folder of all submissions, so that nobody else takes the same runs meanwhile.

    Raises StorageError if it cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(files.alone(FOLDER / ".lock"))
        except OSError as error:
            raise files.StorageError(f"cannot write {FOLDER}: {error}") from error
        yield


def check_root(submission: Submission) -> None:
    """Raise ConfigError for a submission of another copy of the project, in whose folders its runs are."""
    if submission.root != str(FOLDER.parents[1]):
        raise ConfigError(
            f"{submission.id} was submitted in {submission.root}, of which this is a copy, or which was moved: call "
            "this there, or `submit` the same runs here"
        )


def job_log(folder: Path, job: str) -> Path:
    """File of what SLURM and submitit say of a job of the submission in this folder."""
    return folder / "submitit" / f"{job}_0_log.err"


def last_words(folder: Path, job: str) -> str:
    """The last line of a job's own log, to follow a reason; empty if there is none."""
    log = job_log(folder, job)
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), None)
    return f"; its job's log ends with: {last}" if last else ""


def foreign(folder: str, names: Sequence[str]) -> list[str]:
    """What lies among the code and is none: hidden files and copies of editors, links that lead nowhere, sockets."""
    paths = [Path(folder, name) for name in names]
    kept = (
        path.name != "__pycache__"
        and not path.name.startswith((".", "#"))
        and not path.name.endswith("~")
        and (path.is_file() or path.is_dir())
        for path in paths
    )
    return [name for name, is_code in zip(names, kept, strict=True) if not is_code]


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
    """A submission by its id. Raises ConfigError, with the latest ids, if there is none, or if its file is damaged."""
    path = FOLDER / name / "submission.json"
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        latest = ", ".join(s.id for s in every()[-3:]) or "none yet"
        raise ConfigError(f"no submission {name!r}; the latest: {latest}")
    try:
        return read(path)
    except Damaged as error:
        raise ConfigError(f"submission {name} is damaged: {error}") from error


def read(path: Path) -> Submission:
    """A submission from its file. Raises Damaged."""
    content = read_json(path, id=str, task=str, cluster=str, title=str, time=str, directory=str, runs=list, jobs=dict)
    holding(content, path.name, backend=str, root=str, profile=dict | None, runner=dict | None)
    holding(content, path.name, cancelled=bool, keeper=str | None)
    if content["id"] != path.parent.name:
        raise Damaged(f"{path.name} is of the submission {content['id']!r}")
    if content["cluster"] not in CLUSTERS or not is_path(content["directory"]):
        raise Damaged(f"{path.name} names no cluster or no directory")
    if content.get("runner") is not None:
        check_process(content["runner"], f"runner in {path.name}")
    if not all(isinstance(job, str) and re.fullmatch(r"\d+(_\d+)?", job) for job in content["jobs"].values()):
        raise Damaged(f"{path.name}: a job has no number of SLURM's")
    runs = tuple(planned(run, path.name) for run in content.pop("runs"))
    try:
        return Submission(**content, runs=runs)
    except TypeError as error:  # a key that is unknown
        raise Damaged(f"{path.name}: {error}") from error


def planned(run: object, where: str) -> Planned:
    """A run as submission.json has it. Raises Damaged."""
    where = f"a run in {where}"
    content = holding(run, where, name=str, folder=str, label=str, seed=int, flags=list)
    holding(content, where, devices=int, nodes=int, wave=int)
    if not is_path(content["folder"]) or Path(content["folder"]).name != content["name"]:
        raise Damaged(f"{where} has no folder of its name")
    if not all(isinstance(flag, str) for flag in content["flags"]):
        raise Damaged(f"{where} has flags that are no text")
    if any(content[key] < least for key, least in (("devices", 1), ("nodes", 1), ("wave", 0))):
        raise Damaged(f"{where} has devices, nodes or a wave that cannot be")
    try:
        return Planned(**content | {"flags": tuple(content["flags"])})
    except TypeError as error:
        raise Damaged(f"{where}: {error}") from error


def is_path(text: str) -> bool:
    """Whether a text can be the path of a file that is asked for; Linux's limits."""
    return text.startswith("/") and len(text.encode()) < 4096 and max(len(p.encode()) for p in text.split("/")) < 256


def read_record(path: Path) -> dict:
    """What a job wrote down of a run: state, reason, starts; empty before its first start. Raises Damaged."""
    if not path.is_file():
        return {}
    fields = {"state": str | None, "reason": str | None, "starts": list | None, "killed": list | None}
    content = read_json(path, **fields, again_after=int | None)
    record = {key: value for key, value in content.items() if value is not None}  # null is as good as missing
    begun = record.get("starts", [])
    # A run may be killed, or cancelled, before its first start is written down.
    state = record.get("state")
    if state not in (*WRITTEN, None) or not (begun or "killed" in record or state == "cancelled"):
        raise Damaged(f"{path.name} has a state that is unknown, or no start")
    for start in begun:
        where = f"a start in {path.name}"
        check_process(start, where)
        holding(start, where, time=str, ended=str | None, checkpoint=str, job=str | None)
        for key in ("time", "ended"):
            try:
                aware = datetime.fromisoformat(start.get(key) or start["time"]).tzinfo
            except ValueError as error:
                raise Damaged(f"{where}: {error}") from error
            if aware is None:
                raise Damaged(f"{where}: {key} has no time zone")
    return record


def recorded(path: Path) -> dict:
    """What was written down of a run; nothing if that is damaged, as the run may go on all the same."""
    try:
        return read_record(path)
    except Damaged as error:
        print(f"note: {error}; the record of starts begins again", flush=True)
        return {}


def check_process(process: object, where: str) -> None:
    """Raise Damaged unless this is what `this_process` gives, of any version. A pid of -1 would be every process."""
    found = holding(process, where, pid=int, began=str | int | float, host=str)
    if not 0 < found["pid"] < 2**31:
        raise Damaged(f"{where} has pid {found['pid']}")


def every() -> list[Submission]:
    """All submissions, the oldest first. Prints a line for each that is damaged, and leaves it out."""
    found = []
    for path in sorted(FOLDER.glob("*/submission.json")):
        try:
            found.append(read(path))
        except Damaged as error:
            print(f"left out: submission {path.parent.name} is damaged: {error}", file=sys.stderr, flush=True)
    return sorted(found, key=lambda submission: (submission.time, submission.id))


def latest_runs(chosen: Sequence[Submission]) -> dict[str, tuple[Submission, Planned]]:
    """Each run directory, by its `place`, with the last submission that has it."""
    return {place(run.folder): (submission, run) for submission in chosen for run in submission.runs}


def place(folder: str) -> str:
    """Where a folder lies, however the way to it is written. Jobs get it as written, since nodes may have no other."""
    return os.path.realpath(folder)


def find_run(text: str) -> tuple[Submission, Planned]:
    """The run with this name, or with a name that ends in it; of several folders the one submitted last.

    Raises ConfigError as `meant` does.
    """
    runs = {run.name: (submission, run) for submission in every() for run in submission.runs}
    return runs[meant(text, runs, "the end of a name that `python -m slurm status` lists")]


def this_process(pid: int | None = None) -> dict:
    """What identifies a process even after its number is reused: number, start, host."""
    process = psutil.Process(pid)
    return {"pid": process.pid, "began": began(process), "host": socket.gethostname()}


def began(process: psutil.Process) -> str | float:
    """When a process began: on Linux the boot and the clock ticks since, as the clock may be set; else the time."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = Path(f"/proc/{process.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return process.create_time()
    return f"{ticks} ticks after boot {boot}"


def elsewhere(process: Mapping | None) -> str | None:
    """The host of a process, if that is another one, from which it cannot be seen whether it still runs."""
    return process["host"] if process and process["host"] != socket.gethostname() else None


def is_alive(process: Mapping | None) -> bool:
    """Whether a process is running on this host; processes of other hosts count as ended."""
    if process is None or process["host"] != socket.gethostname():
        return False
    try:
        there = psutil.Process(process["pid"])
        if isinstance(process["began"], str):
            is_same = began(there) == process["began"]
        else:  # until November 2026, and where there is no /proc
            is_same = abs(there.create_time() - process["began"]) < CLOCK_STEP
        return is_same and there.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
