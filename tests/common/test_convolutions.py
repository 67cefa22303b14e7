"""Convolutions that are computed in another way, against TensorFlow's own in float64 and against Keras's layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.workarounds import few_pixels, strided_depthwise


def gradients(function, *inputs):
    """Outputs, and the gradients of a weighted sum of them."""
    inputs = [tf.convert_to_tensor(each) for each in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
        weights = np.random.default_rng(1).normal(size=outputs.shape)
        total = tf.reduce_sum(outputs * weights)
    return [outputs, *tape.gradient(total, inputs)]


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("zeros", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("sides", [(5, 5), (6, 8), (7, 5)])
def test_a_product_is_the_convolution_with_its_gradients(size, zeros, stride, sides):
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(3, *sides, 2)), rng.normal(size=(size, size, 2, 4))
    ours = gradients(lambda x, w: few_pixels.as_product(x, w, stride, zeros), images, kernel)
    around = ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0))
    theirs = gradients(lambda x, w: tf.nn.conv2d(tf.pad(x, around), w, stride, "VALID"), images, kernel)
    for own, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("side", "stride", "padding"), [(2, 1, "same"), (3, 1, "same"), (7, 2, "valid")])
def test_a_layer_of_few_pixels_trains_as_that_of_keras(side, stride, padding):
    assert trained(few_pixels.Conv2D, side, stride, padding) == pytest.approx(
        trained(keras.layers.Conv2D, side, stride, padding), rel=1e-4, abs=1e-5
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_layer_trains_as_that_of_keras(stride):
    assert trained(strided_depthwise.DepthwiseConv2D, 6, stride, "valid") == pytest.approx(
        trained(keras.layers.DepthwiseConv2D, 6, stride, "valid"), rel=1e-4, abs=1e-5
    )


def trained(kind, side, stride, padding):
    """The weights of a layer after a step of gradient descent, flat."""
    rng = np.random.default_rng(0)
    filters = () if issubclass(kind, keras.layers.DepthwiseConv2D) else (4,)
    model = keras.Sequential([keras.Input((side, side, 3)), kind(*filters, 3, stride, padding, use_bias=False)])
    model.set_weights([rng.normal(size=weight.shape) for weight in model.weights])
    images = rng.normal(size=(5, side, side, 3)).astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(images, rng.normal(size=(5, *model.output_shape[1:])))
    return model.get_weights()[0].ravel()


def test_products_are_for_few_pixels(monkeypatch):
    called = []
    monkeypatch.setattr(few_pixels, "as_product", lambda *inputs: called.append(inputs[0].shape[1]) or inputs[0])
    for side in (2, 3, 4):
        few_pixels.Conv2D(3, 3, padding="same")(np.zeros((1, side, side, 3), "float32"))
    few_pixels.Conv2D(3, 1, padding="same")(np.zeros((1, 2, 2, 3), "float32"))
    assert called == [2, 3]


def test_a_strided_depthwise_convolution_is_computed_in_float32():
    rng = np.random.default_rng(0)
    images = tf.cast(rng.normal(size=(2, 6, 6, 3)), "bfloat16")
    layer = strided_depthwise.DepthwiseConv2D(3, 2, use_bias=False, dtype="mixed_bfloat16")
    outputs = layer(images)
    kernel = tf.cast(tf.cast(layer.kernel.value, "bfloat16"), "float32")
    exact = tf.nn.depthwise_conv2d(tf.cast(images, "float32"), kernel, (1, 2, 2, 1), "VALID")
    assert outputs.dtype == "bfloat16"
    np.testing.assert_array_equal(outputs, tf.cast(exact, "bfloat16"))
