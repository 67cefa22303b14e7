import contextlib
import fcntl
import io
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from pictures import picture, write_class
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from common.config import Config
from common.data import DATASETS, pipeline, sources, splits, tfds_sets, tfrecords
from common.errors import ConfigError

ROOT = Path(__file__).parents[2]


def load(name, folder, **options):
    return sources.load(Config(dataset=name, data_dir=folder, **options))


@pytest.fixture(scope="module")
def digits():
    return load("digits", Path("unused"))


def contents(dataset):
    """All images and labels of a pipeline, and the sizes of its batches."""
    batches = list(dataset.as_numpy_iterator())
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, labels, [len(labels) for _, labels in batches]


def images_of(split):
    return contents(pipeline.evaluation(split, 64))[0]


# --- digits, and how data sets are split


def test_digits_are_scikit_learns(digits):
    published = load_digits()
    places = np.concatenate([s.places for s in (digits.train, digits.validation, digits.test)])
    assert sorted(places) == list(range(1797))
    for split in (digits.train, digits.validation, digits.test):
        np.testing.assert_array_equal(split.labels, published.target[split.places])
        images = images_of(split)
        assert images.dtype == np.uint8
        # 0 to 16 in scikit-learn.
        np.testing.assert_allclose(images[..., 0] / 255 * 16, published.images[split.places], atol=0.5 / 255 * 16)
    assert digits.class_names == tuple("0123456789")
    assert (digits.train.channels, digits.train.size, digits.train.in_files) == (1, 8, False)


def test_validation_and_test_keep_the_class_shares(digits):
    of_class = np.bincount(load_digits().target)
    counts = digits.counts()
    assert sum(counts.values()).tolist() == of_class.tolist()
    np.testing.assert_allclose(counts["test"], 0.2 * of_class, atol=1)
    np.testing.assert_allclose(counts["validation"], 0.1 * 0.8 * of_class, atol=1)


def test_the_seed_chooses_validation_but_not_test(digits):
    again, other = load("digits", Path("unused")), load("digits", Path("unused"), seed=1)
    np.testing.assert_array_equal(again.validation.places, digits.validation.places)
    np.testing.assert_array_equal(again.train.places, digits.train.places)
    assert set(other.validation.places) != set(digits.validation.places)
    np.testing.assert_array_equal(other.test.places, digits.test.places)
    assert not set(other.train.places) & set(other.validation.places)


def test_limits_are_exact_stratified_and_include_validation():
    data = load("digits", Path("unused"), limit_train=200, limit_test=50)
    counts = data.counts()
    assert {name: count.sum() for name, count in counts.items()} == {"train": 180, "validation": 20, "test": 50}
    np.testing.assert_allclose(counts["train"], 18, atol=2)
    np.testing.assert_allclose(counts["test"], 5, atol=1)
    assert not set(data.train.places) & set(data.validation.places)


def test_the_seed_chooses_which_training_images_are_left_and_no_test_images():
    one, other = (load("digits", Path("unused"), limit_train=200, limit_test=50, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.test.places, other.test.places)
    left = [{*data.train.places, *data.validation.places} for data in (one, other)]
    assert len(left[0] & left[1]) < 100


@pytest.mark.parametrize("limit", [31, 59, 62, 118, 1437])
def test_limits_are_exact_whatever_their_share_of_all(limit):
    # 31 / 1797 * 1797 is above 31 in floating point.
    labels = load_digits().target
    split = splits.whole(np.zeros((1797, 1, 1, 1), np.uint8), labels, 1)
    assert len(splits.limited(split, limit, 0, "train")) == limit


def test_limits_beyond_the_data_are_refused(digits):
    whole = len(digits.train) + len(digits.validation)
    assert len(load("digits", Path("unused"), limit_train=whole).train) == len(digits.train)
    with pytest.raises(
        ConfigError, match=f"limit-train is {whole + 1}; allowed: 10 to {whole - 10}, or all {whole} images"
    ):
        load("digits", Path("unused"), limit_train=whole + 1)
    with pytest.raises(ConfigError, match="limit-test is 5; allowed: 10 to 350, or all 360 images"):
        load("digits", Path("unused"), limit_test=5)


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        (None, "mine: its function returned a NoneType; it must return a Loaded"),
        (
            {"training": np.zeros((4, 8, 8, 3), np.uint8)},
            "mine has the splits training; allowed: train, validation, test",
        ),
        (
            {"train": np.zeros((4, 8, 8, 3), np.float32)},
            r"images of train are float32 \(4, 8, 8, 3\); they must be uint8",
        ),
        ({"train": np.zeros((4, 8, 8), np.uint8)}, r"uint8 \(4, 8, 8\); they must be uint8 \(n, 8, 8, 1 or 3\)"),
        ({"train": np.zeros((4, 8, 9, 1), np.uint8)}, r"uint8 \(4, 8, 9, 1\); they must be"),
    ],
)
def test_what_a_data_set_of_ones_own_returns_is_checked(monkeypatch, tmp_path, loaded, said):
    splits_of = {name: splits.whole(images, np.arange(4) % 2, 8) for name, images in (loaded or {}).items()}
    monkeypatch.setitem(DATASETS, "mine", "mine:load")
    module = SimpleNamespace(load=lambda *_: loaded and splits.Loaded(splits_of, ["a", "b"]))
    monkeypatch.setitem(sys.modules, "mine", module)
    with pytest.raises(ConfigError, match=said):
        load("mine", tmp_path)


