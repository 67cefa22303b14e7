"""Why autoencoder_sweep's losses with dropout are well below the published ones (source 003): a search, not an answer.

    python tests/benchmarks/dropout_places.py       # MNIST from $TFDS_DATA_DIR; about 7 minutes on 2 cores

The autoencoder of k = 300 with a dropout rate of 0.1 after its hidden layers, on JAX: Adam 1e-3, 10 epochs, all 60,000
training images, one seed. Varied are the initial weights and the batch, and where else units are dropped. Published:
running training loss 0.00622, test loss 0.00421.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import keras
import report
from keras import layers

import common  # noqa: F401  its settings of TensorFlow, before Keras imports that
from common.config import Config, data_dir
from common.data import sources

EPOCHS, K, HIDDEN, RATE = 10, 300, 1000, 0.1
VARIANTS = (("PyTorch", 128, ""), ("Keras", 64, "bottleneck"), ("PyTorch", 128, "bottleneck"), ("Keras", 64, "input"))


def images(split):
    """Pixels from 0 to 1, float32 (n, 784), of all of a split."""
    return split.store.numpy()[split.places].reshape(len(split), -1).astype("float32") / 255


def dense(units, inputs, initial, activation=None):
    """A layer with either framework's initial weights."""
    if initial == "Keras":
        return layers.Dense(units, activation)
    bound = inputs**-0.5
    weights, biases = (keras.initializers.RandomUniform(-bound, bound) for _ in range(2))
    return layers.Dense(units, activation, kernel_initializer=weights, bias_initializer=biases)


def losses(train, test, initial, batch, also):
    """Mean training loss over the last epoch's steps, and test loss after it."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((784,))
    if also == "input":
        x = layers.Dropout(RATE)(x)
    x = layers.Dropout(RATE)(dense(HIDDEN, 784, initial, "relu")(x))
    x = dense(K, HIDDEN, initial)(x)
    if also == "bottleneck":
        x = layers.Dropout(RATE)(x)
    x = layers.Dropout(RATE)(dense(HIDDEN, K, initial, "relu")(x))
    model = keras.Model(inputs, dense(784, HIDDEN, initial, "sigmoid")(x))
    model.compile("adam", "mse")
    history = model.fit(train, train, batch_size=batch, epochs=EPOCHS, verbose=0).history
    return history["loss"][-1], model.evaluate(test, test, batch_size=1000, verbose=0)


def main():
    """Print a row a variant."""
    arguments = report.parser(__doc__).parse_args()
    splits, *_ = sources.from_tfds("mnist", data_dir(Config()))
    train, test = images(splits["train"]), images(splits["test"])
    print(f"{'initial weights':<18}{'batch':>6}  {'dropped also':<14}{'running train loss':>20}{'test loss':>12}")
    readings = {}
    for initial, batch, also in VARIANTS:
        running, after = losses(train, test, initial, batch, also)
        print(f"{initial:<18}{batch:>6}  {also or 'nothing':<14}{running:>20.5f}{after:>12.5f}", flush=True)
        readings[f"{initial}, batch {batch}, {also or 'nothing'}"] = {"running": running, "test": after}
    report.write(arguments.json, losses=readings)


if __name__ == "__main__":
    main()
