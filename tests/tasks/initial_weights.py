"""What the tests of several tasks ask of a network's initial weights."""

import numpy as np
from scipy import stats


def weighted(model):
    """The layers with a kernel."""
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def assert_torchs(layers):
    """Kernels and biases are uniform within 1/sqrt(fan_in), which is read from the kernel's own shape."""
    assert layers
    for layer in layers:
        bound = np.prod(layer.kernel.shape[:-1]) ** -0.5
        for values in map(np.asarray, (layer.kernel, layer.bias)):
            assert np.abs(values).max() <= bound * (1 + 1e-6), layer.name
            assert len(np.unique(values)) > 0.5 * values.size, layer.name
            assert stats.kstest(values.ravel() / bound, stats.uniform(-1, 2).cdf).pvalue > 1e-4, layer.name


def assert_kerass(layers):
    """Kernels fill Glorot's bounds, sqrt(6 / (fan_in + fan_out)); biases are zero."""
    assert layers
    for layer in layers:
        *window, inputs, outputs = layer.kernel.shape
        bound = (6 / (np.prod(window) * (inputs + outputs))) ** 0.5
        values = np.asarray(layer.kernel).ravel() / bound
        assert np.abs(values).max() <= 1 + 1e-6, layer.name
        assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-4, layer.name
        assert not np.asarray(layer.bias).any(), layer.name
