"""Opening, writing and finishing run directories."""

import csv
import io
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common import files
from common.config import REPOSITORY, Config, flat
from common.devices import Devices
from common.environment import backend, git_state, installed, other_versions, processor
from common.run_folder import RunFolder
from common.stopping import StopRequest
from common.words import count

if TYPE_CHECKING:
    import numpy as np  # `--help` does without

REPLACED, MOVING = ".replaced", ".moving"  # what --overwrite has set aside; what is on its way there or back
LOCK_PATIENCE = 120.0  # seconds: a requeued job may begin before the last process of its former start has ended


@dataclass
class Run:
    """An open run directory.

    Of several processes that train it together the primary one has it; the others have a folder of their own, that is
    thrown away at the end, and read the checkpoints of the primary one.
    """

    folder: Path
    task: str
    config: Config
    devices: Devices = field(default_factory=Devices)
    primary: Path | None = None
    stop: StopRequest = field(default_factory=StopRequest, init=False)
    lock: IO | None = field(default=None, init=False)
    """Its lock, while it is held."""
    write_page: Callable[[Mapping], None] | None = field(default=None, init=False)
    """Writes report.html, given the metrics; the trainer sets it, on the primary process, when it has measured."""

    @property
    def files(self) -> RunFolder:
        """Where its files are."""
        return RunFolder(self.folder)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return RunFolder(self.primary or self.folder).checkpoints

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.files.figures

    @property
    def result(self) -> dict | None:
        """Metrics of a finished run."""
        return self.files.metrics() if self.files.is_finished else None

    def check_held(self) -> None:
        """Raise RunError if the folder was removed meanwhile: another process may have made it again, and write it."""
        if self.lock:
            try:
                is_ours = os.path.samestat(os.fstat(self.lock.fileno()), self.files.lock_file.stat())
            except FileNotFoundError:
                is_ours = False
            if not is_ours:
                raise RunError(f"{self.folder} was removed while this run wrote it, so nothing more is written there")

    def write_history(self, rows: Sequence[Mapping]) -> None:
        """Write history.csv; a row an epoch."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write(self.files.history_file, text.getvalue().encode())

    def write_predictions(self, class_names: Sequence[str], arrays: Mapping[str, "np.ndarray"]) -> None:
        """Write predictions.npz: labels, probabilities and names of files by split, readable without pickle."""
        import numpy as np

        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, class_names=np.array(class_names), **arrays)
        files.write(self.files.predictions_file, content.getvalue())

    def write_outcomes(self, content: Mapping) -> None:
        """Write outcomes.json: which test images were right, by phase and epoch (common/outcomes.py)."""
        files.write_json(self.files.outcomes_file, content)

    def finish(self, metrics: Mapping, status: str = "completed") -> None:
        """Write the page of a run that was measured, then metrics.json, which marks the run as finished."""
        content = {"status": status, "task": self.task, "seed": self.config.seed, **metrics}
        self.check_held()
        if self.write_page:
            self.write_page(content)
        files.write_json(self.files.metrics_file, content)


class RunError(RuntimeError):
    """A run directory that cannot be used; its text is the one line that the user reads."""


class InUse(RunError):
    """A run directory that another process holds."""


@contextmanager
def open_run(config: Config, task: str, setting: str, devices: Devices | None = None) -> Iterator[Run]:
    """Make or reopen the directory of a configuration, and hold it for this process alone.

    Raises InUse when another process holds it, RunError when it belongs to another configuration, StorageError when it
    cannot be written. With --overwrite what the directory holds is lost only when the new training has a checkpoint.
    """
    run = Run(config.out / task / config.name(), task, config, devices or Devices())
    with storage(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = run.files.lock_file.open("a+")
    with lock:
        with storage(run.folder):
            hold(lock, run.folder, LOCK_PATIENCE if "SLURM_JOB_ID" in os.environ else 0.0)
            run.lock = lock
            lock.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", file=lock, flush=True)
            settle(run.folder)
            if config.overwrite:
                set_aside(run.folder)
            for leftover in run.folder.glob("**/.*.tmp"):
                leftover.unlink()
            for folder in (run.checkpoints, run.figures):
                folder.mkdir(exist_ok=True)
        try:
            write_config(run, setting)
            check_backend(run)
            yield run
        finally:
            run.lock = None
            with storage(run.folder):
                settle(run.folder)


def hold(lock: IO, folder: Path, patience: float) -> None:
    """Take the lock of a run directory; the kernel lets go of it when the process ends, however it ends."""
    deadline = time.monotonic() + patience
    while True:
        try:
            files.take(lock)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise InUse(f"{folder} is being written by {holder}") from None
        time.sleep(1)


@contextmanager
def follow_run(config: Config, task: str, devices: Devices) -> Iterator[Run]:
    """As `open_run`, for the other processes of a run: nothing that they write or print is kept."""
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        run = Run(Path(folder), task, config, devices, primary=config.out / task / config.name())
        run.figures.mkdir()
        yield run


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """Turn the system's faults in a folder into StorageError."""
    try:
        yield
    except OSError as error:
        raise files.StorageError(f"cannot write {folder}: {error.strerror or error}") from error


def set_aside(folder: Path) -> None:
    """Move what a run directory holds to a folder in it. metrics.json goes first: half of it never looks finished."""
    moving = folder / MOVING
    moving.mkdir()
    for path in sorted(contents(folder), key=lambda path: path.name != "metrics.json"):
        path.rename(moving / path.name)
    moving.rename(folder / REPLACED)  # at once, so that a half that was moved is known as one


