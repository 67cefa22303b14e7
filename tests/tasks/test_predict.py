"""`python -m common.predict`: what it takes, what it writes, and what it says of mistakes."""

import csv
import importlib
import io
import json
import os
import re
import shutil
import sys

import in_process
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from common import export, predict, setup, trained
from common.errors import ConfigError
from common.run_folder import find_run
from slurm.plan import load_task


@pytest.fixture
def photos(tmp_path):
    """Five digits, grey, two of them in a folder below, and one file that is no image."""
    images = np.round(load_digits().images[:5] * (255 / 16)).astype(np.uint8)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for place, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photos" / ("more" if place > 2 else "") / f"{place}.png")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        predict.main([str(argument) for argument in arguments])
    return stop.value.code


def files_in(text):
    return [one["file"].rpartition("/")[2] for one in json.loads(text)]


LAYER = """
import keras

@keras.saving.register_keras_serializable("mine")
class Twice(keras.layers.Layer):
    def call(self, scores):
        return 2 * scores
"""


def test_float32_is_no_tf32_on_a_gpu(run, monkeypatch):
    """As it was trained and measured."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    monkeypatch.setattr(setup, "on_gpu", lambda: True)
    try:
        tf.config.experimental.enable_tensor_float_32_execution(True)
        trained.load(run)
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def test_a_task_of_ones_own_may_have_layers_of_its_own(run, photos, tmp_path, capsys, monkeypatch):
    (tmp_path / "tasks" / "mine").mkdir(parents=True)
    (tmp_path / "tasks" / "mine" / "networks.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trained, "REPOSITORY", tmp_path)
    shutil.copytree(run, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(about | {"task": "mine"}))
    twice = importlib.import_module("tasks.mine.networks").Twice()
    model = trained.load(run).model
    keras.Model(model.input, twice(model.output)).save(tmp_path / "run" / "model.keras")
    for forgotten in ("tasks.mine.networks", "tasks.mine"):  # as in a new process
        del sys.modules[forgotten]
    del keras.saving.get_custom_objects()["mine>Twice"]
    assert call(tmp_path / "run", photos, "--json") == 0
    doubled = json.loads(capsys.readouterr().out)
    with pytest.raises(ConfigError, match=r"layers of the task's own \(twice\w*\) need its code; allowed: --to "):
        export.export(tmp_path / "run", "keras", tmp_path / "out")
    assert call(run, photos, "--json") == 0
    for one, other in zip(doubled, json.loads(capsys.readouterr().out), strict=True):
        (first, second), (best, next_best) = (list(each["classes"].values())[:2] for each in (one, other))
        assert np.log(first / second) == pytest.approx(2 * np.log(best / next_best), rel=1e-3)


def test_a_pattern_may_match_folders(run, photos, capsys):
    assert call(run, photos / "mor*", "--json") == 0
    assert files_in(capsys.readouterr().out) == ["3.png", "4.png"]
    assert call(run, photos / "**" / "*", "--json") in (0, 1)  # a file that is no image is named
    assert files_in(capsys.readouterr().out) == ["0.png", "1.png", "2.png", "3.png", "4.png"]


def test_images_are_read_a_chunk_at_a_time_and_none_is_lost(run, photos, capsys, monkeypatch):
    assert call(run, photos, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(predict, "CHUNK", 2)
    assert call(run, photos, "--json", "--batch-size", "2") == 0
    parts = json.loads(capsys.readouterr().out)
    assert [one["file"] for one in parts] == [one["file"] for one in whole]
    for one, other in zip(parts, whole, strict=True):
        assert one["classes"] == pytest.approx(other["classes"], abs=1e-6)


def test_folders_patterns_files_and_a_list_on_standard_input(run, photos, capsys, monkeypatch):
    assert call(run, photos, "--json") == 0
    assert files_in(capsys.readouterr().out) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert call(run, photos / "*.png", photos / "more" / "4.png", "--json") == 0
    assert files_in(capsys.readouterr().out) == ["0.png", "1.png", "2.png", "4.png"]
    listed = f"{photos}/2.png\n{photos}/more/3.png\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    assert call(run, "-", "--json") == 0
    assert files_in(capsys.readouterr().out) == ["2.png", "3.png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.replace("\n", "\0").encode())))
    assert call(run, "-", "--json") == 0  # of find -print0
    assert files_in(capsys.readouterr().out) == ["2.png", "3.png"]
    shutil.copy(photos / "2.png", photos / "a\nb.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{photos}/a\nb.png\0".encode())))
    assert call(run, "-", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


@pytest.mark.parametrize("name", ["foo", "torch"])
def test_a_backend_that_is_unknown_or_not_supported_is_one_line(run, photos, capsys, monkeypatch, name):
    monkeypatch.setenv("KERAS_BACKEND", name)
    assert call(run, photos) == 2
    assert f"unknown KERAS_BACKEND '{name}'; allowed: tensorflow, jax" in in_process.one_error(capsys)


def test_what_is_no_image_in_a_folder_is_told(run, photos, capsys):
    (photos / "more" / "phone.HEIC").write_bytes(b"of a kind that is not read")
    assert call(run, photos, "--json") == 0
    printed = capsys.readouterr()
    assert files_in(printed.out) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert "not used, of a format that is not read, to be converted to JPEG: 1 (more/phone.HEIC)" in printed.err
    assert "notes.txt" in printed.err


@pytest.mark.parametrize("brand", ["heic", "mif1", "avif"])
def test_a_photograph_of_a_phone_is_to_be_converted_whatever_it_is_called(run, photos, capsys, brand):
    (photos / "phone.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand.encode() + bytes(99))
    assert call(run, photos / "phone.jpg", "--json") == 1
    said = f"not read, left out: {photos / 'phone.jpg'}: of a format that is not read, to be converted to JPEG"
    assert said in capsys.readouterr().err


def test_the_table_the_csv_and_the_json_say_the_same(run, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    call(run, photos, "--json")
    found = json.loads(capsys.readouterr().out)
    for one in found:
        shares = list(one["classes"].values())
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert set(one["classes"]) == {str(digit) for digit in range(10)}
    assert call(run, photos, "--csv", tmp_path / "c.csv", "--top", "2") == 0
    with (tmp_path / "c.csv").open(newline="") as file:
        heads, *rows = csv.reader(file)
    assert heads == ["file", "class 1", "probability 1", "class 2", "probability 2"]
    for row, one in zip(rows, found, strict=True):
        (first, share), (second, next_share) = list(one["classes"].items())[:2]
        assert row == [one["file"], first, str(share), second, str(next_share)]
    capsys.readouterr()
    assert call(run, photos, "--top", "2") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    for line, one in zip(lines, found, strict=True):
        (first, share), (second, next_share) = list(one["classes"].items())[:2]
        assert line.split() == [one["file"], first, f"{share:.1%}", second, f"{next_share:.1%}"]


def test_a_file_that_is_no_image_is_named_and_left_out(run, photos, capsys):
    assert call(run, photos / "notes.txt", photos / "0.png", "--json") == 1
    printed = capsys.readouterr()
    assert files_in(printed.out) == ["0.png"]
    assert printed.err == f"not read, left out: {photos / 'notes.txt'}: cannot be decoded\n"
    assert call(run, photos / "notes.txt", "--json") == 1
    assert json.loads(capsys.readouterr().out) == []


def test_colour_is_made_grey_and_other_sizes_fit(run, photos, capsys):
    grey = np.asarray(Image.open(photos / "0.png"))
    Image.fromarray(np.repeat(grey[..., None], 3, axis=-1)).save(photos / "colour.png")
    for name, side in (("small", 8), ("large", 40)):
        Image.fromarray(np.full((side, side), 200, np.uint8)).save(photos / f"{name}.png")
    wide = np.pad(grey, ((0, 0), (4, 4)), constant_values=200)  # a centred square is what counts
    Image.fromarray(wide).save(photos / "wide.png")
    assert call(run, *(photos / f"{name}.png" for name in ("0", "colour", "wide", "small", "large")), "--json") == 0
    found = [one["classes"] for one in json.loads(capsys.readouterr().out)]
    assert found[0] == found[1] == found[2] != found[3]
    assert found[3] == found[4]


def test_an_earlier_phase_is_another_network_and_the_last_the_same(phased, photos, capsys):
    found = {}
    for phase in ("head", "last_block", "full", None):
        assert call(phased, photos / "0.png", "--json", *([] if phase is None else ["--phase", phase])) == 0
        found[phase] = json.loads(capsys.readouterr().out)[0]["classes"]
    assert found["full"] == found[None]
    assert len({json.dumps(found[phase]) for phase in ("head", "last_block", "full")}) == 3


def test_a_run_goes_by_the_end_of_its_name(run, tmp_path):
    assert find_run(run.name[-12:], run.parents[1]) == run
    assert find_run(str(run), tmp_path) == run


def test_a_run_that_is_not_there_is_answered_by_the_newest_ones(tmp_path):
    for name, age in (("old", 5), ("newer", 3), ("new", 1), ("newest", 0)):
        (tmp_path / "task" / name).mkdir(parents=True)
        for file in ("config.json", "metrics.json"):
            (tmp_path / "task" / name / file).write_text("{}")
        os.utime(tmp_path / "task" / name / "metrics.json", (10**9 - age, 10**9 - age))
    with pytest.raises(ConfigError, match=r"not found; allowed: .*; the newest: newest, new, newer$"):
        find_run("nothing", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["nothing", "{photos}"],
            "run 'nothing': not found; allowed: a finished run: its folder, or the end of",
        ),
        (["{run}", "nowhere"], "nowhere: no such file, folder or pattern of files"),
        (["{run}", "{photos}/more/*.jpg"], "no such file, folder or pattern of files"),
        (["{run}", "{empty}"], "empty has no images (.bmp, .gif, .jfif, .jpe, .jpeg, .jpg, "),
        (["{run}", "{photos}", "--top", "0"], "--top is 0; allowed: 1 and above"),
        (["{run}", "{photos}", "--batch-size", "0"], "--batch-size is 0; allowed: 1 to 1,024"),
        (["{run}", "{photos}", "--batch-size", "1025"], "--batch-size is 1025; allowed: 1 to 1,024"),
        (["{phased}", "{photos}", "--phase", "heads"], "has no phase 'heads'; allowed: head, last_block, full"),
        (["{run}", "{photos}", "--csv", "c.csv", "--json"], "not allowed with"),
    ],
)
def test_a_mistake_is_one_line(run, phased, photos, tmp_path, capsys, arguments, said):
    (tmp_path / "empty").mkdir()
    places = {"run": run, "phased": phased, "photos": photos, "empty": tmp_path / "empty"}
    assert call(*(argument.format(**places) for argument in arguments)) == 2
    assert said in in_process.one_error(capsys)


def test_an_unknown_phase_is_said_before_the_network_is_read(run, photos, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "model.keras").write_bytes(b"damaged")
    assert call(copy, photos, "--phase", "heads") == 2
    assert "has no phase 'heads'; allowed: train" in in_process.one_error(capsys)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("metrics.json", "holds no finished run: metrics.json"),
        ("predictions.npz", "has no predictions.npz: it is no classifier's run, or that file was not copied"),
        ("model.keras", "has no model.keras: it was not copied, or older code trained it"),
    ],
)
def test_a_run_that_cannot_be_used_is_one_line(run, photos, tmp_path, capsys, file, said):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns(file))
    assert call(copy, photos) == 2
    assert said in in_process.one_error(capsys)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "holds no finished run: config.json is empty"),
        ("predictions.npz", "is damaged: predictions.npz: "),
        ("model.keras", "model.keras is damaged: it is no zip archive"),
    ],
)
def test_a_run_with_a_damaged_file_is_one_line(run, photos, tmp_path, capsys, file, said):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / file).write_bytes(b"" if file == "config.json" else (copy / file).read_bytes()[:300])
    assert call(copy, photos) == 2
    assert said in in_process.one_error(capsys)


def test_a_csv_that_cannot_be_written_is_one_line(run, photos, tmp_path, capsys):
    assert call("nothing", photos, "--csv", tmp_path / "no" / "c.csv") == 2  # before anything is loaded
    assert f"c.csv: there is no folder {tmp_path / 'no'}" in in_process.one_error(capsys)
    for name in ("photo.JPG", "README.md", "csv"):
        assert call("nothing", photos, "--csv", tmp_path / name) == 2
        assert f"{name}: allowed: a name that ends in .csv" in in_process.one_error(capsys)
    (tmp_path / "c.csv").mkdir()
    assert call(run, photos, "--csv", tmp_path / "c.csv") == 1
    assert "c.csv: Is a directory" in capsys.readouterr().err


def test_a_pipe_is_left_out_and_an_image_that_is_named_twice_has_two_rows(run, photos, capsys):
    os.mkfifo(photos / "pipe.png")  # to read it would wait for a writer
    assert call(run, photos / "0.png", photos / "pipe.png", photos / "0.png", "--json") == 1
    written = capsys.readouterr()
    assert files_in(written.out) == ["0.png", "0.png"]
    assert written.err == f"not read, left out: {photos / 'pipe.png'}: not a file\n"


def test_one_class_an_image_leaves_no_empty_column(run, photos, capsys):
    assert call(run, photos, "--top", "1") == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["file", "class", "probability"]


def test_each_image_of_a_folder_keeps_its_file(photos, tmp_path, capsys):
    """What a run says of a test image is what `predict` says of the file that predictions.npz names."""
    digits = load_digits()
    for place, image in enumerate(np.round(digits.images[:300] * (255 / 16)).astype(np.uint8)):
        path = tmp_path / "own" / str(digits.target[place]) / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    places = ("--data-dir", str(tmp_path), "--out", str(tmp_path / "out"))
    flags = ("--preset", "demo", "--epochs", "2", "--dataset", f"image_folder:{tmp_path / 'own'}", *places)
    assert in_process.call(load_task("hinge_svm"), *flags) == 0
    assert "note: only 24 validation images: one of them is 4 points of accuracy" in capsys.readouterr().out
    (run,) = (tmp_path / "out" / "hinge_svm").iterdir()
    page = (run / "report.html").read_text()
    with np.load(run / "predictions.npz") as saved:
        for split in ("validation", "test"):
            files, labels = saved[f"{split}_files"], saved[f"{split}_labels"]
            assert [file.partition("/")[0] for file in files] == [saved["class_names"][label] for label in labels]
            assert call(run, *(tmp_path / "own" / file for file in files), "--json") == 0
            said = [one["classes"] for one in json.loads(capsys.readouterr().out)]
            shares = [[classes[name] for name in saved["class_names"]] for classes in said]
            np.testing.assert_allclose(shares, saved[f"{split}_probabilities"], atol=1e-6)
        wrong = saved["test_files"][saved["test_probabilities"].argmax(1) != saved["test_labels"]]
    assert len(wrong) > 3
    assert all(f'<span class="note">{file}</span>' in page for file in wrong[:24])
    opened = json.loads(re.search(r'id="opened">(.*?)</script>', page)[1])
    for own in opened["classes"]:
        assert own["files"] == [str(saved_name) for saved_name in files[own["images"]]]
