"""Augmentation in tf.data, by KerasCV."""

import math
from collections.abc import Callable

import tensorflow as tf

from common.augment import AUGMENTATIONS
from common.augment.recipes import NONE, Recipe, Tensor, crop_shift, per_image


def host_augment(recipe: str, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the recipe as a function for `tf.data.Dataset.map`, built from KerasCV's operations, with any backend.

    The function takes a batch of uint8 images (n, h, w, c) and a seed for this batch, int64 (2,), for example (epoch,
    step). It returns uint8 of the same shape and depends only on its two arguments and `seed`. KerasCV's own generators
    have a state that a resumed run could not restore.

    Raises:
        ConfigError: no recipe has this name.
    """
    chosen = AUGMENTATIONS.load(recipe)
    if chosen == NONE:
        return lambda images, batch_seed: images
    change = keras_cv(chosen)

    def augment(images: Tensor, batch_seed: Tensor) -> Tensor:
        batch_seed = tf.random.experimental.stateless_fold_in(tf.cast(batch_seed, tf.int64), seed)
        draws = 0

        def uniform(shape: tuple, low: float, high: float) -> Tensor:
            nonlocal draws
            draws += 1
            draw_seed = tf.random.experimental.stateless_fold_in(batch_seed, draws)
            return tf.random.stateless_uniform(shape, draw_seed, low, high, alg="philox")

        params = chosen.sample(uniform, tf.shape(images)[0])
        changed = change(tf.cast(images, tf.float32), params)
        return tf.saturate_cast(tf.round(changed), tf.uint8)

    return augment


def keras_cv(recipe: Recipe) -> Callable[..., Tensor]:
    """`recipe.apply` with KerasCV's operations on TensorFlow's tensors: (images, params) -> images.

    KerasCV's own ranges have other meanings than torchvision's (its brightness adds, its saturation scales HSV's, its
    blur darkens the border), so its operations are called with the recipe's parameters.
    """
    # Only augmentation on the host needs them, and importing them takes seconds.
    from keras_cv import layers
    from keras_cv.src.utils import preprocessing

    # These layers draw nothing, but without a seed they fail if operations must be deterministic.
    settings = {"seed": 1, "dtype": "float32"}
    flip = layers.RandomFlip("horizontal_and_vertical", **settings)
    zoom = layers.RandomZoom(0.0, **settings)
    hue = layers.RandomHue(0.0, (0, 255), **settings)
    gaussian = layers.RandomGaussianBlur(3, 1.0, **settings)

    def warp(images: Tensor, params: dict[str, Tensor]) -> Tensor:
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
        crop_x = crop_shift(params["crop_x"], width, recipe.crop_padding, tf.floor)
        crop_y = crop_shift(params["crop_y"], height, recipe.crop_padding, tf.floor)
        crop = preprocessing.get_translation_matrix(tf.stack([-crop_x, -crop_y], axis=1))
        return preprocessing.transform(images, crop, fill_mode="constant")

    def colour(images: Tensor, params: dict[str, Tensor]) -> Tensor:
        colours = images.shape[-1] == 3
        images = preprocessing.blend(tf.zeros_like(images), images, per_image(params["brightness"]))
        grey = tf.image.rgb_to_grayscale(images) if colours else images
        mean = tf.reduce_mean(grey, axis=(1, 2, 3), keepdims=True)
        images = preprocessing.blend(mean, images, per_image(params["contrast"]))
        if not colours:
            return images
        grey = tf.image.rgb_to_grayscale(images)
        images = preprocessing.blend(grey, images, per_image(params["saturation"]))
        return hue.augment_images(images, params["hue"])

    def blur(images: Tensor, sigma: Tensor) -> Tensor:
        def blur_one(image_and_sigma: tuple[Tensor, Tensor]) -> Tensor:
            image, sigma = image_and_sigma
            kernel = layers.RandomGaussianBlur.get_kernel(sigma, 3)
            return gaussian.augment_image(image, (tf.reshape(kernel, (3, 1, 1, 1)), tf.reshape(kernel, (1, 3, 1, 1))))

        mirrored = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        signature = tf.TensorSpec(mirrored.shape[1:], tf.float32)
        return tf.map_fn(blur_one, (mirrored, sigma), fn_output_signature=signature)[:, 1:-1, 1:-1]

    def change(images: Tensor, params: dict[str, Tensor]) -> Tensor:
        images = warp(images, params)
        if recipe.jitter:
            images = tf.where(per_image(params["jitter"]), colour(images, params), images)
        if recipe.blur:
            images = tf.where(per_image(params["blur"]), blur(images, params["sigma"]), images)
        return images

    return change
