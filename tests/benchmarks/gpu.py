"""Fine-tuning at 224 pixels on a GPU against PyTorch on the same card, and what keeps the card from more.

    pip install torch==2.13.0                            # an optional extra of the benchmarks alone
    KERAS_BACKEND=jax python tests/benchmarks/gpu.py     # both networks; some 10 minutes
    python tests/benchmarks/gpu.py resnet18 --rounds 3 --precision mixed_bfloat16 --json out.json

All of the network is trained, as in the last phase of cifar_phased's three_phase (Adam, no augmentation), on random
uint8 images of 32 pixels that the step resizes. Ours is the loop of the tasks, callbacks and pipeline included;
theirs is channels-last, under autocast, compiled, without CUDA graphs and with them ("reduce-overhead"), with a fused
Adam and a DataLoader of 8 workers; the better of the two counts. All take turns, each in a process of its own: one
epoch to warm up, three that count, and three on one batch again and again, which tells what waiting for data costs. On
JAX, 40 steps more are profiled, for how long the card is busy with a step: for the rest of a step's time, as it is
without the profiler, it waits. The card's rate is that of a product of two 8192 x 8192 matrices of the same precision.
Runs on a CPU too: `--size 32 --steps 3`.
"""

import argparse
import collections
import dataclasses
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that

# Of each network: the preset that it belongs to, by which its operations are counted, and its batch there.
CASES = {"resnet18": ("three_phase", 64), "wide_resnet50_2": ("two_phase", 72)}
EPOCHS, PROFILED = 3, 40
SIDE = 8192  # of the matrices
HALVES = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images uint8 (n, 32, 32, 3) and labels int64 (n,) of ten classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count)


