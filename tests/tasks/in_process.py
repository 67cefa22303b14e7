"""The command of a task in this process, as if it were a new one, to save the start of TensorFlow."""

import gc
import signal

import keras

from common import runs

# Facts that environment.json must hold.
ENVIRONMENT = {"versions", "backend", "devices", "gpus", "precision", "jit_compile", "commit", "dirty"}


def call(task, *flags, experiment=None):
    """Exit code of the command of a task, given its train.py as a module; `experiment` stands in for the task's own."""
    keras.utils.clear_session()  # the names of layers count from one again
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        runs.main(task.PRESETS, task.__doc__, task.provide, experiment or task.experiment, list(flags))
    except SystemExit as stop:
        return stop.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        keras.config.set_dtype_policy("float32")
        gc.unfreeze()  # what the next one's models take the place of
    return 0


def one_error(capsys):
    """The one line that a command has left on stderr."""
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    return printed
