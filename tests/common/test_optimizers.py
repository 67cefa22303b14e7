"""Optimisers: schedules, decay and clipping, a learning rate for each variable, updates by TensorFlow's kernels."""

import dataclasses
import math
from pathlib import Path
from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest

from common import optimizers
from common.phase import Phase

pytestmark = pytest.mark.usefixtures("float32_afterwards")


def test_warmup_and_cosine_against_the_closed_form():
    phase = Phase("p", 125, "nadam", 5e-4, schedule="warmup_cosine", warmup_epochs=5, final_rate=5e-6)
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
    phase = Phase("p", 1, "sgd", 0.1, weight_decay=0.5, clip_norm=1.0)
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
    assert isinstance(optimizers.make(Phase("p", 1, name, 0.1), 1), getattr(keras.optimizers, kind))


STEPS = {
    "sgd": Phase("p", 1, "sgd", 0.05),
    "momentum": Phase("p", 1, "sgd", 0.05, momentum=0.9, clip_norm=3.0),
    "adam": Phase("p", 2, "adam", 0.01, schedule="warmup_cosine", warmup_epochs=1),
    "adamw": Phase("p", 1, "adamw", 0.01, weight_decay=0.1),
    "no decay": Phase("p", 1, "adamw", 0.01),
    "torch sgd": Phase("p", 1, "sgd", 0.05, weight_decay=0.1, convention="torch"),
    "torch momentum": Phase("p", 1, "sgd", 0.05, momentum=0.9, convention="torch"),
    "torch adam": Phase("p", 1, "adam", 0.01, weight_decay=0.1, convention="torch"),
    "torch adamw": Phase("p", 1, "adamw", 0.01, weight_decay=0.1, convention="torch"),
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
            monkeypatch.setattr(optimizers, "on_tensorflow", lambda maker: maker)
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


# --- torch's conventions; the fixture holds what PyTorch 2.13 does


@pytest.fixture(scope="module")
def torch():
    with np.load(Path(__file__).parent / "fixtures" / "torch_optimizers.npz") as saved:
        return dict(saved)


def as_torch(optimizer, rate, **more):
    return Phase("p", 10, optimizer, rate, convention="torch", **more)


CLIPPED = {"weight_decay": 0.1, "clip_norm": 3.0}
WAVE = {
    "schedule": "warmup_cosine",
    "schedule_by": "epoch",
    "warmup_epochs": 3,
    "warmup_start": 1 / 3,
    "cosine_epochs": 4,
}
TORCH = {
    "sgd": as_torch("sgd", 0.05, momentum=0.9, final_rate=1e-3, **CLIPPED, **WAVE),
    "adam": as_torch("adam", 0.01, final_rate=1e-3, **CLIPPED, **WAVE),
    "adamw": as_torch("adamw", 0.01, final_rate=1e-3, **CLIPPED, **WAVE),
    "nadam": as_torch("nadam", 0.01, final_rate=1e-3, **CLIPPED, **WAVE),
    # without decay the gradients of the last variable stay as small as epsilon
    "sgd_plain": as_torch("sgd", 0.05),
    "adam_plain": as_torch("adam", 0.01),
    "nadam_plain": as_torch("nadam", 0.01),
    # torch: a parameter group for each variable
    "sgd_rates": as_torch("sgd", 0.05, momentum=0.9, **CLIPPED, **WAVE),
    "adamw_rates": as_torch("adamw", 0.01, **CLIPPED, **WAVE),
    "nadam_rates": as_torch("nadam", 0.01, **CLIPPED, **WAVE),
}
RATES = {"kernel": 0.3, "bias": 1.0, "faint": 0.05}


def stepper(optimizer, variables):
    """A built optimiser's step, from gradients, as `fit` compiles it."""
    if keras.backend.backend() != "jax":
        return lambda gradients: optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    import jax

    stateless = jax.jit(optimizer.stateless_apply)

    def step(gradients):
        state, weights = ([v.value for v in group] for group in (optimizer.variables, variables))
        new = stateless(state, [keras.ops.convert_to_tensor(g) for g in gradients], weights)
        for group, values in zip((variables, optimizer.variables), new, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)

    return step


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "loss_scale"])
@pytest.mark.parametrize("case", TORCH)
def test_each_step_is_torchs(torch, case, wrapped):
    """Also past a checkpoint, and if mixed_float16 wraps the optimiser."""
    scale = 2.0**15 if wrapped else 1.0
    factor = (lambda variable: RATES[variable.name]) if case.endswith("_rates") else None

    def fresh(weights):
        variables = [keras.Variable(weights[name], name=name) for name in RATES]
        optimizer = optimizers.make(TORCH[case], 2, factor)
        optimizer.build(variables)
        if wrapped:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(variables)
        return optimizer, variables, stepper(optimizer, variables)

    optimizer, variables, apply = fresh({name: torch[f"start/{name}"] for name in RATES})
    for step in range(20):
        if step == 10:
            saved = [np.array(v) for v in optimizer.variables]
            optimizer, variables, apply = fresh({v.name: np.array(v) for v in variables})
            for variable, array in zip(optimizer.variables, saved, strict=True):
                variable.assign(array)
        apply([torch[f"gradient/{v.name}"][step] * np.float32(scale) for v in variables])
        for v in variables:
            theirs = torch[f"{case}/{v.name}"][step]
            np.testing.assert_allclose(np.array(v), theirs, rtol=1e-6, atol=1e-6, err_msg=f"{v.name}, step {step}")


