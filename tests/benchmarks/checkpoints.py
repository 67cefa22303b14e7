"""How long training stands still while a checkpoint is written beside it, against safetensors' own `save`.

    python tests/benchmarks/checkpoints.py               # medians of 5; half a minute
    python tests/benchmarks/checkpoints.py --megabytes 800

A thread writes arrays of so many megabytes, as `Checkpointer` does. The main thread meanwhile calls for half a
millisecond what lets other threads run, as a step does, and counts the time that it does not come back by then.
"""

import hashlib
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import report
import safetensors.numpy

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import checkpoints, files

STEP, LATE = 0.0005, 0.003  # seconds


def by_the_library(folder: Path, stem: str, arrays: dict, data: dict) -> None:
    """A file of the same content, which the library puts together in memory."""
    content = safetensors.numpy.save(arrays)
    files.write(folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors", content)


def measure(save, arrays: dict) -> dict[str, float]:
    """Seconds that the writing takes, and seconds of them that the main thread stands still, in all and at one go."""
    with tempfile.TemporaryDirectory() as folder:
        thread = threading.Thread(target=save, args=(Path(folder), "step-000000001", arrays, {}))
        began = last = time.perf_counter()
        late = [0.0]
        thread.start()
        while thread.is_alive():
            time.sleep(STEP)
            now = time.perf_counter()
            if now - last > LATE:
                late.append(now - last)
            last = now
        return {"seconds": last - began, "still": sum(late), "longest": max(late)}


def main() -> None:
    """Print medians."""
    parser = report.parser(__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[130, 570], help="(default 130 570)")
    parser.add_argument("--repeats", type=int, default=5, help="of each (default 5)")
    arguments = parser.parse_args()
    readings = {}
    print(f"{'':<22}{'written (s)':>14}{'standing still (s)':>22}{'at one go (s)':>16}")
    for megabytes in arguments.megabytes:
        rng = np.random.default_rng(0)
        arrays = {f"model/{i:04d}": rng.random((512, 3, 3, 512), np.float32) for i in range(megabytes * 1000 // 9437)}
        for name, save in {"ours": checkpoints.save, "safetensors' save": by_the_library}.items():
            rounds = [measure(save, arrays) for _ in range(arguments.repeats)]
            median = report.medians(rounds)
            readings[f"{name}, {megabytes} MB"] = rounds
            print(
                f"{name + f', {megabytes} MB':<26}{median['seconds']:>10.2f}{median['still']:>22.3f}"
                f"{median['longest']:>16.3f}",
                flush=True,
            )
    report.write(arguments.json, readings=readings)


if __name__ == "__main__":
    main()
