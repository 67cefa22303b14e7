"""Images per second of MobileNetV2's training step with the fused batch normalisation and with Keras's own.

    python tests/benchmarks/batch_normalisation.py

TensorFlow backend, 96 pixels, batch 64, Adam, random images. The two take turns; medians of five rounds of three steps.
"""

import os
import statistics
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import keras
import numpy as np
import report

from common.backbones import networks
from common.normalisation import BatchNormalization

BATCH, SIZE, STEPS, ROUNDS = 64, 96, 3, 5


def composed(layer):
    """A layer of the backbone, with Keras's own batch normalisation."""
    if isinstance(layer, BatchNormalization):
        return keras.layers.BatchNormalization.from_config(layer.get_config())
    return layer.__class__.from_config(layer.get_config())


def compiled(network):
    """The network with a ten-way head, ready to train."""
    model = keras.Sequential([network, keras.layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def main():
    """Print the medians and their ratio."""
    parser = report.parser(__doc__)
    arguments = parser.parse_args()
    images = np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3)).astype("float32")
    labels = np.zeros(BATCH, "int64")
    network = networks.build("mobilenet_v2", SIZE).model
    models = {
        "composed": compiled(keras.models.clone_model(network, clone_function=composed)),
        "fused": compiled(network),
    }
    rates = {name: [] for name in models}
    for model in models.values():
        model.train_on_batch(images, labels)
    for _ in range(ROUNDS):
        for name, model in models.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                model.train_on_batch(images, labels)
            rates[name].append(STEPS * BATCH / (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:<12} {median:6.1f} images/s  (from {min(rates[name]):.1f} to {max(rates[name]):.1f})")
    print(f"ratio        {medians['fused'] / medians['composed']:6.2f}")
    report.write(arguments.json, images_per_second=rates)


if __name__ == "__main__":
    main()