def ours(name: str, precision: str, size: int, steps: int, together: int) -> dict:
    """Images per second of our loop, with its data and without, and the profile."""
    import keras
    import tensorflow as tf

    from common import runs, setup
    from common.backbones import networks
    from common.data import pipeline, splits
    from common.devices import Devices
    from common.trainer import Trainer
    from slurm.plan import load_task

    task = load_task("cifar_phased")
    preset, batch = task.PRESETS["three_phase"], CASES[name][1]
    pixels, labels = images(steps * batch)
    train = splits.whole(pixels, labels, 32)
    few = train.take(np.arange(10))
    data = splits.Dataset("random", tuple("ABCDEFGHIJ"), train, few, few)
    phase = dataclasses.replace(preset.phases[-1], epochs=2 + 2 * EPOCHS)
    whole = pipeline.training

    def then_one_batch(split, batch_size, seed, epochs, *more):
        """The last epochs are of one batch, which nobody reads from anywhere."""
        own = range(epochs.start, epochs.stop - EPOCHS)
        one = tf.data.Dataset.from_tensors((pixels[:batch], labels[:batch])).repeat(steps * EPOCHS)
        return whole(split, batch_size, seed, own, *more).concatenate(one).prefetch(2)

    pipeline.training = then_one_batch
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(
            preset, out=Path(folder), batch_size=batch, backbone=name, image_size=size, precision=precision
        )
        config = dataclasses.replace(config, weights="none", batch_norm="layer", augmentation="none", phases=(phase,))
        config = dataclasses.replace(config, steps_per_execution=together)
        setup.set_up(config, Devices())

        profiled: list[int] = []

        class Profile(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.on = epoch == 1 + EPOCHS and keras.backend.backend() == "jax"
                if self.on:
                    import jax

                    jax.profiler.start_trace(folder)

            def on_train_batch_end(self, batch, logs=None):
                if self.on and batch + 1 >= min(PROFILED, steps):
                    import jax

                    float(logs["loss"])
                    jax.profiler.stop_trace()
                    self.on = False
                    profiled.append(batch + 1)

        model = task.build(config, networks.build(name, size), data)
        with runs.open_run(config, "gpu", "") as run:
            trainer = Trainer(run, model, data, callbacks=lambda trainer: [Profile()])
            trainer.fit(config.phases)
        rates = [row["images_per_second"] for row in trainer.progress.rows]
        told = rates_of(rates[1 : 1 + EPOCHS], rates[-EPOCHS:])
        for trace in Path(folder).glob("**/*.xplane.pb"):
            milliseconds, kernels = profile(trace, profiled[0])
            told |= {"busy_ms": milliseconds, "kernels": kernels, "idle": 1 - milliseconds * told["rate"] / batch / 1e3}
    return told


def theirs(name: str, precision: str, size: int, steps: int, together: int, mode: str | None = None) -> dict:
    """Images per second of a PyTorch loop, with its data and without; `mode` is that of its compilation."""
    import torch
    import torch_networks
    from torch.utils.data import DataLoader, TensorDataset

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = CASES[name][1]
    pixels, labels = images(steps * batch)
    dataset = TensorDataset(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    more = {"num_workers": 8, "persistent_workers": True, "pin_memory": True} if device == "cuda" else {}
    loader = DataLoader(dataset, batch_size=batch, shuffle=True, **more)
    model = getattr(torch_networks, name)(size).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=precision == "mixed_float16" and device == "cuda")
    dtype = getattr(torch, HALVES[precision])
    torch.backends.cudnn.benchmark = True
    compiled = torch.compile(model, mode=mode)

    def epoch(batches) -> float:
        """Without the first step and what comes before it, as ours."""
        for step, (inputs, wanted) in enumerate(batches):
            inputs = inputs.to(device, memory_format=torch.channels_last, non_blocking=True).float()
            wanted = wanted.to(device, non_blocking=True)
            optimizer.zero_grad()
            torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(device, dtype):
                loss = torch.nn.functional.cross_entropy(compiled(inputs), wanted)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if step in (0, steps - 1):
                loss.item()  # which waits for the step
            if step == 0:
                began = time.perf_counter()
        return (steps - 1) * batch / (time.perf_counter() - began)

    epoch(loader)
    own = [epoch(loader) for _ in range(EPOCHS)]
    one = [tensor.to(device) for tensor in next(iter(loader))]
    return rates_of(own, [epoch(itertools.repeat(one, steps)) for _ in range(EPOCHS)])


def rates_of(own: list[float], one_batch: list[float]) -> dict:
    """Medians, and every reading."""
    medians = {"rate": statistics.median(own), "without_data": statistics.median(one_batch)}
    return medians | {"epochs": own, "epochs_without_data": one_batch}


def profile(trace: Path, steps: int) -> tuple[float, dict[str, float]]:
    """Of a profile by JAX: milliseconds of a step in which the card was busy, copies included; those of its kernels."""
    from jax.profiler import ProfileData

    planes = [plane for plane in ProfileData.from_file(str(trace)).planes if plane.name.startswith("/device:GPU")]
    lines = [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]
    busy, reached, by_name = 0.0, 0.0, collections.Counter()
    for start, end, name in sorted(
        (event.start_ns, event.end_ns, event.name) for line in lines for event in line.events
    ):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
        by_name[name] += end - start
    return busy / steps / 1e6, {name: time / steps / 1e6 for name, time in by_name.most_common(30)}


def matrix_rate(name: str, precision: str, size: int, steps: int, together: int) -> dict:
    """TFLOP/s of the product of two matrices of random numbers, median of 20."""
    import torch

    device, side = ("cuda", SIDE) if torch.cuda.is_available() else ("cpu", SIDE // 8)
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, HALVES[precision])) for _ in range(2))
    seconds = []
    for _ in range(25):
        began = time.perf_counter()
        (a @ b)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return {"rate": 2 * side**3 / statistics.median(seconds[5:]) / 1e12, "device": card()}


