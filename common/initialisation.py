"""Initial weights of layers that have no pretrained ones."""

from typing import Literal

import keras
from keras import initializers, layers


def dense(
    x: keras.KerasTensor,
    units: int,
    rule: Literal["keras", "torch"],
    layer: type[layers.Dense] = layers.Dense,
    **arguments: object,
) -> keras.KerasTensor:
    """A dense layer of x, (b, n) to (b, units), with initial weights by a rule; `arguments` are the layer's."""
    return layer(units, **arguments, **kernel_and_bias(rule, x.shape[-1]))(x)


def kernel_and_bias(rule: Literal["keras", "torch"], fan_in: int) -> dict[str, initializers.Initializer]:
    """The initialisers of one dense or convolutional layer, as its keyword arguments.

    keras: none, so that the layer takes its own: Glorot's uniform kernel, a bias of zeros. torch: kernel and bias
    uniform within 1/sqrt(fan_in), as torch.nn.Linear and Conv2d have them. `fan_in` is the number of inputs of one
    output: units, or pixels of the kernel times channels.
    """
    if rule == "keras":
        return {}
    bound = fan_in**-0.5
    return {
        "kernel_initializer": initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),  # bound sqrt(3 / 3 / fan_in)
        "bias_initializer": initializers.RandomUniform(-bound, bound),
    }
