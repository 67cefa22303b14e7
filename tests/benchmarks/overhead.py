"""How long a user waits: for `--help`, for the first step, and for what is not a training step.

    python tests/benchmarks/overhead.py                         # medians of 5; about 15 minutes on 2 cores

- `--help` of each task, in a process of its own;
- from the start of a process to the end of its first training step: the demo, and MobileNetV2 at 96 pixels (random
  weights; embedded images), the writing of a checkpoint included;
- a demo run, by what it spends its time on. Validation, checkpoints and figures are asked to be under 10 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import garbage  # and with it the settings of TensorFlow, before Keras imports that

REPOSITORY = Path(__file__).resolve().parents[2]
TASKS = sorted(path.parent.name for path in (REPOSITORY / "tasks").glob("*/train.py"))
FIRST_STEPS = {
    "demo": ["--preset", "demo"],
    "mobilenet_v2": [
        "--dataset",
        "digits",
        "--backbone",
        "mobilenet_v2",
        "--image-size",
        "96",
        "--weights",
        "none",
        "--batch-norm",
        "layer",
    ],
}


def command(task: str, *flags: str) -> list[str]:
    """What a user types."""
    return [sys.executable, str(REPOSITORY / "tasks" / task / "train.py"), *flags]


def help_seconds(task: str) -> float:
    """Of `--help`."""
    began = time.perf_counter()
    subprocess.run(command(task, "--help"), check=True, capture_output=True)
    return time.perf_counter() - began


def first_step_seconds(name: str) -> float:
    """From the start of a process to the checkpoint after its first step, its writing included."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [*FIRST_STEPS[name], "--out", folder, "--checkpoint-minutes", "1e-9"]
        began = time.perf_counter()
        with subprocess.Popen(command("cifar_phased", *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
            while not list(Path(folder).glob("*/*/checkpoints/step-000000001-*")):
                if run.poll() is not None:
                    raise SystemExit(f"the run ended before its first step:\n{run.stdout.read().decode()[-2000:]}")
                time.sleep(0.02)
            seconds = time.perf_counter() - began
            run.kill()
        return seconds


def parts_of_a_run() -> dict[str, float]:
    """Seconds of a demo run by what they went to, in this process."""
    began = time.perf_counter()
    garbage.pause()  # as command.main does while a task loads its libraries
    import keras

    from common import command, trainer
    from common.checkpointer import Checkpointer
    from slurm.plan import load_task
    from tasks.cifar_phased import figures

    task = load_task("cifar_phased")
    seconds = {"start": time.perf_counter() - began}

    inside = []

    def timed(name, function):
        def call(*arguments, **more):
            before = time.perf_counter()
            inside.append(name)
            try:
                return function(*arguments, **more)
            finally:
                inside.pop()
                if name not in inside:
                    seconds[name] = seconds.get(name, 0) + time.perf_counter() - before

        return call

    class Steps(keras.callbacks.Callback):
        """Times the first step of each epoch, which may compile, the others, and validation."""

        def on_epoch_begin(self, epoch, logs=None):
            self.before = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            now = time.perf_counter()
            name = "steps" if batch else "first steps of the epochs"
            seconds[name] = seconds.get(name, 0) + now - self.before
            self.before = now

        def on_test_begin(self, logs=None):
            self.validation = time.perf_counter()

        def on_test_end(self, logs=None):
            seconds["validation"] = seconds.get("validation", 0) + time.perf_counter() - self.validation

    # What they keep the training waiting for, while they are written beside it.
    for method in ("save_step", "save_epoch", "wait"):
        setattr(Checkpointer, method, timed("checkpoints", getattr(Checkpointer, method)))
    Checkpointer.wait = timed("of these, waiting for the disk", Checkpointer.wait)
    figures.draw = timed("figures", figures.draw)

    class Watched(trainer.Trainer):
        """A trainer with the callback above."""

        def __init__(self, *arguments, **more):
            super().__init__(*arguments, callbacks=lambda trainer: [Steps()], **more)

        evaluate = timed("results", trainer.Trainer.evaluate)

    trainer.Trainer = Watched
    with tempfile.TemporaryDirectory() as folder:
        command.main(task.PRESETS, "", task.provide, task.experiment, ["--preset", "demo", "--out", folder])
    seconds["all"] = time.perf_counter() - began
    return seconds


def in_a_process() -> dict[str, float]:
    """`parts_of_a_run`, where nothing is loaded yet."""
    done = subprocess.run([sys.executable, __file__, "--parts"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the run failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print medians."""
    parser = report.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each (default 5)")
    parser.add_argument("--parts", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.parts:
        print(json.dumps(parts_of_a_run()))
        return
    many = range(arguments.repeats)
    helps = [{task: help_seconds(task) for task in TASKS} for _ in many]
    print(f"medians of {arguments.repeats}, backend {os.environ.get('KERAS_BACKEND', 'tensorflow')}\n\n--help")
    for task, seconds in report.medians(helps).items():
        print(f"  {task:<28}{seconds:6.2f} s", flush=True)
    firsts = [{name: first_step_seconds(name) for name in FIRST_STEPS} for _ in many]
    print("first step done after")
    for name, seconds in report.medians(firsts).items():
        print(f"  {name:<28}{seconds:6.1f} s", flush=True)
    runs = [in_a_process() for _ in many]
    print("a demo run")
    for name, seconds in report.medians(runs).items():
        print(f"  {name:<28}{seconds:6.1f} s")
    outside = ("validation", "checkpoints", "figures")
    share = statistics.median(sum(run[name] for name in outside) / run["all"] for run in runs)
    print(f"  {', '.join(outside)}: {share:.1%} of all")
    report.write(arguments.json, help=helps, first_step=firsts, demo=runs)


if __name__ == "__main__":
    main()
