"""The command of a task: a run from its flags to its last line, and every known fault as one line."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import files, garbage
from common.command_line import C, parse
from common.config import Config
from common.data import folder_of
from common.data.listing import fingerprint, list_images, printable
from common.devices import Devices, choose
from common.environment import backend, git_state
from common.errors import ConfigError, fail
from common.files import CheckpointError, Damaged
from common.run_folder import RunFolder
from common.runs import InUse, Run, RunError, check_config, follow_run, open_run, other_images
from common.stopping import Interrupted, leave_output

# What TensorFlow says of an image file that is gone, closed, or on a disk that fails, while a run reads it.
UNREADABLE = re.compile(
    r"((?:(?!: |}} |\n).)+); (No such file or directory|Permission denied|Input/output error)\n.*ReadFile", re.DOTALL
)


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
    if run.files.environment_file.is_file() and (starts := run.files.environment()["starts"]):
        said += f"\nnothing is trained now: what follows is of the start at {starts[-1].get('time')}"
    return "\n".join([said, *(f"warning: it {change}" for change in since(run, images_of(run.config)))])


def images_of(config: Config) -> dict | ConfigError | None:
    """The fingerprint of an image folder as it is now, or why it cannot be read; None for another kind of data set."""
    root = folder_of(config.dataset)
    if not (root and root.is_dir()):
        return None
    try:
        return fingerprint([path for images in list_images(root).splits.values() for path, _ in images])
    except ConfigError as error:
        return error


def since(run: Run, images: dict | ConfigError | None) -> Iterator[str]:
    """In what ways a finished run differs from what would be trained now; `images` as `images_of` gives them."""
    environment = run.files.environment() if run.files.environment_file.is_file() else {}
    if (used := environment.get("backend", backend())) != backend():
        yield f"was trained with {used}, and KERAS_BACKEND is {backend()}; with another --out you have both"
    if (commit := environment.get("commit")) and (now := git_state(run.task)["commit"]) and commit != now:
        yield f"was trained by commit {commit[:10]}, and the code is at {now[:10]} now"
    if isinstance(images, ConfigError):  # the run's results are still there
        yield f"was begun with other images: {images}"
    elif environment and images and (change := other_images(environment, images)):
        yield change


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
    draws. Exit codes: 0 finished (a diverged run is a result too); 2 bad input; 75 a full disk; 69 a folder that
    another process has, inside a SLURM job; 1 another known fault; 130, 143 and 129 stopped by Ctrl-C, SIGTERM and a
    terminal that was closed, after which the same command goes on.
    """
    garbage.pause()
    try:
        config = parse(presets, description, argv)
        devices = choose(config, backend())
        try:
            if config.seeds:
                from common import together

                together.carry_out(config, presets, provide, experiment)
            else:
                carry_out(config, presets, provide, experiment, devices)
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


def carry_out(
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
            check_config(run)
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
        again = str(error).startswith("metrics.json") and RunFolder(folder).can_resume
        remedy = "delete that file, and the same command makes it again" if again else "--overwrite starts from scratch"
        raise RunError(f"{folder} is damaged: {error}; {remedy}") from error


@contextmanager
def known_faults(folders: Sequence[Path], config: Config, devices: Devices) -> Iterator[None]:
    """Turn every known fault of the runs in these folders into one line, and SystemExit."""
    new = [folder for folder in folders if not os.path.exists(folder)]  # noqa: PTH110 (Path's raises for some)
    try:
        yield
    except ConfigError as error:
        for folder in new * devices.is_primary:  # unsuitable data, say: no command would continue this run
            discard(folder)
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
        # What was there has come back unless the new training has a checkpoint.
        cleared = config.overwrite and isinstance(stop, Interrupted) and any(map(is_begun, folders))
        again = "the same command without --overwrite" if cleared else "the same command"
        print(f"stopped by {number.name}; {again} goes on", file=sys.stderr, flush=True)
        raise SystemExit(128 + number) from None
    except Exception as error:
        if gone := UNREADABLE.search(str(error)):  # of TensorFlow, which has no class for a file
            fail(f"{printable(gone[1])} cannot be read any more ({gone[2]}); with it back, the same command goes on", 1)
        if not devices.is_peer_lost(error):
            raise
        fail("another process of this run has ended, so this one cannot go on; the same command resumes", 1)


def is_begun(folder: Path) -> bool:
    """Whether the same command goes on with what is in a folder."""
    return RunFolder(folder).can_resume and not RunFolder(folder).is_finished


def discard(folder: Path) -> None:
    """Remove a folder that was made for nothing, unless another process is at work in it or has left something."""
    run = RunFolder(folder)
    with contextlib.suppress(OSError), run.held():  # unless it is not there, or another process has it
        if not (run.can_resume or run.is_finished):
            shutil.rmtree(folder, ignore_errors=True)


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
    if not run.files.environment_file.is_file():  # it begins
        setup.advise(config)
    try:
        experiment(config, run)
    except Diverged as error:
        print(f"diverged: {error}", flush=True)
        run.finish({"diverged": {"reason": str(error), **error.where}}, "diverged")
