import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from matplotlib.text import Text
from PIL import Image, ImageEnhance
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_digits

from common import errors
from common.data import __main__ as command
from common.data import image_files, inspection, near_copies
from common.plots.data_sets import Pair, contact_sheet, copy_pairs


def photographs(number, side, seed, alike=0.0):
    """Colour pictures whose frequencies fall off as those of photographs; a share of their coarse shapes is common."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    falloff = 1 / np.maximum(frequency, 1 / side)
    waves = np.fft.fft2(rng.normal(size=(number + 1, 3, side, side)) + 2 * rng.normal(size=(number + 1, 1, side, side)))
    waves[:-1] = np.where(frequency < 0.12, alike * waves[-1:] + (1 - alike) * waves[:-1], waves[:-1])
    values = np.fft.ifft2(waves[:-1] * falloff).real
    values = (values - values.mean((1, 2, 3), keepdims=True)) / values.std((1, 2, 3), keepdims=True)
    return np.clip(128 + 50 * values, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def jpeg(image, quality):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def moved(image, pixels):
    return np.pad(image[pixels:, pixels:], ((0, pixels), (0, pixels), (0, 0)), "edge")


CHANGES = {
    "the same": lambda image: image,
    "brighter": lambda image: np.clip(image.astype(int) + 30, 0, 255).astype(np.uint8),
    "less contrast": lambda image: np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(0.6)),
    "redder": lambda image: np.clip(image.astype(int) + np.array([25, 0, -25]), 0, 255).astype(np.uint8),
    "JPEG of quality 30": lambda image: jpeg(image, 30),
    "moved by a pixel": lambda image: moved(image, 1),
    "smaller": lambda image: np.asarray(Image.fromarray(image).resize((24, 24))),
}
PICTURES = 60


@pytest.fixture(scope="module")
def originals():
    return photographs(PICTURES, 32, seed=0, alike=0.8)


def found(images):
    hashes, pictures = near_copies.fingerprints(images)
    return near_copies.near_copies(hashes, pictures)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_alike_pictures_are_not(originals, change):
    changed = np.stack([CHANGES[change](image) for image in originals])
    pairs = found([originals, changed])
    true = pairs.indices[:, 0] + PICTURES == pairs.indices[:, 1]
    precision, recall = true.mean(), true.sum() / PICTURES
    assert precision == 1
    assert recall >= (0.85 if change == "moved by a pixel" else 0.98)
    assert (np.diff(pairs.correlations) <= 0).all()


def test_hashes_alone_would_not_tell_these_pictures_apart(originals):
    hashes, _ = near_copies.fingerprints([originals])
    proposed = sum(map(len, near_copies.candidates(hashes, near_copies.HASH_DISTANCE)))
    assert proposed > 0.3 * PICTURES * (PICTURES - 1) / 2


def test_every_pair_within_the_distance_is_proposed_once():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 300, np.uint64) & np.uint64(0xFFFFFF)  # of 24 bits, so that some are near
    expected = {(i, j) for j in range(300) for i in range(j) if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 6}
    pairs = [tuple(pair) for block in near_copies.candidates(hashes, 6) for pair in block.tolist()]
    assert len(expected) > 100
    assert sorted(pairs) == sorted(expected)


def test_photographs_are_told_apart_and_drawn_digits_are_not(originals):
    digits = load_digits()
    drawn = np.round(digits.images[..., None] * 255 / 16).astype(np.uint8)
    _, pictures = near_copies.fingerprints([drawn])
    assert near_copies.deviations(pictures, digits.target) < near_copies.DEVIATIONS
    _, pictures = near_copies.fingerprints([originals])
    usual = near_copies.deviations(pictures, np.arange(PICTURES) % 2)
    assert usual > near_copies.DEVIATIONS
    assert near_copies.deviations(pictures, np.zeros(PICTURES, int)) == 0  # there are no pairs of two classes


def test_pairs_of_two_classes_are_found_however_rare_one_is():
    for labels in (np.arange(1000) // 999, np.random.default_rng(0).integers(0, 7, 500) * 2):
        pairs = near_copies.of_two_classes(labels, np.random.default_rng(0))
        assert len(pairs) == near_copies.TRIED
        assert (labels[pairs[:, 0]] != labels[pairs[:, 1]]).all()
        assert len(set(pairs[:, 0])) > 0.98 * len(labels)


def test_a_picture_without_detail_is_a_near_copy_of_none():
    blank = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 100, 255)])
    assert len(found([blank])) == 0


def test_published_counts_add_up_to_the_published_share():
    for published in inspection.PUBLISHED.values():
        share = 100 * (published.in_train + published.in_test) / 10_000
        assert float(published.share.removesuffix(" %")) == pytest.approx(share, abs=0.0501)


# --- the command


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; a function that returns exit code, standard output and error."""

    def command_line(*argv):
        monkeypatch.setattr(sys, "argv", ["data", "inspect", *map(str, argv)])
        try:
            command.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command_line


