"""Random augmentation: recipes, applied in the compiled step (Keras) or in tf.data (KerasCV).

A recipe draws parameters for each image independently and applies them. `Augment` does so inside the model, on the
accelerator, before or after the resize to the network's input size; `host_augment` does so in tf.data, before the
resize.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
from keras import ops

# A tensor of the backend in `Augment`, of TensorFlow in `host_augment`.
Tensor = Any
# (shape, low, high) -> float32 tensor, uniform over [low, high).
Uniform = Callable[[tuple, float, float], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Ranges of the random changes to an image. The default changes nothing.

    The values have the same meaning as in torchvision's RandomHorizontalFlip, RandomCrop, RandomAffine, ColorJitter and
    GaussianBlur, with three exceptions: translations are not rounded to whole pixels (too coarse at 32 x 32), colours
    change in a fixed order, and the blur kernel is always 3 x 3.
    """

    flip_horizontal: float = 0.0
    """Probability of a left-right flip."""
    flip_vertical: float = 0.0
    """Probability of an upside-down flip."""
    crop_padding: float = 0.0
    """Zeros around the image before a random crop back to its size, as a fraction of each side."""
    rotation: float = 0.0
    """Largest rotation either way, in degrees."""
    translation: float = 0.0
    """Largest translation either way, as a fraction of each side."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of magnification."""
    shear: float = 0.0
    """Largest shear along x either way, in degrees."""
    jitter: float = 0.0
    """Probability that colours change."""
    brightness: float = 0.0
    """The factor on the pixels is 1 +- up to this."""
    contrast: float = 0.0
    """The factor on the distance from the image's mean grey is 1 +- up to this."""
    saturation: float = 0.0
    """The factor on the distance from the pixel's own grey is 1 +- up to this."""
    hue: float = 0.0
    """Largest change of the HSV hue either way, as a fraction of the circle."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels."""

    def sample(self, uniform: Uniform, n: int | Tensor) -> dict[str, Tensor]:
        """Draw the parameters of n images, each of shape (n,).

        This uses plain operators only: `uniform` decides whether the results are tensors of the backend, of TensorFlow
        or of NumPy.

        Returns:
            bool: flip_x, flip_y, jitter, blur. float32: crop_x, crop_y (position of the crop in [0, 1)),
            angle (degrees, clockwise), shift_x, shift_y (fractions of width and height, right and down), scale,
            shear (degrees), brightness, contrast, saturation (factors), hue (turns), sigma (pixels).
        """

        def chance(probability):
            return uniform((n,), 0.0, 1.0) < probability

        def around(centre, spread):
            return uniform((n,), centre - spread, centre + spread)

        return {
            "flip_x": chance(self.flip_horizontal),
            "flip_y": chance(self.flip_vertical),
            "crop_x": uniform((n,), 0.0, 1.0),
            "crop_y": uniform((n,), 0.0, 1.0),
            "angle": around(0.0, self.rotation),
            "shift_x": around(0.0, self.translation),
            "shift_y": around(0.0, self.translation),
            "scale": uniform((n,), *self.scale),
            "shear": around(0.0, self.shear),
            "jitter": chance(self.jitter),
            "brightness": around(1.0, self.brightness),
            "contrast": around(1.0, self.contrast),
            "saturation": around(1.0, self.saturation),
            "hue": around(0.0, self.hue),
            "blur": chance(self.blur),
            "sigma": uniform((n,), *self.blur_sigma),
        }

    def apply(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Change float32 images (n, h, w, c), 0 to 255, by the parameters from `sample`; same shape and range.

        Affine map, flips and crop are one interpolation, so an image is softened at most once, and flips and crops
        alone reproduce pixels exactly. Colours change after that and before the blur; unless there are 3 channels, only
        brightness and contrast change.
        """
        if self == Recipe():
            return images
        images = _warp(images, params, self.crop_padding)
        if self.jitter:
            images = ops.where(_per_image(params["jitter"]), _colour(images, params), images)
        if self.blur:
            images = ops.where(_per_image(params["blur"]), _blur(images, params["sigma"]), images)
        return images


# For images at their native size, before the resize.
RECIPES = {
    "none": Recipe(),
    # 4 pixels of padding at 32, the usual choice for CIFAR.
    "flip_crop": Recipe(flip_horizontal=0.5, crop_padding=1 / 8),
    # Source 001.
    "affine_colour_blur": Recipe(
        flip_horizontal=0.3,
        flip_vertical=0.3,
        rotation=10.0,
        translation=0.1,
        scale=(0.9, 1.1),
        shear=10.0,
        jitter=0.5,
        brightness=0.25,
        contrast=0.25,
        saturation=0.25,
        hue=0.1,
        blur=0.5,
        blur_sigma=(0.1, 2.0),
    ),
}
# For images at the network's input size, as in the sources: 000 pads 224 pixels by 4. Rounded to whole pixels: 2 at 96,
# 1 from 83 down to 32, the smallest size of the backbones.
RECIPES_AT_INPUT = RECIPES | {"flip_crop": replace(RECIPES["flip_crop"], crop_padding=4 / 224)}


class Augment(keras.layers.Layer):
    """Applies a recipe in training, and only casts to float32 otherwise.

    `at` is the size of the images: "native" before the resize, "input" after it. The recipes differ only in the crop's
    fraction of the side. A blur of 3 pixels is weaker in a larger image.

    The generator's state is one of the model's variables: if they are restored, the same images follow. Inputs are
    computed and returned in float32 under every dtype policy, since half precision would round pixel values.

    Raises:
        ValueError: there is no recipe of this name.
    """

    def __init__(self, recipe: str, seed: int, at: Literal["native", "input"] = "native", **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._recipe = _named(recipe, RECIPES_AT_INPUT if at == "input" else RECIPES)
        self._seeds = keras.random.SeedGenerator(seed)
        self._apply = _as_one_kernel(self._recipe.apply)

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Augment images (n, h, w, c), uint8 or float, 0 to 255; returns float32 of the same shape and range."""
        images = ops.cast(images, "float32")
        if not training or self._recipe == Recipe():
            return images
        params = self._recipe.sample(self._uniform, ops.shape(images)[0])
        return self._apply(images, params)

    def _uniform(self, shape, low, high):
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self._seeds)