def test_labels_must_be_classes():
    with pytest.raises(ConfigError, match="labels of train run from 0 to 3; classes: 3"):
        splits.check_labels("cifar10", "train", np.array([0, 1, 3]), 3)
    with pytest.raises(ConfigError, match="labels of test run from -1 to 2; classes: 3"):
        splits.check_labels("cifar10", "test", np.array([-1, 2]), 3)
    with pytest.raises(ConfigError, match="the test split has no images"):
        splits.check_labels("cifar10", "test", np.array([], int), 3)
    splits.check_labels("cifar10", "train", np.array([0, 2]), 3)


# --- test images that are among the others


def paths_of(split):
    return [Path(split.store.numpy()[place].decode()) for place in split.places]


def split_of(images):
    return splits.whole(np.asarray(images, np.uint8), np.arange(len(images)) % 3, images[0].shape[0])


def test_copies_are_compared_bit_by_bit():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    nearly = images[1].copy()
    nearly[3, 3, 2] ^= 1
    test = split_of([images[0], nearly, images[2], images[4], images[4]])
    kept = test.take(splits.without_copies(test, split_of([images[2], images[1]]), split_of([images[0]])))
    np.testing.assert_array_equal(images_of(kept), [nearly, images[4], images[4]])  # copies of each other may stay
    assert kept.labels.tolist() == [1, 0, 1]
    assert len(splits.without_copies(test, split_of([images[5]]))) == 5
    assert len(splits.without_copies(test, test)) == 0


def test_copies_are_looked_for_among_the_places_of_a_split_alone():
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)
    images[6], images[7] = images[0], images[1]
    store = split_of(images)
    kept = splits.without_copies(store.take(np.array([6, 7])), store.take(np.array([1, 2, 3])))
    np.testing.assert_array_equal(kept, [0])


def test_files_with_the_same_content_are_copies_whatever_their_names(tmp_path):
    for name in ("ant", "bee"):
        write_class(tmp_path / name, 3, first=10 * (name == "bee"), size=(8, 8))
    (tmp_path / "bee" / "again.png").write_bytes((tmp_path / "ant" / "00.png").read_bytes())
    names = sorted(map(str, tmp_path.glob("*/*.png")))
    files = splits.whole(np.array(names), np.zeros(len(names), int), 8)
    here = [i for i, name in enumerate(names) if "bee" in name]
    others = [i for i, name in enumerate(names) if "ant" in name]
    bees = files.take(np.array(here))
    kept = bees.take(splits.without_copies(bees, files.take(np.array(others))))
    assert [path.name for path in paths_of(kept)] == ["10.png", "11.png", "12.png"]