@pytest.fixture
def folder(tmp_path):
    """Three classes of photographs in train and test, with copies and files that are not used."""
    images = photographs(60, 40, seed=1)
    root = tmp_path / "photographs"
    for number, image in enumerate(images):
        split = "train" if number < 45 else "test"
        own = root / split / f"class_{number % 3}"
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(own / f"{number:02d}.png")
    same = root / "train" / "class_0" / "00.png"
    (root / "test" / "class_0" / "same.png").write_bytes(same.read_bytes())
    bright = np.clip(images[1].astype(int) + 25, 0, 255).astype(np.uint8)
    Image.fromarray(jpeg(bright, 70)).save(root / "test" / "class_1" / "bright.png")
    Image.fromarray(images[58]).resize((80, 80)).save(root / "test" / "class_2" / "large.png")  # 58 is of class 1
    (root / "train" / "class_0" / "broken.png").write_bytes(b"no image")
    (root / "train" / "class_0" / "notes.txt").write_text("notes")
    (root / "train" / ".DS_Store").touch()
    return root


def test_a_folder_is_told_file_by_file(run, folder, tmp_path):
    code, out, _ = run(f"image_folder:{folder}", "--data-dir", tmp_path, "--out", tmp_path / "drawn", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["classes"] == ["class_0", "class_1", "class_2"]
    trained = np.add(said["counts"]["train"], said["counts"]["validation"]).tolist()
    assert (trained, said["counts"]["test"]) == ([15, 15, 15], [6, 6, 6])
    assert said["sizes"] == [
        {"width": 40, "height": 40, "images": 62},
        {"width": 80, "height": 80, "images": 1},
    ]
    assert list(said["unreadable"]) == [str(folder / "train/class_0/broken.png")]
    assert sorted(path for paths in said["unused"].values() for path in paths) == [
        str(folder / "train/.DS_Store"),
        str(folder / "train/class_0/notes.txt"),
    ]
    assert said["test_copies"] == {"images": 18, "in_training": 2, "in_test_only": 2, "published": None}
    of_test = [row for row in said["copies"] if row["split"] == "test"]
    assert sum(row["exact"] for row in of_test) == 1
    assert next(row for row in of_test if row["in"] == "test")["near_or_exact"] == 2
    named = [
        {pair[side]["image"].removeprefix(f"{folder}/") for side in ("first", "second")} for pair in said["near_pairs"]
    ]
    assert len(named) == 2
    assert {"train/class_1/01.png", "test/class_1/bright.png"} in named
    assert {"test/class_1/58.png", "test/class_2/large.png"} in named
    assert said["figures"] == [str(tmp_path / "drawn" / name) for name in ("contact_sheet.png", "copies.png")]
    for figure in said["figures"]:
        Image.open(figure).load()


def test_the_terminal_has_what_json_has(run, folder, tmp_path):
    code, out, _ = run(f"image_folder:{folder}", "--data-dir", tmp_path, "--out", tmp_path / "drawn")
    assert code == 0
    told = " ".join(out.split())
    for text in (
        "3 classes",
        "2 different, 40 to 80 pixels wide and 40 to 80 high; most frequent 40×40 (98%)",
        "unreadable: 1 (",
        "notes.txt",
        ".DS_Store",
        "test images with a near or exact copy in train or validation: 2 (11.11%); in test alone: 2 (11.11%)",
        near_copies.CRITERION,
    ):
        assert text in told


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("cifar11", "unknown dataset 'cifar11'"),
        ("image_folder:/nowhere", "/nowhere is not there"),
        ("digits --seed -1", "seed is -1; allowed: 0 to"),
        ("digits --seed one", "invalid int value: 'one'"),
        ("mnist --data-dir /nowhere", "/nowhere"),
        ("", "required: DATASET"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, argv, said):
    code, out, error = run(*argv.split())
    assert (code, out) == (2, "")
    assert said in error
    assert (error[:7], error.count("\n")) == ("error: ", 1)


def test_names_of_classes_with_brackets_are_printed_whole(run, folder, tmp_path):
    """Rich takes [indoor] for a style."""
    for split in ("train", "test"):
        for old, new in (("class_0", "cat [indoor]"), ("class_1", "[b]")):
            (folder / split / old).rename(folder / split / new)
    code, told, _ = run(f"image_folder:{folder}", "--out", tmp_path / "out")
    assert code == 0
    assert "cat [indoor]" in told
    assert "[b]" in told


def test_an_image_of_any_number_of_pixels_is_counted(tmp_path):
    """Pillow opens no more than 179 million unless it is told to, and training decodes it."""
    path = tmp_path / "large.png"
    Image.new("1", (18_000, 10_000)).save(path)
    assert dict(inspection.file_sizes([str(path)])) == {(18_000, 10_000): 1}


@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP", "damaged"])
def test_a_png_that_pillow_would_not_open_is_counted_and_read(tmp_path, chunk):
    """For a comment or a colour profile of more than a megabyte, or for a checksum that is not that of the comment."""
    pixels, path, info = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), tmp_path / "a.png", PngInfo()
    if chunk == "zTXt":
        info.add_text("Comment", "x" * 2_000_000, zip=True)
    elif chunk == "iTXt":
        info.add_itxt("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    elif chunk == "damaged":
        info.add_text("Comment", "hello")
    profile = {"icc_profile": bytes(2_000_000)} if chunk == "iCCP" else {}
    Image.fromarray(pixels).save(path, pnginfo=info, **profile)
    if chunk == "damaged":
        path.write_bytes(path.read_bytes().replace(b"hello", b"hallo"))
    assert dict(inspection.file_sizes([str(path)])) == {(30, 20): 1}
    np.testing.assert_array_equal(image_files.decode(tf.constant(path.read_bytes())), pixels)


def test_a_reader_that_has_gone_is_one_line(run, monkeypatch, tmp_path):
    def gone(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    monkeypatch.setattr(errors, "leave_output", lambda: None)
    monkeypatch.setattr(errors, "fail", lambda message, code: sys.exit(f"{code}: {message}"))
    said = "1: nobody reads the output any more, as behind `| head`"
    assert run("digits", "--json", "--out", tmp_path / "drawn")[0] == said


def test_a_folder_that_cannot_be_written_is_one_line(run, folder, tmp_path):
    (tmp_path / "file").touch()
    code, _, error = run(f"image_folder:{folder}", "--data-dir", tmp_path, "--out", tmp_path / "file" / "drawn")
    assert code == 1
    assert error.splitlines()[-1].startswith("error: ")


# --- the figures


@pytest.mark.parametrize("classes", [2, 10, 100, 200])
def test_names_of_classes_stand_apart_on_the_contact_sheet(drawn, tmp_path, classes):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (1 + label % 6, 8, 8, 3), np.uint8) for label in range(classes)]
    contact_sheet(
        images, [f"a class of many fish {label} (500)" for label in range(classes)], "title", tmp_path / "a.png"
    )
    figure = drawn[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text().endswith("00)")]
    assert len(boxes) == classes
    edges = np.array([box.extents for box in boxes])
    apart = (edges[:, None, 2:] <= edges[None, :, :2]).any(-1) | (edges[None, :, 2:] <= edges[:, None, :2]).any(-1)
    assert (apart | np.eye(classes, dtype=bool)).all()
    assert (edges[:, :2] >= 0).all()
    assert (edges[:, 2:] <= figure.bbox.size).all()