def test_adam_and_adamw_decay_differently_as_torchs_do(torch):
    """With Keras's conventions they are one algorithm."""
    ends = {}
    for convention in ("torch", "keras"):
        for name in ("adam", "adamw"):
            variables = [keras.Variable(torch[f"start/{v}"]) for v in RATES]
            optimizer = optimizers.make(dataclasses.replace(TORCH[name], convention=convention), 2)
            optimizer.build(variables)
            apply = stepper(optimizer, variables)
            for step in range(20):
                apply([torch[f"gradient/{v}"][step] for v in RATES])
            ends[convention, name] = np.array(variables[0])
    for name in ("adam", "adamw"):
        np.testing.assert_allclose(ends["torch", name], torch[f"{name}/kernel"][-1], rtol=1e-6, atol=1e-6)
    assert np.abs(ends["torch", "adam"] - ends["torch", "adamw"]).max() > 1e-3
    np.testing.assert_array_equal(ends["keras", "adam"], ends["keras", "adamw"])


def test_rates_by_epoch_are_those_of_torchs_schedulers(torch):
    """The 125 epochs of source 001, past the end of the cosine."""
    phase = as_torch("nadam", 5e-4, final_rate=5e-6, **(WAVE | {"warmup_epochs": 5, "cosine_epochs": 45}))
    steps = 7
    schedule = optimizers.learning_rate(dataclasses.replace(phase, epochs=125), steps)
    ours = [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(125 * steps)]
    np.testing.assert_allclose(ours, np.repeat(torch["rates"], steps), rtol=1e-4)
    by_step = optimizers.learning_rate(dataclasses.replace(phase, epochs=125, schedule_by="step"), steps)
    assert float(keras.ops.convert_to_numpy(by_step(1))) == pytest.approx(5e-4 * (1 + 2 / 35) / 3)


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
        Phase("train", 1, "sgd", 0.01, momentum=0.9),
        Phase("train", 1, "adam", 0.01),
        Phase("train", 1, "nadam", 0.01, clip_norm=1e-3),
    ],
    ids=lambda phase: phase.optimizer,
)
def test_updates_are_proportional_to_the_rates(precision, phase):
    keras.config.set_dtype_policy(precision)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 8, 8, 1), np.uint8), rng.integers(0, 10, 16)
    kernels = {}
    for factor in (None, lambda variable: FACTORS[variable.path.split("/")[0]]):
        keras.utils.clear_session(free_memory=False)
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
        Phase("train", 1, "sgd", 0.1, momentum=0.9), 1, lambda variable: FACTORS[variable.path.split("/")[0]]
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


@pytest.mark.parametrize("convention", get_args(get_type_hints(Phase)["convention"]))
def test_every_optimizer_that_a_phase_may_name_can_be_made(convention):
    assert set(optimizers.MAKERS[convention]) == set(get_args(get_type_hints(Phase)["optimizer"]))
