"""Why autoencoder_sweep's case 3, a random encoder left as it is, is far better here than published (source 003).

    pip install torch==2.13.0                       # an optional extra of the benchmarks alone
    python tests/benchmarks/random_encoder.py       # MNIST from $TFDS_DATA_DIR; about 5 minutes on 2 cores

A linear classifier on a random encoder 784-1000-300 (ReLU after the first layer), with the initial weights of either
framework and two batch sizes: Adam 1e-3, 10 epochs, all 60,000 training images. Published: running training loss
0.4140, test loss 0.3793.
"""

import statistics
import sys
from pathlib import Path

import report
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.config import Config, data_dir
from common.data import sources

EPOCHS, SEEDS = 10, 3


def images(split):
    """Pixels from 0 to 1, float32 (n, 784), and labels of all of a split."""
    pixels = split.store.numpy()[split.places].reshape(len(split), -1)
    return torch.from_numpy(pixels).float() / 255, torch.from_numpy(split.labels)


def network(initial, seed):
    """The encoder, and the classifier on top of it."""
    torch.manual_seed(seed)
    layers = [nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 300), nn.Linear(300, 10)]
    if initial == "Keras":
        for layer in (layers[0], *layers[2:]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers[:3]).requires_grad_(False), layers[3]


def losses(train, test, initial, batch, seed):
    """Mean training loss over the last epoch's steps, and test loss after it."""
    encoder, head = network(initial, seed)
    (x, y), (x_test, y_test) = ((encoder(pixels), labels) for pixels, labels in (train, test))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(x[chosen]), y[chosen])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
    return total / len(x), nn.functional.cross_entropy(head(x_test), y_test).item()


def main():
    """Print mean and standard deviation over seeds."""
    arguments = report.parser(__doc__).parse_args()
    torch.set_num_threads(1)  # the steps are too small to share
    splits, *_ = sources.from_tfds("mnist", data_dir(Config()))
    train, test = images(splits["train"]), images(splits["test"])
    print(f"{'initial weights':<18}{'batch':>6}{'running train loss':>22}{'test loss':>22}   n = {SEEDS}")
    readings = {}
    for initial in ("PyTorch", "Keras"):
        for batch in (64, 128):
            each = [losses(train, test, initial, batch, seed) for seed in range(SEEDS)]
            readings[f"{initial}, batch {batch}"] = each
            cells = [f"{statistics.fmean(v):.4f} ± {statistics.stdev(v):.4f}" for v in zip(*each, strict=True)]
            print(f"{initial:<18}{batch:>6}{cells[0]:>22}{cells[1]:>22}", flush=True)
    report.write(arguments.json, running_and_test_losses=readings)


if __name__ == "__main__":
    main()