def host_augment(recipe: str, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the recipe as a function for `tf.data.Dataset.map`, built from KerasCV's operations, with any backend.

    The function takes a batch of uint8 images (n, h, w, c) and a seed for this batch, int64 (2,), for example (epoch,
    step). It returns uint8 of the same shape and depends only on its two arguments and `seed`. KerasCV's own generators
    have a state that a resumed run could not restore.

    Raises:
        ValueError: there is no recipe of this name.
    """
    chosen = _named(recipe, RECIPES)
    import tensorflow as tf

    if chosen == Recipe():
        return lambda images, batch_seed: images
    change = _keras_cv(chosen)

    def augment(images, batch_seed):
        batch_seed = tf.random.experimental.stateless_fold_in(tf.cast(batch_seed, tf.int64), seed)
        draws = 0

        def uniform(shape, low, high):
            nonlocal draws
            draws += 1
            draw_seed = tf.random.experimental.stateless_fold_in(batch_seed, draws)
            return tf.random.stateless_uniform(shape, draw_seed, low, high, alg="philox")

        params = chosen.sample(uniform, tf.shape(images)[0])
        changed = change(tf.cast(images, tf.float32), params)
        return tf.saturate_cast(tf.round(changed), tf.uint8)

    return augment


def _as_one_kernel(function):
    """The function compiled by XLA, even if TensorFlow does not compile the step, as on a CPU.

    Its many small operations, fused, pass over memory a few times instead of about fifty times.
    """
    if keras.backend.backend() != "tensorflow":
        return function  # JAX compiles the whole step
    import tensorflow as tf

    @functools.cache
    def compiled(height, width):
        # One function per size: after two sizes, a single one would be retraced for an unknown size.
        return tf.function(function, jit_compile=True, reduce_retracing=True)

    return lambda images, params: compiled(*images.shape[1:3])(images, params)


def _named(recipe, recipes):
    if recipe not in recipes:
        raise ValueError(f"no augmentation recipe {recipe!r}; there are: {', '.join(recipes)}")
    return recipes[recipe]


def _per_image(values):
    return values[:, None, None, None]


def _crop_shift(position, side, padding, floor):
    """Offset of the crop from the image's edge, in whole pixels, for positions in [0, 1)."""
    room = round(side * padding)
    return floor(position * (2 * room + 1)) - room


def _warp(images, params, crop_padding):
    """Map every pixel of the result back through crop, flips and affine map, and interpolate the image there.

    Together they are one affine map per image: relative to the image's centre, pixel (x, y) of the result comes from
    (x_x x + x_y y + x_0, y_x x + y_y y + y_0) in the image.
    """
    _, height, width, _ = images.shape
    p = {name: values[:, None, None] for name, values in params.items()}
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    mirror_x, mirror_y = (1.0 - 2.0 * ops.cast(p[flip], "float32") for flip in ("flip_x", "flip_y"))
    from_x = mirror_x * (_crop_shift(p["crop_x"], width, crop_padding, ops.floor) - centre_x) - p["shift_x"] * width
    from_y = mirror_y * (_crop_shift(p["crop_y"], height, crop_padding, ops.floor) - centre_y) - p["shift_y"] * height
    angle = p["angle"] * (math.pi / 180)
    shear = ops.tan(p["shear"] * (math.pi / 180))
    y_x, y_y = -ops.sin(angle) / p["scale"], ops.cos(angle) / p["scale"]
    x_x, x_y = y_y + shear * y_x, shear * y_y - y_x
    x = ops.arange(width, dtype="float32")[None, None, :]
    y = ops.arange(height, dtype="float32")[None, :, None]
    return _read(
        images,
        x_x * mirror_x * x + x_y * mirror_y * y + (x_x * from_x + x_y * from_y + centre_x),
        y_x * mirror_x * x + y_y * mirror_y * y + (y_x * from_x + y_y * from_y + centre_y),
    )


def _read(images, x, y):
    """Interpolate images (n, h, w, c) bilinearly at x and y (n, h, w), in pixels; outside the images are zeros.

    Not `keras.ops.image.affine_transform`: XLA cannot compile its TensorFlow kernel, and its JAX version also
    interpolates over channels.
    """
    _, height, width, channels = images.shape
    x, y = ops.clip(x, -1.0, width), ops.clip(y, -1.0, height)
    left, top = ops.floor(x), ops.floor(y)
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]

    # Zeros, so that points at -1 and at the side's length have neighbours.
    images = ops.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0)))
    row = width + 3
    first = ops.arange(ops.shape(images)[0], dtype="int32") * ((height + 3) * row)
    corner = first[:, None, None] + (ops.cast(top, "int32") + 1) * row + ops.cast(left, "int32") + 1
    pixels = ops.reshape(images, (-1, channels))

    def across(offset):
        a, b = ops.take(pixels, corner + offset, axis=0), ops.take(pixels, corner + offset + 1, axis=0)
        return a + right_share * (b - a)

    a, b = across(0), across(row)
    return a + bottom_share * (b - a)


