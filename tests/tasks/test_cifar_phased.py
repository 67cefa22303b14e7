"""cifar_phased as a user runs it: the command, its run directory, its figures, its faults."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import in_process
import numpy as np
import pytest
import yaml
from PIL import Image

from common import checkpoints
from common.config import flat, parse_strictly
from slurm import plan

REPOSITORY = Path(__file__).resolve().parents[2]
TASK = REPOSITORY / "tasks" / "cifar_phased"
SHORT = ["--preset", "demo", "--limit-train", "300", "--limit-test", "100"]
SHORT += ["--phases.0.epochs", "1", "--phases.1.epochs", "1", "--phases.2.epochs", "1"]
FIGURES = {
    "augmentation",
    "classes",
    "confusion",
    "destinations",
    "generalisation_gap",
    "intensities",
    "learning_curves",
    "learning_rate",
    "per_class",
    "phases",
    "predictions",
}


def train(out, *flags, backend="tensorflow", file_limit=None):
    """Run the command; `file_limit` is the size in KiB past which the kernel refuses to write a file."""
    command = [sys.executable, str(TASK / "train.py"), "--out", str(out), *flags]
    if file_limit:
        command = ["bash", "-c", f'ulimit -f {file_limit}; exec "$@"', "bash", *command]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": backend}, check=False
    )


def errors(done):
    """What a process said on stderr, less TensorFlow's greeting."""
    noise = ("WARNING: All log messages before absl", "I0000 ", "E0000 ", "W0000 ", "To enable the following")
    return [line for line in done.stderr.splitlines() if line and not line.startswith(noise)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    done = train(out, *SHORT, "--tensorboard")
    assert done.returncode == 0, done.stderr
    (folder,) = out.glob("cifar_phased/*")
    return done, folder


def test_the_run_directory_is_whole(finished):
    _, folder = finished
    assert {path.stem for path in folder.glob("figures/*.png")} == FIGURES
    for path in folder.glob("figures/*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 1, f"{path.name} is blank"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert list(metrics["phases"]) == ["head", "last_block", "full"]
    assert {"accuracy", "loss", "macro_f1", "weighted_f1", "per_class"} <= metrics["test"].keys()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment.keys() >= in_process.ENVIRONMENT
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["head", "last_block", "full"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert len(checkpoints.steps(folder / "checkpoints")) == 2
    assert list(folder.glob("tensorboard/full/**/events.out.tfevents.*"))


def test_metrics_follow_from_the_predictions(finished):
    _, folder = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    with np.load(folder / "predictions.npz", allow_pickle=False) as saved:
        right = saved["test_probabilities"].argmax(axis=1) == saved["test_labels"]
    assert len(right) == 100 == metrics["test"]["n"]
    assert metrics["test"]["accuracy"] == pytest.approx(right.mean())
    assert metrics["phases"]["full"]["test"]["accuracy"] == metrics["test"]["accuracy"]


def test_it_ends_with_a_table_and_the_place_of_the_figures(finished):
    done, folder = finished
    assert f"figures     {folder / 'figures'}" in done.stdout
    assert "full 1/1  loss" in done.stdout
    assert "images/s" in done.stdout
    assert errors(done) == []


def test_the_same_command_leaves_it_alone_and_collect_reads_it(finished):
    _, folder = finished
    before = {
        path: path.stat().st_mtime_ns for path in folder.glob("**/*") if path.name not in (".lock", "config.json")
    }
    done = train(folder.parents[1], *SHORT)
    assert done.returncode == 0
    assert "this run is finished" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("flags", "command"),
    [
        (["--offline", "--weights", "none"], "python -m common.data prepare cifar10"),
        (["--offline", "--dataset", "digits"], "python -m common.data prepare --weights resnet18"),
    ],
)
def test_what_is_missing_offline_is_one_line_that_names_the_command(tmp_path, monkeypatch, flags, command):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = train(tmp_path / "runs", *flags, "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert command in done.stderr


def test_a_full_disk_is_one_line_and_leaves_the_last_good_checkpoint(tmp_path):
    # 60 MiB: enough for a checkpoint of the first phase, too little for the second, which has Adam's moments.
    done = train(tmp_path, *SHORT, file_limit=60 * 1024)
    assert done.returncode == 1
    (line,) = errors(done)
    assert line.startswith("error: cannot write")
    assert "File too large" in line
    folder = next(tmp_path.glob("cifar_phased/*/checkpoints"))
    assert not list(folder.glob(".*.tmp"))
    checkpoint = checkpoints.latest(folder)
    assert (checkpoint.data["phase"], checkpoint.data["epoch"]) == (0, 1)
    resumed = train(tmp_path, *SHORT)
    assert resumed.returncode == 0
    assert "resuming: phase head, epoch 2" in resumed.stdout


def test_jax_host_augmentation_and_an_image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            size = (int(rng.integers(32, 60)), int(rng.integers(32, 60)))
            Image.new("RGB", size, colour).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "red" / "broken.png").write_bytes(b"no image")
    flags = ["--preset", "demo", "--dataset", f"image_folder:{tmp_path / 'images'}", "--data-dir", str(tmp_path)]
    flags += ["--augmentation", "affine_colour_blur", "--augment-on", "host", "--batch-size", "16"]
    flags += ["--phases.0.epochs", "1", "--phases.1.epochs", "1", "--phases.2.epochs", "1"]
    done = train(tmp_path / "runs", *flags, backend="jax")
    assert done.returncode == 0, done.stderr
    assert errors(done) == []
    assert "1 unreadable image files skipped" in done.stdout
    environment = json.loads(next(tmp_path.glob("runs/*/*/environment.json")).read_text())
    assert environment["backend"] == "jax"


def test_augmentation_after_the_resize(tmp_path):
    flags = [*SHORT, "--augmentation", "affine_colour_blur", "--augment-at", "input", "--cache-views", "1"]
    flags += ["--phases.0.epochs", "2", "--phases.1.epochs", "2", "--limit-train", "100", "--out", str(tmp_path)]
    assert in_process.call(plan.load_task("cifar_phased"), *flags) == 0
    assert {path.stem for path in tmp_path.glob("*/*/figures/*.png")} == FIGURES


def test_every_grid_of_studies_yaml_is_accepted():
    spec = importlib.util.spec_from_file_location("cifar_phased_train", TASK / "train.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    studies = yaml.safe_load((TASK / "studies.yaml").read_text())
    assert set(studies) == {"phases", "native", "backbones", "optimisers"}
    for study in studies.values():
        default = module.PRESETS[study["preset"]]
        for key, values in study["grid"].items():
            for value in values:
                config = parse_strictly(module.PRESETS, "", ["--preset", study["preset"], f"--{key}", str(value)])
                assert flat(config.identity())[key] == value
                assert config == default or flat(default.identity())[key] != value
