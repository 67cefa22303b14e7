"""The dense layer against NumPy and against Keras's own."""

import keras
import numpy as np
import pytest
from keras import ops

from common.workarounds.dense import Dense


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def trained(cls, images, targets, weights, **settings):
    """Weights of two layers, one on the other, after a step of gradient descent."""
    model = keras.Sequential([keras.Input((7,)), cls(5, activation="tanh", **settings), cls(3, **settings)])
    model.set_weights(weights)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(images, targets)
    return model.get_weights()


def test_outputs_are_those_of_numpy():
    images, kernel, bias = arrays((4, 7), (7, 5), (5,))
    layer = Dense(5, activation="relu")
    layer.build((None, 7))
    layer.set_weights([kernel, bias])
    np.testing.assert_allclose(ops.convert_to_numpy(layer(images)), np.maximum(images @ kernel + bias, 0), rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_step_of_training_is_that_of_keras(bias):
    images, targets, *weights = arrays((4, 7), (4, 3), (7, 5), (5,), (5, 3), (3,))
    if not bias:
        weights = weights[::2]
    pair = [trained(cls, images, targets, weights, use_bias=bias) for cls in (Dense, keras.layers.Dense)]
    for ours, theirs, before in zip(*pair, weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert np.abs(ours - before).max() > 1e-3


def test_the_gradient_by_its_input_is_the_transposed_kernel():
    x, first, second, targets = arrays((4, 7), (7, 5), (5, 3), (4, 3))
    model = keras.Sequential([keras.Input((7,)), Dense(5, use_bias=False), Dense(3, use_bias=False)])
    model.set_weights([first, second])
    model.compile(keras.optimizers.SGD(1.0), lambda y, outputs: ops.sum(ops.square(outputs - y), axis=-1) * 2)
    model.train_on_batch(x, targets)  # of which Keras takes the mean: half the square of the error, over all
    error = x @ first @ second - targets
    np.testing.assert_allclose(first - model.get_weights()[0], x.T @ (error @ second.T), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(second - model.get_weights()[1], (x @ first).T @ error, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_as_keras_does(policy):
    images, targets, *weights = arrays((4, 7), (4, 3), (7, 5), (5,), (5, 3), (3,))
    pair = [trained(cls, images, targets, weights, dtype=policy) for cls in (Dense, keras.layers.Dense)]
    for ours, theirs in zip(*pair, strict=True):
        assert ours.dtype == "float32"
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.01)
    assert Dense(5, dtype=policy)(images).dtype == policy.removeprefix("mixed_")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernels")
@pytest.mark.parametrize(("dtype", "products"), [("float32", 1), ("bfloat16", 0)])
def test_the_gradient_by_its_input_is_a_batch_of_products(dtype, products):
    import tensorflow as tf

    layer = Dense(5, dtype=dtype)
    layer.build((None, 7))

    @tf.function
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
        return tape.gradient(outputs, images)

    graph = gradient.get_concrete_function(tf.TensorSpec((4, 7), dtype)).graph
    assert [node.type for node in graph.get_operations()].count("BatchMatMulV2") == products


def test_other_inputs_are_those_of_keras():
    images, kernel, bias = arrays((4, 2, 7), (7, 5), (5,))
    model = keras.Sequential([keras.Input((2, 7)), Dense(5)])
    model.set_weights([kernel, bias])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    np.testing.assert_allclose(model.predict(images, verbose=0), images @ kernel + bias, rtol=1e-4, atol=1e-5)
    model.train_on_batch(images, images[..., :5])
    error = images @ kernel + bias - images[..., :5]
    step = 0.1 * 2 / error.size * np.tensordot(images, error, ((0, 1), (0, 1)))
    np.testing.assert_allclose(kernel - model.get_weights()[0], step, rtol=1e-3, atol=1e-5)


def test_a_saved_model_has_it():
    model = keras.Sequential([keras.Input((7,)), Dense(5)])
    assert isinstance(keras.Sequential.from_config(model.get_config()).layers[0], Dense)
