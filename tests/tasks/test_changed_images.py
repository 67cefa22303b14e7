"""A run and a folder whose images change: never trained on without a word, and a finished run says so."""

import json
import shutil

import in_process
import numpy as np
import pytest
from PIL import Image

from common.data.listing import fingerprint
from slurm.plan import load_task

FLAGS = ("--preset", "demo", "--epochs", "2")


@pytest.fixture
def photos(tmp_path):
    """Forty images in two classes."""
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def train(photos, tmp_path):
    """Trains the linear SVM on them, and gives the exit code."""
    folders = ("--dataset", f"image_folder:{photos}", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out"))
    return lambda: in_process.call(load_task("hinge_svm"), *FLAGS, *folders)


def add(photos):
    (photos / "a" / "new.png").write_bytes((photos / "a" / "0.png").read_bytes())


def swap(photos):
    Image.new("RGB", (9, 9)).save(photos / "a" / "0.png")


def test_a_folder_that_lies_elsewhere_has_the_same_fingerprint(photos, tmp_path):
    def found(folder):
        return fingerprint(sorted(map(str, folder.rglob("*.png"))))

    def in_one_file(folder):  # of records, say
        return fingerprint([f"{folder}/a/0.png|{part}" for part in range(2)], [f"{folder}/a/0.png"] * 2)

    before = found(photos), in_one_file(photos)
    assert before[0]["images"] == 40
    elsewhere = photos.rename(tmp_path / "elsewhere")
    assert (found(elsewhere), in_one_file(elsewhere)) == before
    (elsewhere / "a" / "0.png").write_bytes(b"other")
    assert found(elsewhere) != before[0]
    assert in_one_file(elsewhere) != before[1]


def test_a_finished_run_whose_folder_is_empty_is_shown_all_the_same(train, photos, capsys):
    assert train() == 0
    capsys.readouterr()
    shutil.rmtree(photos)
    photos.mkdir()
    assert train() == 0
    printed = capsys.readouterr().out
    assert "warning: it was begun with other images" in printed
    assert "test        accuracy" in printed


@pytest.mark.parametrize("data", [None, [], {}, {"images": "many", "digest": ""}, 3])
def test_a_damaged_fingerprint_is_no_traceback(train, tmp_path, capsys, data):
    assert train() == 0
    (path,) = tmp_path.glob("out/*/*/environment.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": data}))
    capsys.readouterr()
    assert train() in (0, 1)


def test_a_run_does_not_go_on_with_images_that_it_could_not_read_before(train, photos, tmp_path, capsys):
    content = (photos / "a" / "0.png").read_bytes()
    (photos / "a" / "0.png").write_bytes(b"x" * len(content))
    assert train() == 0
    (folder,) = tmp_path.glob("out/*/*")
    (folder / "metrics.json").unlink()
    (photos / "a" / "0.png").write_bytes(content)
    assert train() == 1
    said = "was begun when 1 of its images could not be read; now 0 cannot; --overwrite starts from scratch"
    assert said in in_process.one_error(capsys)
    (photos / "a" / "2.png").write_bytes(b"x" * (photos / "a" / "2.png").stat().st_size)
    assert train() == 1
    assert "was begun when 1 of its images could not be read; now others cannot; " in in_process.one_error(capsys)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add, "was begun with 40 images; now there are 41"),
        (swap, "was begun with 40 images, some of which are others now"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(train, photos, tmp_path, capsys, change, said):
    assert train() == 0
    capsys.readouterr()
    change(photos)
    assert train() == 0
    assert f"warning: it {said}" in capsys.readouterr().out
    (folder,) = tmp_path.glob("out/*/*")
    (folder / "metrics.json").unlink()  # as if it had been stopped before its end
    assert train() == 1
    assert said in in_process.one_error(capsys)
    assert len(json.loads((folder / "environment.json").read_text())["starts"]) == 1
