"""Opening, writing and finishing run directories, and the command of a task."""

import contextlib
import csv
import io
import os
import platform
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common import files, garbage
from common.command_line import C, parse
from common.config import REPOSITORY, Config, flat
from common.data import folder_of
from common.data.listing import fingerprint, list_images
from common.devices import Devices, choose
from common.environment import git_state, installed, processor
from common.errors import ConfigError, choice, fail
from common.files import CheckpointError, Damaged
from common.run_folder import RunFolder
from common.stopping import Interrupted, StopRequest, leave_output
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
        lock = (run.folder / ".lock").open("a+")
    with lock:
        with storage(run.folder):
            hold(lock, run.folder, LOCK_PATIENCE if "SLURM_JOB_ID" in os.environ else 0.0)
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
            yield run
        finally:
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
        if RunFolder(folder).is_finished or any(RunFolder(folder).checkpoints.glob("*")):
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
        there, ours = run.files.config(), flat(config.identity())
        changed = [key for key, value in flat(there["config"]).items() if key in ours and ours[key] != value]
        if there.get("digest") != config.digest() or changed:
            raise RunError(f"{path} belongs to another configuration; --overwrite starts from scratch")
        if run.files.looks() < config.looks:
            files.write_json(path, there | {"options": there.get("options", {}) | {"looks": config.looks}})
        return
    named = {"task": run.task, "setting": setting, "protocol": config.PROTOCOL, "digest": config.digest()}
    files.write_json(path, named | {"config": config.identity(), "options": config.operational()})


