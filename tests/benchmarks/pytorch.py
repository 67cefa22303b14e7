"""Our networks' training against the best of PyTorch's ways to train the same network with the same batch.

    pip install torch==2.13.0                       # an optional extra of the benchmarks alone; compiling needs g++
    python tests/benchmarks/pytorch.py              # medians of 5; some 80 minutes on 2 cores
    python tests/benchmarks/pytorch.py autoencoder --repeats 9 --json out.json
    python tests/benchmarks/pytorch.py mobilenet_v2 resnet18 --precision mixed_bfloat16

Ours is the loop of the tasks, callbacks and pipeline included, on random images of their size. Theirs is a DataLoader
over tensors in memory and each of WAYS in turn: eager as a student would write it, a fused optimizer, channels-last,
compiled. All take turns, each time in a process of its own: one epoch to warm up, one that counts. The table compares
with the way whose median is highest. Validation is left out of both. --precision mixed_bfloat16: theirs under autocast,
for processors with bfloat16 instructions. KERAS_BACKEND=jax measures ours on JAX.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import common  # noqa: F401  its settings of TensorFlow, before Keras imports that


@dataclass(frozen=True)
class Case:
    """A network to be trained, and an epoch of images: how many, their side and channels; the batch is as published."""

    task: str
    images: int
    side: int
    channels: int
    batch: int = 64
    backbone: str = ""
    size: int = 0
    """Side that the backbone sees."""
    padding: str = ""


CASES = {
    "linear_svm": Case("hinge_svm", 45_000, 32, 3, batch=400),
    "autoencoder": Case("autoencoder_sweep", 54_000, 28, 1),
    "permuted_cnn": Case("permuted_cnn", 2_048, 28, 1, padding="valid"),
    "padded_cnn": Case("permuted_cnn", 2_048, 28, 1, padding="same"),
    "base_cnn": Case("rotation_contrastive", 12_800, 32, 3),
    "mobilenet_v2": Case("cifar_phased", 960, 32, 3, backbone="mobilenet_v2", size=96),
    "resnet18": Case("cifar_phased", 960, 32, 3, backbone="resnet18", size=64),
}
# PyTorch's switches that are on in each way to train.
WAYS = {
    "eager": frozenset(),
    "fused": frozenset({"fused"}),
    "channels-last": frozenset({"fused", "channels-last"}),
    "compiled": frozenset({"fused", "compiled"}),
    "compiled, channels-last": frozenset({"fused", "compiled", "channels-last"}),
}
DENSE = ("linear_svm", "autoencoder")  # their inputs have no channels


def ways(name: str) -> list[str]:
    """The ways that differ for a network."""
    return [way for way, switches in WAYS.items() if name not in DENSE or "channels-last" not in switches]


def images(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Random images uint8 (n, h, w, c) and labels int64 (n,) of ten classes."""
    rng = np.random.default_rng(0)
    shape = (case.images, case.side, case.side, case.channels)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, case.images)


def ours(name: str, precision: str) -> float:
    """Images per second of the second epoch of our loop."""
    import keras

    from common import runs, setup
    from common.backbones import networks
    from common.data import splits
    from common.devices import Devices
    from common.objective import CLASSIFICATION, Objective
    from common.trainer import Trainer
    from slurm.plan import load_task

    case = CASES[name]
    task = load_task(case.task)
    with tempfile.TemporaryDirectory() as folder:
        preset = next(iter(task.PRESETS.values()))
        config = dataclasses.replace(preset, out=Path(folder), batch_size=case.batch, precision=precision)
        if case.task == "cifar_phased":
            phases = (dataclasses.replace(preset.phases[-1], epochs=2),)
            config = dataclasses.replace(config, weights="none", batch_norm="layer", augmentation="none", phases=phases)
        else:
            config = dataclasses.replace(config, epochs=2)
        setup.set_up(config, Devices())
        pixels, labels = images(case)
        train = splits.whole(pixels, labels, case.side)
        few = train.take(np.arange(10))
        data = splits.Dataset(name, tuple("ABCDEFGHIJ"), train, few, few)
        objective = CLASSIFICATION
        if name == "linear_svm":
            from tasks.hinge_svm import hinge

            model, objective = task.build(config, data), Objective(hinge.LOSSES[config.loss](), reported="loss")
        elif name == "autoencoder":
            from tasks.autoencoder_sweep import networks

            model = networks.autoencoder(config, data)
            objective = Objective(keras.losses.MeanSquaredError(), scores_classes=False, reported="loss")
        elif case.padding:
            config = dataclasses.replace(config, padding=case.padding)
            model = task.build(config, task.permutation(case.side, config.block, config.seed), data)
        elif name == "base_cnn":
            from tasks.rotation_contrastive import networks

            model = networks.classifier(config, data)
        else:
            model = task.build(config, networks.build(case.backbone, case.size), data)
        with runs.open_run(config, case.task, "") as run:
            trainer = Trainer(run, model, data, objective)
            trainer.fit(config.phases)
        return trainer.progress.rows[-1]["images_per_second"]


