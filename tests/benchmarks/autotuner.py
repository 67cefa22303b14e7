"""What TensorFlow's autotuner of pipelines gives, and how long the end of an iterator waits for it.

    python tests/benchmarks/autotuner.py                        # medians of 5; about 5 minutes on 2 cores

- rate: images per second of the pipeline alone, from an array in memory (32 x 32, batch 400) and from PNG files (batch
  64); with the autotuner and without take turns;
- end: of iterators that were read from for 6 and for 12 seconds, 8 side by side, the seconds that each end took.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before that is imported

# isort: split
import numpy as np
import report
import tensorflow as tf

from common.config import Config
from common.data import pipeline, sources, splits

AGES = (6, 12)
SIDE_BY_SIDE = 8


def tuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """As TensorFlow has it unless it is told otherwise."""
    options = tf.data.Options()
    options.autotune.enabled = True
    return dataset.with_options(options)


WAYS = {"with": tuned, "without": pipeline.untuned}


def rate(split: splits.Split, batch: int, epochs: int, way: str) -> float:
    """Images per second of all epochs but the first."""
    batches = iter(WAYS[way](pipeline.training(split, batch, 0, range(epochs))))
    steps = pipeline.steps_per_epoch(split, batch)
    for _ in range(steps):
        next(batches)
    began = time.perf_counter()
    for _ in batches:
        pass
    return len(split) * (epochs - 1) / (time.perf_counter() - began)


def ends(split: splits.Split, age: float, way: str) -> list[float]:
    """Seconds that the end of each iterator took, after each was read from now and then for `age` seconds."""
    iterators = [iter(WAYS[way](pipeline.training(split, 64, 0, range(100)))) for _ in range(SIDE_BY_SIDE)]
    began = time.perf_counter()
    while time.perf_counter() - began < age:
        for iterator in iterators:
            next(iterator)
        del iterator  # or it would outlive its place in the list
        time.sleep(age / 50)
    seconds = []
    while iterators:
        before = time.perf_counter()
        iterators.pop()
        seconds.append(time.perf_counter() - before)
    return seconds


def main() -> None:
    """Print both tables."""
    parser = report.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each (default 5)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    array = splits.whole(rng.integers(0, 256, (45_000, 32, 32, 3), np.uint8), rng.integers(0, 10, 45_000), 32)
    with tempfile.TemporaryDirectory() as name:
        report.make_files(Path(name) / "images", 4_000, 2)
        config = Config(dataset=f"image_folder:{name}/images", data_dir=Path(name), cache_gigabytes=1e-9)
        files = sources.load(config).train
        kinds = {"array": (array, 400, 21), "files": (files, 64, 2)}
        rates = [
            {f"{source}, {way}": rate(*kinds[source], way) for source in kinds for way in WAYS}
            for _ in range(arguments.repeats)
        ]
    print(f"medians of {arguments.repeats}\n\nimages/s")
    for case, value in report.medians(rates).items():
        print(f"  {case:<24}{value:>10,.0f}", flush=True)
    print("\nend of an iterator")
    readings = {}
    for age in AGES:
        for way in WAYS:
            case = f"{way} the autotuner, read for {age} s"
            found = readings[case] = [s for _ in range(arguments.repeats) for s in ends(array, age, way)]
            slow = [s for s in found if s > 0.5]
            print(
                f"  {case:<40}{len(slow):>3} of {len(found)} took over 0.5 s; the longest {max(found):.2f} s",
                flush=True,
            )
    report.write(arguments.json, images_per_second=rates, end=readings)


if __name__ == "__main__":
    main()
