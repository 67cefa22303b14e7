"""Three studies' training against the plain PyTorch loop that a student would write for the same network and batch.

    pip install torch==2.13.0                       # an optional extra of the benchmarks alone
    python tests/benchmarks/pytorch.py              # medians of 5; about 15 minutes on 2 cores
    python tests/benchmarks/pytorch.py autoencoder_sweep --repeats 9 --json out.json

Ours is the loop of the studies, callbacks and pipeline included, on random images of their size; theirs a DataLoader
over tensors in memory and an eager step. The two take turns, each time in a process of its own: one epoch to warm up,
one that counts. Validation is left out of both. KERAS_BACKEND=jax measures ours on JAX.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
# Images of an epoch, their side and channels, and the batch of the published protocol.
STUDIES = {
    "hinge_svm": (45_000, 32, 3, 400),
    "autoencoder_sweep": (54_000, 28, 1, 64),
    "permuted_cnn": (4_096, 28, 1, 64),
}


def images(study: str) -> tuple[np.ndarray, np.ndarray]:
    """Random images uint8 (n, h, w, c) and labels int64 (n,) of ten classes."""
    n, side, channels, _ = STUDIES[study]
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, side, side, channels), np.uint8), rng.integers(0, 10, n)


def ours(study: str) -> float:
    """Images per second of the second epoch of our loop."""
    import keras

    from common import runs, training
    from common.data import sources
    from slurm.plan import load_task

    task = load_task(study)
    with tempfile.TemporaryDirectory() as folder:
        preset = next(iter(task.PRESETS.values()))
        config = dataclasses.replace(preset, out=Path(folder), epochs=2, batch_size=STUDIES[study][3])
        training.set_up(config)
        pixels, labels = images(study)
        train = sources.whole(pixels, labels, pixels.shape[1])
        few = train.take(np.arange(10))
        data = sources.Dataset(study, tuple("ABCDEFGHIJ"), train, few, few)
        objective = training.CLASSIFICATION
        if study == "hinge_svm":
            from tasks.hinge_svm import hinge

            model, objective = task.build(config, data), training.Objective(hinge.LOSSES[config.loss]())
        elif study == "autoencoder_sweep":
            from tasks.autoencoder_sweep import networks

            model = networks.autoencoder(config, data)
            objective = training.Objective(keras.losses.MeanSquaredError(), accuracy=False)
        else:
            model = task.build(config, task.permutation(pixels.shape[1], config.block, config.seed), data)
        with runs.open_run(config, study, "") as run:
            progress = training.train(run, model, config.phases, data, lambda phase: None, objective=objective)
        return progress.rows[-1]["images_per_second"]


def theirs(study: str) -> float:
    """Images per second of the second epoch of a plain PyTorch loop."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    pixels, labels = images(study)
    n, side, channels, batch = STUDIES[study]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()
    if study == "hinge_svm":
        x = (x - x.mean(dim=0)).flatten(1)
        model = nn.Linear(side * side * channels, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=3e-7)

        def loss(scores, y):
            true = scores.gather(1, y[:, None])[:, 0]
            wrong = scores.scatter(1, y[:, None], float("-inf")).amax(dim=1)
            return torch.relu(1 + wrong - true).mean() + 1e4 * model.weight.square().sum()

    elif study == "autoencoder_sweep":
        x = (x / 255).flatten(1)
        size = side * side * channels
        encoder = [nn.Linear(size, 1000), nn.ReLU(), nn.Linear(1000, 300)]
        model = nn.Sequential(*encoder, nn.Linear(300, 1000), nn.ReLU(), nn.Linear(1000, size), nn.Sigmoid())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loss = nn.functional.mse_loss
    else:
        order = torch.randperm(side * side)
        x = (x / 127.5 - 1).flatten(2)[:, :, order].reshape(n, channels, side, side)
        layers = [nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
        for before, after in ((64, 128), (128, 256), (256, 512)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
        loss = nn.functional.cross_entropy
    target = x if study == "autoencoder_sweep" else torch.from_numpy(labels)
    loader = DataLoader(TensorDataset(x, target), batch_size=batch, shuffle=True)
    for _ in range(2):
        began = time.perf_counter()
        for inputs, wanted in loader:
            optimizer.zero_grad()
            loss(model(inputs), wanted).backward()
            optimizer.step()
        seconds = time.perf_counter() - began
    return n / seconds


def measure(side: str, study: str) -> float:
    """Images per second of one side, in a process of its own."""
    command = [sys.executable, __file__, study, "--side", side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} of {study} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"any of {', '.join(STUDIES)} (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="of each side (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every reading")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print({"ours": ours, "theirs": theirs}[arguments.side](arguments.studies[0]))
        return
    readings = {}
    print(
        f"{'study':<20}{'ours':>10}{'PyTorch':>10}{'ratio':>8}   "
        f"images/s, medians of {arguments.repeats}, ours on {BACKEND}",
        flush=True,
    )
    for study in arguments.studies or STUDIES:
        rounds = [{side: measure(side, study) for side in ("ours", "theirs")} for _ in range(arguments.repeats)]
        readings[study] = rounds
        first, second = (statistics.median(r[side] for r in rounds) for side in ("ours", "theirs"))
        print(f"{study:<20}{first:>10,.0f}{second:>10,.0f}{first / second:>8.2f}", flush=True)
    if arguments.json:
        facts = {
            "backend": BACKEND,
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        }
        arguments.json.write_text(json.dumps({**facts, "images_per_second": readings}, indent=1) + "\n")


if __name__ == "__main__":
    main()
