"""Seconds that the launcher takes for 500 runs: to expand and check a grid, and to say how they go.

    python tests/benchmarks/launcher.py

Each as a user waits for it (a process of its own) and within one process; medians of five. Asked for are less than
5 s for a grid and less than 2 s for `status`. The runs and SLURM's queue are made up, in a temporary folder.
"""

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import report
from rich.console import Console

from common.config import REPOSITORY
from common.seeds import parse_seeds
from slurm import plan, status, submissions, sweeps

RUNS, ROUNDS, EPOCHS = 500, 5, 25
RATES = [f"{i}e-6" for i in range(1, 51)]
GRIDS = {
    "100 configurations x 5 seeds": ({"backbone": ["resnet18", "resnet34"], "phases.2.rate": RATES}, "0:5"),
    "500 configurations": ({"batch_size": [str(8 * i) for i in range(1, 11)], "phases.2.rate": RATES}, "0:1"),
}


def seconds(task):
    """Of a task, each time."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        task()
        times.append(time.perf_counter() - began)
    return times


def measure(name, limit, **tasks):
    """Print a line for each task; returns their seconds."""
    readings = {place: seconds(task) for place, task in tasks.items()}
    for place, times in readings.items():
        middle = statistics.median(times)
        print(
            f"{name:<38} {place:<12} {middle:6.2f} s  (from {min(times):.2f} to {max(times):.2f}; asked for: {limit})"
        )
    return readings


def launcher(tree, *arguments):
    """Run `python -m slurm` on a tree; returns what it prints."""
    command = [sys.executable, "-m", "slurm", *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    return done.stdout


def grid(tree, values, seeds):
    """What expands and checks a grid."""
    words = [f"{key}={','.join(each)}" for key, each in values.items()]
    sweep = sweeps.Sweep(preset="three_phase", grid=values)
    arguments = ("submit", "cifar_phased", "--grid", *words, "--seeds", seeds, "--dry-run", "--cluster", "local")
    assert f"{RUNS} of {RUNS} runs to do" in launcher(tree, *arguments)
    return {
        "process": lambda: launcher(tree, *arguments),
        "in process": lambda: plan.plan("cifar_phased", sweep, {}, parse_seeds(seeds)),
    }


def make_runs(tree):
    """A submission of runs in the middle of their training, as job 100 of a SLURM that lists them all."""
    values, seeds = GRIDS["100 configurations x 5 seeds"]
    fixed = {"out": str(tree / "results" / "runs")}
    runs = plan.plan("cifar_phased", sweeps.Sweep(grid=values), fixed, parse_seeds(seeds))
    submission = submissions.create("cifar_phased", "slurm", "a benchmark", runs, "tensorflow")
    submission = submission.changed(jobs={run.name: f"100_{i}" for i, run in enumerate(runs)})
    start = {"time": submission.time, "host": "node1", "pid": 1, "began": 0.0, "job": "100", "checkpoint": ""}
    facts = dict.fromkeys(("python", "platform", "backend", "precision", "commit"), "x" * 40)
    header = "phase,epoch,rate,loss,accuracy,val_loss,val_accuracy,seconds,images_per_second"
    history = "\n".join(
        [header, *(f"full,{i},1e-05,0.123456,0.9,0.234567,0.8,12.345,1234.5" for i in range(EPOCHS)), ""]
    )
    for run in runs:
        folder = Path(run.folder)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"flags": run.flags}))
        (folder / "environment.json").write_text(json.dumps({**facts, "epochs": 50, "starts": [start, start]}))
        (folder / "history.csv").write_text(history)
        record = {"state": "running", "reason": "", "starts": [start | {"ended": submission.time}, start]}
        submission.record(run.name).write_text(json.dumps(record))
    lines = "\n".join(f"100_{i}|{'RUNNING|None' if i % 2 else 'PENDING|BeginTime'}" for i in range(RUNS))
    (tree / "squeue").write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    (tree / "squeue").chmod(0o755)
    os.environ["PATH"] = f"{tree}:{os.environ['PATH']}"
    return submission


def show(submission):
    """What `status` does, less the start of Python."""
    console = Console(file=io.StringIO(), width=220)
    console.print(status.table(status.rows([submission]), {submission.id: submission.title}, console.width))


def main():
    """Print the medians."""
    arguments = report.parser(__doc__).parse_args()
    readings = {}
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        tree = Path(name)
        for folder in submissions.CODE:
            shutil.copytree(REPOSITORY / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
        submissions.FOLDER = tree / "results" / "submissions"
        for title, what in GRIDS.items():
            readings[f"grid: {title}"] = measure(f"grid: {title}", 5.0, **grid(tree, *what))
        submission = make_runs(tree)
        assert f"{RUNS // 2} running, {RUNS // 2} requeued" in launcher(tree, "status")
        tasks = {"process": lambda: launcher(tree, "status"), "in process": lambda: show(submission)}
        readings["status"] = measure(f"status: {RUNS} runs", 2.0, **tasks)
    report.write(arguments.json, runs=RUNS, seconds=readings)


if __name__ == "__main__":
    main()
