"""Any image classification set of TFDS, `tfds:NAME/CONFIG`, written by TFDS's own writer and read without a network."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from common.config import Config
from common.data import (
    decoded,
    image_files,
    inspection,
    inspection_report,
    pipeline,
    sources,
    tfds_sets,
    tfds_splits,
    tfrecords,
)
from common.errors import ConfigError

ROOT = Path(__file__).parents[2]
CLASSES = ("ant", "bee", "cow")
IN_FILES = {"cache_gigabytes": 1e-9}  # for which every set is too large
CLASS_LABEL = tfds.features.ClassLabel(names=CLASSES)


def write(folder, name, parts, config=None, version="1.0.0", image=None, label=CLASS_LABEL, **more):
    """Prepare a data set: for each split its images, as arrays or the bytes of files; labels count up, or are given."""
    features = {"image": image or tfds.features.Image(), "label": label, **more.pop("features", {})}
    others = {key: 0 for key in features if key not in ("image", "label")}
    features = {key: feature for key, feature in features.items() if feature is not None}

    def example(i, one):
        picture, own = one if isinstance(one, tuple) else (one, i % len(CLASSES))
        picture = io.BytesIO(picture) if isinstance(picture, bytes) else picture
        return {key: value for key, value in ({"image": picture, "label": own} | others).items() if key in features}

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            config=config,
            data_dir=folder,
            features=tfds.features.FeaturesDict(features),
            split_datasets={s: [(i, example(i, one)) for i, one in enumerate(own)] for s, own in parts.items()},
            disable_shuffling=True,
            **more,
        )


def arrays(n, *shape, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8))


def photo(i, mode="RGB"):
    """The bytes of a file of its own size and format."""
    rng = np.random.default_rng(i)
    height, width = 18 + i % 7, 16 + i % 5 * 3
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    file = io.BytesIO()
    coarse.convert(mode).save(file, *[("PNG",), ("JPEG",)][i % 2])
    return file.getvalue()


def as_pil_sees(content, size):
    """The centred square, by PIL's bilinear resize, which antialiases: integers (size, size, channels)."""
    image = Image.open(io.BytesIO(content))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.BILINEAR)
    return np.asarray(image).reshape(size, size, -1).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with three sets of images of different sizes."""
    made = tmp_path_factory.mktemp("tfds")
    photos = list(map(photo, range(90)))
    parts = {"train": photos[:60], "dev": photos[60:69], "test": photos[69:84], "extra": photos[84:]}
    write(made, "beasts", parts, config="small")
    grey = [photo(i, "L") for i in range(60)]
    write(made, "grey_beasts", {"train": grey[:45], "test": [(one, -1) for one in grey[45:]]}, image=GREY)
    return made


def test_an_image_of_one_shape_that_stands_on_its_side_is_its_own_centred_square(tmp_path):
    rng, shape = np.random.default_rng(0), (30, 40, 3)
    pictures = [Image.fromarray(rng.integers(0, 256, shape, np.uint8)) for _ in range(60)]
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for number, one in enumerate(pictures):
        file = io.BytesIO()
        one.save(file, "JPEG", **({"exif": exif} if number == 5 else {}))
        files.append(file.getvalue())
    image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    write(tmp_path, "sideways", {"train": files[:40], "test": files[40:]}, image=image)
    data = load("tfds:sideways", tmp_path)
    assert not data.train.in_files
    held = {*data.train.places} | {*data.validation.places}
    assert held == {*range(40)}
    part = next(part for part in (data.train, data.validation) if 5 in part.places)
    found = np.asarray(part.store)[5]
    upright = image_files.with_pillow(files[5])
    assert upright.shape == (40, 30, 3)
    np.testing.assert_array_equal(found, upright[5:35])


GREY = tfds.features.Image(shape=(None, None, 1))


def load(name, folder, **options):
    return sources.load(Config(dataset=name, data_dir=folder, **options))


def contents(split):
    images, labels = zip(*pipeline.evaluation(split, 16).as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("options", [{}, IN_FILES])
def test_images_of_different_sizes_are_read_from_their_records_as_pil_reads_them(folder, no_network, options):
    config = Config(dataset="tfds:beasts/small", data_dir=folder, offline=True, **options)
    config.check()
    sources.provide(config)
    data = sources.load(config)
    assert data.class_names == CLASSES
    assert (data.train.in_files, data.train.channels, data.train.size) == (bool(options), 3, 32)
    for split, first, count in ((data.train, 0, 60), (data.validation, 60, 9), (data.test, 69, 15)):
        images, labels = contents(split)
        assert (images.shape, images.dtype) == ((count, 32, 32, 3), np.uint8)
        np.testing.assert_array_equal(labels, np.arange(count) % 3)
        expected = [as_pil_sees(photo(i), 32) for i in range(first, first + count)]
        assert np.abs(images - np.array(expected)).max() <= 1  # resizing: rounding
    assert data.notes == (
        "version 1.0.0 of TFDS",
        "images of different sizes: their centred squares, resized to 32 pixels",
        "not used: extra (6 images)",
    )
    found = inspection.inspect(config)
    assert "note: not used: extra (6 images)" in list(inspection_report.lines(found, inspection_report.facts(found)))
    assert no_network == []


@pytest.mark.parametrize("options", [{}, IN_FILES])
def test_in_training_order_too(folder, options):
    split = load("tfds:beasts/small", folder, **options).train
    plain = contents(split)[0]
    order = pipeline.order(len(split), 5, np.int64(0)).numpy()
    images = [images for images, _ in pipeline.training(split, 16, 5, range(1)).as_numpy_iterator()]
    np.testing.assert_array_equal(np.concatenate(images), plain[order])


def test_images_in_records_that_cannot_be_decoded_are_left_out_and_told(tmp_path, monkeypatch):
    photos = list(map(photo, range(60)))
    photos[31], photos[51] = photos[31][:-200], photos[51][:100]
    write(tmp_path, "beasts", {"train": photos[:45], "test": photos[45:]})
    decode_all = decoded.decode_all
    for options in ({}, {}, IN_FILES):
        data = load("tfds:beasts", tmp_path, **options)
        assert (len(data.train) + len(data.validation), len(data.test)) == (44, 14)
        kept = np.concatenate([contents(split)[0] for split in (data.train, data.validation, data.test)])
        wanted = [as_pil_sees(one, 32) for i, one in enumerate(photos) if i not in (31, 51)]
        assert np.abs(np.sort(kept.sum((1, 2, 3), int)) - np.sort(np.array(wanted).sum((1, 2, 3)))).max() < 32**2
        (note,) = [note for note in data.notes if note.startswith("not used, images")]
        place = r"beasts-t\w+\.tfrecord-00000-of-00001 at byte [\d,]+: cannot be decoded"
        assert re.fullmatch(rf"not used, images that cannot be read: 2 \({place}, {place}\)", note)
        # What was decoded, and what could not be, is kept for the next run.
        monkeypatch.setattr(decoded, "decode_all", lambda *_: pytest.fail("decoded again"))
    said = inspection_report.facts(inspection.inspect(Config(dataset="tfds:beasts", data_dir=tmp_path)))
    assert list(said["unreadable"].values()) == ["cannot be decoded"] * 2
    assert re.fullmatch(place, ": ".join(next(iter(said["unreadable"].items()))))
    sizes = Counter(Image.open(io.BytesIO(one)).size for i, one in enumerate(photos) if i not in (31, 51))
    assert {(size["width"], size["height"]): size["images"] for size in said["sizes"]} == sizes
    monkeypatch.setattr(decoded, "decode_all", decode_all)
    write(tmp_path, "beasts", {"train": photos[:45], "test": [photos[51]] * 3}, version="2.0.0")
    with pytest.raises(ConfigError, match="tfds:beasts has no image for test that can be read"):
        load("tfds:beasts", tmp_path)


def test_grey_images_stay_grey_and_a_test_split_without_labels_is_not_used(folder):
    data = load("tfds:grey_beasts", folder)
    assert (data.train.channels, len(data.train) + len(data.validation) + len(data.test)) == (1, 45)
    assert "test not used: its 15 images have no labels" in data.notes
    assert "test: 9 images, held out here" in data.notes
    images, _ = contents(data.test)
    for image, place in zip(images, data.test.places, strict=True):
        assert np.abs(image - as_pil_sees(photo(place, "L"), 32)).max() <= 1


def test_copies_among_records_are_kept_out_of_a_test_split_that_is_held_out(tmp_path):
    write(tmp_path, "twins", {"train": [photo(i % 45) for i in range(60)]})
    data = load("tfds:twins", tmp_path)
    seen = [{photo(i % 45) for i in split.places} for split in (data.train, data.validation, data.test)]
    assert not seen[2] & (seen[0] | seen[1])
    assert re.fullmatch(r"\d+ more left out, as the same pictures are among the others", data.notes[-1])


def test_an_image_of_any_of_several_record_files_is_found(tmp_path):
    contents = [b"", b"\0", b"image", *(np.random.default_rng(i).bytes(10**i) for i in range(5))]
    spec = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    files = [tmp_path / f"{i} of two" for i in range(2)]
    for file, own in zip(files, (range(3), range(3, 8)), strict=True):
        with tf.io.TFRecordWriter(str(file)) as writer:
            for i in own:
                values = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[contents[i]])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())

    def parse(record):
        one = tf.io.parse_single_example(record, spec)
        return one["image"], one["label"]

    names, labels = tfrecords.images(files, parse)
    assert labels.tolist() == list(range(8))
    assert [tfrecords.content(name) for name in names] == contents
    assert [image_files.content(tf.constant(name)).numpy() for name in names] == contents
    assert image_files.content(tf.constant(str(files[0]))).numpy() == files[0].read_bytes()


@pytest.mark.parametrize("shape", [(12, 12, 3), (10, 16, 1), (17, 12, 3)])
def test_images_of_one_shape_are_in_memory_as_they_are(tmp_path, monkeypatch, shape):
    own = arrays(40, *shape)
    write(tmp_path, "chips", {"train": own[:30], "test": own[30:]}, image=tfds.features.Image(shape=shape))
    data = load("tfds:chips", tmp_path)
    side = min(shape[:2])
    assert (data.train.in_files, data.train.size, data.train.channels) == (False, side, shape[2])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    expected = np.array(own)[30:, top : top + side, left : left + side]
    np.testing.assert_array_equal(contents(data.test)[0], expected)
    cropped = f"images of {shape[0]} x {shape[1]} pixels: their centred squares"
    assert (cropped in data.notes) == (shape[0] != shape[1])

    monkeypatch.setattr(tfds_splits, "IN_MEMORY", 10)  # more would not fit
    data = load("tfds:chips", tmp_path, **IN_FILES)
    assert data.train.in_files
    np.testing.assert_array_equal(contents(data.test)[0], expected)


def test_a_tfds_name_of_a_named_set_is_the_same_data(tmp_path):
    own = arrays(130, 28, 28, 1)
    for version in ("3.0.1", "3.0.10"):
        image = tfds.features.Image(shape=(28, 28, 1))
        write(tmp_path, "mnist", {"train": own[:120], "test": own[120:]}, version=version, image=image)
        own = own[::-1]
    named, found = load("mnist", tmp_path, seed=3), load("tfds:mnist", tmp_path, seed=3)
    for part in ("train", "validation", "test"):
        for ours, theirs in zip(contents(getattr(named, part)), contents(getattr(found, part)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert found.notes[0] == "version 3.0.10 of TFDS"
    old = load("tfds:mnist:3.0.1", tmp_path)
    np.testing.assert_array_equal(contents(old.test)[0], own[120:])
    assert old.notes[0] == "version 3.0.1 of TFDS"


# --- what is refused


def refused(call, *arguments, **options):
    with pytest.raises(ConfigError) as error:
        call(*arguments, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"label": None}, "has no label, a feature of TFDS's type ClassLabel; its features: image"),
        ({"label": tfds.features.Scalar(np.int64)}, "has no label"),
        ({"image": tfds.features.Tensor(shape=(6, 6, 3), dtype=np.uint8)}, "has no image"),
        ({"features": {"breed": CLASS_LABEL}}, "has several features that could be the label (breed, label)"),
        ({"image": tfds.features.Image(shape=(6, 6, 3), dtype=np.uint16)}, "images of type uint16"),
        ({"parts": {"test": arrays(6, 6, 6, 3)}}, "has no train split to learn from; it has test"),
        ({"parts": {"train": [(one, -1) for one in arrays(6, 6, 6, 3)]}}, "labels of train run from -1 to -1"),
        ({"file_format": "array_record"}, "is in files of the format array_record; allowed: tfrecord"),
    ],
)
def test_unsuitable_sets_are_refused_in_one_line(tmp_path, how, says):
    image = how.get("image")
    dtype = np.uint16 if getattr(image, "np_dtype", None) == np.uint16 else np.uint8
    parts = how.pop("parts", {"train": [one.astype(dtype) for one in arrays(6, 6, 6, 3)]})
    write(tmp_path, "odd", parts, **how)
    assert says in refused(load, "tfds:odd", tmp_path)


def test_the_supervised_keys_say_which_of_several_labels_is_meant():
    class Info:
        features = tfds.features.FeaturesDict(
            {"a": CLASS_LABEL, "image": GREY, "b": tfds.features.ClassLabel(num_classes=2)}
        )
        supervised_keys = ("image", "b")

    found = tfds_splits.features_of("tfds:odd", Info)
    assert (found.image, found.label, found.class_names) == ("image", "b", ["0", "1"])
    Info.supervised_keys = None
    assert "(a, b)" in refused(tfds_splits.features_of, "tfds:odd", Info)


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("tfds:", "is no name of TFDS; allowed: tfds:NAME[/CONFIG][:VERSION]"),
        ("tfds:../beasts", "is no name of TFDS"),
        ("tfds:beasts/..", "is no name of TFDS"),
        ("tfds:mnist:3", "is no name of TFDS"),
        ("tfds:oxford_flower102", "TFDS has no data set 'oxford_flower102', and"),
        ("tfds:oxford_flower102", "did you mean oxford_flowers102"),
        ("tfds:beasts", "names no config; allowed: tfds:beasts/small"),
        ("tfds:imagenette", "names no config; allowed: tfds:imagenette/"),
        ("tfds:imagenette/160", "has no config '160'; allowed: tfds:imagenette/"),
        ("tfds:mnist/small", "has no config 'small'; allowed: tfds:mnist"),
        ("tfds:mnist:9.9.9", "dataset tfds:mnist:9.9.9 has no such version; allowed: 3.0.1"),
    ],
)
def test_unknown_names_are_refused_before_anything_else(folder, dataset, says, no_network):
    assert says in refused(Config(dataset=dataset, data_dir=folder).check)
    assert no_network == []


def test_a_set_that_needs_another_package_is_one_line(tmp_path, monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'pandas'\nFailed importing pandas.")

    monkeypatch.setattr(tfds, "builder_cls", fail)
    said = refused(Config(dataset="tfds:qm9", data_dir=tmp_path).check)
    assert said == "dataset tfds:qm9: No module named 'pandas', which TFDS needs for this set"


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path, no_network):
    config = Config(dataset="tfds:oxford_flowers102", data_dir=tmp_path, offline=True)
    config.check()
    for call in (sources.provide, sources.load):
        line = refused(call, config)
        assert line.startswith(f"tfds:oxford_flowers102 is not in {tmp_path}. With a network, ")
        assert f"`python -m common.data prepare tfds:oxford_flowers102 --data-dir {tmp_path}` fetches it" in line
    by_hand = refused(sources.provide, Config(dataset="tfds:imagenet2012", data_dir=tmp_path, offline=True))
    assert "TFDS says how to get it: manual_dir should contain two files: ILSVRC2012_img_train.tar" in by_hand
    assert f"Put it into {tmp_path / 'manual'}" in by_hand
    assert no_network == []


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("tfds:oxford_flowers102", "could not fetch tfds:oxford_flowers102: www.robots.ox.ac.uk does not answer"),
        ("tfds:mnist:9.9.9", "could not fetch tfds:mnist:9.9.9: "),
        ("tfds:imdb_reviews/plain_text", "tfds:imdb_reviews/plain_text has no image"),
        ("tfds:imagenet2012", "tfds:imagenet2012 is not in"),
        ("tfds:imagenet2012", "TFDS says how to get it: manual_dir should contain two files: ILSVRC2012_img_train.tar"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_at_once(tmp_path, no_network, dataset, says):
    assert says in refused(tfds_sets.fetch_tfds, dataset, tmp_path)
    assert {attempt[0] for attempt in no_network} <= {"www.robots.ox.ac.uk"}


def test_a_set_downloaded_by_hand_whose_file_is_another_is_one_line(tmp_path, no_network):
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "holiday.tar").touch()
    line = refused(tfds_sets.fetch_tfds, "tfds:imagenet2012", tmp_path)
    assert line.startswith("could not fetch tfds:imagenet2012: ")
    assert "TFDS says how to get it" in line
    assert no_network == []


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "half", "text", "[]", "{}", "3", '{"a": 1}', b"\xff\xfe"])
def test_damaged_descriptions_are_refused_in_one_line(folder, tmp_path, file, content):
    here = shutil.copytree(folder / "beasts", tmp_path / "beasts") / "small" / "1.0.0"
    whole = (here / file).read_bytes()
    (here / file).write_bytes(
        whole[: len(whole) // 2] if content == "half" else getattr(content, "encode", lambda: content)()
    )
    line = refused(load, "tfds:beasts/small", tmp_path)
    assert line.startswith(f"tfds:beasts/small in {here} is damaged: ")
    assert line.endswith("; delete that folder and fetch it again")


@pytest.mark.parametrize("how", ["cut", "at the end of a record", "missing", "a bit"])
def test_damaged_records_are_refused_in_one_line(folder, tmp_path, how):
    here = shutil.copytree(folder / "beasts", tmp_path / "beasts") / "small" / "1.0.0"
    (record,) = here.glob("*train.tfrecord*")
    whole = record.read_bytes()
    if how == "cut":
        record.write_bytes(whole[: len(whole) // 2])
    elif how == "a bit":
        record.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    elif how == "missing":
        record.unlink()
    else:
        record.write_bytes(whole[: 16 + int.from_bytes(whole[:8], "little")])
    assert "is damaged: " in refused(load, "tfds:beasts/small", tmp_path)


def test_images_of_another_size_than_promised_are_damage(tmp_path):
    write(tmp_path, "chips", {"train": arrays(6, 8, 8, 3)}, image=tfds.features.Image(shape=(8, 8, 3)))
    description = tmp_path / "chips" / "1.0.0" / "features.json"
    description.write_text(description.read_text().replace('"8"', '"9"'))
    assert "is damaged: " in refused(load, "tfds:chips", tmp_path)


# --- with the commands


def test_a_run_s_folder_has_a_sane_name():
    assert Config(dataset="tfds:beasts/small:1.0.0").slug() == "default-tfds_beasts_small_1.0.0"
    assert Config(dataset="tfds:mnist").digest() != Config(dataset="mnist").digest()


def test_check_finds_it(folder):
    def prepare(*names):
        command = [sys.executable, "-m", "common.data", "prepare", *names, "--check", "--data-dir", str(folder)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = prepare("tfds:beasts/small", "tfds:cmaterdb/bangla")
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [
        ["tfds:beasts/small", str(folder / "beasts" / "small" / "1.0.0")],
        ["tfds:cmaterdb/bangla", "missing", "from", str(folder)],
    ]
    done = prepare("tfds:beests/small")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: TFDS has no data set 'beests'")
