"""Initial weights against their closed form, and against PyTorch's own (fixtures/torch_initialisation.npz)."""

from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import stats

from common.initialisation import kernel_and_bias
from common.workarounds.dense import Dense

FIXTURE = Path(__file__).parent / "fixtures" / "torch_initialisation.npz"
LAYERS = {  # a layer by its initialisers, its input, and the inputs of one output
    "dense": (lambda initial: keras.layers.Dense(1000, **initial), (1, 784), 784),
    "our dense": (lambda initial: Dense(1000, **initial), (1, 784), 784),
    "convolution": (lambda initial: keras.layers.Conv2D(128, 3, **initial), (1, 8, 8, 64), 9 * 64),
}


def draw(name, rule="torch", seed=0):
    """Kernel and bias of a new layer, float64."""
    make, inputs, fan_in = LAYERS[name]
    keras.utils.set_random_seed(seed)
    layer = make(kernel_and_bias(rule, fan_in))
    layer.build(inputs)
    return [np.asarray(weights, np.float64) for weights in layer.get_weights()]


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_kernel_and_bias_are_uniform_within_the_root_of_fan_in(name):
    bound = 1 / np.sqrt(LAYERS[name][2])
    for values in draw(name):
        n = values.size
        assert np.abs(values).max() <= bound * (1 + 1e-6)  # float32
        assert np.abs(values).max() > bound * (1 - 20 / n)  # missed with a probability of e^-20
        # The variance of a uniform sample: bound^2 / 3, and relative to it a deviation of sqrt(0.8 / n).
        assert values.var() == pytest.approx(bound**2 / 3, rel=5 * np.sqrt(0.8 / n))
        assert stats.kstest(values.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("name", "theirs"), [("dense", "dense"), ("our dense", "dense"), ("convolution",) * 2])
def test_they_are_spread_as_pytorchs(name, theirs):
    draws = [draw(name, seed=seed) for seed in range(10)]
    with np.load(FIXTURE) as saved:
        for part, values in zip(("kernel", "bias"), zip(*draws, strict=True), strict=True):
            mean, deviation, most = saved[f"{theirs}/{part}"]
            values = np.stack(values)
            error = deviation / np.sqrt(values.size)  # of the mean; the deviation's is smaller
            assert values.mean() == pytest.approx(mean, abs=5 * error)
            assert values.std() == pytest.approx(deviation, abs=5 * error)
            assert np.abs(values).max() == pytest.approx(most, rel=20 / values.size + 1e-6)


def test_kerass_are_the_layers_own():
    assert kernel_and_bias("keras", 784) == {}
    for name, (_, inputs, _) in LAYERS.items():
        kernel, bias = draw(name, "keras")
        keras.utils.set_random_seed(0)
        plain = keras.layers.Conv2D(128, 3) if name == "convolution" else keras.layers.Dense(1000)
        plain.build(inputs)
        np.testing.assert_array_equal(kernel, plain.get_weights()[0])
        assert not bias.any()


def test_the_seed_draws_them_and_no_two_are_alike():
    (kernel, bias), again, other = draw("dense"), draw("dense"), draw("dense", seed=1)
    np.testing.assert_array_equal(kernel, again[0])
    np.testing.assert_array_equal(bias, again[1])
    assert (kernel != other[0]).mean() > 0.99
    assert (bias != other[1]).mean() > 0.99
    assert (kernel[0] != bias).mean() > 0.99
    keras.utils.set_random_seed(0)
    first, second = (keras.layers.Dense(1000, **kernel_and_bias("torch", 784)) for _ in range(2))
    for layer in (first, second):
        layer.build((1, 784))
    for one, two in zip(first.get_weights(), second.get_weights(), strict=True):
        assert (one != two).mean() > 0.99
