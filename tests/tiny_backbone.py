"""A backbone of five convolutions, for tests in which it does not matter what a backbone computes."""

from types import SimpleNamespace

import keras

from common.normalisation import BatchNormalization


def build(side):
    """A convolution for each stage."""
    x = image = keras.Input((side, side, 3), name="image")
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name=f"{name}.conv")(x)
        x = keras.layers.ReLU()(BatchNormalization(momentum=0.9, name=f"{name}.norm")(x))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="tiny")


TINY = SimpleNamespace(build=build, stage_of=lambda layer: layer.partition(".")[0])
