"""The command of a task that trains nothing, for tests of its endings and of run directories."""

import signal

from common import command
from common.config import Config

PRESETS = {"default": Config(preset="default", dataset="digits")}
RESULT = {"accuracy": 0.5, "macro_f1": 0.4, "loss": 1.0, "n": 10}
PHASE = {"epochs": 1, "best_epoch": 1, "validation": RESULT, "test": RESULT, "images_per_second": 1.0}


def complete(config, run):
    run.finish({"test": RESULT, "phases": {"head": PHASE}, "notes": ["a note"]})


def leave_checkpoint(folder):
    """As training would, from which it can go on."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "step-1.safetensors").write_bytes(bytes(8) + b"arrays")


def fail_with(error):
    def experiment(config, run):
        raise error

    return experiment


def code_of(out, experiment, *flags, provide=lambda config: None):
    """Exit code of a task's command."""
    try:
        command.main(PRESETS, "A task.", provide, experiment, ["--out", str(out), *flags])
    except SystemExit as stop:
        return stop.code
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    return 0
