"""Seconds of training on top of a frozen backbone, with its activations computed once and with them in every epoch.

    python tests/benchmarks/frozen.py                           # medians of 5; about 40 minutes on 2 cores
    python tests/benchmarks/frozen.py head_mobilenet_v2 --repeats 3 --images 14400

Five epochs of fer_layerwise_lr on random images of 32 x 32 pixels, random weights: the head alone, or the last stage
with it, of MobileNetV2 at 96 pixels and ResNet-18 at 64. The seconds are those of the epochs as in history.csv:
validation, compiling and the computing of the activations included. The two ways take turns.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import report

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINED = 0.72  # of the files; 0.08 validate, and 0.2 test
BACKBONES = {"mobilenet_v2": 96, "resnet18": 64}
RATES = {
    "head": ["--preset", "frozen"],
    "last_stage": [f for stage in ("stem", "layer1", "layer2", "layer3") for f in (f"--rates.{stage}", "0")],
}
CASES = {f"{part}_{backbone}": (part, backbone) for part in RATES for backbone in BACKBONES}


def seconds(images: Path, case: str, cache: str) -> float:
    """Of the five epochs."""
    part, backbone = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "tasks" / "fer_layerwise_lr" / "train.py"), *RATES[part]]
        command += ["--out", folder, "--dataset", f"image_folder:{images}", "--data-dir", str(images.parent)]
        command += ["--weights", "none", "--batch-norm", "layer", "--epochs", "5", "--cache-features", cache]
        command += ["--backbone", backbone, "--image-size", str(BACKBONES[backbone])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        (history,) = Path(folder).glob("*/*/history.csv")
        return sum(float(row["seconds"]) for row in csv.DictReader(history.open()))


def main() -> None:
    """Print medians and ratios."""
    parser = report.parser(__doc__)
    report.add_cases(parser, CASES)
    parser.add_argument("--images", type=int, default=3_600, help="that train (default 3,600)")
    parser.add_argument("--repeats", type=int, default=5, help="of each way (default 5)")
    arguments = parser.parse_args()
    backend = report.machine()["backend"]
    print(f"seconds of 5 epochs of {arguments.images:,} images, medians of {arguments.repeats}, backend {backend}\n")
    print(f"{'trained':<28}{'every epoch':>12}{'once':>8}{'ratio':>8}", flush=True)
    readings = {}
    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        report.make_files(images, round(arguments.images / TRAINED), 10)
        for case in arguments.cases or CASES:
            readings[case] = [
                {cache: seconds(images, case, cache) for cache in ("off", "on")} for _ in range(arguments.repeats)
            ]
            median = report.medians(readings[case])
            ratio = median["off"] / median["on"]
            print(f"{case:<28}{median['off']:>12.1f}{median['on']:>8.1f}{ratio:>8.1f}", flush=True)
            report.write(arguments.json, seconds=readings)


if __name__ == "__main__":
    main()
