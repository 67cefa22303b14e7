"""Epochs from a folder of JPEG files against torchvision's ImageFolder with PyTorch's DataLoader on the same files.

    pip install torch==2.13.0 torchvision                      # or elsewhere, with --torch-python
    python tests/benchmarks/image_folder.py SOURCE             # SOURCE: any folder of images; 10 minutes on 2 cores
    python tests/benchmarks/image_folder.py SOURCE --images 2000 --torch-python env/bin/python --json out.json

Images of SOURCE, made larger, are written as JPEG files of 320 x 280 pixels in ten classes. Batches of 64, images of 64
pixels, nothing is trained. All sides take turns, each in a process of its own that starts two epochs:

- first run: the folder is listed, each file is decoded, and the images are kept on disk;
- next run: they are read from there;
- in files: for images that do not fit `--cache-gigabytes`: checked by an earlier run, decoded in every epoch;
- PyTorch: Resize, CenterCrop and ToTensor, with a worker for each core.

Seconds run from before the listing of the folder, after all imports. The files are in the system's cache.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from PIL import Image

SIDE, BATCH, CLASSES = 64, 64, 10
SIDES = ("first run", "next run", "in files", "PyTorch")


def make(source: Path, folder: Path, images: int) -> None:
    """So many JPEG files of 320 x 280 pixels, in class folders, from pictures of another folder."""
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))
    for number in range(images):
        path = folder / f"class{number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(found[number * len(found) // images]) as image:
            image.convert("RGB").resize((320, 280), Image.Resampling.BICUBIC).save(path, quality=90)


def ours(folder: Path, data_dir: Path, gigabytes: float) -> list[float]:
    """Seconds of the first epoch, with all that comes before it, and of the second one."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import common  # noqa: F401  its settings of TensorFlow, before that is imported

    # isort: split
    import numpy as np

    from common.data import image_folders, pipeline
    from common.data.splits import Split

    began = time.perf_counter()
    found = image_folders.image_folder(folder, SIDE, data_dir, gigabytes)
    files = found.splits["train"]
    split = files if found.decoded is None else Split(found.decoded, files.places, files.labels, SIDE)
    seconds = []
    for epoch in range(2):
        seen = np.sum([len(labels) for _, labels in pipeline.training(split, BATCH, 0, range(epoch, epoch + 1))])
        assert seen == len(split)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return seconds


def measure(side: str, torch_python: str, folder: Path, data_dir: Path) -> list[float]:
    """Seconds of two epochs in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--side", side, "--data-dir", str(data_dir)]
    if side == "PyTorch":
        command = [torch_python, str(Path(__file__).with_name("torch_folder.py")), str(folder), str(SIDE), str(BATCH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print medians in images per second."""
    parser = report.parser(__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of images to make the files of")
    parser.add_argument("--images", type=int, default=5000, help="(default 5000)")
    parser.add_argument("--repeats", type=int, default=3, help="of each side (default 3)")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python with torchvision (default: this one)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        gigabytes = 1e-9 if arguments.side == "in files" else 2.0
        print(json.dumps(ours(arguments.source, arguments.data_dir, gigabytes)))
        return
    rounds: list[dict[str, list[float]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        make(arguments.source, folder, arguments.images)
        for _ in range(arguments.repeats):
            shutil.rmtree(Path(name) / ".decoded", ignore_errors=True)
            rounds.append({side: measure(side, arguments.torch_python, folder, Path(name)) for side in SIDES})
            report.write(arguments.json, images=arguments.images, seconds=rounds)
    print(f"images/s of {arguments.images:,} files, medians of {arguments.repeats}: {report.processor()}\n")
    print(f"{'':<12}{'first epoch and before':>24}{'second epoch':>15}")
    for side in SIDES:
        first, second = (
            report.medians([{"rate": arguments.images / each[side][epoch]} for each in rounds])["rate"]
            for epoch in (0, 1)
        )
        print(f"{side:<12}{first:>24,.0f}{second:>15,.0f}")


if __name__ == "__main__":
    main()