def test_only_files_of_one_size_are_read_to_find_copies(tmp_path, monkeypatch):
    contents = {"a": b"12", "b": b"123", "c": b"1234", "d": b"12345", "e": b"32", "f": b"123"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = splits.whole(np.array([str(tmp_path / name) for name in contents]), np.zeros(len(contents), int), 8)
    read = []
    monkeypatch.setattr(tfrecords, "content", lambda name: read.append(name) or Path(name.decode()).read_bytes())
    kept = splits.without_copies(files.take(np.arange(3)), files.take(np.arange(3, 6)))
    np.testing.assert_array_equal(kept, [0, 2])  # b is a copy of f, a only as long as e
    assert sorted(Path(name.decode()).name for name in read) == ["a", "b", "e", "f"]


def test_copies_are_kept_out_of_a_test_split_that_is_held_out_and_counted(tmp_path):
    for i, name in enumerate(("ant", "bee")):
        write_class(tmp_path / "all" / name, 20, first=20 * i, size=(8, 8))
        for path in list((tmp_path / "all" / name).iterdir()):
            path.with_name(f"copy_{path.name}").write_bytes(path.read_bytes())
    data = load(f"image_folder:{tmp_path / 'all'}", tmp_path / "cache", cache_gigabytes=1e-9)  # to read its paths
    contents_of = [[path.read_bytes() for path in paths_of(s)] for s in (data.train, data.validation, data.test)]
    assert len(contents_of[0]) + len(contents_of[1]) == 64
    assert not set(contents_of[2]) & {*contents_of[0], *contents_of[1]}
    left_out = 16 - len(data.test)
    assert left_out > 0
    assert data.notes == (
        f"test: {len(data.test)} images, held out here",
        f"{left_out} more left out, as the same pictures are among the others",
        "only 7 validation images: one of them is 14 points of accuracy, so the best epoch is a guess",
    )


def test_a_test_split_of_copies_alone_is_refused(tmp_path):
    for name in ("ant", "bee"):
        write_class(tmp_path / "all" / name, 20, size=(8, 8))  # the same pictures in both
    with pytest.raises(ConfigError, match="test") as error:
        load(f"image_folder:{tmp_path / 'all'}", tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_a_test_split_of_its_own_is_left_as_it_is_and_its_copies_are_counted(tmp_path, capsys):
    for part in ("train", "test"):
        for i, name in enumerate(("ant", "bee")):
            write_class(tmp_path / "all" / part / name, 12, first=12 * i, size=(8, 8))  # the same pictures in both
    picture(8, 8, seed=99).save(tmp_path / "all" / "test" / "ant" / "own.png")
    data = load(f"image_folder:{tmp_path / 'all'}", tmp_path / "cache")
    assert len(data.test) == 25
    assert "24 of 25 test images are training images too" in data.notes
    assert "warning: 24 of 25 test images are training images too\n" in capsys.readouterr().out


def test_digits_say_that_their_test_split_is_held_out_here(digits):
    assert digits.notes == ("test: 360 images, held out here",)


# --- copies and the validation split


@pytest.fixture(scope="module")
def with_copies():
    """400 images of 4 classes, 100 of which are copies, in groups of up to 12; some have another label than theirs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(400) % 4
    for first, count in zip(range(0, 80, 4), [*range(1, 11)] * 2, strict=True):
        copies = rng.choice(np.arange(100, 400), min(count, 11), replace=False)
        images[copies] = images[first]
        labels[copies] = labels[first]
        labels[copies[: count // 5]] = 3
    return splits.whole(images, labels, 4)


def held_out(split, seed=0):
    return splits.stratified(split, 0.1, seed, "validation", splits.firsts(split))


def pixels(split):
    return {image.tobytes() for image in images_of(split)}


@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_on_one_side_of_the_split(with_copies, seed):
    plain = splits.stratified(with_copies, 0.1, seed, "validation")
    assert pixels(plain[0]) & pixels(plain[1]), "without the grouping they do not"
    train, validation = held_out(with_copies, seed)
    assert not pixels(train) & pixels(validation)
    assert sorted([*train.places, *validation.places]) == list(range(400))
    np.testing.assert_array_equal(validation.labels, with_copies.labels[validation.places])
    # Single images make up for what the copies bring.
    np.testing.assert_array_equal(np.bincount(validation.labels), np.bincount(plain[1].labels))


def test_the_seed_chooses_the_sides_of_copies(with_copies):
    firsts = splits.firsts(with_copies)
    copied = set(firsts[firsts != np.arange(400)])
    sides = [copied & set(held_out(with_copies, seed)[1].places) for seed in (*range(20), 0)]
    assert sides[0] == sides[-1]
    # Of 20 pictures with copies a tenth or so is validated with, and not always the same ones.
    assert 0.03 < np.mean([len(side) for side in sides]) / len(copied) < 0.2
    assert len(set.union(*sides)) > len(copied) / 2


def test_the_firsts_are_those_of_numpy(with_copies):
    _, index, inverse = np.unique(
        images_of(with_copies).reshape(400, -1), axis=0, return_index=True, return_inverse=True
    )
    np.testing.assert_array_equal(splits.firsts(with_copies), index[inverse])


@pytest.mark.parametrize("seed", range(3))
def test_copies_are_taken_as_by_a_search_of_all_images(seed):
    rng = np.random.default_rng(seed)
    originals = np.arange(3000)
    originals[rng.choice(np.arange(100, 3000), 900, replace=False)] = rng.choice(100, 900)
    labels, order = rng.integers(0, 5, 3000), rng.permutation(3000)
    room, expected = np.bincount(labels[order[:300]], minlength=5), []
    for first in order:
        own = np.flatnonzero(originals == first)
        if len(own) and (np.bincount(labels[own], minlength=5) <= room).all():
            room = room - np.bincount(labels[own], minlength=5)
            expected += own.tolist()
    assert splits.with_copies(labels, originals, order, 300).tolist() == expected


@pytest.mark.parametrize("seed", [0, 7])
def test_without_copies_the_split_is_scikit_learns(seed):
    images, labels = load_digits(return_X_y=True)
    split = splits.whole(images.astype(np.uint8).reshape(-1, 8, 8, 1), labels, 8)
    rest, part = train_test_split(np.arange(len(split)), test_size=0.1, stratify=labels, random_state=seed)
    train, validation = held_out(split, seed)
    np.testing.assert_array_equal(train.places, np.sort(rest))
    np.testing.assert_array_equal(validation.places, np.sort(part))


def test_more_copies_than_validation_has_room_for_are_trained_on():
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 1), dtype=np.uint8)
    images[20:40] = images[20]
    split = splits.whole(images, np.arange(100) // 50, 4)
    for seed in range(10):
        _, validation = held_out(split, seed)
        assert not set(validation.places) & set(range(20, 40))
        assert np.bincount(validation.labels).tolist() == [5, 5]


def test_a_data_set_says_how_many_copies_it_holds(tmp_path, monkeypatch, with_copies):
    test = splits.whole(np.zeros((4, 4, 4, 1), np.uint8), np.arange(4), 4)
    parts = {"train": with_copies, "test": test}
    monkeypatch.setattr(tfds_sets, "by_name", lambda *_: splits.Loaded(parts, list("abcd"), ["a note"]))
    data = load("fer2013", tmp_path)
    assert not pixels(data.train) & pixels(data.validation)
    copies = 400 - len(pixels(with_copies))
    assert data.notes == (
        "a note",
        f"{copies} copies of other training images, kept on one side of the validation split",
    )
    assert copies > 80


def test_training_images_of_one_picture_alone_are_refused(tmp_path, monkeypatch):
    one = splits.whole(np.zeros((40, 4, 4, 1), np.uint8), np.arange(40) % 2, 4)
    monkeypatch.setattr(tfds_sets, "by_name", lambda *_: splits.Loaded({"train": one, "test": one}, ["a", "b"]))
    with pytest.raises(ConfigError, match="fer2013: the validation split has no images"):
        load("fer2013", tmp_path)


# --- the order of training


def batches(split, epochs, seed=0, skip=0, batch_size=64, transform=None):
    return list(pipeline.training(split, batch_size, seed, epochs, skip, transform).as_numpy_iterator())


def test_training_and_evaluation_do_without_the_autotuner(digits):
    """For whose sleep the end of an iterator would wait, by chance: tests/benchmarks/autotuner.py."""
    for pipe in (pipeline.training(digits.train, 64, 0, range(2)), pipeline.evaluation(digits.test, 64)):
        assert pipe.options().autotune.enabled is False


@pytest.fixture(scope="module")
def numbered():
    """A split of 150 images that say which they are."""
    return splits.whole(np.arange(150, dtype=np.uint8).reshape(150, 1, 1, 1), np.arange(150), 1)


def epoch_order(split, epoch, seed=0):
    return np.concatenate([labels for _, labels in batches(split, range(epoch, epoch + 1), seed)])


def test_an_epoch_is_a_permutation_with_images_and_labels_together(numbered):
    found = batches(numbered, range(1))
    assert [len(labels) for _, labels in found] == [64, 64, 22]
    assert len(found) == pipeline.steps_per_epoch(numbered, 64)
    for images, labels in found:
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images.reshape(-1), labels)
    labels = np.concatenate([labels for _, labels in found])
    assert sorted(labels) == list(range(150))
    assert labels.tolist() != list(range(150))


def test_order_depends_on_seed_and_epoch_alone(numbered):
    first = epoch_order(numbered, 0)
    np.testing.assert_array_equal(epoch_order(numbered, 0), first)
    assert (epoch_order(numbered, 1) != first).any()
    assert (epoch_order(numbered, 0, seed=1) != first).any()
    assert (epoch_order(numbered, 1, seed=0) != epoch_order(numbered, 0, seed=1)).any()
    # An epoch by itself is as it is within a longer stream.
    stream = np.concatenate([labels for _, labels in batches(numbered, range(0, 4))])
    np.testing.assert_array_equal(stream[300:450], epoch_order(numbered, 2))


def test_order_is_the_same_in_another_process():
    code = (
        "import tensorflow as tf\nfrom common.data.pipeline import order\n"
        "tf.random.set_seed(99)\nprint(*order(50, 7, tf.constant(3, tf.int64)).numpy())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(i) for i in pipeline.order(50, 7, tf.constant(3, tf.int64)).numpy()]


def test_order_has_no_favourite_place():
    # The mean place of each of 20 images over 500 epochs: 9.5, with deviation sqrt((20**2 - 1) / 12 / 500).
    orders = np.stack([pipeline.order(20, 0, tf.constant(e, tf.int64)) for e in range(500)])
    means = np.argsort(orders, axis=1).mean(axis=0)
    np.testing.assert_allclose(means, 9.5, atol=5 * np.sqrt(399 / 12 / 500))


@pytest.mark.parametrize(("epoch", "skip"), [(0, 1), (1, 0), (1, 2), (2, 3)])
def test_starting_in_the_middle_gives_the_tail_of_the_whole(numbered, epoch, skip):
    whole = batches(numbered, range(4))
    part = batches(numbered, range(epoch, 4), skip=skip)
    for ours, theirs in zip(part, whole[epoch * 3 + skip :], strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("skip", [0, 1])
def test_a_transform_gets_epoch_and_step(numbered, skip):
    def write_place(images, labels, place):
        return tf.cast(tf.reshape(place, [1, 1, 1, 2]), tf.uint8) + tf.zeros_like(images), labels

    found = batches(numbered, range(5, 7), skip=skip, transform=write_place)
    places = [tuple(np.unique(images.reshape(-1, 2), axis=0).ravel().tolist()) for images, _ in found]
    assert places == [(epoch, step) for epoch in (5, 6) for step in range(3)][skip:]
    plain = batches(numbered, range(5, 7), skip=skip)
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_what_is_left_out_is_not_transformed(numbered):
    seen = []

    def count(images, labels, place):
        tf.numpy_function(lambda: seen.append(1), [], [])
        return images, labels

    assert len(batches(numbered, range(1), skip=2, transform=count)) == 1
    assert len(seen) == 1


def test_two_that_fetch_the_same_data_do_it_once(tmp_path, monkeypatch):
    """The second one waits, and finds what the first one has made."""
    began, made, waits = threading.Event(), threading.Event(), threading.Event()
    flock = fcntl.flock

    def told(file, how):
        if how == fcntl.LOCK_EX:
            waits.set()
        flock(file, how)

    class Builder:
        def download_and_prepare(self, **_):
            began.set()
            assert made.wait(60)
            (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
            (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").touch()

    monkeypatch.setattr(tfds, "builder", lambda *_, **__: Builder())
    monkeypatch.setattr(tfds_sets, "ask_hosts", lambda *_: None)
    monkeypatch.setattr(fcntl, "flock", told)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(tfds_sets.fetch_tfds, "mnist", tmp_path)
        assert began.wait(60)
        second = threads.submit(tfds_sets.fetch_tfds, "mnist", tmp_path)  # Builder would fail: its folder is there
        assert waits.wait(60)
        made.set()
        assert first.result() == second.result() == tmp_path / "mnist" / "3.0.1"


def test_evaluation_is_the_split_once_in_its_own_order(digits):
    images, labels, sizes = contents(pipeline.evaluation(digits.test, 100))
    assert sizes == [100, 100, 100, 60]
    np.testing.assert_array_equal(labels, digits.test.labels)
    np.testing.assert_array_equal(pipeline.pictures(digits.test, np.array([5, 2])), images[[5, 2]])


# --- TFDS


def write_tfds(folder, version, seed, train=100, test=20, shape=(32, 32, 3), classes=10):
    """Write a data set as TFDS does, and return its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: (rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % classes)
        for name, n in (("train", train), ("test", test))
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        tfds.dataset_builders.store_as_tfds_dataset(
            name="cifar10",
            version=version,
            data_dir=folder,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape),
                    "label": tfds.features.ClassLabel(names=[f"class{i}" for i in range(classes)]),
                }
            ),
            split_datasets={
                name: [(i, {"image": images[i], "label": int(labels[i])}) for i in range(len(labels))]
                for name, (images, labels) in arrays.items()
            },
            disable_shuffling=True,
        )
    return arrays


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with two versions of a small data set, and the arrays of the newer one."""
    folder = tmp_path_factory.mktemp("tfds")
    write_tfds(folder, "3.0.2", seed=0, train=50)
    return folder, write_tfds(folder, "3.0.10", seed=1)


def test_tfds_data_is_read_bit_exact_without_a_network(prepared, no_network):
    folder, arrays = prepared
    sources.provide(Config(dataset="cifar10", data_dir=folder))
    data = load("cifar10", folder)
    parts = {"train": [data.train, data.validation], "test": [data.test]}
    for name, own in parts.items():
        places = np.concatenate([split.places for split in own])
        order = np.argsort(places)
        np.testing.assert_array_equal(places[order], np.arange(len(arrays[name][1])))
        np.testing.assert_array_equal(np.concatenate([images_of(s) for s in own])[order], arrays[name][0])
        np.testing.assert_array_equal(np.concatenate([s.labels for s in own])[order], arrays[name][1])
    assert data.class_names == tuple(f"class{i}" for i in range(10))
    assert data.notes == ("100 of 50,000 train images", "20 of 10,000 test images")
    assert data.test_images_of == 10_000
    assert no_network == []


def test_newest_finished_version_is_chosen(prepared, tmp_path):
    folder, _ = prepared
    assert tfds_sets.tfds_folder("cifar10", folder) == folder / "cifar10" / "3.0.10"
    assert tfds_sets.tfds_folder("mnist", folder) is None
    # What TFDS writes into until it is done; a preparation that is killed leaves it.
    unfinished = tmp_path / "cifar10" / "incomplete.AB12CD_9.0.0"
    unfinished.mkdir(parents=True)
    (unfinished / "dataset_info.json").write_text("{}")
    assert tfds_sets.tfds_folder("cifar10", tmp_path) is None


def test_missing_data_offline_names_the_way_out(tmp_path, no_network):
    with pytest.raises(ConfigError) as loading:
        load("cifar100", tmp_path)
    with pytest.raises(ConfigError) as error:
        sources.provide(Config(dataset="cifar100", data_dir=tmp_path, offline=True))
    assert str(loading.value) == str(error.value)
    line = str(error.value)
    assert f"cifar100 is not in {tmp_path}" in line
    assert f"`python -m common.data prepare cifar100 --data-dir {tmp_path}`" in line
    assert "make demo" in line
    assert "\n" not in line
    assert no_network == []


def test_a_slurm_job_stops_without_touching_the_network(tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with pytest.raises(ConfigError, match="mnist is not in"):
        sources.provide(Config(dataset="mnist", data_dir=tmp_path))
    assert no_network == []


@pytest.mark.parametrize(("name", "host"), [("cifar10", "www.cs.toronto.edu"), ("mnist", "storage.googleapis.com")])
def test_no_host_answering_is_one_line_at_once(tmp_path, no_network, name, host):
    with pytest.raises(ConfigError) as error:
        sources.provide(Config(dataset=name, data_dir=tmp_path))
    line = str(error.value)
    assert line.startswith(f"could not fetch {name}: {host} does not answer (ConnectionError).")
    assert f"prepare {name} --data-dir {tmp_path}" in line
    assert "\n" not in line
    assert [attempt[0] for attempt in no_network] == [host]  # asked once: TFDS itself asks eleven times in 200 seconds


def test_damaged_tfds_data_is_refused(tmp_path):
    write_tfds(tmp_path, "3.0.2", seed=0)
    record = next((tmp_path / "cifar10" / "3.0.2").glob("*train.tfrecord*"))
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"cifar10 in .*3\.0\.2 is damaged"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_tfds_data_without_its_description_is_refused(prepared, tmp_path, file):
    here = shutil.copytree(prepared[0] / "cifar10" / "3.0.10", tmp_path / "cifar10" / "3.0.10")
    (here / file).write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cifar10 in .*3\.0\.10 is damaged: .*; delete that folder") as error:
        load("cifar10", tmp_path)
    assert "\n" not in str(error.value)
