"""A backbone from random weights at growing image sizes (preset pretrain), and runs that start from it (--weights)."""

import csv
import dataclasses
import json
import re
import shutil
import signal

import in_process
import keras
import kill_and_resume
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import log_loss

from common import checkpoints, runs, trained
from common.backbones import BACKBONES, networks
from common.command_line import parse_strictly
from common.data import sources
from common.loop import Loop
from common.trainer import Trainer
from slurm.plan import load_task

TASK = load_task("cifar_phased")
SMALL, *_, LARGE = TASK.PRESETS["pretrain"].phases
ONE_EPOCH = {"epochs": 1, "rate": 0.02, "final_rate": 0.0, "warmup_epochs": 0}
SHORT = {
    # Two of the three phases, to save the compilation of one.
    "pretrain": dataclasses.replace(
        TASK.PRESETS["pretrain"],
        phases=(dataclasses.replace(SMALL, **ONE_EPOCH), dataclasses.replace(LARGE, **ONE_EPOCH)),
    ),
    "demo": dataclasses.replace(
        TASK.PRESETS["demo"], phases=(dataclasses.replace(TASK.PRESETS["demo"].phases[0], epochs=1),)
    ),
}


def call(*flags):
    """Exit code of the task's command with the shortened presets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TASK, "PRESETS", SHORT)
        return in_process.call(TASK, *flags, drawn=True)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The flags of a run on a folder of 60 images of 40 pixels, at 32 and at 40 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, images in (("train", 24), ("test", 6)):
        for shade, name in enumerate(("dark", "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(80 * shade, 80 * shade + 176, (40, 40, 3), "uint8")
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    flags = ["--preset", "pretrain", "--dataset", f"image_folder:{folder}", "--data-dir", str(folder)]
    return [*flags, "--backbone", "tiny", "--image-size", "40", "--batch-size", "16"]


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A backbone of five convolutions, by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", "tiny_backbone:TINY")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, flags):
    out = tmp_path_factory.mktemp("runs")
    assert call("--out", str(out), *flags) == 0
    (folder,) = out.glob("cifar_phased/*")
    return folder


def best(folder, phase):
    """The weights of a phase's best epoch, by name."""
    (path,) = folder.glob(f"checkpoints/best-{phase}-*.safetensors")
    return load_file(path)


def test_the_preset_joins_its_rates_and_grows_its_images():
    preset = TASK.PRESETS["pretrain"]
    for before, phase in zip(preset.phases, preset.phases[1:], strict=False):
        assert phase.rate == before.final_rate
    assert [preset.side(phase) for phase in preset.phases] == [32, 48, 64]
    assert sum(phase.epochs for phase in preset.phases) == 10


@pytest.mark.parametrize(("phase", "size", "other"), [("small", 32, 40), ("large", 40, 32)])
def test_each_phase_is_measured_at_its_size(finished, flags, phase, size, other):
    config = parse_strictly(SHORT, "", flags)
    data = sources.load(config)
    losses = {}
    for side in (size, other):
        keras.utils.clear_session(free_memory=False)
        # A network that knows no other size.
        model = TASK.build(dataclasses.replace(config, image_size=side), networks.build("tiny", side), data)
        checkpoints.assign("weights", model.weights, best(finished, phase))
        run = runs.Run(finished, "cifar_phased", config)
        metrics, _ = Trainer(run, model, data).measure(data.validation)
        losses[side] = metrics["loss"]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["phases"][phase]["validation"]["loss"] == pytest.approx(losses[size], rel=1e-4)
    assert metrics["phases"][phase]["validation"]["loss"] != pytest.approx(losses[other], rel=5e-4)
    with (finished / "history.csv").open() as file:
        rows = {row["phase"]: row for row in csv.DictReader(file)}
    assert float(rows[phase]["val_loss"]) == pytest.approx(losses[size], rel=1e-4)


@pytest.mark.parametrize("phase", ["small", "large"])
def test_the_network_of_a_phase_is_loaded_at_its_size(finished, flags, phase):
    test = sources.load(parse_strictly(SHORT, "", flags)).test
    shares = trained.load(finished, phase).probabilities(test)
    expected = json.loads((finished / "metrics.json").read_text())["phases"][phase]["test"]["loss"]
    assert log_loss(test.labels, shares) == pytest.approx(expected, rel=1e-3)


def test_a_run_that_is_stopped_at_either_size_ends_as_one_that_was_not(finished, flags, tmp_path, monkeypatch, capsys):
    for epochs, phase in ((0, "small"), (1, "large")):

        def signalled(loop, batch, logs=None, whole=Loop.on_train_batch_end, epochs=epochs):
            if len(loop.progress.rows) == epochs and batch == 0:
                signal.raise_signal(signal.SIGTERM)
            whole(loop, batch, logs)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "on_train_batch_end", signalled)
            assert call("--out", str(tmp_path), *flags) == 128 + signal.SIGTERM
        assert f"phase {phase}: 1 epoch of 3 steps" in capsys.readouterr().out
    assert call("--out", str(tmp_path), *flags) == 0
    assert re.search(r"resuming: phase large, epoch 1, step 1\n", capsys.readouterr().out)
    whole, stopped = (kill_and_resume.contents(folder) for folder in (finished.parents[1], tmp_path))
    assert kill_and_resume.differences(whole, stopped) == []


def test_a_run_starts_from_the_best_weights_of_another(finished, tmp_path):
    backbone = [array for name, array in sorted(best(finished, "large").items()) if "/head/" not in name]
    for name in (str(finished), finished.name, finished.name[-11:]):
        flags = [
            "--preset",
            "demo",
            "--out",
            str(finished.parents[1]),
            "--weights",
            name,
            "--backbone",
            "tiny",
            "--image-size",
            "40",
        ]
        config = parse_strictly(SHORT, "", flags)
        model = networks.build(config.backbone, 40, config.weights_source()).model
        assert len(model.weights) == len(backbone)
        for variable, array in zip(model.weights, backbone, strict=True):
            np.testing.assert_array_equal(np.asarray(variable), array)
    # With its backbone frozen, a run hands on what it has begun with.
    flags = ["--preset", "demo", "--backbone", "tiny", "--limit-train", "100", "--weights", str(finished)]
    assert call("--out", str(tmp_path), *flags) == 0
    (folder,) = tmp_path.glob("cifar_phased/*")
    exported = [path / "backbone.safetensors" for path in (finished, folder)]
    assert exported[0].read_bytes() == exported[1].read_bytes()
    label = json.loads((folder / "config.json").read_text())["config"]["weights"]
    assert label.startswith("pretrain-tiny-s0-on-images0@sha256:")


def test_a_run_that_is_not_finished_or_fits_no_name_is_one_line(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "cifar_phased" / finished.name)
    flags = ["--preset", "demo", "--out", str(tmp_path), "--weights", finished.name]
    assert call(*flags, "--backbone", "resnet34") == 2
    assert "has backbone tiny; this run needs resnet34" in in_process.one_error(capsys)
    (tmp_path / "cifar_phased" / finished.name / "metrics.json").unlink()
    assert call(*flags) == 2
    assert "no finished run in" in in_process.one_error(capsys)
    assert call(*flags[:-1], "no-such-run") == 2
    assert "not found" in in_process.one_error(capsys)
