"""FER-2013 as a TFDS data set: from archives of the known structures to splits, without a network."""

import io
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from common.config import Config
from common.data import pipeline, sources, tfds_sets
from common.errors import ConfigError

CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
# Class folders and the kind of the files, by the name of the archive that has them.
ARCHIVES = {
    "emotion-detection-fer.zip": (CLASSES, "PNG"),
    "fer2013.zip": (("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"), "JPEG"),
}


def config(folder, **fields):
    return Config(dataset="fer2013", data_dir=folder, **fields)


def encoded(image, kind):
    content = io.BytesIO()
    Image.fromarray(image, "L").save(content, kind)
    return content.getvalue()


def faces(per_class=10):
    """Images by (split, class number, number)."""
    rng = np.random.default_rng(0)
    counts = {"train": per_class, "test": 3}
    return {
        (split, label, i): rng.integers(0, 256, (48, 48), dtype=np.uint8)
        for split, count in counts.items()
        for label in range(7)
        for i in range(count)
    }


def write_archive(folder, name, images, more=()):
    """The archive's files; returns them as (split, class number) and bytes."""
    (folder / "manual").mkdir()
    folders, kind = ARCHIVES[name]
    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    content = {key: encoded(image, kind) for key, image in images.items()}
    with zipfile.ZipFile(folder / "manual" / name, "w") as archive:
        for (split, label, i), data in content.items():
            archive.writestr(f"{split}/{folders[label]}/im{i}.{suffix}", data)
        for path, data in more:
            archive.writestr(path, data)
    return content


@pytest.mark.parametrize("name", ARCHIVES)
def test_both_archives_give_their_pixels_classes_and_splits(tmp_path, no_network, name):
    kind = ARCHIVES[name][1]
    strays = [("README.md", b"text"), ("__MACOSX/train/angry/._im0.png", b"resource fork")]
    content = write_archive(tmp_path, name, faces(), strays)
    sources.provide(config(tmp_path, offline=True))
    data = sources.load(config(tmp_path))
    assert data.class_names == CLASSES
    assert data.notes == ("70 of 28,709 train images", "21 of 7,178 test images")
    found = {
        split: Counter(
            (label, image.tobytes())
            for part in parts
            for label, image in zip(part.labels, pipeline.pictures(part, np.arange(len(part))), strict=True)
        )
        for split, parts in {"train": (data.train, data.validation), "test": (data.test,)}.items()
    }
    # PIL as the independent decoder.
    for split, counts in found.items():
        expected = Counter(
            (label, np.asarray(Image.open(io.BytesIO(data))).tobytes())
            for (part, label, _), data in content.items()
            if part == split
        )
        assert counts == expected, f"{split} of {kind}"
    assert no_network == []


def test_files_that_are_no_face_are_skipped_and_named(tmp_path):
    large = encoded(np.zeros((64, 48), np.uint8), "PNG")
    broken = [("train/happy/broken.png", b"no image"), ("test/sad/empty.jpg", b""), ("train/sad/large.png", large)]
    write_archive(tmp_path, "emotion-detection-fer.zip", faces(), broken)
    sources.provide(config(tmp_path, offline=True))
    data = sources.load(config(tmp_path))
    count, _, names = data.notes[-1].partition(" unreadable image files skipped: ")
    assert (count, sorted(names.split(", "))) == ("3", sorted(path for path, _ in broken))
    assert len(data.train) + len(data.validation) == 70


@pytest.mark.parametrize("offline", [True, False])
def test_without_the_archive_one_line_says_where_to_get_it_and_where_to_put_it(tmp_path, no_network, offline):
    for fetch in (
        lambda: sources.provide(config(tmp_path, offline=offline)),
        lambda: tfds_sets.fetch_tfds("fer2013", tmp_path),
    ):
        with pytest.raises(ConfigError) as error:
            fetch()
        line = str(error.value)
        assert "Get emotion-detection-fer.zip or fer2013.zip from https://www.kaggle.com/datasets/" in line
        assert f"put it into {tmp_path / 'manual'}; then `python -m common.data prepare fer2013 --data-dir" in line
        assert "\n" not in line
    assert no_network == []


@pytest.mark.parametrize(
    ("more", "images", "said"),
    [
        ([("train/bored/im0.png", b"")], True, "has a class 'bored'; allowed: angry, disgusted,"),
        ([("notes.txt", b"")], False, "has no images in train/<class>/"),
        (
            [("copy/train/angry/im0.jpg", encoded(np.zeros((48, 48), np.uint8), "JPEG"))],
            True,
            "has angry/im0.jpg twice: train/angry/im0.jpg and copy/train/angry/im0.jpg; take one of these folders out",
        ),
    ],
)
def test_another_archive_is_one_line(tmp_path, more, images, said):
    write_archive(tmp_path, "fer2013.zip", faces() if images else {}, more)
    with pytest.raises(ConfigError) as error:
        sources.provide(config(tmp_path, offline=True))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert tfds_sets.tfds_folder("fer2013", tmp_path) is None


def test_an_archive_that_is_cut_short_is_one_line(tmp_path):
    write_archive(tmp_path, "fer2013.zip", faces())
    archive = tmp_path / "manual" / "fer2013.zip"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"fer2013\.zip is damaged: ") as error:
        sources.provide(config(tmp_path, offline=True))
    assert "\n" not in str(error.value)
    assert tfds_sets.tfds_folder("fer2013", tmp_path) is None


def test_an_archive_whose_bytes_are_damaged_is_one_line(tmp_path):
    """A byte within a packed file: the sizes and names are as they were."""
    write_archive(tmp_path, "fer2013.zip", {})
    archive = tmp_path / "manual" / "fer2013.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train/angry/im0.png", encoded(np.zeros((48, 48), np.uint8), "PNG") + bytes(5000))
    content = bytearray(archive.read_bytes())
    content[60:70] = b"\xff" * 10
    archive.write_bytes(content)
    with pytest.raises(ConfigError, match=r"fer2013\.zip is damaged: ") as error:
        sources.provide(config(tmp_path, offline=True))
    assert "\n" not in str(error.value)
