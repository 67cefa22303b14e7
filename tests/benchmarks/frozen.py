"""Seconds of phases with a frozen backbone, with its activations computed once and with them computed in every epoch.

    python tests/benchmarks/frozen.py                           # medians of 5; about 20 minutes on 2 cores

The `head` and `last_block` phases of cifar_phased, 5 epochs each, on 1,000 random images of 32 x 32 pixels without
augmentation: MobileNetV2 at 96 pixels and ResNet-18 at 64, random weights. The seconds of a phase are those of its
epochs as in history.csv, validation, compiling and the computing of the activations included. The two take turns.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import report

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = {"mobilenet_v2": 96, "resnet18": 64}
PHASES = ("head", "last_block")


def seconds(images: Path, backbone: str, cache: str) -> dict[str, float]:
    """Of each phase."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "tasks" / "cifar_phased" / "train.py"), "--out", folder]
        command += ["--dataset", f"image_folder:{images}", "--data-dir", str(images.parent), "--weights", "none"]
        command += ["--augmentation", "none", "--cache-features", cache, "--backbone", backbone]
        command += ["--image-size", str(CASES[backbone]), "--phases.2.epochs", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        (history,) = Path(folder).glob("*/*/history.csv")
        rows = list(csv.DictReader(history.open()))
    return {phase: sum(float(row["seconds"]) for row in rows if row["phase"] == phase) for phase in PHASES}


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each way (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every reading")
    arguments = parser.parse_args()
    backend = report.machine()["backend"]
    print(f"seconds of 5 epochs, medians of {arguments.repeats}, backend {backend}\n")
    print(f"{'backbone':<16}{'phase':<14}{'every epoch':>12}{'once':>8}{'ratio':>8}", flush=True)
    readings = {}
    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        report.make_files(images, 1_250, 10)  # of which 1,000 are left to train and validate with
        for backbone in CASES:
            rounds = [
                {cache: seconds(images, backbone, cache) for cache in ("off", "on")} for _ in range(arguments.repeats)
            ]
            readings[backbone] = rounds
            for phase in PHASES:
                median = report.medians([{cache: each[cache][phase] for cache in each} for each in rounds])
                ratio = median["off"] / median["on"]
                print(f"{backbone:<16}{phase:<14}{median['off']:>12.1f}{median['on']:>8.1f}{ratio:>8.1f}", flush=True)
    report.write(arguments.json, seconds=readings)


if __name__ == "__main__":
    main()
