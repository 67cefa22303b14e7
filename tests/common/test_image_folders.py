"""Folders of images as data sets: decoded once or in every epoch, to the same bits; what cannot be decoded is named."""

import errno
import json
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pictures import picture, write_class
from PIL import Image

from common.config import Config
from common.data import decoded, image_files, listing, pipeline, sources, tfrecords
from common.data.listing import CACHE, list_images
from common.devices import Devices
from common.errors import ConfigError

IN_FILES = {"cache_gigabytes": 1e-9}  # for which every folder is too large


def load(root, cache, **options):
    return sources.load(Config(dataset=f"image_folder:{root}", data_dir=cache, **options))


def images_of(split):
    return np.concatenate([images for images, _ in pipeline.evaluation(split, 64).as_numpy_iterator()])


def paths_of(split, root):
    files = [path for images in list_images(root).splits.values() for path, _ in images]
    return [Path(files[place]) for place in split.places]


def as_pil_sees(path, size):
    """The independent reading: centre crop, then PIL's bilinear resize, which antialiases."""
    image = Image.open(path)
    image = Image.merge("RGB", image.split()[:3]) if image.mode == "RGBA" else image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size), Image.BILINEAR))


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    """The folders here are small; that a few validation images are pointed out, tests/tasks/test_predict.py shows."""
    monkeypatch.setattr(sources, "FEW", 0)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """An image folder with three splits of the same nine pictures."""
    root = tmp_path_factory.mktemp("parts")
    for part in ("train", "val", "test"):
        for i, (name, spec) in enumerate(PICTURES.items()):
            folder = root / part / ("cat" if i % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            picture(*spec, seed=i).save(folder / name, quality=95)
    return root


PICTURES = {
    "square.png": (32, 32, "RGB"),
    "crop_only.png": (32, 47, "RGB"),
    "grey.png": (45, 32, "L"),
    "alpha.png": (32, 32, "RGBA"),
    "smaller.png": (20, 26, "RGB"),
    "larger.png": (111, 80, "RGB"),
    "larger_grey.jpg": (64, 90, "L"),
    "plain.jpeg": (32, 32, "RGB"),
    "UPPER.JPG": (100, 77, "RGB"),
}


@pytest.mark.parametrize("options", [{}, IN_FILES])
def test_image_folder_reads_png_and_jpeg_as_pil_does(parts, tmp_path, options):
    data = load(parts, tmp_path, **options)
    assert data.class_names == ("cat", "dog")
    assert (data.train.in_files, data.train.channels, data.train.size) == (bool(options), 3, 32)
    for split, part in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
        images, paths = images_of(split), paths_of(split, parts)
        assert images.dtype == np.uint8
        assert {path.name for path in paths} == set(PICTURES)
        for image, path, label in zip(images, paths, split.labels, strict=True):
            assert path.parent == parts / part / data.class_names[label]
            height, width, _ = PICTURES[path.name]
            away = np.abs(image.astype(int) - as_pil_sees(path, 32))
            assert away.max() <= (0 if min(height, width) == 32 else 1), path.name  # resizing: rounding


class Half(Devices):
    """The second of two processes, which reads the second half of each batch."""

    reads_all = False

    def local(self, indices):
        return indices[tf.shape(indices)[0] // 2 :]


@pytest.mark.parametrize("devices", [None, Half()])
def test_training_sees_the_same_bits_in_the_same_order_however_the_images_are_kept(tmp_path, devices):
    for i, name in enumerate(("ant", "bee")):
        write_class(tmp_path / "all" / name, 20, first=20 * i, size=(40, 50))
    (tmp_path / "all" / "ant" / "05.png").write_text("no image")
    seen = []
    for options in ({}, IN_FILES):
        data = load(tmp_path / "all", tmp_path / "cache", seed=4, **options)
        batches = pipeline.training(data.train, 8, 4, range(2), devices=devices)
        seen.append([array for batch in batches.as_numpy_iterator() for array in batch])
        seen[-1] += [images_of(data.test), data.test.labels, images_of(data.validation), data.validation.labels]
        assert len(data.train) + len(data.validation) + len(data.test) == 39
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_folder_is_split_into_three(tmp_path):
    root = tmp_path / "all"
    for i, name in enumerate(("ant", "bee")):
        write_class(root / name, 20, first=20 * i)
    data = load(root, tmp_path / "cache")
    other = load(root, tmp_path / "cache", seed=3)
    counts = {name: count.tolist() for name, count in data.counts().items()}
    assert counts == {"train": [14, 14], "validation": [2, 2], "test": [4, 4]}
    parts = [set(paths_of(split, root)) for split in (data.train, data.validation, data.test)]
    assert len(set.union(*parts)) == 40
    assert set(paths_of(other.test, root)) == parts[2]
    assert set(paths_of(other.validation, root)) != parts[1]
    assert data.notes == ("test: 8 images, held out here",)


# --- what cannot be decoded


@pytest.fixture
def damaged():
    """An image folder with bad files; where every user may read it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for i, name in enumerate(("ant", "bee")):
            write_class(root / name, 20, first=20 * i)
        picture(64, 64).save(root / "ant" / "truncated.jpg")
        whole = (root / "ant" / "truncated.jpg").read_bytes()
        (root / "ant" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
        (root / "ant" / "text.png").write_text("not an image")
        (root / "ant" / "empty.png").touch()
        Image.new("F", (32, 32)).save(root / "ant" / "float.tif")
        yield root


NOT_USED = [
    "not used, 32-bit values, whose range is not known: 1 (ant/float.tif)",
    "not used, cannot be decoded: 2 (ant/text.png, ant/truncated.jpg)",
    "not used, empty: 1 (ant/empty.png)",
]


def check_notes(data, notes=NOT_USED):
    assert list(data.notes) == [*notes, "test: 8 images, held out here"]
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    images = images_of(data.train)
    assert images.shape == (len(data.train), 32, 32, 3)
    assert images.any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("options", [{}, IN_FILES])
def test_what_cannot_be_decoded_is_counted_named_and_told_on_screen(damaged, tmp_path, capsys, options):
    check_notes(load(damaged, tmp_path, **options))
    out = capsys.readouterr().out
    for note in NOT_USED:
        assert f"note: {note}\n" in out
    assert ("above --cache-gigabytes 1e-09; decoded again in every epoch" in out) == bool(options)


def test_nothing_is_decoded_again_until_a_file_changes(damaged, tmp_path, monkeypatch):
    check_notes(load(damaged, tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(decoded, "decode_all", lambda *_: pytest.fail("decoded again"))
        check_notes(load(damaged, tmp_path))
        check_notes(load(damaged, tmp_path, **IN_FILES))
        patch.chdir(damaged.parent)
        check_notes(load(Path(damaged.name), tmp_path))  # by another path
    (damaged / "bee" / "23.png").write_text("spoilt")
    data = load(damaged, tmp_path)
    assert "not used, cannot be decoded: 3 (ant/text.png, ant/truncated.jpg, bee/23.png)" in data.notes
    assert len(list((tmp_path / CACHE).glob("*.npy"))) == 1


def test_code_that_reads_images_in_another_way_decodes_again(damaged, tmp_path, monkeypatch):
    load(damaged, tmp_path)
    (tmp_path / "other.py").touch()
    monkeypatch.setattr(image_files, "__file__", str(tmp_path / "other.py"))
    monkeypatch.setattr(decoded, "decode_all", lambda *_: pytest.fail("decoded again"))
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        load(damaged, tmp_path)


def test_validation_images_that_are_the_test_images_are_told(tmp_path, capsys):
    for i, name in enumerate(("ant", "bee")):
        write_class(tmp_path / "all" / "train" / name, 20, first=40 * i, size=(8, 8))
        write_class(tmp_path / "all" / "test" / name, 10, first=40 * i + 20, size=(8, 8))
    (tmp_path / "all" / "val").symlink_to(tmp_path / "all" / "test")
    data = load(tmp_path / "all", tmp_path)
    assert data.notes[0] == "20 of 20 validation images are test images too"
    assert f"warning: {data.notes[0]}\n" in capsys.readouterr().out


def test_an_image_that_could_not_be_opened_for_a_while_comes_back(tmp_path, monkeypatch):
    for i, name in enumerate(("ant", "bee")):
        write_class(tmp_path / "all" / name, 20, first=20 * i, size=(8, 8))
    shut = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "all" / "ant" / "03.png"))

    def but_one(names, shape, whole=decoded.decode_all):
        for name, image in zip(names, whole(names, shape), strict=True):
            yield listing.unopened(shut) if name == shut.filename else image

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "decode_all", but_one)
        before = load(tmp_path / "all", tmp_path)
    assert "not used, cannot be opened (Permission denied): 1 (ant/03.png)" in before.notes
    after = load(tmp_path / "all", tmp_path)
    assert not after.unreadable
    assert [data.unread()["images"] for data in (before, after)] == [1, 0]
    assert before.unread() != after.unread()

    def refuse(name, whole=tfrecords.content):
        if os.fsdecode(name) == shut.filename:
            raise shut
        return whole(name)

    monkeypatch.setattr(tfrecords, "content", refuse)  # and now the decoded images are there, but it is asked for
    with pytest.raises(ConfigError, match=r"03\.png cannot be opened \(Permission denied\);"):
        load(tmp_path / "all", tmp_path)


def test_a_limit_that_leaves_a_class_nothing_says_so(tmp_path):
    sizes = {"train/a": 60, "train/b": 60, "train/c": 3, "val/a": 1, "test/a": 1}
    for i, (name, n) in enumerate(sizes.items()):
        write_class(tmp_path / "all" / name, n, first=100 * i, size=(8, 8))
    with pytest.raises(ConfigError, match=r"class 'c' has no training image among the 6 of --limit-train$"):
        load(tmp_path / "all", tmp_path, limit_train=6)
    (tmp_path / "all" / "train" / "c" / "200.png").unlink()
    (tmp_path / "all" / "train" / "c" / "201.png").unlink()
    with pytest.raises(ConfigError, match=r"class 'c' has 1; what helps: --limit-train None$"):
        load(tmp_path / "all", tmp_path, limit_train=50)


def test_the_data_folder_may_be_the_image_folder(tmp_path):
    for i, name in enumerate(("ant", "bee")):
        write_class(tmp_path / name, 20, first=20 * i, size=(8, 8))
    for _ in range(2):
        data = load(tmp_path, tmp_path)
        assert (data.class_names, data.notes) == (("ant", "bee"), ("test: 8 images, held out here",))
    assert (tmp_path / CACHE).is_dir()


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "facts cut", "facts of others"])
def test_damaged_images_in_the_cache_are_made_again(damaged, tmp_path, harm):
    wanted = images_of(load(damaged, tmp_path).train)
    (images,), (facts,) = ((tmp_path / CACHE).glob(f"*.{end}") for end in ("npy", "json"))
    if harm == "cut":
        images.write_bytes(images.read_bytes()[:-1000])
    elif harm == "changed":
        content = bytearray(images.read_bytes())
        content[-5000] ^= 1
        images.write_bytes(content)
    elif harm == "gone":
        images.unlink()
    elif harm == "facts cut":
        facts.write_bytes(facts.read_bytes()[:20])
    else:
        facts.write_text(json.dumps(["no facts"]))
    np.testing.assert_array_equal(images_of(load(damaged, tmp_path).train), wanted)
    np.load(images)


@pytest.mark.parametrize("options", [{}, IN_FILES])
def test_a_cache_that_cannot_be_written_is_told_and_done_without(damaged, capsys, unwritable_folder, options):
    with unwritable_folder() as cache:
        check_notes(load(damaged, cache, **options))
        out = capsys.readouterr().out
        kept = "the images are checked again next time" if options else "the decoded images stay in memory"
        assert f"note: {cache} cannot be written (Permission denied); {kept}\n" in out
        assert list(cache.iterdir()) == []


def test_a_full_disk_is_told_and_done_without(damaged, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded.os, "fsync", full)
    check_notes(load(damaged, tmp_path))
    assert "cannot be written (No space left on device); the decoded images stay in memory" in capsys.readouterr().out
    assert [path.suffix for path in (tmp_path / CACHE).iterdir()] == [".lock"]


def test_two_that_start_together_decode_once(damaged, tmp_path, capsys, monkeypatch):
    begun, whole = threading.Event(), decoded.decode_all

    def decode_all(*arguments):
        assert not begun.is_set()
        begun.set()
        time.sleep(0.5)  # in which the other one arrives
        return whole(*arguments)

    monkeypatch.setattr(decoded, "decode_all", decode_all)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(load, damaged, tmp_path)
        begun.wait()
        other = pool.submit(load, damaged, tmp_path)
        np.testing.assert_array_equal(images_of(one.result().train), images_of(other.result().train))
    assert "waiting for another process" in capsys.readouterr().out
    assert sorted(path.suffix for path in (tmp_path / CACHE).iterdir()) == [".json", ".lock", ".npy"]


# --- mistakes


def test_image_folder_mistakes_are_named(tmp_path):
    def refused(layout, says, **options):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        for name, n in layout.items():
            write_class(root / name, n, size=(8, 8))
        with pytest.raises(ConfigError, match=says) as error:
            load(root, tmp_path / "cache", **options)
        assert "\n" not in str(error.value)

    (tmp_path / "cache").mkdir()
    refused({"train/a": 3, "train/b": 3, "test/a": 2, "test/c": 2}, "test has a class that train does not have: c")
    refused({"a": 0, "b": 0}, "has no image for train that can be read")
    refused({"train/a": 3, "train/b": 0, "val/a": 1, "test/a": 1}, "class 'b' has no training image")
    refused(
        {"a": 1, "b": 9},
        "^10 images are too few to hold out a test split with all 2 classes: class 'a' has 1; "
        "what helps: more images, or a folder `test` beside a folder `train`$",
    )
    refused(
        {"train/a": 3, "train/b": 2, "test/a": 1},
        "5 images are too few to hold out a validation split with all 2 classes: class 'b' has 2; .* a folder `val`",
    )
    with pytest.raises(ConfigError, match="nowhere is not there"):
        load(tmp_path / "nowhere", tmp_path)


SHARED = (("test", "training"), ("validation", "training"), ("validation", "test"))


def test_a_class_without_a_test_image_is_told_and_so_are_copies_in_two_splits(tmp_path, capsys):
    for name, n in {"train/a": 20, "train/b": 20, "train/c": 20, "test/a": 2, "val/a": 1, "val/c": 1}.items():
        write_class(tmp_path / "all" / name, n, size=(8, 8))
    data = load(tmp_path / "all", tmp_path / "cache")
    said = capsys.readouterr().out
    absent = ("classes without a validation image: 1 (b)", "classes without a test image: 2 (b, c)")
    copies = [f"2 of 2 {one} images are {other} images too" for one, other in SHARED]
    assert data.notes == (*copies, *absent)
    for one, other in SHARED:
        assert f"warning: 2 of 2 {one} images are {other} images too\n" in said


def test_file_names_that_are_no_utf8_are_read(tmp_path):
    for i, name in enumerate(("ant", "caf\udce9")):
        write_class(tmp_path / "all" / name, 20, first=20 * i, size=(8, 8))
    (tmp_path / "all" / "ant" / "00.png").rename(tmp_path / "all" / "ant" / "caf\udce9.png")
    (tmp_path / "all" / "ant" / "\udce9.png").write_text("no image")
    for options in ({}, IN_FILES):
        data = load(tmp_path / "all", tmp_path / "cache", **options)
        assert data.class_names == ("ant", "caf\\xe9")
        assert data.notes[0] == "not used, cannot be decoded: 1 (ant/\\xe9.png)"
        assert len(images_of(data.train)) == 28
