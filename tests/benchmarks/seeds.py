"""Seconds of training one seed, and several as one program (--seeds, JAX).

    python tests/benchmarks/seeds.py                          # 16 seeds, medians of 3; on 2 cores half an hour
    python tests/benchmarks/seeds.py autoencoder --seeds 4

Random images of 32 x 32 pixels; the autoencoder's and the perceptron's are made 28 x 28. The seconds are those of the
training steps of an epoch, from the images per second in history.csv: without the first epoch, which compiles, and
without validation and checkpoints, of which one seed's would count once and 16 seeds' in turn. The two ways take turns.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import report

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINED = 0.72  # of the files; 0.08 validate, and 0.2 test
CASES = {
    "linear": ["hinge_svm"],
    "autoencoder": ["autoencoder_sweep"],
    "perceptron": ["permuted_cnn", "--network", "mlp"],
    "base CNN": ["rotation_contrastive"],
}


def seconds(images: Path, case: str, count: int, epochs: int, which: list[str]) -> float:
    """Of the steps of an epoch of so many images after the first, in the slowest of these seeds."""
    task, *flags = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "tasks" / task / "train.py"), *flags, *which]
        command += ["--out", folder, "--dataset", f"image_folder:{images}", "--data-dir", str(images.parent)]
        command += ["--epochs", str(epochs)]
        environment = {**os.environ, "KERAS_BACKEND": "jax"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        histories = [list(csv.DictReader(path.open())) for path in Path(folder).glob("*/*/history.csv")]
        rates = [float(row["images_per_second"]) for rows in histories for row in rows[1:]]
        return count / min(rates)


def main() -> None:
    """Print medians, and what several seeds cost."""
    parser = report.parser(__doc__)
    report.add_cases(parser, CASES)
    parser.add_argument("--seeds", type=int, default=16, help="as one program (default 16)")
    parser.add_argument("--images", type=int, default=3_600, help="that train (default 3,600)")
    parser.add_argument("--epochs", type=int, default=4, help="of each run (default 4)")
    parser.add_argument("--repeats", type=int, default=3, help="of each way (default 3)")
    arguments = parser.parse_args()
    print(f"seconds of an epoch of {arguments.images:,} images, medians of {arguments.repeats}, backend jax\n")
    print(f"{'network':<14}{'one seed':>10}{f'{arguments.seeds} seeds':>10}{'times one':>11}{'in turn / as one':>18}")
    readings = {}
    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        report.make_files(images, round(arguments.images / TRAINED), 10)
        for case in arguments.cases or CASES:
            ways = {"one": ["--seed", "0"], "together": ["--seeds", f"0:{arguments.seeds}"]}
            readings[case] = [
                {way: seconds(images, case, arguments.images, arguments.epochs, which) for way, which in ways.items()}
                for _ in range(arguments.repeats)
            ]
            median = report.medians(readings[case])
            times = median["together"] / median["one"]
            print(
                f"{case:<14}{median['one']:>10.2f}{median['together']:>10.2f}{times:>11.1f}"
                f"{arguments.seeds / times:>18.2f}",
                flush=True,
            )
            report.write(arguments.json, seconds=readings)


if __name__ == "__main__":
    main()
