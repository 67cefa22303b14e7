"""Optimisers: schedules, decay and clipping, a learning rate for each variable, updates by TensorFlow's kernels."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from common import optimizers
from common.config import Phase


@pytest.fixture(autouse=True)
def float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


def test_warmup_and_cosine_against_the_closed_form():
    phase = Phase("p", "full", 125, "nadam", 5e-4, schedule="warmup_cosine", warmup_epochs=5, final_rate=5e-6)
    steps = 10
    stretched = optimizers.learning_rate(phase, steps)
    periodic = optimizers.learning_rate(dataclasses.replace(phase, cosine_epochs=45), steps)

    def rate(schedule, epoch):
        return float(keras.ops.convert_to_numpy(schedule(epoch * steps)))

    assert rate(periodic, 0) == pytest.approx(5e-6)  # a hundredth of the peak
    assert rate(periodic, 2.5) == pytest.approx(5e-4 * (0.01 + 0.99 / 2))
    for epoch in (5, 20, 50, 80, 95, 124):
        expected = 5e-6 + (5e-4 - 5e-6) * (1 + math.cos(math.pi * (epoch - 5) / 45)) / 2
        assert rate(periodic, epoch) == pytest.approx(expected, rel=1e-4)
    assert rate(periodic, 95) == pytest.approx(5e-4)  # up again after two half-periods
    assert rate(stretched, 65) == pytest.approx((5e-4 + 5e-6) / 2)
    assert rate(stretched, 125) == pytest.approx(5e-6)


def test_weight_decay_and_clipping_against_numpy():
    phase = Phase("p", "full", 1, "sgd", 0.1, weight_decay=0.5, clip_norm=1.0)
    optimizer = optimizers.make(phase, 1)
    start = [np.array([3.0, -2.0], "float32"), np.array([[4.0]], "float32")]
    gradients = [np.array([3.0, 0.0], "float32"), np.array([[4.0]], "float32")]
    variables = [keras.Variable(v) for v in start]
    optimizer.apply(gradients, variables)
    for variable, before, gradient in zip(variables, start, gradients, strict=True):
        # the global norm is 5, so the gradients shrink to a fifth; the decay is not part of them
        expected = before * (1 - 0.1 * 0.5) - 0.1 * gradient / 5
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable.value), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW"), ("nadam", "Nadam")])
def test_optimisers(name, kind):
    assert isinstance(optimizers.make(Phase("p", "full", 1, name, 0.1), 1), getattr(keras.optimizers, kind))


STEPS = {
    "sgd": Phase("p", "full", 1, "sgd", 0.05),
    "momentum": Phase("p", "full", 1, "sgd", 0.05, momentum=0.9, clip_norm=3.0),
    "adam": Phase("p", "full", 2, "adam", 0.01, schedule="warmup_cosine", warmup_epochs=1),
    "adamw": Phase("p", "full", 1, "adamw", 0.01, weight_decay=0.1),
    "no decay": Phase("p", "full", 1, "adamw", 0.01),
}


@pytest.mark.parametrize("phase", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("factor", [None, lambda variable: 0.3], ids=["one_rate", "by_variable"])
def test_kernels_update_as_keras_does(monkeypatch, phase, factor):
    """Weights and state after five steps, against the optimiser of Keras's own operations."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(5, 3)).astype("float32"), rng.normal(size=3).astype("float32")]
    gradients = [[rng.normal(size=v.shape).astype("float32") for v in start] for _ in range(5)]
    ends = []
    for kernels in (True, False):
        if not kernels:
            monkeypatch.setattr(optimizers, "by_kernel", lambda maker: maker)
        variables = [keras.Variable(v) for v in start]
        optimizer = optimizers.make(phase, 3, factor)
        optimizer.build(variables)
        own = any("ByKernel" in kind.__qualname__ for kind in type(optimizer).__mro__)
        assert own == (kernels and keras.backend.backend() == "tensorflow")
        for step in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in step], variables)
        ends.append([np.array(v) for v in [*variables, *optimizer.variables]])
    for ours, keras_own in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-6, atol=1e-6)
    assert np.abs(ends[0][0] - start[0]).max() > 1e-3


# --- a learning rate for each variable

FACTORS = {"low": 0.05, "middle": 0.5, "top": 1.0}


def equal_gradients():
    """Three layers whose kernels have one and the same gradient: of one input, and their outputs are added."""
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255, dtype="float32")(image))
    heads = [keras.layers.Dense(10, use_bias=False, kernel_initializer="zeros", name=name)(x) for name in FACTORS]
    return keras.Model(image, keras.layers.Add(dtype="float32")(heads))


@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "phase",
    [
        Phase("train", "full", 1, "sgd", 0.01, momentum=0.9),
        Phase("train", "full", 1, "adam", 0.01),
        Phase("train", "full", 1, "nadam", 0.01, clip_norm=1e-3),
    ],
    ids=lambda phase: phase.optimizer,
)
def test_updates_are_proportional_to_the_rates(precision, phase):
    keras.config.set_dtype_policy(precision)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 8, 8, 1), np.uint8), rng.integers(0, 10, 16)
    kernels = {}
    for factor in (None, lambda variable: FACTORS[variable.path.split("/")[0]]):
        keras.utils.clear_session()
        keras.config.set_dtype_policy(precision)
        model = equal_gradients()
        optimizer = optimizers.make(phase, 1, factor)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert (precision == "mixed_float16") == hasattr(model.optimizer, "inner_optimizer")
        model.train_on_batch(images, labels)
        kernels[factor is None] = {name: np.array(model.get_layer(name).kernel) for name in FACTORS}
        assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.01)
    one_rate, by_variable = kernels[True], kernels[False]
    step = one_rate["top"]
    assert np.abs(step).max() > 1e-5
    for name, factor in FACTORS.items():
        np.testing.assert_array_equal(one_rate[name], step)  # the gradients are equal
        np.testing.assert_allclose(by_variable[name], factor * step, rtol=1e-5, atol=1e-9)


def test_momentum_goes_on_at_the_rate_of_each():
    """Three steps against the closed form."""
    optimizer = optimizers.make(
        Phase("train", "full", 1, "sgd", 0.1, momentum=0.9), 1, lambda variable: FACTORS[variable.path.split("/")[0]]
    )
    model = equal_gradients()
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(3, *model.trainable_variables[0].shape)).astype(np.float32)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 3, model.trainable_variables)
    for name, factor in FACTORS.items():
        velocity, weight = 0.0, 0.0
        for gradient in gradients:
            velocity = 0.9 * velocity - 0.1 * factor * gradient
            weight = weight + velocity
        np.testing.assert_allclose(np.array(model.get_layer(name).kernel), weight, rtol=1e-5, atol=1e-7)
