"""The fused batch normalisation against Keras's own, which is composed of elementwise operations."""

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


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_statistics_in_float32(policy):
    layer = BatchNormalization(dtype=policy)
    outputs = layer(np.random.default_rng(0).normal(300, 50, (8, 5, 5, 3)).astype("float32"), training=True)
    assert outputs.dtype == policy.removeprefix("mixed_")
    assert layer.moving_variance.dtype == "float32"
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.99 + 0.01 * 50**2, rtol=0.2)
