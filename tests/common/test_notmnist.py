"""notMNIST as a TFDS data set: from an archive of the published structure to splits, without a network."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import Config
from common.data import pipeline, sources, tfds_sets
from common.errors import ConfigError

ROOT = Path(__file__).parents[2]
LETTERS = "ABCDEFGHIJ"
PER_CLASS = 20
# The two empty files of the published archive.
EMPTY = ("A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png", "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png")
COPIES = 15


def png(image):
    content = io.BytesIO()
    Image.fromarray(image, "L").save(content, "PNG")
    return content.getvalue()


def letters():
    """Images by path in the archive; the first of each class, and those of A, lie there once more each."""
    rng = np.random.default_rng(0)
    images = {
        f"{letter}/{letter}{i:02}==.png": rng.integers(0, 256, (28, 28), dtype=np.uint8)
        for letter in LETTERS
        for i in range(PER_CLASS)
    }
    twice = [f"{letter}/{letter}00==.png" for letter in LETTERS] + [f"A/A{i:02}==.png" for i in range(1, COPIES - 9)]
    return images | {path.replace("==", "_copy="): images[path] for path in twice}


def write_archive(path, images):
    """The published structure: folders, two empty files, and what a Mac leaves behind."""
    path.parent.mkdir(parents=True)
    files = {name: png(image) for name, image in images.items()} | dict.fromkeys(EMPTY, b"")
    files |= {"A/._A00==.png": b"resource fork", "notes.txt": b"no letter"}
    with tarfile.open(path, "w:gz") as archive:
        for folder in ("", *LETTERS):
            entry = tarfile.TarInfo(f"notMNIST_small/{folder}")
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"notMNIST_small/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def config(folder, **fields):
    return Config(dataset="notmnist", data_dir=folder, **fields)


def prepare(folder, *flags):
    command = [sys.executable, "-m", "common.data", "prepare", "notmnist", "--data-dir", str(folder), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ}, check=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What was in the archive, the folder that the command has filled from it, and how the command ended."""
    folder, images = tmp_path_factory.mktemp("data"), letters()
    write_archive(folder / "manual" / "notMNIST_small.tar.gz", images)
    return images, folder, prepare(folder)


@pytest.fixture(scope="module")
def data(prepared):
    _, folder, done = prepared
    assert done.returncode == 0, done.stderr
    return sources.load(config(folder))


def pictures(split, class_names):
    """How often each (letter, pixels) is there."""
    images = pipeline.pictures(split, np.arange(len(split)))
    assert images.shape[1:] == (28, 28, 1)
    assert images.dtype == np.uint8
    return Counter((class_names[label], image.tobytes()) for label, image in zip(split.labels, images, strict=True))


def test_prepare_takes_the_archive_from_the_manual_folder(prepared):
    _, folder, done = prepared
    assert done.returncode == 0, done.stderr
    assert str(folder / "notmnist" / "1.0.0") in done.stdout
    assert tfds_sets.tfds_folder("notmnist", folder) == folder / "notmnist" / "1.0.0"


def test_pixels_and_letters_are_those_of_the_archive(prepared, data):
    images = prepared[0]
    assert data.class_names == tuple(LETTERS)
    archive = Counter((path[0], image.tobytes()) for path, image in images.items())
    kept, test = (
        sum((pictures(split, LETTERS) for split in splits), Counter())
        for splits in ((data.train, data.validation), (data.test,))
    )
    assert not kept + test - archive  # nothing that the archive does not hold so often
    left_out = archive - kept - test
    assert set(left_out) <= set(kept)  # and nothing is lost but what is among the others


def test_no_test_image_is_among_the_others(data):
    others = pictures(data.train, LETTERS) + pictures(data.validation, LETTERS)
    assert not pictures(data.test, LETTERS).keys() & others.keys()


def test_notes_count_and_name_what_is_not_there(prepared, data):
    total = len(prepared[0])
    used = len(data.train) + len(data.validation) + len(data.test)
    (skipped, held_out, left_out, together) = data.notes
    count, _, names = skipped.partition(" unreadable image files skipped: ")
    assert (count, set(names.split(", "))) == ("2", set(EMPTY))
    assert held_out == f"test: {len(data.test)} images, held out here"
    assert total - used > 0
    assert left_out == f"{total - used} more left out, as the same pictures are among the others"
    repeated = (pictures(data.train, LETTERS) + pictures(data.validation, LETTERS)).values()
    copies = sum(count - 1 for count in repeated)
    assert copies > 0
    assert together == f"{copies} copies of other training images, kept on one side of the validation split"


