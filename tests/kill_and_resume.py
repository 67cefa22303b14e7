"""Kill a run at random instants, resume it each time, and compare its end with that of an undisturbed run.

    python tests/kill_and_resume.py --kills 10 --seed 0      # the demo run; about 10 minutes on 2 cores
    python tests/kill_and_resume.py --kills 3 -- --preset demo --limit-train 300

Prints what was compared, and ends with exit code 1 and the first difference if the two are not equal bit for bit.
"""

import argparse
import csv
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import safetensors.numpy

TRAIN = Path(__file__).resolve().parents[1] / "tasks" / "cifar_phased" / "train.py"
TIMES = ("seconds", "images_per_second")
FINISHED = 0


def start(out: Path, flags: list[str]) -> subprocess.Popen:
    """Begin or resume the run in a folder; its output goes to a log beside it."""
    # Checkpoints far more often than any user wants, so that the middle of epochs is hit too.
    command = [sys.executable, str(TRAIN), "--out", str(out), "--checkpoint-minutes", "0.01", *flags]
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def wait_for_training(process: subprocess.Popen, log: Path, before: int, line: str = "phase ") -> None:
    """Come back when a start, whose output begins at this place of the log, has said the line or has ended."""
    while process.poll() is None and line not in log.read_text()[before:].replace("resuming: phase ", ""):
        time.sleep(0.05)


def undisturbed(out: Path, flags: list[str]) -> float:
    """Run to the end; seconds that training took."""
    process = start(out, flags)
    wait_for_training(process, out.with_suffix(".log"), 0)
    began = time.monotonic()
    if process.wait() != FINISHED:
        raise SystemExit(f"the undisturbed run failed:\n{out.with_suffix('.log').read_text()[-2000:]}")
    return time.monotonic() - began


def disturbed(out: Path, flags: list[str], signals: list[tuple[float, signal.Signals]], line: str = "phase ") -> int:
    """Run with each signal after its delay (seconds from when that start said the line), then to the end.

    Returns how many of the signals met a running process.
    """
    hits = 0
    log = out.with_suffix(".log")
    for delay, number in signals:
        before = len(log.read_text()) if log.exists() else 0
        process = start(out, flags)
        wait_for_training(process, log, before, line)
        try:
            code = process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            code = process.wait()
            hits += 1
        if code not in (FINISHED, -signal.SIGKILL, 128 + signal.SIGTERM):
            raise SystemExit(f"exit code {code}:\n{out.with_suffix('.log').read_text()[-2000:]}")
    if start(out, flags).wait() != FINISHED:
        raise SystemExit(f"the last resume failed:\n{out.with_suffix('.log').read_text()[-2000:]}")
    return hits


def instants(training: float, kills: int, seed: int) -> list[float]:
    """Random delays that together hardly reach the end: each start compiles again, and so gets less far in its time."""
    draw = random.Random(seed)
    return [draw.uniform(0, 1.8 * training / kills) for _ in range(kills)]


def contents(out: Path) -> dict:
    """`contents_of` the only run below a folder."""
    (folder,) = (path.parent for path in out.glob("*/*/metrics.json"))
    return contents_of(folder)


def contents_of(folder: Path) -> dict:
    """Everything that a run leaves, by name, without times, hosts and paths."""
    (last, *_) = sorted(folder.glob("checkpoints/step-*.safetensors"), key=lambda p: p.name, reverse=True)
    with (folder / "history.csv").open() as file:
        history = [without_times(row) for row in csv.DictReader(file)]
    with np.load(folder / "predictions.npz") as predictions:
        arrays = dict(predictions)
    return {
        "history.csv": history,
        "metrics.json": without_times(json.loads((folder / "metrics.json").read_text())),
        "report.html": page_without_times((folder / "report.html").read_text()),
        "steps": last.name.split("-")[1],
        **{f"variable {name}": array for name, array in safetensors.numpy.load_file(last).items()},
        **{f"predictions {name}": array for name, array in arrays.items()},
        **{path.name: path.read_bytes() for path in sorted(folder.glob("checkpoints/best-*"))},
        **{path.name: path.read_bytes() for path in sorted(folder.glob("figures/*.png"))},
    }


def without_times(data):
    """JSON data without the fields that are times."""
    if isinstance(data, dict):
        return {key: without_times(value) for key, value in data.items() if key not in TIMES}
    return [without_times(value) for value in data] if isinstance(data, list) else data


def page_without_times(page: str) -> str:
    """A run's page without times, commit (it may change while tests run) and command (it has paths)."""
    return re.sub(r'(<td class="[^"]*\btime">|(?:Commit|Command)</th><td><code>)[^<]*', r"\1", page)


def differences(one: dict, other: dict) -> list[str]:
    """Names of what is not equal bit for bit."""
    unequal = [name for name in one.keys() | other.keys() if not equal(one.get(name), other.get(name))]
    return sorted(unequal)


def equal(one, other) -> bool:
    """Equality to the bit; arrays by type, shape and bytes."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and one == other


def main() -> None:
    """Compare the two runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how many times the run is killed (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants (default 0)")
    parser.add_argument("flags", nargs="*", help="flags of the run, after --; default: --preset demo")
    arguments = parser.parse_args()
    flags = arguments.flags or ["--preset", "demo"]
    with tempfile.TemporaryDirectory() as folder:
        training = undisturbed(Path(folder) / "whole", flags)
        print(f"undisturbed run: {training:.0f} s of training", flush=True)
        delays = instants(training, arguments.kills, arguments.seed)
        hits = disturbed(Path(folder) / "killed", flags, [(delay, signal.SIGKILL) for delay in delays])
        log = (Path(folder) / "killed.log").read_text()
        print(f"killed {hits} times, {', '.join(f'{d:.1f}' for d in delays)} s into the training of each start")
        print("\n".join(line for line in log.splitlines() if line.startswith(("resuming", "warning"))))
        whole, killed = (contents(Path(folder) / name) for name in ("whole", "killed"))
        unequal = differences(whole, killed)
        print(f"compared {len(whole)} items, {sum(n.startswith('variable') for n in whole)} of them variables")
        print(f"DIFFERENT: {', '.join(unequal)}" if unequal else "equal bit for bit")
        within = len(re.findall(r"^resuming: .*, step [1-9]", log, re.MULTILINE))
        if hits < arguments.kills or not within:
            met = f"of {arguments.kills} kills {hits} met a running process"
            raise SystemExit(f"{met}, and {within} starts went on within an epoch: this shows too little")
        raise SystemExit(bool(unequal))


if __name__ == "__main__":
    main()