def write_environment(run: Run, **facts: object) -> None:
    """Write environment.json: where and with what this run happens; `starts` lists each start of it.

    Raises RunError where a run would go on with another backend or precision, or with other images.
    """
    path = run.files.environment_file
    before = run.files.environment() if path.is_file() else {"starts": []}
    for fact in ("backend", "precision"):
        if before.get(fact, facts[fact]) != facts[fact]:
            raise RunError(
                f"{run.folder} was begun with {fact} {before[fact]}, this would go on with {facts[fact]}; "
                "choose the same, or --overwrite"
            )
    if change := other_images(before, facts.get("data")):
        raise RunError(f"{run.folder} {change}; bring them back, or --overwrite starts from scratch")
    starts = before["starts"]
    code = git_state(run.task)
    if said := code.get("git"):
        remedy = f"`git config --global --add safe.directory {REPOSITORY}` lets it"
        print(f"note: no commit is recorded, as git does not say it ({said}); {remedy}", flush=True)
    here = {"host": socket.gethostname(), "processor": processor()["name"]}
    start = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **here, **code}
    if starts and starts[-1]["commit"] != start["commit"]:
        print("warning: this run was started by another version of the code", flush=True)
    content = {
        "python": platform.python_version(),
        "versions": installed(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "processor": processor(),
        **facts,
        **code,
        "starts": [*starts, start],
    }
    files.write_json(path, content)


def other_images(environment: Mapping, data: Any) -> str:
    """How the images of a data set differ from those that a run was begun with; empty if they do not."""
    before = environment.get("data") or data  # older code did not write it down
    if before == data:
        return ""
    if before["images"] == data["images"]:
        return f"was begun with {count(before['images'], 'image')}, some of which are others now"
    return f"was begun with {count(before['images'], 'image')}; now there are {data['images']:,}"


def summary(folder: Path, result: Mapping) -> str:
    """A short table of a finished run, for the terminal."""
    if result["status"] == "diverged":
        return f"status      diverged: {result['diverged']['reason']}\nrun         {folder}"
    lines = [f"{'phase':<12}{'epochs':>7}{'best':>6}{'validation':>12}{'test':>10}{'images/s':>10}"]
    for name, phase in result["phases"].items():
        lines.append(
            f"{name:<12}{phase['epochs']:>7}{phase['best_epoch']:>6}{merit(phase['validation']):>12}"
            f"{merit(phase['test']):>10}{phase['images_per_second']:>10,.0f}"
        )
    test, page = result["test"], RunFolder(folder).report_file  # runs of older code have no page
    scores = f"accuracy {test['accuracy']:.2%}, macro F1 {test['macro_f1']:.4f}, " if "accuracy" in test else ""
    lines += [
        "",
        f"test        {scores}loss {test['loss']:.5g} on {test['n']:,} images",
        *(f"note        {note}" for note in result["notes"]),
        f"figures     {folder / 'figures'}",
        *([f"page        {page}"] if page.is_file() else []),
        f"run         {folder}",
    ]
    if "accuracy" in test and RunFolder(folder).model_file.is_file():
        lines.append(f"use it      python -m common.predict {shlex.quote(str(folder))} PHOTO ...")
    return "\n".join(lines)


def finished(run: Run) -> str:
    """What is said of a run that was trained before."""
    said = "this run is finished; --overwrite does it again"
    if not run.files.environment_file.is_file():
        return said
    environment = run.files.environment()
    if environment["starts"]:
        said += f"\nnothing is trained now: what follows is of the start at {environment['starts'][-1].get('time')}"
    root = folder_of(run.config.dataset)
    if root and root.is_dir():
        try:
            listed = [path for images in list_images(root).splits.values() for path, _ in images]
            change = other_images(environment, fingerprint(listed))
        except ConfigError as error:  # the folder has no images any more, say: the run's results are still there
            change = f"was begun with other images: {error}"
        if change:
            said += f"\nwarning: it {change}"
    return said


def merit(metrics: Mapping) -> str:
    """Accuracy, or the loss where there is none."""
    return f"{metrics['accuracy']:.2%}" if "accuracy" in metrics else f"{metrics['loss']:.5g}"


def main(
    presets: Mapping[str, C],
    description: str,
    provide: Callable[[C], None],
    experiment: Callable[[C, Run], None],
    argv: Sequence[str] | None = None,
) -> None:
    """The command of a task: parse, open the run directory, train, and turn every known fault into one line.

    `provide` sees that data and weights are on this machine, before a run directory is touched; `experiment` trains and
    draws. Exit codes: 0 finished (a diverged run is a result too); 2 bad input; 1 another known fault; 75 a full disk;
    130, 143 and 129 stopped by Ctrl-C, SIGTERM and a terminal that was closed, after which the same command goes on.
    """
    garbage.pause()
    try:
        config = parse(presets, description, argv)
        devices = choose(config, backend())
        try:
            if config.seeds:
                from common import together

                together.command(config, presets, provide, experiment)
            else:
                command(config, presets, provide, experiment, devices)
        except BaseException as error:
            ending = if_full(error)
            devices.leave(ending)
            if ending is not error:
                raise ending from None
            raise
    finally:
        garbage.resume()


def if_full(error: BaseException) -> BaseException:
    """SystemExit with a code of its own for an error for want of space, which may be back later; else the error."""
    if not files.is_full(error) or (isinstance(error, SystemExit) and error.code != 1):
        return error
    if not isinstance(error, SystemExit):
        with contextlib.suppress(OSError):  # its output may be on the same disk
            print(f"error: {error}", file=sys.stderr, flush=True)
    return SystemExit(files.DISK_FULL)


def command(
    config: C,
    presets: Mapping[str, C],
    provide: Callable[[C], None],
    experiment: Callable[[C, Run], None],
    devices: Devices,
) -> None:
    """What `main` does, ended by SystemExit if something is wrong."""
    task = task_of(experiment)
    run = Run(config.out / task / config.name(), task, config)
    with known_faults([run.folder], config, devices), not_damaged(run.folder):
        if config.overwrite or run.result is None:
            provide(config)
            devices.join()
            if devices.is_primary:
                opened = open_run(config, task, config.setting(presets), devices)
            else:
                opened = follow_run(config, task, devices)
            with opened as run:
                # Another process may have finished it meanwhile.
                if devices.broadcast("finished" if run.result else "") == "":
                    perform(experiment, config, run)
        else:
            print(finished(run), flush=True)
        if devices.is_primary:
            print(summary(run.folder, run.files.metrics()), flush=True)


def task_of(experiment: Callable) -> str:
    """The task whose function this is, by its folder."""
    return Path(sys.modules[experiment.__module__].__file__ or "").parent.name


@contextmanager
def not_damaged(folder: Path) -> Iterator[None]:
    """Turn a damaged file of a run directory into RunError."""
    try:
        yield
    except Damaged as error:
        raise RunError(f"{folder} is damaged: {error}; --overwrite starts from scratch") from error


@contextmanager
def known_faults(folders: Sequence[Path], config: Config, devices: Devices) -> Iterator[None]:
    """Turn every known fault of the runs in these folders into one line, and SystemExit."""
    new = [folder for folder in folders if not os.path.exists(folder)]  # noqa: PTH110 (Path's raises for some)
    try:
        yield
    except ConfigError as error:
        for folder in new * devices.is_primary:  # unsuitable data, say: no command would continue this run
            if not any(RunFolder(folder).checkpoints.glob("*")):
                shutil.rmtree(folder, ignore_errors=True)
        fail(str(error), 2)
    except InUse as error:
        # A node that has failed may hold it for a while: slurm/job.py takes this code for killed, so it is requeued.
        fail(str(error), files.IN_USE if "SLURM_JOB_ID" in os.environ else 1)
    except (files.StorageError, CheckpointError, RunError) as error:
        fail(str(error), 1)
    except BrokenPipeError:
        leave_output()
        fail("nobody reads the output any more, as behind `| head`; the same command goes on", 1)
    except (Interrupted, KeyboardInterrupt) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        cleared = config.overwrite and isinstance(stop, Interrupted)  # which comes of training alone
        again = "the same command without --overwrite" if cleared else "the same command"
        print(f"stopped by {number.name}; {again} goes on", file=sys.stderr, flush=True)
        raise SystemExit(128 + number) from None
    except Exception as error:
        if not devices.is_peer_lost(error):
            raise
        fail("another process of this run has ended, so this one cannot go on; the same command resumes", 1)


def backend() -> str:
    """Keras's backend, without loading it; ends the process for one that is not installed, or that is not supported."""
    name = os.environ.get("KERAS_BACKEND", "tensorflow")
    try:
        choice("KERAS_BACKEND", name, ("tensorflow", "jax"))
    except ConfigError as error:
        fail(str(error))
    if find_spec(name) is None:
        fail(f"KERAS_BACKEND is {name}, which is not installed; requirements-dev.txt has JAX for CPUs")
    return name


def perform(experiment: Callable[[C, Run], None], config: C, run: Run) -> None:
    """Run an experiment under the signal handlers.

    Of several processes the primary one alone heeds the signals: the others end when it has saved and gone.
    """
    handle_signals(run.stop.on_signal if run.devices.is_primary else signal.SIG_IGN)
    conclude(experiment, config, run)


def handle_signals(handler: Callable[[int, Any], None] | signal.Handlers) -> None:
    """Set the handler of the signals that ask a run to stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, handler)


def conclude(experiment: Callable[[C, Run], None], config: C, run: Run) -> None:
    """Run an experiment; a diverged one is finished too."""
    from common import setup  # seconds
    from common.progress import Diverged

    setup.set_up(config, run.devices)
    try:
        experiment(config, run)
    except Diverged as error:
        print(f"diverged: {error}", flush=True)
        run.finish({"diverged": {"reason": str(error), **error.where}}, "diverged")
