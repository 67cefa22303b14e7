"""Augmentation in the compiled step."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import ops

from common.augment import AUGMENTATIONS
from common.augment.recipes import NONE, Tensor


@keras.saving.register_keras_serializable(package="keras_studies")
class Augment(keras.layers.Layer):
    """Applies a recipe in training, and only casts to float32 otherwise.

    `at` says what the images are: "native", of their own size, or "input", already of the size that the network sees.
    The two differ in the crop's padding alone. The blur of 3 pixels is not scaled, so a larger image is blurred less.

    The generator's state is one of the model's variables: if they are restored, the same images follow. Inputs are
    computed and returned in float32 under every dtype policy, since half precision would round pixel values.

    Raises:
        ConfigError: no recipe has this name.
    """

    def __init__(self, recipe: str, seed: int, at: Literal["native", "input"] = "native", **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._arguments = {"recipe": recipe, "seed": seed, "at": at}
        named = AUGMENTATIONS.load(recipe)
        self._recipe = named.at_input() if at == "input" else named
        self._seeds = keras.random.SeedGenerator(seed)
        self._apply = as_one_kernel(self._recipe.apply)

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Augment images (n, h, w, c), uint8 or float, 0 to 255; returns float32 of the same shape and range."""
        images = ops.cast(images, "float32")
        if not training or self._recipe == NONE:
            return images
        params = self._recipe.sample(self._uniform, ops.shape(images)[0])
        return self._apply(images, params)

    def get_config(self) -> dict:
        """The arguments, for a file of the model."""
        return super().get_config() | self._arguments

    def _uniform(self, shape: tuple, low: float, high: float) -> Tensor:
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self._seeds)


def as_one_kernel(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function compiled by XLA, even if TensorFlow does not compile the step, as on a CPU.

    Its many small operations, fused, pass over memory a few times instead of about fifty times.
    """
    if keras.backend.backend() != "tensorflow":
        return function  # JAX compiles the whole step
    import tensorflow as tf

    @functools.cache
    def compiled(height: int, width: int) -> Callable[..., Tensor]:
        # One function per size: after two sizes, a single one would be retraced for an unknown size.
        return tf.function(function, jit_compile=True, reduce_retracing=True)

    return lambda images, params: compiled(*images.shape[1:3])(images, params)