def test_a_folder_of_any_name_has_figures(run, tmp_path):
    """One that is no UTF-8, and with signs that would begin mathematics."""
    root = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9 $x$ ${"))
    for number in range(20):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photographs(1, 16, number)[0]).save(root / "ab"[number % 2] / f"{number}.png")
    code, told, _ = run(f"image_folder:{root}", "--out", tmp_path / "out")
    assert code == 0
    assert "contact_sheet.png" in told


def test_pairs_say_what_they_are(drawn, tmp_path):
    image = np.zeros((8, 8, 1), np.uint8)
    copy_pairs([Pair((image, image), ("test 1: cat", "train 2: dog"), "exact copy", True)], "title", tmp_path / "a.png")
    assert "test 1: cat\ntrain 2: dog\nexact copy" in [text.get_text() for text in drawn[0].findobj(Text)]


def test_pictures_that_are_moved_by_two_pixels_in_any_direction_correlate():
    whole = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(60, 60)), 1)
    whole = np.clip(128 + 120 * whole / np.abs(whole).max(), 0, 255).astype(np.uint8)
    side = near_copies.SIDE
    middle = whole[10 : 10 + side, 10 : 10 + side]
    for y in range(-3, 4):
        for x in range(-3, 4):
            other = whole[10 + y : 10 + y + side, 10 + x : 10 + x + side]
            (found,) = near_copies.correlations(np.stack([middle, other]), np.array([[0, 1]]))
            assert (found > 0.9) == (max(abs(y), abs(x)) <= 2), (y, x, found)


def test_the_detail_of_a_picture_is_its_own():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32), np.uint8)
    for picture, found in zip(pictures, near_copies.detail(pictures), strict=True):
        expected = picture - scipy.ndimage.gaussian_filter(picture.astype("float32"), 2.0)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_deviations_are_those_of_a_normal_distribution(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(near_copies, "correlations", lambda _, pairs: np.tanh(rng.normal(0.2, 0.08, len(pairs))))
    found = near_copies.deviations(np.zeros((100, 32, 32), np.uint8), np.arange(100) % 4)
    assert found == pytest.approx((np.arctanh(0.7) - 0.2) / 0.08, rel=0.1)
