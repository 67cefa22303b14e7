"""cifar_phased as a user runs it: the command, its run directory, its figures, its faults."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import in_process
import initial_weights
import keras
import numpy as np
import pytest
import stopped_before
import tensorflow as tf
import yaml
from PIL import Image
from scipy import stats

from common import checkpoints, trained
from common.backbones import networks
from common.command_line import parse_strictly
from common.config import flat
from common.data import sources, splits
from slurm import plan
from slurm.plan import load_task
from tasks.cifar_phased import figures

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
    "mistaken",
    "per_class",
    "phases",
    "predictions",
}


def train(out, *flags, backend="tensorflow", file_limit=None, **variables):
    """Run the command; `file_limit` is the size in KiB past which the kernel refuses to write a file."""
    command = [sys.executable, str(TASK / "train.py"), "--out", str(out), *flags]
    if file_limit:
        command = ["bash", "-c", f'ulimit -f {file_limit}; exec "$@"', "bash", *command]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": backend} | variables, check=False
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


@pytest.mark.parametrize(("colours", "scale", "offset"), [(3, [0.01, 0.02, 0.03], [-1, -2, -3]), (1, 0.01, -1)])
def test_channels_are_measured_on_all_images_of_a_split(colours, scale, offset):
    images = np.random.default_rng(0).integers(0, 256, (300, 5, 4, colours), np.uint8)
    model = keras.Sequential([keras.Input((5, 4, 3)), keras.layers.Rescaling(scale, offset, name="normalise")])
    found = figures.channels(model, splits.whole(images, np.zeros(300, int), 5))
    normalised = model.predict(np.broadcast_to(images, (300, 5, 4, 3)), verbose=0)
    np.testing.assert_allclose(found["mean"], normalised.mean((0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(found["deviation"], normalised.std((0, 1, 2)), atol=1e-3)


def test_the_run_directory_is_whole(finished):
    _, folder = finished
    assert {path.stem for path in folder.glob("figures/*.png")} == FIGURES
    for path in folder.glob("figures/*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 1, f"{path.name} is blank"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert list(metrics["phases"]) == ["head", "last_block", "full"]
    assert all(len(own) == 3 for own in metrics["channels"].values())
    assert {"accuracy", "loss", "macro_f1", "weighted_f1", "per_class"} <= metrics["test"].keys()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment.keys() >= in_process.ENVIRONMENT
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["head", "last_block", "full"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert len(checkpoints.steps(folder / "checkpoints")) == 2
    assert list(folder.glob("tensorboard/full/**/events.out.tfevents.*"))


def test_channels_are_those_of_the_training_images(finished):
    _, folder = finished
    model, data = trained.load(folder).model, sources.load(parse_strictly(load_task("cifar_phased").PRESETS, "", SHORT))
    found = json.loads((folder / "metrics.json").read_text())["channels"]
    assert found == figures.channels(model, data.train) != figures.channels(model, data.test)


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
        (["--offline", "--weights", "none", "--batch-norm", "layer"], "python -m common.data prepare cifar10"),
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


def test_a_full_disk_is_one_line_and_leaves_the_last_good_checkpoint(tmp_path, capsys):
    # 60 MiB: enough for a checkpoint of the first phase, too little for the second, which has Adam's moments.
    few = [*SHORT, "--limit-train", "100", "--limit-test", "50"]
    done = train(tmp_path, *few, file_limit=60 * 1024)
    assert done.returncode == 1
    (line,) = errors(done)
    assert line.startswith("error: cannot write")
    assert "File too large" in line
    folder = next(tmp_path.glob("cifar_phased/*/checkpoints"))
    assert not list(folder.glob(".*.tmp"))
    checkpoint = checkpoints.latest(folder)
    assert (checkpoint.data["phase"], checkpoint.data["epoch"]) == (0, 1)
    assert in_process.call(plan.load_task("cifar_phased"), "--out", str(tmp_path), *few) == 0
    assert "resuming: phase head, after its last epoch" in capsys.readouterr().out


def test_jax_host_augmentation_and_an_image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            size = (int(rng.integers(32, 60)), int(rng.integers(32, 60)))
            Image.new("RGB", size, colour).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "red" / "broken.png").write_bytes(b"no image")
    flags = ["--preset", "one_phase", "--dataset", f"image_folder:{tmp_path / 'images'}", "--data-dir", str(tmp_path)]
    flags += ["--weights", "none", "--batch-norm", "layer", "--image-size", "32", "--limit-train", "40"]
    flags += ["--augmentation", "affine_colour_blur", "--augment-on", "host", "--augment-at", "native"]
    flags += ["--phases.0.epochs", "1", "--phases.0.trainable", "head", "--batch-size", "12"]
    quick = "--xla_backend_optimization_level=0"  # most of the time goes into compiling
    done = train(tmp_path / "runs", *flags, backend="jax", XLA_FLAGS=quick)
    assert done.returncode == 0, done.stderr
    assert errors(done) == []
    assert "note: not used, cannot be decoded: 1 (red/broken.png)" in done.stdout
    environment = json.loads(next(tmp_path.glob("runs/*/*/environment.json")).read_text())
    assert environment["backend"] == "jax"


def test_each_seed_augments_in_its_own_way():
    module, pictures = load_task("cifar_phased"), np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    data = splits.Dataset("d", ("a", "b"), *[splits.whole(pictures, np.arange(8) % 2, 16)] * 3)
    on_device, on_host = [], []
    for seed in (0, 1, 0):
        flags = [
            "--preset",
            "three_phase",
            "--augmentation",
            "affine_colour_blur",
            "--augment-at",
            "native",
            "--seed",
            str(seed),
        ]
        config = parse_strictly(module.PRESETS, "", flags)
        layer = module.build(config, networks.build("resnet18", 32), data).get_layer("augment")
        on_device.append(np.array(layer(pictures, training=True)))
        changed = module.host_transform(parse_strictly(module.PRESETS, "", [*flags, "--augment-on", "host"]))
        on_host.append(changed(tf.constant(pictures), tf.zeros(8), tf.constant([0, 0]))[0].numpy())
    for first, other, again in (on_device, on_host):
        np.testing.assert_array_equal(first, again)
        assert (first != other).mean() > 0.5


@pytest.mark.parametrize("recipe", ["none", "flip_crop"])
def test_the_steps_of_an_image_are_those_that_the_network_sees(recipe):
    config = parse_strictly(load_task("cifar_phased").PRESETS, "", ["--preset", "demo", "--augmentation", recipe])
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Resizing(32, 32, name="resize", dtype="float32")(inputs))
    original, resized, augmented = figures.augmentation_steps(config, model, images).values()
    np.testing.assert_array_equal(original, images)
    assert resized.shape == augmented.shape == (4, 32, 32, 1)
    np.testing.assert_array_equal(resized[:, 0, 0], images[:, 0, 0])  # a corner has nothing to interpolate with
    assert np.allclose(augmented, resized) == (recipe == "none")


def test_no_augmentation_on_the_host_is_none(tmp_path, tiny_backbone, capsys):
    flags = [
        *SHORT,
        "--backbone",
        tiny_backbone,
        "--augment-on",
        "host",
        "--phases.0.epochs",
        "2",
        "--limit-train",
        "100",
    ]
    assert in_process.call(load_task("cifar_phased"), *flags, "--out", str(tmp_path)) == 0
    assert "phase head: the frozen layers' activations take" in capsys.readouterr().out


def test_augmentation_after_the_resize(tmp_path, tiny_backbone):
    flags = [
        *SHORT,
        "--backbone",
        tiny_backbone,
        "--augmentation",
        "affine_colour_blur",
        "--augment-at",
        "input",
        "--cache-views",
        "1",
    ]
    flags += ["--phases.0.epochs", "2", "--phases.1.epochs", "2", "--limit-train", "100", "--out", str(tmp_path)]
    assert in_process.call(plan.load_task("cifar_phased"), *flags) == 0
    assert {path.stem for path in tmp_path.glob("*/*/figures/*.png")} == FIGURES


def test_every_grid_of_sweeps_yaml_is_accepted():
    spec = importlib.util.spec_from_file_location("cifar_phased_train", TASK / "train.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sweeps = yaml.safe_load((TASK / "sweeps.yaml").read_text())
    assert sweeps
    for sweep in sweeps.values():
        default = module.PRESETS[sweep["preset"]]
        single = [{key: value} for key, values in sweep.get("grid", {}).items() for value in values]
        for values in single + sweep.get("runs", []):
            flags = [f"--{key}={value}" for key, value in values.items()]
            config = parse_strictly(module.PRESETS, "", ["--preset", sweep["preset"], *flags])
            assert flat(config.identity()) == flat(default.identity()) | values


# --- the head


@pytest.fixture(scope="module")
def heads():
    """A function from flags to the head of a new network of 100 classes on ResNet-18, and the features under it."""
    module = plan.load_task("cifar_phased")
    split = splits.whole(np.zeros((100, 32, 32, 3), np.uint8), np.arange(100), 32)
    data = splits.Dataset("cifar100", tuple(map(str, range(100))), split, split, split)
    backbone = networks.build("resnet18", 32)

    def head(*flags):
        keras.utils.set_random_seed(0)
        return module.build(parse_strictly(module.PRESETS, "", list(flags)), backbone, data).get_layer("head")

    return head


def test_three_phase_starts_its_head_as_torch_does(heads):
    initial_weights.assert_torchs([heads("--preset", "three_phase")])


def test_the_demo_starts_its_head_as_keras_does(heads):
    initial_weights.assert_kerass([heads("--preset", "demo")])
    initial_weights.assert_kerass([heads("--preset", "three_phase", "--head-init", "glorot_uniform")])


def test_two_phase_starts_its_head_by_hes_rule_and_its_bias_as_torch_does(heads):
    """The source names He's rule, which is one of kernels; Keras cuts its normal distribution off at two deviations."""
    kernel, bias = (np.asarray(values, np.float64).ravel() for values in heads("--preset", "two_phase").get_weights())
    assert kernel.std() == pytest.approx(np.sqrt(2 / 512), rel=5 / np.sqrt(2 * kernel.size))
    cut = stats.truncnorm(-2, 2)
    assert stats.kstest(kernel / kernel.std() * cut.std(), cut.cdf).pvalue > 1e-3
    bound = 1 / np.sqrt(512)
    assert np.abs(bias).max() <= bound * (1 + 1e-6)
    assert stats.kstest(bias, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("regime", "by_batch"),
    [("layer", [[False] * 5, [False] * 4 + [True], [True] * 5]), ("follow", [[True] * 5] * 3)],
)
def test_each_phase_trains_what_it_says_as_it_says(tmp_path, monkeypatch, tiny_backbone, regime, by_batch):
    seen = stopped_before.phases(load_task("cifar_phased"), tmp_path, monkeypatch, "--batch-norm", regime)
    assert [phase["dropout"] for phase in seen] == [[0.3], [0.2], [0.1]]
    every = ["head", "layer1", "layer2", "layer3", "layer4", "stem"]
    assert [phase["trained"] for phase in seen] == [["head"], ["head", "layer4"], every]
    assert [phase["by batch"] for phase in seen] == by_batch


@pytest.mark.parametrize(("at", "side"), [("native", 8), ("input", 32)])
def test_images_are_augmented_at_the_size_that_is_asked_for(tmp_path, monkeypatch, tiny_backbone, at, side):
    flags = ["--augmentation", "flip_crop", "--augment-at", at]
    model = stopped_before.phases(load_task("cifar_phased"), tmp_path, monkeypatch, *flags)[0]["model"]
    assert model.get_layer("augment").output.shape[1:3] == (side, side)
