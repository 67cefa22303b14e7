"""The command of a task in this process, as if it were a new one, to save the start of TensorFlow."""

import gc
import signal

import keras
import pytest
from matplotlib.figure import Figure

from common import command
from common.config import flat
from common.plots import base
from slurm import plan

ONE_PIXEL = base.png(Figure((0.01, 0.01)))
# Facts that environment.json must hold.
ENVIRONMENT = {"versions", "backend", "devices", "gpus", "precision", "jit_compile", "commit", "dirty"}


def call(task, *flags, experiment=None, drawn=False):
    """Exit code of the command of a task, given its train.py as a module; `experiment` stands in for the task's own.

    Figures have one pixel unless they are to be `drawn`, which takes a third of the time of a small run.
    """
    keras.utils.clear_session(free_memory=False)  # the names of layers count from one again
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            if not drawn:
                patch.setattr(base, "png", lambda _: ONE_PIXEL)
            command.main(task.PRESETS, task.__doc__, task.provide, experiment or task.experiment, list(flags))
    except SystemExit as stop:
        return stop.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        keras.config.set_dtype_policy("float32")
        gc.unfreeze()  # what the next one's models take the place of
    return 0


def short(task):
    """Flags of the demo with few images, and with two epochs at least, all phases together."""
    demo = plan.load_task(task).PRESETS["demo"]
    epochs = [key for key in flat(demo.identity()) if key.rpartition(".")[2] == "epochs"]
    each = "2" if len(epochs) == 1 else "1"
    return ["--preset=demo", "--limit-train=120", "--limit-test=50", *(f"--{key}={each}" for key in epochs)]


def folder_in(out):
    """The one run directory below."""
    (folder,) = out.glob("*/*")
    return folder


def one_error(capsys):
    """The one line that a command has left on stderr."""
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    return printed