def card() -> str:
    """The name of the device that PyTorch sees."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else report.processor()


GRAPHS = functools.partial(theirs, mode="reduce-overhead")
PYTORCH = {"theirs": "compiled", "graphs": "CUDA graphs"}
SIDES = {"ours": ours, "theirs": theirs, "graphs": GRAPHS, "matrix": matrix_rate}


def measure(side: str, name: str, arguments: argparse.Namespace) -> dict:
    """One side, in a process of its own."""
    command = [sys.executable, __file__, name, "--side", side, "--precision", arguments.precision]
    command += ["--size", str(arguments.size), "--steps", str(arguments.steps)]
    command += ["--together", str(arguments.together)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} of {name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def gigaflops(names: list[str]) -> dict[str, float]:
    """Of a training step at 224 pixels, for an image of each network; counted on the CPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import estimate

    return {name: estimate.counted(CASES[name][0])[-1]["training"] for name in names}


def main() -> None:
    """Print rates, ratios and shares."""
    parser = report.parser(__doc__)
    report.add_cases(parser, CASES, "NETWORK")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default 3)")
    parser.add_argument("--precision", choices=HALVES, default="mixed_float16", help="(default mixed_float16)")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (default 224)")
    parser.add_argument("--steps", type=int, default=200, help="of an epoch (default 200)")
    parser.add_argument("--together", type=int, default=1, help="steps of ours in one program (default 1)")
    parser.add_argument("--only", choices=["ours"], help="without PyTorch")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.cases or list(CASES)
    if arguments.side:
        sizes = arguments.size, arguments.steps, arguments.together
        print(json.dumps(SIDES[arguments.side](names[0], arguments.precision, *sizes)))
        return
    sides = [arguments.only] if arguments.only else ["ours", *PYTORCH]
    matrix = measure("matrix", names[0], arguments) if "theirs" in sides else None
    if matrix:
        told = f"{matrix['device']}, {matrix['rate']:,.0f} TFLOP/s in a matrix product; {arguments.precision}"
        print(told, flush=True)
    backend = report.machine()["backend"]
    what = f"images/s at {arguments.size} pixels, medians of {arguments.rounds}"
    print(f"ours on {backend}, {arguments.together} steps in one program; {what}\n")
    print(f"{'network':<18}{'ours':>8}{'PyTorch':>10}{'ratio':>8}{'one batch: ours':>18}{'PyTorch':>10}{'idle':>8}")
    readings: dict[str, list[dict]] = {}
    for name in names:
        readings[name] = [{} for _ in range(arguments.rounds)]
        for reading, side in itertools.product(readings[name], sides):
            reading[side] = measure(side, name, arguments)
            report.write(arguments.json, precision=arguments.precision, matrix=matrix, readings=readings)
        print(line(name, readings[name]), flush=True)
    if matrix and arguments.size == 224:
        print()
        for name, gigaflop in gigaflops(names).items():
            teraflops = median(readings[name], "ours", "rate") * gigaflop / 1e3
            print(f"{name}: {teraflops:,.0f} TFLOP/s, {teraflops / matrix['rate']:.1%} of the matrix product's")


def median(rounds: list[dict], side: str, key: str) -> float:
    """Of what one side read."""
    return statistics.median(reading[side][key] for reading in rounds)


def line(name: str, rounds: list[dict]) -> str:
    """A network's row: PyTorch is the way of its whose median is higher."""
    own, without = (median(rounds, "ours", key) for key in ("rate", "without_data"))
    cells = [f"{own:>8,.0f}", " " * 18, f"{without:>18,.0f}", " " * 10]
    if "theirs" in rounds[0]:
        best = max(PYTORCH, key=lambda side: median(rounds, side, "rate"))
        rate, one_batch = (median(rounds, best, key) for key in ("rate", "without_data"))
        cells[1], cells[3] = f"{rate:>10,.0f}{own / rate:>8.2f}", f"{one_batch:>10,.0f}"
        cells.append(f"  ({PYTORCH[best]})")
    idle = [reading["ours"]["idle"] for reading in rounds if reading["ours"].get("busy_ms")]
    cells.insert(4, f"{statistics.median(idle):>8.1%}" if idle else " " * 8)
    return f"{name:<18}{''.join(cells)}".rstrip()


if __name__ == "__main__":
    main()
