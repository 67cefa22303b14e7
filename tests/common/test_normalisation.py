"""The fused batch normalisation against Keras's own, which is composed of elementwise operations."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from common.normalisation import BatchNormalization


def pair(trainable=True):
    rng = np.random.default_rng(0)
    layers = [cls(momentum=0.9, epsilon=1e-5) for cls in (BatchNormalization, keras.layers.BatchNormalization)]
    values = [rng.uniform(0.5, 2, 6).astype("float32") for _ in range(4)]
    for layer in layers:
        layer.build((None, 5, 4, 6))
        layer.set_weights(values)
        layer.trainable = trainable
    images = rng.normal(1, 3, (3, 5, 4, 6)).astype("float32")
    return *layers, images


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_moving_statistics(training, trainable):
    fused, composed, images = pair(trainable)
    before = fused.moving_variance.numpy().copy()
    results = [ops.convert_to_numpy(layer(images, training=training)) for layer in (fused, composed)]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)
    for one, other in zip(fused.get_weights(), composed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert np.array_equal(fused.moving_variance.numpy(), before) == (not (training and trainable))


def test_one_step_of_training_moves_all_alike():
    results = []
    for layer, images in zip(pair()[:2], [pair()[2]] * 2, strict=True):
        model = keras.Sequential([keras.Input((5, 4, 6)), keras.layers.Conv2D(6, 1, kernel_initializer="ones"), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(images, np.random.default_rng(1).normal(size=images.shape))
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def torch_steps():
    with np.load(Path(__file__).parent / "fixtures" / "batch_norm_regimes.npz") as file:
        return dict(file)


def weights_of(values, prefix):
    """PyTorch's tensors by its names, in Keras's layout."""
    found = {name.removeprefix(f"{prefix}/"): array for name, array in values.items() if name.startswith(f"{prefix}/")}
    return {n: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T if n == "head.weight" else a for n, a in found.items()}


VARIABLES = {
    "conv1": ["weight"],
    "bn1": ["weight", "bias", "running_mean", "running_var"],
    "conv2": ["weight"],
    "bn2": ["weight", "bias", "running_mean", "running_var"],
    "head": ["weight", "bias"],
}


@pytest.mark.parametrize("regime", ["layer", "keep", "follow"])
def test_fine_tuning_under_each_regime_is_that_of_torch(torch_steps, regime):
    x = image = keras.Input((6, 6, 3))
    for number, filters in ((1, 4), (2, 6)):
        x = keras.layers.Conv2D(filters, 5 - 2 * number, use_bias=False, name=f"conv{number}")(x)
        x = BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"bn{number}")(x)
        x = keras.layers.ReLU()(x)
    model = keras.Model(image, keras.layers.Dense(5, name="head")(keras.layers.GlobalAveragePooling2D()(x)))
    start = weights_of(torch_steps, "start")
    for name, own in VARIABLES.items():
        model.get_layer(name).set_weights([start[f"{name}.{key}"] for key in own])
    model.get_layer("conv1").trainable = False
    model.get_layer("bn1").fine_tune(False, regime)
    model.get_layer("bn2").fine_tune(True, regime)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = torch_steps["images"].transpose(0, 1, 3, 4, 2)
    for batch, labels in zip(images, torch_steps["labels"], strict=True):
        loss = model.train_on_batch(batch, labels)
    expected = weights_of(torch_steps, regime)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    for name, own in VARIABLES.items():
        for key, found in zip(own, model.get_layer(name).get_weights(), strict=True):
            theirs, before = (values[f"{name}.{key}"] for values in (expected, start))
            if key == "running_var" and not np.array_equal(theirs, before):
                # torch's new part, three times a tenth, is the unbiased variance of 8 x 4 x 4 values.
                theirs = 0.9**3 * before + (theirs - 0.9**3 * before) * 127 / 128
            np.testing.assert_allclose(found, theirs, 1e-5, 1e-6, err_msg=f"{name}.{key}")
    np.testing.assert_allclose(model.predict_on_batch(images[0]), expected["outputs"], atol=5e-3)
    moved = {n: not np.allclose(expected[f"{n}.running_mean"], start[f"{n}.running_mean"]) for n in ("bn1", "bn2")}
    assert moved == {"bn1": regime == "follow", "bn2": regime != "keep"}


def test_a_network_does_not_say_on_how_many_devices_it_was_trained():
    one, several = (BatchNormalization(name="norm", synchronized=value) for value in (False, True))
    assert one.get_config() == several.get_config()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_statistics_in_float32(policy):
    layer = BatchNormalization(dtype=policy)
    outputs = layer(np.random.default_rng(0).normal(300, 50, (8, 5, 5, 3)).astype("float32"), training=True)
    assert outputs.dtype == policy.removeprefix("mixed_")
    assert layer.moving_variance.dtype == "float32"
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.99 + 0.01 * 50**2, rtol=0.2)
