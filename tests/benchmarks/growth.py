"""How images per second and memory grow with the data, the size of the images, and the batch.

    python tests/benchmarks/growth.py                           # medians of 3; about 25 minutes on 2 cores

- data: hinge_svm, whose step is next to nothing, on 1, 4 and 16 times 1,000 PNG files of random pixels, 32 x 32;
- image size and batch: the full phase of cifar_phased with ResNet-18 from random weights, on embedded digits.

Each run is the task's own command, in a process of its own, whose largest memory counts. The rate is that of the last
epoch's steps; of the data also the seconds of an epoch by it, and those of the whole run.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = 1_000
TIMES = (1, 4, 16)
SIZES = (32, 64, 96, 128)
BATCHES = (16, 64, 256)
PHASED = ["--preset", "demo", "--limit-train", "600", "--limit-test", "100", "--phases.0.epochs", "1"]
PHASED += ["--phases.1.epochs", "1", "--phases.2.epochs", "2"]


def run(task: str, *flags: str) -> dict[str, float]:
    """Images per second of the last epoch, largest memory (GB), and seconds of a command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "tasks" / task / "train.py"), "--out", folder, *flags]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            errors = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
        (history,) = Path(folder).glob("*/*/history.csv")
        last = list(csv.DictReader(history.open()))[-1]
    return {
        "images_per_second": float(last["images_per_second"]),
        "gigabytes": usage.ru_maxrss * 1024 / 1e9,
        "seconds": seconds,
    }


def table(title: str, cases: dict[str, list[str]], repeats: int) -> dict[str, list[dict]]:
    """Run every case so many times, in turns, and print medians."""
    rounds = {name: [] for name in cases}
    for _ in range(repeats):
        for name, command in cases.items():
            rounds[name].append(run(*command))
    print(f"\n{title:<24}{'images/s':>10}{'memory (GB)':>14}{'whole run (s)':>16}")
    for name, each in rounds.items():
        median = report.medians(each)
        print(
            f"{name:<24}{median['images_per_second']:>10,.0f}{median['gigabytes']:>14.2f}{median['seconds']:>16.0f}",
            flush=True,
        )
    return rounds


def main() -> None:
    """Print three tables."""
    parser = report.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="of each run (default 3)")
    arguments = parser.parse_args()
    print(f"medians of {arguments.repeats}, backend {report.machine()['backend']}")
    readings = {}
    with tempfile.TemporaryDirectory() as name:
        cases = {}
        for times in TIMES:
            folder = Path(name) / str(times)
            report.make_files(folder, times * FILES, 2)
            flags = ["--dataset", f"image_folder:{folder}", "--data-dir", name, "--epochs", "3"]
            flags += ["--cache-gigabytes", "1e-9"]  # files, not images that were decoded once
            cases[f"{times * FILES:,} files"] = ["hinge_svm", *flags]
        readings["data"] = table("data", cases, arguments.repeats)
    sizes = {f"{size} pixels": ["cifar_phased", *PHASED, "--image-size", str(size)] for size in SIZES}
    readings["size"] = table("image size, batch 64", sizes, arguments.repeats)
    batches = {
        f"batch {batch}": ["cifar_phased", *PHASED, "--image-size", "64", "--batch-size", str(batch)]
        for batch in BATCHES
    }
    readings["batch"] = table("batch, 64 pixels", batches, arguments.repeats)
    report.write(arguments.json, **readings)


if __name__ == "__main__":
    main()
