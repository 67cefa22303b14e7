"""Recipes of random augmentation: what may change in an image, and by how much."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from keras import ops

# Tensors of the backend in the compiled step, of TensorFlow on the host.
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
    crop_padding_at_input: float | None = None
    """The same for images of the size that the network sees; None: no other."""
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

    def at_input(self) -> "Recipe":
        """The recipe for images of the size that the network sees."""
        padding = self.crop_padding_at_input
        return replace(self, crop_padding=self.crop_padding if padding is None else padding, crop_padding_at_input=None)

    def sample(self, uniform: Uniform, n: int | Tensor) -> dict[str, Tensor]:
        """Draw the parameters of n images, each of shape (n,).

        This uses plain operators only: `uniform` decides whether the results are tensors of the backend, of TensorFlow
        or of NumPy.

        Returns:
            bool: flip_x, flip_y, jitter, blur. float32: crop_x, crop_y (position of the crop in [0, 1)),
            angle (degrees, clockwise), shift_x, shift_y (fractions of width and height, right and down), scale,
            shear (degrees), brightness, contrast, saturation (factors), hue (turns), sigma (pixels).
        """

        def chance(probability: float) -> Tensor:
            return uniform((n,), 0.0, 1.0) < probability

        def around(centre: float, spread: float) -> Tensor:
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
        images = warp(images, params, self.crop_padding)
        if self.jitter:
            images = ops.where(per_image(params["jitter"]), colour(images, params), images)
        if self.blur:
            images = ops.where(per_image(params["blur"]), blur(images, params["sigma"]), images)
        return images


def per_image(values: Tensor) -> Tensor:
    """Values (n,) for images (n, h, w, c)."""
    return values[:, None, None, None]


def crop_shift(position: Tensor, side: int, padding: float, floor: Callable[[Tensor], Tensor]) -> Tensor:
    """Offset of the crop from the image's edge, in whole pixels, for positions in [0, 1)."""
    room = round(side * padding)
    return floor(position * (2 * room + 1)) - room


def warp(images: Tensor, params: dict[str, Tensor], crop_padding: float) -> Tensor:
    """Map every pixel of the result back through crop, flips and affine map, and interpolate the image there.

    Together they are one affine map per image: relative to the image's centre, pixel (x, y) of the result comes from
    (x_x x + x_y y + x_0, y_x x + y_y y + y_0) in the image.
    """
    _, height, width, _ = images.shape
    p = {name: values[:, None, None] for name, values in params.items()}
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    mirror_x, mirror_y = (1.0 - 2.0 * ops.cast(p[flip], "float32") for flip in ("flip_x", "flip_y"))
    from_x = mirror_x * (crop_shift(p["crop_x"], width, crop_padding, ops.floor) - centre_x) - p["shift_x"] * width
    from_y = mirror_y * (crop_shift(p["crop_y"], height, crop_padding, ops.floor) - centre_y) - p["shift_y"] * height
    angle = p["angle"] * (math.pi / 180)
    shear = ops.tan(p["shear"] * (math.pi / 180))
    y_x, y_y = -ops.sin(angle) / p["scale"], ops.cos(angle) / p["scale"]
    x_x, x_y = y_y + shear * y_x, shear * y_y - y_x
    x = ops.arange(width, dtype="float32")[None, None, :]
    y = ops.arange(height, dtype="float32")[None, :, None]
    return read(
        images,
        x_x * mirror_x * x + x_y * mirror_y * y + (x_x * from_x + x_y * from_y + centre_x),
        y_x * mirror_x * x + y_y * mirror_y * y + (y_x * from_x + y_y * from_y + centre_y),
    )


def read(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
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

    def across(offset: int) -> Tensor:
        a, b = ops.take(pixels, corner + offset, axis=0), ops.take(pixels, corner + offset + 1, axis=0)
        return a + right_share * (b - a)

    a, b = across(0), across(row)
    return a + bottom_share * (b - a)


def blend(grey: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance of images from a grey; 0 to 255 at most."""
    return ops.clip(grey + per_image(factor) * (images - grey), 0.0, 255.0)


def grey_of(images: Tensor) -> Tensor:
    """Luma (ITU-R BT.601), rounded as in torchvision and tf.image; no matrix product, which a GPU does in TF32."""
    if images.shape[-1] != 3:
        return images
    red, green, blue = ops.split(images, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def colour(images: Tensor, params: dict[str, Tensor]) -> Tensor:
    """Brightness, contrast, saturation, hue: torchvision's ColorJitter, but always in this order."""
    images = ops.clip(images * per_image(params["brightness"]), 0.0, 255.0)
    images = blend(ops.mean(grey_of(images), axis=(1, 2, 3), keepdims=True), images, params["contrast"])
    if images.shape[-1] != 3:
        return images
    images = blend(grey_of(images), images, params["saturation"])
    hsv = ops.image.rgb_to_hsv(images / 255.0)
    hue = (hsv[..., :1] + per_image(params["hue"])) % 1.0
    return ops.image.hsv_to_rgb(ops.concatenate([hue, hsv[..., 1:]], axis=-1)) * 255.0


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, 3 x 3, with the border mirrored as in torchvision's GaussianBlur."""
    side = ops.exp(-0.5 / per_image(sigma) ** 2)
    centre, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    images = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    images = centre * images[:, 1:-1] + side * (images[:, :-2] + images[:, 2:])
    return centre * images[:, :, 1:-1] + side * (images[:, :, :-2] + images[:, :, 2:])


NONE = Recipe()
# Padding of 4 pixels at 32, as is usual for CIFAR; at the network's size 4 of 224, as source 000 prints no number.
# Whole pixels at any size: 2 at 96, 1 below 84 down to the 32 that the backbones need at least.
FLIP_CROP = Recipe(flip_horizontal=0.5, crop_padding=1 / 8, crop_padding_at_input=4 / 224)
# Source 001.
AFFINE_COLOUR_BLUR = Recipe(
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
)
