"""One image file as pixels: every kind against the values that it was made of."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.data import decoded, image_files
from common.data.image_files import NotRead, decode, reader, why_not, with_pillow

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (20, 24, 3), np.uint8)
GREY = COLOURS[..., 0]
ALPHA = RNG.integers(0, 256, (20, 24, 1), np.uint8)
DEEP = RNG.integers(0, 2**16, (20, 24), np.uint16)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(20)[:, None] * 10, np.arange(24) * 9, np.full((1, 1), 77)), -1)


def saved(image, kind, **options):
    content = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(content, kind, **options)
    return content.getvalue()


def in_grey(values):
    return np.repeat(values[..., None], 3, axis=-1)


def palette(**options):
    """A palette image of few colours with their values."""
    few = (COLOURS // 128 * 100).astype(np.uint8)
    image = Image.fromarray(few).quantize(8)
    assert (np.asarray(image.convert("RGB")) == few).all()
    return image, few


INKS = RNG.integers(0, 256, (20, 24, 4), np.uint8)
# The usual way without a colour profile: what light each ink and black let through.
LIGHT = (255 - INKS[..., :3].astype(int)) * (255 - INKS[..., 3:].astype(int)) / 255
PALETTE, FEW = palette()
LOSSLESS = {
    "png": (saved(COLOURS, "PNG"), COLOURS),
    "grey png": (saved(GREY, "PNG"), in_grey(GREY)),
    "black and white png": (saved(Image.fromarray(GREY > 127), "PNG"), in_grey((GREY > 127) * np.uint8(255))),
    "palette png": (saved(PALETTE, "PNG"), FEW),
    "palette png, transparent": (saved(PALETTE, "PNG", transparency=bytes(range(0, 240, 30))), FEW),
    "png with alpha": (saved(np.dstack([COLOURS, ALPHA]), "PNG"), COLOURS),
    "grey png with alpha": (saved(np.dstack([GREY, ALPHA]), "PNG"), in_grey(GREY)),
    "16-bit grey png": (saved(DEEP, "PNG"), in_grey(DEEP >> 8)),
    "16-bit png": (tf.io.encode_png(DEEP[..., None].repeat(3, -1)).numpy(), in_grey(DEEP >> 8)),
    "bmp": (saved(COLOURS, "BMP"), COLOURS),
    "palette bmp": (saved(PALETTE, "BMP"), FEW),
    "black and white bmp": (saved(Image.fromarray(GREY > 127), "BMP"), in_grey((GREY > 127) * np.uint8(255))),
    "gif": (saved(PALETTE, "GIF"), FEW),
    "animated gif": (saved(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", (24, 20))]), FEW),
    "webp": (saved(COLOURS, "WEBP", lossless=True), COLOURS),
    "webp with alpha": (saved(np.dstack([COLOURS, ALPHA]), "WEBP", lossless=True, exact=True), COLOURS),
    "tif": (saved(COLOURS, "TIFF", compression="tiff_lzw"), COLOURS),
    "grey tif": (saved(GREY, "TIFF"), in_grey(GREY)),
    "16-bit tif": (saved(DEEP, "TIFF"), in_grey(DEEP >> 8)),
    "ppm": (saved(COLOURS, "PPM"), COLOURS),
    "16-bit pgm": (saved(DEEP, "PPM"), in_grey(DEEP >> 8)),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_each_kind_of_file_has_the_values_that_it_was_made_of(kind):
    content, wanted = LOSSLESS[kind]
    for found in (decode(tf.constant(content)).numpy(), with_pillow(content)):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, wanted)


def test_a_large_image_is_the_mean_of_what_its_pixels_show(tmp_path):
    """A white line in four of a pixel gives a quarter of the light; of two pixels between which one lies, half."""
    (tmp_path / "lines.png").write_bytes(saved(np.tile(np.uint8([0, 0, 0, 255]), (128, 32)), "PNG"))
    found = image_files.read(tf.constant(str(tmp_path / "lines.png")), 16).numpy()
    np.testing.assert_allclose(found[1:-1, 1:-1], 255 / 4, atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_four_inks_become_the_light_that_they_let_through(kind):
    image = Image.merge("CMYK", [Image.fromarray(INKS[..., i]) for i in range(4)])
    if kind == "TIFF":
        content, tolerance = saved(image, kind), 1
    else:  # to a tolerance for the compression
        content, tolerance = saved(image, kind, quality=100, subsampling=0), 8
    assert np.abs(decode(tf.constant(content)).numpy() - LIGHT).max() <= tolerance


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("pixels", [COLOURS, SMOOTH.astype(np.uint8), GREY], ids=["noise", "smooth", "grey"])
def test_jpeg_is_decoded_to_the_same_values_by_either_library(pixels, subsampling):
    options = {} if pixels.ndim == 2 else {"subsampling": subsampling}
    for progressive in (False, True):
        content = saved(pixels, "JPEG", quality=80, progressive=progressive, **options)
        np.testing.assert_array_equal(decode(tf.constant(content)).numpy(), with_pillow(content))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_stands_as_its_orientation_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    pixels = SMOOTH.astype(np.uint8)
    found = decode(tf.constant(saved(pixels, kind, exif=exif, **options))).numpy().astype(int)
    # What EXIF means by its numbers: where the first row and the first column lie.
    flipped = {2: (1,), 3: (0, 1), 4: (0,), 6: (0,), 7: (0, 1), 8: (1,)}.get(orientation, ())
    wanted = np.flip(pixels, flipped)
    wanted = wanted.swapaxes(0, 1) if orientation > 4 else wanted
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 3


def test_damaged_exif_leaves_an_image_as_it_is_stored():
    content = saved(COLOURS, "PNG", exif=b"Exif\0\0MM\0nonsense")
    np.testing.assert_array_equal(decode(tf.constant(content)).numpy(), COLOURS)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (Image.fromarray(DEEP.astype(np.float32)), "32-bit values, whose range is not known"),
        (Image.fromarray(DEEP.astype(np.int32)), "32-bit values, whose range is not known"),
        (Image.merge("LAB", Image.fromarray(COLOURS).split()), "colours in Lab"),
    ],
)
def test_values_that_would_be_guessed_are_not_read(tmp_path, image, why):
    path = tmp_path / "image.tif"
    image.save(path)
    with pytest.raises(NotRead, match=why):
        with_pillow(path.read_bytes())
    with pytest.raises(tf.errors.OpError):
        reader(8)([str(path)])
    assert why_not(str(path)) == why


def test_the_content_decides_not_the_suffix(tmp_path):
    (tmp_path / "image.gif").write_bytes(saved(COLOURS, "PNG"))
    (found,) = reader(20)([str(tmp_path / "image.gif")])
    np.testing.assert_array_equal(found, COLOURS[:, 2:22])


def test_what_is_missing_empty_or_no_image_says_why(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    for name, why in {"gone": "cannot be opened (No such file or directory)", "empty": "empty"}.items():
        assert why_not(str(tmp_path / f"{name}.png")) == why
    assert why_not(str(tmp_path / "text.png")) == "cannot be decoded"
    for name in ("gone", "empty", "text"):
        with pytest.raises(tf.errors.OpError):
            reader(8)([str(tmp_path / f"{name}.png")])


def test_one_that_is_too_large_says_so(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1_001, 1_000)).save(path, exif=b"Exif\0\0")  # for which Pillow reads it
    assert reader(8)([str(path)]).shape == (1, 8, 8, 3)
    monkeypatch.setattr(image_files, "LARGEST", 1_000_000)
    with pytest.raises(tf.errors.OpError):
        reader(8)([str(path)])
    assert why_not(str(path)) == "above 1 megapixels"


def test_one_that_cannot_be_decoded_costs_no_other_of_its_chunk(tmp_path):
    names = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 2, 3)).save(name)
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "4.png").write_text("text")
    found = list(decoded.decode_all(names, (8, 8, 3)))
    assert (found[1], found[4]) == ("empty", "cannot be decoded")
    assert [found[number][0, 0].tolist() for number in (0, 2, 3, 5)] == [[number, 2, 3] for number in (0, 2, 3, 5)]
