"""Folders of images: what is used, in which order, and what is not and why. No file is opened, so all are empty."""

import os
import re
from pathlib import Path

import pytest

from common.data.listing import list_images, printable
from common.errors import ConfigError


def make(root, *names):
    """Empty files below a folder; a name that ends in / is a folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def images(listing):
    """Split -> class -> names of its images, in order."""
    found = {}
    for split, listed in listing.splits.items():
        for path, label in listed:
            found.setdefault(split, {}).setdefault(listing.class_names[label], []).append(Path(path).name)
    return found


def unused(listing):
    """Reason -> paths from the root."""
    root = listing.root
    return {reason: sorted(os.path.relpath(p, root) for p in paths) for reason, paths in listing.unused.items()}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Training", "VALID", "Testing"),
        ("TRAIN", "validation", "eval"),
        ("training", "Dev", "Eval"),
    ],
)
def test_common_spellings_of_the_splits(tmp_path, train, validation, test):
    make(tmp_path, *(f"{part}/{c}/{part}.png" for part in (train, validation, test) for c in "xy"))
    listing = list_images(tmp_path)
    assert images(listing) == {
        split: {"x": [f"{part}.png"], "y": [f"{part}.png"]}
        for split, part in (("train", train), ("validation", validation), ("test", test))
    }
    assert listing.notes() == []


@pytest.mark.parametrize(
    ("names", "classes", "note"),
    [
        (("train/1.png", "bus/1.png"), ["bus", "train"], "taken for classes, not for splits, as bus lies beside them"),
        (("train/1.png", "test/1.png"), ["test", "train"], "as they hold no folders: test, train"),
        (("train/x/1.png", "Test/y/1.png", "more/2.png"), ["Test", "more", "train"], "as more lies beside them"),
        (("freight train/1.png", "test car/x/1.png"), ["freight train", "test car"], "folders within class folders"),
    ],
)
def test_what_is_called_like_a_split_may_be_a_class_and_is_told(tmp_path, names, classes, note):
    listing = list_images(make(tmp_path, *names))
    assert list(listing.class_names) == classes
    assert set(images(listing)) == {"train"}
    assert note in listing.notes()[0]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("val/x/1.png", "valid/x/1.png", "train/x/1.png"), "has val and valid, which both mean validation"),
        (("Train/x/1.png", "train/y/1.png"), "has Train and train, which both mean train; allowed: one of them"),
        (("train/x/1.png", "train/y/1.png", "test/1.png"), "has train with class folders and test without; allowed"),
        (("test/x/1.png", "val/x/1.png"), "has test and val but no train"),
        (
            ("train/x/1.png", "train/y/1.png", "test/x/1.png", "unlabelled/2.png"),
            "has test, train, with class folders of the same names, and unlabelled beside them; allowed: splits alone",
        ),
        (
            ("train/x/1.png", "train/y/1.png", "tests/x/1.png", "tests/y/1.png"),
            "has train, with class folders of the same names, and tests beside them; .* did you mean test\\?",
        ),
        (("train/x/1.png", "train/y/1.png", "test/z/1.png"), "has a class that train does not have: z"),
        (("caf\u00e9/1.png", "cafe\u0301/1.png"), "has two class folders called caf\u00e9"),
        (("x/1.png",), "has 1 class folder; at least two are needed"),
        (("data/train/x/1.png", "__MACOSX/data/x"), "did you mean image_folder:.*/data\\?"),
        (("1.png",), "has 0 class folders"),
        (
            (
                "seg_train/seg_train/x/1.png",
                "seg_train/seg_train/y/1.png",
                "seg_test/seg_test/x/1.png",
                "more/2.png",
            ),
            "has seg_test, seg_train, with class folders of the same names, which would be taken for classes; "
            "allowed: test, train as their names",
        ),
        (("train_images/x/1.png", "test-images/x/1.png"), "has test-images, train_images, with class folders"),
    ],
)
def test_a_folder_that_says_two_things_is_refused_in_one_line(tmp_path, names, says):
    make(tmp_path, *names)
    with pytest.raises(ConfigError, match=says) as error:
        list_images(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_not_used_is_counted_and_named(tmp_path):
    make(
        tmp_path,
        *("x/1.png", "x/2.JPG", "y/1.jfif", "y/2.WebP", "y/3.jpe", "y/4.Tiff"),
        *(".thumbnails/1.png", "__MACOSX/x/1.png", ".DS_Store", "x/._1.png", "x/Thumbs.db"),
        *("x/.ipynb_checkpoints/1.png", "y/.hidden.png"),
        *("README.txt", "beside.png", "x/notes.txt", "y/film.mp4", "y/noname"),
    )
    (tmp_path / "x" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "x" / "itself.png").symlink_to("itself.png")
    os.mkfifo(tmp_path / "y" / "pipe.png")
    listing = list_images(tmp_path)
    assert images(listing) == {"train": {"x": ["1.png", "2.JPG"], "y": ["1.jfif", "2.WebP", "3.jpe", "4.Tiff"]}}
    found = unused(listing)
    (other,) = (reason for reason in found if reason.startswith("without the suffix of an image (.bmp"))
    (loop,) = (reason for reason in found if reason.startswith("cannot be opened ("))
    assert found == {
        "hidden or left by a system": sorted(
            (
                ".thumbnails",
                "__MACOSX",
                ".DS_Store",
                "x/._1.png",
                "x/Thumbs.db",
                "x/.ipynb_checkpoints",
                "y/.hidden.png",
            )
        ),
        "not in a class folder": ["README.txt", "beside.png"],
        other: ["x/notes.txt", "y/film.mp4", "y/noname"],
        "a link that leads nowhere": ["x/gone.png"],
        loop: ["x/itself.png"],
        "not a file": ["y/pipe.png"],
    }
    notes = listing.notes()
    assert len(notes) == len(found)
    assert f"not used, {other}: 3 (x/notes.txt, y/film.mp4, y/noname)" in notes
    assert any(re.fullmatch(r"not used, hidden .*: 7 \(.*, .*, .* and 4 more\)", note) for note in notes)


def test_hundreds_of_left_over_files_make_one_short_note(tmp_path):
    make(tmp_path, "x/1.png", "y/1.png", *(f"x/._a_picture_that_a_mac_has_zipped_{i}.jpg" for i in range(400)))
    (note,) = list_images(tmp_path).notes()
    assert note.startswith("not used, hidden or left by a system: 400 (x/._a_picture")
    assert note.endswith(" and 397 more)")
    assert len(note) < 250


def test_classes_and_images_stand_in_the_order_of_their_numbers_and_paths(tmp_path):
    make(tmp_path, *(f"{c}/1.png" for c in ("10", "9", "1", "2", "a10", "a9", "B")))
    assert list_images(tmp_path).class_names == ("1", "2", "9", "10", "B", "a9", "a10")
    make(tmp_path / "1", "b/1.png", "a/1.png", "b.png", "10.png", "9.png")
    listing = list_images(tmp_path)
    paths = [path for path, label in listing.splits["train"] if label == 0]
    assert paths == [str(path) for path in sorted((tmp_path / "1").glob("**/*.png"))]
    assert listing.notes() == ["images of their class, folders within class folders: 2 (1/a, 1/b)"]


def test_links_are_followed_once(tmp_path):
    make(tmp_path / "store", "a.png", "b.png")
    root = make(tmp_path / "all", "train/x/1.png", "train/y/deep/1.png")
    (root / "train" / "y" / "store").symlink_to(tmp_path / "store")
    (root / "train" / "y" / "more").symlink_to(tmp_path / "store")
    (root / "train" / "x" / "up").symlink_to(root)
    (root / "train" / "x" / "all").symlink_to(root / "train")
    (root / "train" / "x" / "here").symlink_to(".")
    (root / "train" / "x" / "2.png").symlink_to(tmp_path / "store" / "a.png")
    (root / "val").symlink_to("train")
    listing = list_images(root)
    assert images(listing) == {
        split: {"x": ["1.png", "2.png"], "y": ["1.png", "a.png", "b.png"]} for split in ("train", "validation")
    }
    again = unused(listing)["a link to a folder that is read already"]
    assert again == sorted(
        f"{part}/{path}" for part in ("train", "val") for path in ("x/all", "x/here", "x/up", "y/store")
    )


def test_one_folder_is_not_of_two_classes(tmp_path):
    make(tmp_path, "bee/1.png", "cow/2.png")
    (tmp_path / "ant").symlink_to(tmp_path / "bee")
    with pytest.raises(ConfigError, match="the class folders ant and bee are one, by a link; allowed: one of them"):
        list_images(tmp_path)


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    make(tmp_path, "x/1.png", "x/closed/2.png", "y/1.png")
    whole = os.scandir

    def scandir(folder):
        if folder.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return whole(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_images(tmp_path)
    assert images(listing) == {"train": {"x": ["1.png"], "y": ["1.png"]}}
    assert unused(listing) == {"cannot be opened (Permission denied)": ["x/closed"]}


def test_a_folder_that_may_be_listed_but_not_entered_is_named(tmp_path, monkeypatch):
    """As `chmod -R 644` makes them: what is in them has names, and nothing else."""
    make(tmp_path, "x/1.png", "x/closed/2.png", "y/1.png")
    whole = os.stat

    def stat(path, **more):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return whole(path, **more)

    monkeypatch.setattr(os, "stat", stat)
    listing = list_images(tmp_path)
    assert images(listing) == {"train": {"x": ["1.png"], "y": ["1.png"]}}
    assert unused(listing) == {"cannot be opened (Permission denied)": ["x/closed"]}


def test_names_that_are_no_utf8_or_have_control_characters_can_be_printed(tmp_path):
    make(tmp_path, "y/[a], b~.png")
    make(tmp_path, os.fsdecode(b"caf\xe9/1\xe9.png"), os.fsdecode(b"caf\xe9/two\nlines.txt"))
    listing = list_images(tmp_path)
    assert listing.class_names == ("caf\\xe9", "y")
    assert images(listing)["train"]["y"] == ["[a], b~.png"]
    assert os.fsencode(listing.splits["train"][0][0]) == os.fsencode(tmp_path) + b"/caf\xe9/1\xe9.png"
    (note,) = listing.notes()
    assert note.endswith("1 (caf\\xe9/two\\nlines.txt)")
    assert printable("照片 é") == "照片 é"


def test_a_class_is_the_same_however_its_accents_are_composed(tmp_path):
    listing = list_images(make(tmp_path, "train/caf\u00e9/1.png", "train/x/1.png", "test/cafe\u0301/1.png"))
    assert listing.class_names == ("caf\u00e9", "x")
    assert images(listing)["test"] == {"caf\u00e9": ["1.png"]}