def _blend(grey, images, factor):
    return ops.clip(grey + _per_image(factor) * (images - grey), 0.0, 255.0)


def _grey(images):
    """Luma (ITU-R BT.601), rounded as in torchvision and tf.image; no matrix product, which a GPU does in TF32."""
    if images.shape[-1] != 3:
        return images
    red, green, blue = ops.split(images, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _colour(images, params):
    """Brightness, contrast, saturation, hue: torchvision's ColorJitter, but always in this order."""
    images = ops.clip(images * _per_image(params["brightness"]), 0.0, 255.0)
    images = _blend(ops.mean(_grey(images), axis=(1, 2, 3), keepdims=True), images, params["contrast"])
    if images.shape[-1] != 3:
        return images
    images = _blend(_grey(images), images, params["saturation"])
    hsv = ops.image.rgb_to_hsv(images / 255.0)
    hue = (hsv[..., :1] + _per_image(params["hue"])) % 1.0
    return ops.image.hsv_to_rgb(ops.concatenate([hue, hsv[..., 1:]], axis=-1)) * 255.0


def _blur(images, sigma):
    """Gaussian blur, 3 x 3, with the border mirrored as in torchvision's GaussianBlur."""
    side = ops.exp(-0.5 / _per_image(sigma) ** 2)
    centre, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    images = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    images = centre * images[:, 1:-1] + side * (images[:, :-2] + images[:, 2:])
    return centre * images[:, :, 1:-1] + side * (images[:, :, :-2] + images[:, :, 2:])


def _keras_cv(recipe):
    """`recipe.apply` with KerasCV's operations on TensorFlow's tensors: (images, params) -> images.

    KerasCV's own ranges have other meanings than torchvision's (its brightness adds, its saturation scales HSV's, its
    blur darkens the border), so its operations are called with the recipe's parameters.
    """
    # Only augmentation on the host needs them, and importing them takes seconds.
    import tensorflow as tf
    from keras_cv import layers
    from keras_cv.src.utils import preprocessing

    # These layers draw nothing, but without a seed they fail if operations must be deterministic.
    settings = {"seed": 1, "dtype": "float32"}
    flip = layers.RandomFlip("horizontal_and_vertical", **settings)
    zoom = layers.RandomZoom(0.0, **settings)
    hue = layers.RandomHue(0.0, (0, 255), **settings)
    gaussian = layers.RandomGaussianBlur(3, 1.0, **settings)

    def warp(images, params):
        _, height, width, _ = images.shape
        size = tf.constant([width, height], tf.float32)
        shear = tf.tan(params["shear"] * (math.pi / 180))[:, None]
        # KerasCV shears about the top edge.
        back_to_centre = tf.concat([shear * (height - 1) / 2, tf.zeros_like(shear)], axis=1)
        shift = tf.stack([params["shift_x"], params["shift_y"]], axis=1) * size
        steps = [
            zoom.get_zoom_matrix(1 / tf.stack([params["scale"]] * 2, axis=1), float(height), float(width)),
            preprocessing.get_translation_matrix(back_to_centre),
            layers.RandomShear._build_shear_x_transform_matrix(shear),
            preprocessing.get_rotation_matrix(params["angle"] * (-math.pi / 180), height, width),
            preprocessing.get_translation_matrix(shift),
        ]
        affine = tf.eye(3)
        for step in steps:
            affine = affine @ tf.reshape(tf.pad(step, [[0, 0], [0, 1]], constant_values=1.0), (-1, 3, 3))
        images = preprocessing.transform(images, tf.reshape(affine, (-1, 9))[:, :8], fill_mode="constant")
        flips = {"flip_horizontals": params["flip_x"], "flip_verticals": params["flip_y"]}
        images = flip.augment_images(images, {k: tf.cast(v, tf.float32)[:, None] for k, v in flips.items()})
        crop_x = _crop_shift(params["crop_x"], width, recipe.crop_padding, tf.floor)
        crop_y = _crop_shift(params["crop_y"], height, recipe.crop_padding, tf.floor)
        crop = preprocessing.get_translation_matrix(tf.stack([-crop_x, -crop_y], axis=1))
        return preprocessing.transform(images, crop, fill_mode="constant")

    def colour(images, params):
        colours = images.shape[-1] == 3
        images = preprocessing.blend(tf.zeros_like(images), images, _per_image(params["brightness"]))
        grey = tf.image.rgb_to_grayscale(images) if colours else images
        mean = tf.reduce_mean(grey, axis=(1, 2, 3), keepdims=True)
        images = preprocessing.blend(mean, images, _per_image(params["contrast"]))
        if not colours:
            return images
        grey = tf.image.rgb_to_grayscale(images)
        images = preprocessing.blend(grey, images, _per_image(params["saturation"]))
        return hue.augment_images(images, params["hue"])

    def blur(images, sigma):
        def blur_one(image_and_sigma):
            image, sigma = image_and_sigma
            kernel = layers.RandomGaussianBlur.get_kernel(sigma, 3)
            return gaussian.augment_image(image, (tf.reshape(kernel, (3, 1, 1, 1)), tf.reshape(kernel, (1, 3, 1, 1))))

        mirrored = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        signature = tf.TensorSpec(mirrored.shape[1:], tf.float32)
        return tf.map_fn(blur_one, (mirrored, sigma), fn_output_signature=signature)[:, 1:-1, 1:-1]

    def change(images, params):
        images = warp(images, params)
        if recipe.jitter:
            images = tf.where(_per_image(params["jitter"]), colour(images, params), images)
        if recipe.blur:
            images = tf.where(_per_image(params["blur"]), blur(images, params["sigma"]), images)
        return images

    return change