def settle(folder: Path) -> None:
    """End what `set_aside` began: the old run goes for good if the new one has a checkpoint, else it comes back."""
    aside, moving = folder / REPLACED, folder / MOVING
    if aside.is_dir():
        if RunFolder(folder).is_finished or RunFolder(folder).can_resume:
            shutil.rmtree(aside)
            return
        for path in contents(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        aside.rename(moving)
    if moving.is_dir():
        for path in sorted(moving.iterdir(), key=lambda path: path.name == "metrics.json"):
            path.rename(folder / path.name)
        moving.rmdir()


def contents(folder: Path) -> list[Path]:
    """What a run directory holds, but for its lock and what was set aside."""
    return [path for path in folder.iterdir() if path.name not in (".lock", REPLACED, MOVING)]


def write_config(run: Run, setting: str) -> None:
    """Write config.json, or check that the one there says the same; it may lack fields that came later.

    Of its options a later start can raise `looks` alone, by which tables judge the run.
    """
    path = run.files.config_file
    config = run.config
    if path.is_file():
        check_config(run)
        there = run.files.config()
        if there.get("digest") != config.digest():
            raise RunError(f"{path} belongs to another configuration; --overwrite starts from scratch")
        if run.files.looks() < config.looks:
            files.write_json(path, there | {"options": there.get("options", {}) | {"looks": config.looks}})
        return
    named = {"task": run.task, "setting": setting, "protocol": config.PROTOCOL, "digest": config.digest()}
    files.write_json(path, named | {"config": config.identity(), "options": config.operational()})


def check_config(run: Run) -> None:
    """Raise RunError if config.json says something else than the command; it may lack fields that came later."""
    ours = flat(run.config.identity())
    for key, value in flat(run.files.config()["config"]).items():
        if key in ours and ours[key] != value:
            raise RunError(
                f"{run.files.config_file} has {key} {value}, and this command has {ours[key]}: it was edited, or the "
                "folder renamed or copied; with the old text the same command goes on, --overwrite starts from scratch"
            )


def check_backend(run: Run) -> None:
    """Raise RunError if a run would go on with another backend: known before that is loaded."""
    before = run.files.environment() if run.files.environment_file.is_file() else {}
    if before.get("backend", backend()) != backend():
        raise RunError(
            f"{run.folder} was begun with {before['backend']}, and KERAS_BACKEND is {backend()}; "
            f"KERAS_BACKEND={before['backend']} goes on with it, --overwrite starts from scratch"
        )


def write_environment(run: Run, **facts: object) -> None:
    """Write environment.json: where and with what this run happens; `starts` lists each start of it.

    Raises RunError where a run would go on with another precision, or with other images.
    """
    path = run.files.environment_file
    before = run.files.environment() if path.is_file() else {"starts": []}
    if before.get("precision", facts["precision"]) != facts["precision"]:
        raise RunError(
            f"{run.folder} was begun in {before['precision']}, and --precision auto is {facts['precision']} here; "
            "go on on a device like the first, or --overwrite starts from scratch"
        )
    if change := others_unread(before, facts.get("unread")):
        raise RunError(f"{run.folder} {change}; --overwrite starts from scratch")
    if change := other_images(before, facts.get("data")):
        raise RunError(f"{run.folder} {change}; bring them back, or --overwrite starts from scratch")
    starts = before["starts"]
    code = git_state(run.task)
    if said := code.get("git"):
        remedy = f"`git config --global --add safe.directory {REPOSITORY}` lets it"
        print(f"note: no commit is recorded, as git does not say it ({said}); {remedy}", flush=True)
    own = processor()
    here = {"host": socket.gethostname(), "processor": own["name"], "versions": installed()}
    start = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **here, **code}
    for change in changes(before, start):
        print(f"warning: this run was started {change}", flush=True)
    content = {
        "python": platform.python_version(),
        "versions": here["versions"],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "processor": own,
        **facts,
        **code,
        "starts": [*starts, start],
    }
    files.write_json(path, content)


def changes(environment: Mapping, start: Mapping) -> list[str]:
    """What differs between this start and the one before it, of what results depend on; older code wrote less."""
    if not environment["starts"]:
        return []
    before = environment["starts"][-1]
    said = ["by another version of the code"] if before["commit"] != start["commit"] else []
    if others := other_versions(environment, start["versions"]):
        said.append(f"with other versions: now {', '.join(others)}")
    if before.get("processor", start["processor"]) != start["processor"]:
        said.append(f"on another processor: now {start['processor']} in place of {before['processor']}")
    return said


def others_unread(environment: Mapping, unread: Any) -> str:
    """How the images that cannot be read differ from those of the start before; empty if they do not."""
    before = environment.get("unread") or unread  # older code did not write it down
    if before == unread:
        return ""
    now = f"{unread['images']:,}" if unread["images"] != before["images"] else "others"
    return f"was begun when {before['images']:,} of its images could not be read; now {now} cannot"


def other_images(environment: Mapping, data: Any) -> str:
    """How the images of a data set differ from those that a run was begun with; empty if they do not."""
    before = environment.get("data") or data  # older code did not write it down
    if before == data:
        return ""
    if before["images"] == data["images"]:
        return f"was begun with {count(before['images'], 'image')}, some of which are others now"
    return f"was begun with {count(before['images'], 'image')}; now there are {data['images']:,}"