def test_splits_are_stratified(prepared, data):
    of_class = np.array([sum(path[0] == letter for path in prepared[0]) for letter in LETTERS])
    counts = data.counts()
    assert counts["test"].sum() <= 0.2 * of_class.sum()
    assert (counts["test"] <= np.ceil(0.2 * of_class)).all()
    assert (counts["test"][1:] >= 0.2 * of_class[1:] - 2).all()  # of which at most one is a copy; A has more of them
    np.testing.assert_allclose(counts["validation"], 0.1 * 0.8 * of_class, atol=1)


def test_the_test_split_is_the_same_for_every_seed(prepared, data):
    _, folder, _ = prepared
    for seed in (1, 2):
        other = sources.load(config(folder, seed=seed))
        np.testing.assert_array_equal(other.test.places, data.test.places)
        assert other.notes == data.notes
        assert set(other.validation.places) != set(data.validation.places)


def test_prepared_data_needs_neither_network_nor_archive(prepared, no_network):
    _, folder, _ = prepared
    sources.provide(config(folder, offline=True))
    assert len(sources.load(config(folder)).train) > 100
    assert no_network == []


def test_offline_the_archive_is_enough(tmp_path, no_network, capsys):
    rng = np.random.default_rng(1)
    images = {f"{c}/{i}.png": rng.integers(0, 256, (28, 28), dtype=np.uint8) for c in LETTERS for i in range(13)}
    write_archive(tmp_path / "manual" / "notMNIST_small.tar.gz", images)
    sources.provide(config(tmp_path, offline=True))
    data = sources.load(config(tmp_path, limit_test=10))
    assert data.counts()["test"].tolist() == [1] * 10
    assert len(data.train) + len(data.validation) == 104
    assert (data.notes[0][:34], data.notes[1:]) == (
        "2 unreadable image files skipped: ",
        ("test: 26 images, held out here",),
    )
    assert no_network == []


def test_offline_without_the_archive_is_one_line_that_says_where_it_goes(tmp_path, no_network):
    with pytest.raises(ConfigError) as error:
        sources.provide(config(tmp_path, offline=True))
    line = str(error.value)
    assert f"notmnist is not in {tmp_path}" in line
    assert f"put notMNIST_small.tar.gz into {tmp_path / 'manual'}" in line
    assert f"`python -m common.data prepare notmnist --data-dir {tmp_path}`" in line
    assert "\n" not in line
    assert no_network == []


def test_no_host_answering_is_one_line_at_once(tmp_path, no_network, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # where TFDS tries again, it must not take minutes here
    with pytest.raises(ConfigError) as error:
        sources.provide(config(tmp_path, offline=False))
    line = str(error.value)
    assert line.startswith("could not fetch notmnist: ")
    assert f"put notMNIST_small.tar.gz into {tmp_path / 'manual'}" in line
    assert "\n" not in line
    assert [attempt[0] for attempt in no_network] == ["yaroslavvb.com"]  # once: TFDS itself asks eleven times


def test_a_damaged_archive_is_one_line(tmp_path, no_network):
    write_archive(tmp_path / "manual" / "notMNIST_small.tar.gz", letters())
    archive = tmp_path / "manual" / "notMNIST_small.tar.gz"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"notMNIST_small\.tar\.gz is damaged: ") as error:
        sources.provide(config(tmp_path, offline=True))
    assert "\n" not in str(error.value)
    assert tfds_sets.tfds_folder("notmnist", tmp_path) is None


def test_check_says_what_is_there(prepared):
    _, folder, _ = prepared
    info = json.loads((folder / "notmnist" / "1.0.0" / "dataset_info.json").read_text())
    (split,) = info["splits"]
    assert (split["name"], sum(map(int, split["shardLengths"]))) == ("train", len(prepared[0]))
    done = prepare(folder, "--check")
    assert (done.returncode, done.stdout.split()) == (0, ["data", "notmnist", str(folder / "notmnist" / "1.0.0")])
