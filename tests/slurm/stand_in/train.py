"""A light task for chaos.py: run directory, checkpoints, signals and exit codes are those of common; no Keras.

Its training is arithmetic on one array, and waits. It notes each step in a file beside the run, so that chaos.py can
count those that were done twice.
"""

import os
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.modules["common.setup"] = types.ModuleType("common.setup")  # the real one loads Keras
sys.modules["common.setup"].set_up = lambda config, devices: None

from common import checkpoints, command, runs  # noqa: E402
from common.config import Config  # noqa: E402
from common.phase import Phase  # noqa: E402

EPOCH = 20  # steps
PAUSE = float(os.environ.get("CHAOS_PAUSE", "0"))  # seconds of a step


@dataclass(frozen=True)
class StandIn(Config):
    """What a run of it depends on."""

    dataset: str = "digits"
    epochs: int = 10

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The one phase."""
        return (Phase("train", self.epochs, "sgd", 0.1),)


PRESETS = {"demo": StandIn(preset="demo")}


def provide(config: StandIn) -> None:
    """It needs no data."""


def experiment(config: StandIn, run: runs.Run) -> None:
    """Do the steps that are left; a checkpoint at the end of each epoch, and when asked to stop."""
    latest = checkpoints.latest(run.checkpoints)
    state = latest.arrays["model"].copy() if latest else np.zeros(1000)
    step, rows = (latest.data["step"], latest.data["rows"]) if latest else (0, [])
    runs.write_environment(run, backend="none", precision="float64", epochs=config.epochs)
    print(f"resuming: step {step}" if latest else "from the beginning", "\nphase train: begins", flush=True)
    trace = os.open(f"{os.environ['CHAOS_TRACE']}/{config.seed}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with run.stop.deferred():
        while step < EPOCH * config.epochs and not run.stop.signal:
            state = 0.9 * state + np.random.default_rng([config.seed, step]).normal(size=state.size)
            time.sleep(PAUSE)
            step += 1
            os.write(trace, f"{step}\n".encode())
            if step % EPOCH == 0:
                print(f"epoch {step // EPOCH}", flush=True)
                row = {"phase": "train", "epoch": step // EPOCH, "loss": float(abs(state).mean()), "seconds": 1.0}
                rows.append(row | {"images_per_second": 100.0})
            if step % EPOCH == 0 or run.stop.signal:
                checkpoints.save_step(run.checkpoints, step, {"model": state}, {"step": step, "rows": rows})
                if rows:
                    run.write_history(rows)
    run.stop.heed()
    run.write_history(rows)
    run.write_predictions(["one"], {"test_probabilities": state})
    run.write_page = lambda metrics: run.files.report_file.write_text(f"<td>{metrics['test']}")
    run.finish({"test": {"n": 1, "loss": float(state.sum())}, "phases": {}, "notes": []})


if __name__ == "__main__":
    command.main(PRESETS, __doc__, provide, experiment)
