"""One image file as pixels: the same values whichever library decodes it."""

import functools
import io
import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, PngImagePlugin
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from common.data import tfrecords
from common.data.listing import CONVERT, unopened

# A file's content decides, not its suffix.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# How a HEIC or AVIF file begins, whatever it is called.
PHONES = re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|mif1|msf1|avif|avis)", re.DOTALL)
# Where an orientation may be given: EXIF, or XMP in a JPEG and in a PNG file. Other bytes may look alike, at no harm.
TURNED = rb"\C*(?i:exif|ns\.adobe\.com/xap|com\.adobe\.xmp)\C*"

LARGEST = 2**29 // 3  # pixels: TensorFlow decodes no larger JPEG file
# Pillow warns of half as many, and does not open a PNG file whose comments or colour profile are above a megabyte.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**30


class NotRead(ValueError):
    """An image that is not read: it is too large, or its values would be guessed."""


def read(name: tf.Tensor, size: int, channels: int = 3) -> tf.Tensor:
    """The largest centred square of an image in a file, resized bilinearly: uint8 (size, size, channels)."""
    image = decode(content(name), channels)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    image = image[(height - side) // 2 :, (width - side) // 2 :][:side, :side]

    def resized() -> tf.Tensor:
        resized = tf.image.resize(image, [size, size], antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    # At the right size resizing changes nothing, but takes three times as long as decoding 64 pixels.
    return tf.ensure_shape(tf.cond(side == size, lambda: image, resized), [size, size, channels])


def content(name: tf.Tensor) -> tf.Tensor:
    """The bytes of a file, or of a part of one, by its name in a store."""

    def content_of(own: np.ndarray | bytes) -> bytes:
        return tfrecords.content(np.asarray(own).item())

    def of_part() -> tf.Tensor:
        # Stateless: of functions with a state, TensorFlow runs one at a time if it has to be deterministic.
        return tf.ensure_shape(tf.numpy_function(content_of, [name], tf.string, stateful=False), [])

    is_part = tf.size(tf.strings.split(name, tfrecords.SEPARATOR)) > 1
    return tf.cond(is_part, of_part, lambda: tf.io.read_file(name))


@functools.cache
def reader(size: int, channels: int = 3) -> Callable[[Sequence[str]], np.ndarray]:
    """`read` as a function of many names, to uint8 (names, size, size, channels).

    It raises tf.errors.OpError if one of the images cannot be read.
    """

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def many(names: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU"):
            return tf.map_fn(
                lambda name: read(name, size, channels),
                names,
                fn_output_signature=tf.TensorSpec([size, size, channels], tf.uint8),
                parallel_iterations=os.cpu_count() or 1,
            )

    return lambda names: many(tf.constant([os.fsencode(name) for name in names], tf.string)).numpy()


@tf.function
def decode(content: tf.Tensor, channels: int = 3) -> tf.Tensor:
    """The bytes of an image file as a uint8 tensor (height, width, channels), upright; the first picture of several.

    One channel is for grey images. Transparency is dropped. TensorFlow decodes JPEG and PNG faster than Pillow, to the
    same values.
    """
    is_jpeg, is_png = tf.io.is_jpeg(content), tf.strings.substr(content, 0, 8) == b"\x89PNG\r\n\x1a\n"
    is_upright = ~tf.strings.regex_full_match(content, TURNED)

    def jpeg() -> tf.Tensor:
        # The same values as Pillow. TensorFlow's default transform is faster, but off by up to 11 grey levels.
        return tf.io.decode_jpeg(content, channels=channels, dct_method="INTEGER_ACCURATE")

    def others() -> tf.Tensor:
        pixels = tf.numpy_function(with_pillow, [content], tf.uint8, stateful=False)
        return tf.ensure_shape(pixels, [None, None, 3])[..., :channels]

    def png_or_others() -> tf.Tensor:
        return tf.cond(is_png & is_upright, lambda: tf.io.decode_png(content, channels=channels), others)

    def jpeg_or_others() -> tf.Tensor:
        # Four channels are inks.
        return tf.cond(tf.io.extract_jpeg_shape(content)[2] < 4, jpeg, others)

    return tf.cond(is_jpeg & is_upright, jpeg_or_others, png_or_others)


def with_pillow(content: bytes) -> np.ndarray:
    """The bytes of an image file as a uint8 array (height, width, 3).

    Raises NotRead if it is too large or its values have no known range or meaning, and Pillow's errors.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > LARGEST:
            raise NotRead(f"above {LARGEST // 10**6} megapixels")
        deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")  # Pillow scales these
        if deep and isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
            raise NotRead("16-bit values of which 0 is white")
        if image.mode in ("I", "F") and not deep:
            raise NotRead("32-bit values, whose range is not known")
        if image.mode == "LAB":
            raise NotRead("colours in Lab")
        upright = turned(image)
        if deep:
            # The high byte, as the decoders take it of 16-bit colours.
            return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        if upright.mode == "P":
            upright = upright.convert("RGBA")  # directly to RGB, Pillow warns of some transparencies
        return np.asarray(upright.convert("RGB"))


def turned(image: Image.Image) -> Image.Image:
    """An image as its EXIF orientation says; as it is stored, if EXIF cannot be read."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: Pillow raises errors of many kinds
        return image


def size(name: str) -> tuple[int, int]:
    """Width and height of an image in a file, or in a part of one, as it is stored; the header alone is read."""
    content = tfrecords.content(os.fsencode(name))
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception:  # Pillow raises errors of many kinds; of a damaged comment, say, where TensorFlow sees the image
        height, width, _ = decode(tf.constant(content)).shape
        return width, height


def why_not(name: str) -> str:
    """Why a file, or a part of one, that could not be read is no image."""
    try:
        content = tfrecords.content(os.fsencode(name))
    except OSError as error:
        return unopened(error)
    if not content:
        return "empty"
    if PHONES.match(content):
        return CONVERT
    try:
        with_pillow(content)
    except NotRead as error:
        return str(error)
    except Exception:  # Pillow raises errors of many kinds
        return "cannot be decoded"
    return "cannot be decoded"
