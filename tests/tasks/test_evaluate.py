"""`python -m common.evaluate`: what it says of labelled images, and of mistakes."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from common import evaluate, trained
from common.data import splits


@pytest.fixture
def labelled(tmp_path):
    """Forty digits, of the classes 0 to 4 alone, in a folder for each."""
    digits = load_digits(n_class=5)
    images = np.round(digits.images[:40] * (255 / 16)).astype(np.uint8)
    for place, (image, label) in enumerate(zip(images, digits.target, strict=False)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place:02}.png")
    return tmp_path / "digits"


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(argument) for argument in arguments])
    return stop.value.code


def expected(run, phase=None):
    """Labels, and what the network takes the same images for, without files."""
    digits = load_digits(n_class=5)
    images = np.round(digits.images[:40, ..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target[:40]
    return labels, trained.load(run, phase).probabilities(splits.whole(images, labels, 8))


def test_the_scores_are_scikit_learns(run, labelled, capsys):
    assert call(run, labelled, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    labels, probabilities = expected(run)
    guesses = probabilities.argmax(axis=1)
    assert found["n"] == 40
    present = precision_recall_fscore_support(labels, guesses, labels=range(5), zero_division=0)
    macro = [found[f"macro_{name}"] for name in ("precision", "recall", "f1")]
    assert macro == pytest.approx([np.mean(scores) for scores in present[:3]])
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
    right = int((labels == guesses).sum())
    assert found["accuracy_interval"] == pytest.approx(stats.binomtest(right, 40).proportion_ci(method="wilson"))
    for place, own in enumerate(found["per_class"]):
        scores = [own[key] for key in ("precision", "recall", "f1", "support")]
        assert scores == (pytest.approx([each[place] for each in present]) if place < 5 else [None, None, None, 0])


def test_the_table_leaves_out_classes_without_an_image_and_says_so(run, labelled, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert call(run, labelled) == 0
    head, _, _, *rows = capsys.readouterr().out.splitlines()
    labels, probabilities = expected(run)
    guesses = probabilities.argmax(axis=1)
    f1 = precision_recall_fscore_support(labels, guesses, labels=range(5), zero_division=0)[2]
    assert head.startswith(f"40 images of 5 classes: accuracy {accuracy_score(labels, guesses):.2%} (95 % interval ")
    assert head.endswith(f"macro F1 {np.mean(f1):.4f}")
    for label in range(5):
        images, _, recall, _, *taken_for = rows[label].split()[1:]
        own = guesses[labels == label]
        assert (int(images), recall) == (len(own), f"{np.mean(own == label):.1%}")
        wrong = np.bincount(own[own != label], minlength=10)
        assert taken_for == ([str(wrong.argmax()), f"({wrong.max()})"] if wrong.any() else [])
    assert rows[-1] == "classes without an image that can be read, left out above: 5, 6, 7 and 2 more"


def test_every_image_is_a_row_of_the_csv(phased, labelled, tmp_path):
    assert call(phased, labelled, "--csv", tmp_path / "each.csv", "--phase", "head") == 0
    with (tmp_path / "each.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    labels, probabilities = expected(phased, "head")
    for place, (label, own) in enumerate(zip(labels, probabilities, strict=True)):
        row = rows[str(labelled / str(label) / f"{place:02}.png")]
        assert (row["class"], row["predicted"]) == (str(label), str(own.argmax()))
        assert float(row["probability"]) == pytest.approx(float(own[label]), abs=1e-6)
        assert float(row["probability of predicted"]) == pytest.approx(float(own.max()), abs=1e-6)


def test_what_cannot_be_read_or_is_no_image_is_told(run, labelled, capsys):
    (labelled / "0" / "broken.png").write_bytes(b"no image")
    (labelled / "notes.txt").write_text("no image")
    assert call(run, labelled, "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["n"] == 40
    assert f"not read, left out: {labelled / '0' / 'broken.png'}: cannot be decoded" in printed.err
    assert "not used, not in a class folder: 1 (notes.txt)" in printed.err


def test_if_no_image_can_be_read_each_is_named(run, tmp_path, capsys):
    (tmp_path / "bad" / "0").mkdir(parents=True)
    (tmp_path / "bad" / "0" / "a.png").write_bytes(b"no image")
    assert call(run, tmp_path / "bad") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"not read, left out: {tmp_path / 'bad' / '0' / 'a.png'}: cannot be decoded\n"


@pytest.mark.parametrize(("link", "to"), [("7", "0"), ("0", "7")])
def test_a_link_to_a_class_does_not_count_its_images_again_or_as_its_own(run, labelled, capsys, link, to):
    if to == "7":
        (labelled / "0").rename(labelled / "7")
    (labelled / link).symlink_to(labelled / to)
    assert call(run, labelled, "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["n"] == 40
    assert found["per_class"][int(to)]["support"] > 0 == found["per_class"][int(link)]["support"]
    assert f"a link to a folder that is read already: 1 ({link})" in printed.err


def test_output_that_nobody_reads_is_one_line(run, labelled):
    command = f"{sys.executable} -m common.evaluate {run} {labelled} --json | head -c 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) in ((1, "{"), (0, "{"))  # 0 if all was written before `head` ended
    assert done.stderr in ("", "error: nobody reads the output any more, as behind `| head`\n")


def test_mistakes_are_one_line(run, labelled, tmp_path, capsys):
    (tmp_path / "phone" / "3").mkdir(parents=True)
    (tmp_path / "phone" / "3" / "a.heic").write_bytes(b"")
    (tmp_path / "beside" / "extra").mkdir(parents=True)
    (tmp_path / "beside" / "test").mkdir(parents=True)
    (tmp_path / "empty" / "3").mkdir(parents=True)
    (tmp_path / "splits" / "test" / "3").mkdir(parents=True)
    (tmp_path / "other" / "cat").mkdir(parents=True)
    for arguments, said in (
        ([run, tmp_path / "none"], "none is no folder; allowed: a folder with a folder for each class"),
        (
            [run, tmp_path / "empty"],
            "empty has no images in class folders; allowed: a folder for each class, with images (.bmp, ",
        ),
        ([run, labelled / "3"], "3 has no images in class folders"),
        ([run, tmp_path / "splits"], f"allowed: one of them alone, as {tmp_path}/splits/test"),
        ([run, tmp_path / "beside"], f"allowed: one of them alone, as {tmp_path}/beside/test"),
        ([run, tmp_path / "phone"], "of a format that is not read, to be converted to JPEG: 1 (3/a.heic); allowed: "),
        ([run, tmp_path / "other"], "no class of the run: cat; allowed: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ([run, labelled, "--phase", "tail"], "has no phase 'tail'; allowed: train"),
        ([run, labelled, "--csv", tmp_path / "none" / "a.csv"], "there is no folder"),
        (["nothing", labelled], "run 'nothing': not found"),
    ):
        assert call(*arguments) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert said in printed
