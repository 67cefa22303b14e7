"""Convolutions that are computed in another way, against TensorFlow's own in float64 and against Keras's layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.workarounds import few_pixels, strided_depthwise


def gradients(function, dtype, *inputs):
    """Outputs, and the gradients of a weighted sum of them, computed in a dtype from numbers of 16 bits."""
    inputs = [tf.cast(tf.cast(each, "bfloat16"), dtype) for each in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    weights = tf.cast(np.random.default_rng(1).normal(size=outputs.shape), "bfloat16")
    found = outputs, *tape.gradient(outputs, inputs, tf.cast(weights, dtype))
    return [np.asarray(tf.cast(each, "float64")) for each in found]


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("zeros", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("sides", [(5, 5), (6, 8), (7, 5)])
def test_a_product_is_the_convolution_with_its_gradients(size, zeros, stride, sides):
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(3, *sides, 2)), rng.normal(size=(size, size, 2, 4))
    ours = gradients(lambda x, w: few_pixels.as_product(x, w, stride, zeros), "float64", images, kernel)
    around = ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0))
    theirs = gradients(lambda x, w: tf.nn.conv2d(tf.pad(x, around), w, stride, "VALID"), "float64", images, kernel)
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


@pytest.mark.parametrize(("stride", "dtype"), [(1, tf.bfloat16), (2, tf.float32)])
def test_a_strided_depthwise_convolution_is_computed_in_float32(stride, dtype):
    layer = strided_depthwise.DepthwiseConv2D(3, stride, use_bias=False, dtype="mixed_bfloat16")
    layer.build((None, 6, 6, 3))

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
        return outputs, *tape.gradient(outputs, (images, layer.kernel.value))

    traced = step.get_concrete_function(tf.TensorSpec((2, 6, 6, 3), tf.bfloat16))
    operations = [op for op in traced.graph.get_operations() if op.type.startswith("DepthwiseConv2d")]
    assert len({op.type for op in operations}) == 3  # outputs and both gradients
    assert {op.get_attr("T") for op in operations} == {dtype}
    assert traced.structured_outputs[0].dtype == tf.bfloat16


KINDS = [
    (few_pixels.Conv2D, {"padding": "same", "strides": 2}),
    (few_pixels.Conv2D, {"padding": "same", "kernel_size": 2}),
    (few_pixels.Conv2D, {"strides": (1, 2)}),
    (few_pixels.Conv2D, {"padding": "same", "dilation_rate": 2}),
    (few_pixels.Conv2D, {"kernel_size": (3, 1)}),
    (few_pixels.Conv2D, {"groups": 3, "padding": "same"}),
    (few_pixels.Conv2D, {"use_bias": True, "bias_initializer": "ones", "activation": "relu"}),
    (strided_depthwise.DepthwiseConv2D, {"strides": 2, "bias_initializer": "ones"}),
    (strided_depthwise.DepthwiseConv2D, {"strides": 2, "use_bias": False, "activation": "relu"}),
    (strided_depthwise.DepthwiseConv2D, {"strides": 2, "dilation_rate": 2, "padding": "same", "use_bias": False}),
]


@pytest.mark.parametrize("side", [3, 4])
@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=lambda value: str(getattr(value, "__name__", value)))
def test_layers_of_every_kind_are_those_of_keras(kind, settings, side):
    settings = {"kernel_size": 3} | ({"filters": 3} if kind is few_pixels.Conv2D else {}) | settings
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype("float32")
    ours, theirs = kind(**settings), getattr(keras.layers, kind.__name__)(**settings)
    for layer in (ours, theirs):
        layer.build(images.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_the_gradient_by_the_images_is_summed_in_float32():
    @tf.function
    def gradient(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = few_pixels.as_product(images, kernel, 1, 1)
        return tape.gradient(outputs, images)

    shapes = tf.TensorSpec((4, 2, 2, 3), tf.bfloat16), tf.TensorSpec((3, 3, 3, 5), tf.bfloat16)
    operations = gradient.get_concrete_function(*shapes).graph.get_operations()
    assert {op.get_attr("T") for op in operations if op.type == "AddN"} == {tf.float32}