def theirs(name: str, precision: str, way: str) -> float:
    """Images per second of the second epoch of a plain PyTorch loop, with the switches of a way on."""
    import torch
    import torch_networks
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    case, switches = CASES[name], WAYS[way]
    fused = "fused" in switches
    pixels, labels = images(case)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()
    loss = nn.functional.cross_entropy
    if name == "linear_svm":
        x = (x - x.mean(dim=0)).flatten(1)
        model = nn.Linear(x.shape[1], 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=3e-7, fused=fused)

        def loss(scores, y):
            true = scores.gather(1, y[:, None])[:, 0]
            wrong = scores.scatter(1, y[:, None], float("-inf")).amax(dim=1)
            return torch.relu(1 + wrong - true).mean() + 1e4 * model.weight.square().sum()

    elif name == "autoencoder":
        x = (x / 255).flatten(1)
        model = torch_networks.autoencoder()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
        loss = nn.functional.mse_loss
    elif case.padding:
        order = torch.randperm(case.side**2)
        x = (x / 127.5 - 1).flatten(2)[:, :, order].reshape(x.shape)
        model = torch_networks.permuted_cnn(case.padding)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5, fused=fused)
    elif name == "base_cnn":
        x = x / 127.5 - 1
        model = torch_networks.base_cnn()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    else:
        model = getattr(torch_networks, case.backbone)(case.size)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=fused)
    if "channels-last" in switches:
        x, model = x.to(memory_format=torch.channels_last), model.to(memory_format=torch.channels_last)

    def objective(inputs, wanted):
        return loss(model(inputs), wanted)

    value_of = torch.compile(objective) if "compiled" in switches else objective
    target = x if name == "autoencoder" else torch.from_numpy(labels)
    loader = DataLoader(TensorDataset(x, target), batch_size=case.batch, shuffle=True)
    for _ in range(2):
        began = time.perf_counter()
        for inputs, wanted in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
                value = value_of(inputs, wanted)
            value.backward()
            optimizer.step()
        seconds = time.perf_counter() - began
    return case.images / seconds


def measure(side: str, name: str, precision: str) -> float:
    """Images per second of ours, or of one of PyTorch's ways, in a process of its own."""
    command = [sys.executable, __file__, name, "--side", side, "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} of {name} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def ratios(rounds: list[dict[str, float]], way: str) -> str:
    """The lowest and the highest ratio of ours to a way, by round."""
    each = [readings["ours"] / readings[way] for readings in rounds]
    return f"{min(each):.2f} to {max(each):.2f}"


def main() -> None:
    """Print medians and ratios."""
    parser = report.parser(__doc__)
    report.add_cases(parser, CASES)
    parser.add_argument("--repeats", type=int, default=5, help="of each side (default 5)")
    parser.add_argument(
        "--precision", choices=("float32", "mixed_bfloat16"), default="float32", help="(default float32)"
    )
    parser.add_argument("--side", choices=("ours", *WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if side := arguments.side:
        name, precision = arguments.cases[0], arguments.precision
        print(ours(name, precision) if side == "ours" else theirs(name, precision, side))
        return
    readings = {}
    machine = report.machine()
    print(f"images/s in {arguments.precision}, medians of {arguments.repeats}, ours on {machine['backend']}")
    print(f"{machine['processor']}\n")
    print(f"{'network':<14}{'ours':>8}{'eager':>8}{'best':>8}{'ratio':>7}  by round      best way", flush=True)
    for name in arguments.cases or CASES:
        sides = ["ours", *ways(name)]
        readings[name] = [
            {side: measure(side, name, arguments.precision) for side in sides} for _ in range(arguments.repeats)
        ]
        median = report.medians(readings[name])
        best = max(ways(name), key=median.__getitem__)
        numbers = f"{median['ours']:>8,.0f}{median['eager']:>8,.0f}{median[best]:>8,.0f}"
        ratio = median["ours"] / median[best]
        print(f"{name:<14}{numbers}{ratio:>7.2f}  {ratios(readings[name], best)}  {best}", flush=True)
        report.write(arguments.json, precision=arguments.precision, images_per_second=readings)


if __name__ == "__main__":
    main()
