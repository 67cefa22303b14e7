"""autoencoder_sweep: network, loss and principal components against NumPy; which encoder moves and which does not."""

import csv
import json
import shutil
import signal

import in_process
import initial_weights
import keras
import numpy as np
import pytest
from stopped_before import epochs_taken

from common import checkpoints
from common.checkpointer import load_layers
from common.command_line import parse_strictly
from common.data import pipeline, sources, splits
from common.errors import ConfigError
from common.loop import Loop
from common.trainer import Trainer
from slurm.plan import load_task
from tasks.autoencoder_sweep import networks, pca

TASK = load_task("autoencoder_sweep")
SMALL = ["--dataset", "digits", "--k", "6", "--hidden", "24", "--limit-train", "200", "--limit-test", "60"]
TRANSFER = ["--preset", "transfer", *SMALL]
CASES = {  # of the source's table: encoder, and whether it is trained
    1: ["--encoder", "random"],
    2: ["--encoder", "pretrained", "--no-train-encoder"],
    3: ["--encoder", "random", "--no-train-encoder"],
    4: ["--encoder", "pretrained"],
}


def config(*flags):
    return parse_strictly(TASK.PRESETS, "", list(flags))


def call(out, *flags, experiment=None):
    return in_process.call(TASK, "--out", str(out), *flags, experiment=experiment)


def folder_of(out, *flags):
    return out / "autoencoder_sweep" / config("--out", str(out), *flags).name()


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def best_weights(folder):
    """Weights of the best epoch, by `layer/variable`."""
    name = checkpoints.latest(folder / "checkpoints").data["best"]["train"]["file"]
    return {
        key.split("/", 2)[2]: array for key, array in checkpoints.load(folder / "checkpoints" / name).arrays.items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of runs with an autoencoder in it, and its run directory."""
    out = tmp_path_factory.mktemp("runs")
    assert call(out, *SMALL) == 0
    return out, folder_of(out, *SMALL)


@pytest.fixture(scope="module")
def data():
    return sources.load(config(*SMALL))


def flat(split):
    """Pixels from 0 to 1: float64 (n, h * w * c)."""
    return pipeline.pictures(split, np.arange(len(split))).reshape(len(split), -1) / 255


# --- the network and its loss


def digit_pictures():
    """Random images of MNIST's size and classes."""
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), dtype=np.uint8)
    split = splits.whole(images, np.arange(20) % 10, 28)
    return splits.Dataset("mnist", tuple("0123456789"), split, split, split)


def test_the_autoencoder_is_that_of_the_source():
    model = networks.autoencoder(config(), digit_pictures())
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.kernel.shape for layer in dense] == [(784, 1000), (1000, 300), (300, 1000), (1000, 784)]
    assert [layer.activation.__name__ for layer in dense] == ["relu", "linear", "relu", "sigmoid"]
    assert model.count_params() == 785 * 1000 + 1001 * 300 + 301 * 1000 + 1001 * 784
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    (phase,) = config().phases
    assert (phase.optimizer, phase.rate, phase.epochs) == ("adam", 1e-3, 10)


def test_seeds_of_layers_stay_below_two_to_the_32_for_the_largest_seed():  # JAX takes no others
    dropping = config("--dropout", "0.1", "--input-dropout", "0.1", "--seed", str(2**32 - 1))
    model = networks.autoencoder(dropping, digit_pictures())
    seeds = [layer.seed for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(set(seeds)) == len(seeds) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_classifier_is_one_linear_layer_on_the_bottleneck():
    model = networks.classifier(config("--preset", "transfer"), digit_pictures())
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.kernel.shape for layer in dense] == [(784, 1000), (1000, 300), (300, 10)]
    assert [layer.activation.__name__ for layer in dense] == ["relu", "linear", "linear"]


def test_forward_pass_is_that_of_numpy(data):
    model = networks.autoencoder(config(*SMALL), data)
    (w1, b1, w2, b2, w3, b3, w4, b4) = (w.astype(np.float64) for w in model.get_weights())
    bottleneck = np.maximum(flat(data.test) @ w1 + b1, 0) @ w2 + b2
    expected = 1 / (1 + np.exp(-(np.maximum(bottleneck @ w3 + b3, 0) @ w4 + b4)))
    found = model.predict(pipeline.pictures(data.test, np.arange(60)), verbose=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def put(model, saved):
    """Saved weights into a model."""
    for layer in model.layers:
        layer.set_weights([saved[f"{layer.name}/{variable.name}"] for variable in layer.weights])


def test_the_loss_is_the_mean_squared_error_of_the_pixels(finished, data):
    _, folder = finished
    model = networks.autoencoder(config(*SMALL), data)
    put(model, best_weights(folder))
    metrics = metrics_of(folder)
    for name, split in (("validation", data.validation), ("test", data.test)):
        error = np.square(
            model.predict(pipeline.pictures(split, np.arange(len(split))), verbose=0) - flat(split)
        ).mean()
        assert metrics[name] == {"n": len(split), "loss": pytest.approx(error, rel=1e-5)}


def test_labels_play_no_part(data):
    model = networks.autoencoder(config(*SMALL), data)
    model.compile(loss=keras.losses.MeanSquaredError())
    images = pipeline.pictures(data.test, np.arange(10))
    losses = {model.test_on_batch(images, labels) for labels in (np.zeros(10), np.arange(10))}
    assert len(losses) == 1


def test_it_learns_and_its_best_epoch_has_the_lowest_validation_loss(finished):
    _, folder = finished
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val_loss"]) for row in rows]
    assert "accuracy" not in rows[0]
    assert losses[-1] < 0.9 * losses[0]
    metrics = metrics_of(folder)
    assert metrics["phases"]["train"]["best_epoch"] == np.argmin(losses) + 1
    assert metrics["validation"]["loss"] == pytest.approx(min(losses), rel=1e-5)
    assert metrics["running"] == {"loss": float(rows[int(np.argmin(losses))]["loss"])}
    assert not (folder / "predictions.npz").exists()


@pytest.mark.parametrize("task", ["reconstruct", "classify"])
def test_dropout_is_active_in_training_alone(data, task):
    chosen = config(*SMALL, "--dropout", "0.4", "--task", task, "--hidden", "2000")
    model = (networks.autoencoder if task == "reconstruct" else networks.classifier)(chosen, data)
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.rate for layer in dropouts] == ([0.4, 0.4] if task == "reconstruct" else [0.4])
    images = pipeline.pictures(data.test, np.arange(10))
    np.testing.assert_array_equal(model(images, training=False), model(images, training=False))
    for dropout in dropouts:
        before, after = keras.Model(model.input, [dropout.input, dropout.output])(images, training=True)
        before, after = np.asarray(before), np.asarray(after)
        lives = before > 0
        zeroed = (after[lives] == 0).mean()
        assert zeroed == pytest.approx(0.4, abs=5 * np.sqrt(0.4 * 0.6 / lives.sum()))
        kept = lives & (after != 0)
        np.testing.assert_allclose(after[kept], before[kept] / 0.6, rtol=1e-4)


def test_input_dropout_drops_pixels_of_the_input_and_none_of_the_target(data):
    model = networks.autoencoder(config(*SMALL, "--input-dropout", "0.4"), data)
    (dropout,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropout.rate == 0.4
    images = pipeline.pictures(data.test, np.arange(60))
    expected = images.reshape(60, -1) / 255
    dropped = np.asarray(keras.Model(model.input, dropout.output)(images, training=True))
    lives = expected > 0
    zeroed = (dropped[lives] == 0).mean()
    assert zeroed == pytest.approx(0.4, abs=5 * np.sqrt(0.4 * 0.6 / lives.sum()))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], expected[kept] / 0.6, rtol=1e-5)
    np.testing.assert_allclose(keras.Model(model.input, dropout.output)(images, training=False), expected, rtol=1e-5)
    model.compile(loss="mse")
    loss = model.compute_loss(x=images, y_pred=np.zeros_like(expected, np.float32))
    assert float(loss) == pytest.approx(np.square(expected).mean(), rel=1e-5)  # of all pixels


def test_input_dropout_has_a_mask_of_its_own(data):
    model = networks.autoencoder(config(*SMALL, "--dropout", "0.5", "--input-dropout", "0.5"), data)
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.name for layer in dropouts] == ["input_dropout", "encoder_dropout", "decoder_dropout"]
    assert len({layer.seed for layer in dropouts}) == 3


def test_the_presets_follow_torch_and_pass_it_on():
    for preset in ("autoencoder", "transfer"):
        assert TASK.PRESETS[preset].initialisation == "torch"
        assert TASK.PRESETS[preset].phases[0].convention == "torch"
        (phase,) = config("--preset", preset, "--convention", "keras").phases
        assert phase.convention == "keras"
    assert TASK.PRESETS["demo"].initialisation == TASK.PRESETS["demo"].convention == "keras"


@pytest.mark.parametrize("make", [networks.autoencoder, networks.classifier])
def test_initial_weights_are_those_of_either_framework(make):
    preset = "autoencoder" if make is networks.autoencoder else "transfer"
    for flags, check in (([], "torchs"), (["--initialisation", "keras"], "kerass")):
        keras.utils.set_random_seed(0)
        layers = initial_weights.weighted(make(config("--preset", preset, *flags), digit_pictures()))
        assert len(layers) == (4 if preset == "autoencoder" else 3)
        getattr(initial_weights, f"assert_{check}")(layers)


def test_dropout_masks_of_encoder_and_decoder_differ(data):
    model = networks.autoencoder(config(*SMALL, "--dropout", "0.5"), data)
    seen = [keras.Model(model.input, model.get_layer(f"{part}_dropout").output) for part in ("encoder", "decoder")]
    assert len({layer.seed for layer in model.layers if isinstance(layer, keras.layers.Dropout)}) == 2
    assert [s.output.shape for s in seen] == [(None, 24), (None, 24)]


# --- transfer


def transferred(out, case):
    """Run a case: its folder, the encoder's weights before training, and the model as it was trained."""
    seen = {}

    def experiment(chosen, run):
        def watched(trainer, phases):
            seen["before"] = {name: trainer.model.get_layer(name).get_weights() for name in networks.ENCODER}
            seen["model"] = trainer.model
            fit(trainer, phases)

        fit = Trainer.fit
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "fit", watched)
            TASK.experiment(chosen, run)

    experiment.__module__ = TASK.experiment.__module__
    flags = [*TRANSFER, *CASES[case]]
    assert call(out, *flags, experiment=experiment) == 0
    return folder_of(out, *flags), seen["before"], seen["model"]


@pytest.fixture(scope="module")
def cases(finished):
    out, _ = finished
    return {case: transferred(out, case) for case in CASES}


@pytest.mark.parametrize("case", [2, 4])
def test_a_pretrained_encoder_begins_as_the_autoencoders(finished, cases, case):
    saved = best_weights(finished[1])
    _, before, _ = cases[case]
    for name in networks.ENCODER:
        for array, kind in zip(before[name], ("kernel", "bias"), strict=True):
            np.testing.assert_array_equal(array, saved[f"{name}/{kind}"])


@pytest.mark.parametrize("case", [1, 3])
def test_a_random_encoder_does_not(finished, cases, case):
    saved = best_weights(finished[1])
    _, before, _ = cases[case]
    for name in networks.ENCODER:
        # Of a pixel that is black in all images the weights never move: some are equal, as the seed is.
        assert (before[name][0] != saved[f"{name}/kernel"]).mean() > 0.5


def test_the_classifier_encodes_as_the_autoencoder(finished, data):
    _, folder = finished
    whole = networks.autoencoder(config(*SMALL), data)
    put(whole, best_weights(folder))
    model = networks.classifier(config(*TRANSFER), data)
    load_layers(model, folder, "train", networks.ENCODER, "best")
    images = pipeline.pictures(data.test, np.arange(60))
    codes = [keras.Model(m.input, m.get_layer("bottleneck").output).predict(images, verbose=0) for m in (whole, model)]
    assert codes[0].shape == (60, 6)
    np.testing.assert_array_equal(codes[0], codes[1])


@pytest.mark.parametrize(("case", "moves"), [(1, True), (2, False), (3, False), (4, True)])
def test_the_encoder_moves_where_it_is_trained_and_nowhere_else(cases, case, moves):
    folder, before, model = cases[case]
    after = best_weights(folder)
    (last, *_) = checkpoints.steps(folder / "checkpoints")
    end = {key.split("/", 2)[-1]: array for key, array in checkpoints.load(last).arrays.items()}
    for name in networks.ENCODER:
        for array, kind in zip(before[name], ("kernel", "bias"), strict=True):
            for later in (after, end):
                assert np.array_equal(array, later[f"{name}/{kind}"]) != moves, (name, kind)
    trained = {variable.path for variable in model.trainable_variables}
    encoder = {f"{name}/{kind}" for name in networks.ENCODER for kind in ("kernel", "bias")}
    assert trained == {"head/kernel", "head/bias"} | (encoder if moves else set())


@pytest.mark.parametrize("case", [2, 4])
def test_the_optimiser_keeps_moments_of_what_it_trains_alone(cases, case):
    folder, _, model = cases[case]
    arrays = checkpoints.load(checkpoints.steps(folder / "checkpoints")[0]).arrays
    shapes = sorted(array.shape for key, array in arrays.items() if key.startswith("optimizer/") and array.ndim)
    trained = [(6, 10), (10,)]  # head
    if case == 4:
        trained += [(64, 24), (24,), (24, 6), (6,)]
    assert shapes == sorted(2 * trained)  # Adam's two moments
    assert not hasattr(model.optimizer, "inner_optimizer")


def test_the_four_cases_are_four_runs_with_all_three_splits(cases):
    settings = {json.loads((folder / "config.json").read_text())["setting"] for folder, _, _ in cases.values()}
    assert len(settings) == 4
    for encoder in ("random", "pretrained"):
        for trained in (True, False):
            assert any(f"encoder={encoder} train_encoder={trained}" in setting for setting in settings)
    for folder, _, _ in cases.values():
        metrics = metrics_of(folder)
        assert {split: metrics[split]["n"] for split in ("train", "validation", "test")} == {
            "train": 180,
            "validation": 20,
            "test": 60,
        }
        assert {path.stem for path in folder.glob("figures/*.png")} >= {"learning_curves", "per_class"}


def test_an_encoder_may_come_from_a_run_by_its_folder(finished, cases, tmp_path):
    _, autoencoder = finished
    assert call(tmp_path, *TRANSFER, "--encoder", str(autoencoder), "--no-train-encoder") == 0
    (folder,) = tmp_path.glob("*/*")
    named, given = metrics_of(cases[2][0]), metrics_of(folder)
    assert given["test"] == named["test"]


def test_an_encoder_may_come_from_a_run_by_an_end_that_the_new_run_has_too(finished, tmp_path):
    _, autoencoder = finished
    shutil.copytree(autoencoder, tmp_path / "autoencoder_sweep" / autoencoder.name)
    assert call(tmp_path, *TRANSFER, "--encoder", autoencoder.name.rpartition("-")[2], "--no-train-encoder") == 0
    assert len(list(tmp_path.glob("*/*/metrics.json"))) == 2


def test_a_fine_tuned_run_that_is_stopped_goes_on(finished, cases, tmp_path, monkeypatch, capsys):
    """The encoder must come from the checkpoint then, not from the autoencoder again."""
    out = tmp_path / "runs"
    shutil.copytree(finished[1], out / "autoencoder_sweep" / finished[1].name)

    def signalled(loop, batch, logs=None, whole=Loop.on_train_batch_end):
        if loop.progress.epoch == 1 and loop.run.stop.signal is None:
            signal.raise_signal(signal.SIGTERM)
        whole(loop, batch, logs)

    flags = [*TRANSFER, *CASES[4]]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "on_train_batch_end", signalled)
        assert call(out, *flags) == 128 + signal.SIGTERM
    assert call(out, *flags) == 0
    assert "resuming: phase train, epoch 2, step " in capsys.readouterr().out
    resumed, expected = metrics_of(folder_of(out, *flags)), metrics_of(cases[4][0])
    for part in ("train", "validation", "test", "running"):
        assert resumed[part] == expected[part]


def test_a_missing_autoencoder_is_one_line_that_names_the_command(tmp_path, capsys):
    assert call(tmp_path, *TRANSFER, "--seed", "3", "--encoder", "pretrained") == 2
    line = in_process.one_error(capsys)
    assert f"no finished autoencoder in {tmp_path}" in line
    assert "`python tasks/autoencoder_sweep/train.py --k 6 --hidden 24 --seed 3`" in line
    assert not list(tmp_path.glob("**/config.json"))


def test_an_unfinished_autoencoder_is_none(finished, tmp_path, capsys):
    shutil.copytree(finished[1], tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert call(tmp_path, *TRANSFER, "--encoder", str(tmp_path / "run")) == 2
    assert "no finished autoencoder" in in_process.one_error(capsys)


def test_a_classifiers_encoder_is_no_autoencoders(cases, tmp_path, capsys):
    assert call(tmp_path, *TRANSFER, "--encoder", str(cases[1][0])) == 2
    assert "has task classify; this run needs reconstruct" in in_process.one_error(capsys)


def test_the_autoencoder_has_the_other_flags_too(tmp_path, capsys):
    """The sweep's runs and those before it are given the same flags."""
    assert call(tmp_path, *TRANSFER, "--dropout", "0.2", "--encoder", "pretrained") == 2
    assert folder_of(tmp_path, "--preset", "autoencoder", "--dropout", "0.2", *SMALL).name in in_process.one_error(
        capsys
    )


@pytest.mark.parametrize(("flag", "value", "said"), [("--k", "7", "k 6"), ("--hidden", "25", "hidden 24")])
def test_an_autoencoder_of_another_size_is_one_line(finished, tmp_path, capsys, flag, value, said):
    assert call(tmp_path, *TRANSFER, "--encoder", str(finished[1]), flag, value) == 2
    line = in_process.one_error(capsys)
    assert f"has {said}; this run needs {value}" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changed",
    [{"config.json": "{"}, {"config.json": '{"task": "another"}'}, {"metrics.json": '{"status": "diverged"}'}],
    ids=["no JSON", "no run", "diverged"],
)
def test_a_folder_without_a_trained_autoencoder_is_one_line(finished, tmp_path, capsys, changed):
    shutil.copytree(finished[1], tmp_path / "run")
    for name, text in changed.items():
        (tmp_path / "run" / name).write_text(text)
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # one that diverges in its first epoch has none
    assert call(tmp_path / "runs", *TRANSFER, "--encoder", str(tmp_path / "run")) in (1, 2)
    in_process.one_error(capsys)


def test_a_run_has_one_name_however_the_folder_of_its_encoder_is_spelt(finished, monkeypatch):
    _, folder = finished
    monkeypatch.chdir(folder.parent)
    whole, relative = (config(*TRANSFER, "--encoder", str(name)) for name in (folder, folder.name))
    end = config(*TRANSFER, "--out", str(folder.parents[1]), "--encoder", folder.name[-8:])
    assert whole.name() == relative.name() == end.name()
    assert TASK.encoder_run(end) == folder
    assert str(folder) not in whole.setting(TASK.PRESETS)  # which tables and records hold


def test_an_autoencoder_of_other_images_is_one_line(finished, tmp_path, capsys):
    """Its first layer does not fit: 8x8 pixels there, 28x28 in three colours here."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            picture = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "images" / name / f"{i}.png")
    flags = ["--preset", "transfer", "--dataset", f"image_folder:{tmp_path / 'images'}", "--k", "6", "--hidden", "24"]
    code = call(tmp_path / "runs", *flags, "--data-dir", str(tmp_path), "--encoder", str(finished[1]))
    assert code in (1, 2)
    in_process.one_error(capsys)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--encoder", "pretrained"], "encoder and train-encoder are for --task classify"),
        (["--no-train-encoder"], "encoder and train-encoder are for --task classify"),
        (["--preset", "transfer", "--encoder", "nowhere"], "encoder 'nowhere': not found; allowed: random, pre"),
        (["--k", "0"], "k is 0; it must be above zero"),
        (["--dropout", "1"], r"dropout is 1\.0; allowed: 0 <= dropout < 1"),
        (["--input-dropout", "1"], r"input-dropout is 1\.0; allowed: 0 <= input-dropout < 1"),
        (["--preset", "transfer", "--input-dropout", "0.1"], "input-dropout is for --task reconstruct"),
    ],
)
def test_bad_input_is_one_line(flags, said):
    with pytest.raises(ConfigError, match=said) as error:
        config(*flags)
    assert "\n" not in str(error.value)


# --- principal components


def dataset(train, test):
    parts = [splits.whole(images, np.arange(len(images)) % 2, images.shape[1]) for images in (train, test)]
    return splits.Dataset("any", ("a", "b"), parts[0], parts[0], parts[1])


def by_svd(train, test):
    """The share of the variance and the error of the test images, by the number of components."""
    mean = train.mean(axis=0)
    _, values, axes = np.linalg.svd(train - mean, full_matrices=False)
    errors = []
    for count in range(1, len(values) + 1):
        again = mean + (test - mean) @ axes[:count].T @ axes[:count]
        errors.append(np.square(test - again).mean())
    return np.cumsum(values**2) / np.sum(values**2), np.array(errors)


def test_components_of_digits_are_those_of_the_svd(data):
    curves = pca.curves(data)
    variance, errors = by_svd(flat(data.train), flat(data.test))
    np.testing.assert_allclose(curves["variance"], variance, atol=1e-5)
    np.testing.assert_allclose(curves["test_loss"], errors, rtol=1e-6, atol=1e-15)  # the last are nearly zero


@pytest.mark.parametrize(("images", "pixels"), [(200, (6, 6, 1)), (50, (5, 5, 3)), (20, (6, 6, 1))])
def test_components_of_noise_are_those_of_the_svd(images, pixels):
    rng = np.random.default_rng(images)
    train, test = (rng.integers(0, 256, (n, *pixels), dtype=np.uint8) for n in (images, 30))
    curves = pca.curves(dataset(train, test))
    variance, errors = by_svd(*(part.reshape(len(part), -1) / 255 for part in (train, test)))
    places = slice(0, min(images - 1, len(errors)))  # of centred images, one less is not zero
    np.testing.assert_allclose(curves["variance"][places], variance[places], atol=1e-5)
    np.testing.assert_allclose(curves["test_loss"][places], errors[places], atol=1e-6)


def test_figures_count_the_components():
    curves = {"variance": np.array([0.6, 0.949, 0.95, 0.98, 1.0]), "test_loss": np.array([0.5, 0.4, 0.3, 0.2, 0.1])}
    assert pca.losses(curves, k=2) == {
        "components for 95 % of the variance": 3,
        "components for 99 % of the variance": 5,
        "PCA test loss": 0.4,
    }
    assert pca.losses(curves, k=99)["PCA test loss"] == 0.1


def test_metrics_hold_what_principal_components_give(finished, data):
    variance, errors = by_svd(flat(data.train), flat(data.test))
    losses = metrics_of(finished[1])["by_name"]
    assert losses == {
        "components for 95 % of the variance": int((variance < 0.95).sum()) + 1,
        "components for 99 % of the variance": int((variance < 0.99).sum()) + 1,
        "PCA test loss": pytest.approx(errors[6 - 1], rel=1e-4),
    }
    assert (finished[1] / "figures" / "pca_variance.png").is_file()
    assert (finished[1] / "figures" / "reconstructions.png").is_file()


# --- the demo


def test_the_demo_beats_the_mean_image(tmp_path, data):
    assert call(tmp_path, "--preset", "demo") == 0
    (folder,) = tmp_path.glob("*/*")
    metrics = metrics_of(folder)
    assert metrics["images"] == {"train": 1293, "validation": 144, "test": 360}
    variance_of_pixels = flat(data.test).var(axis=0).mean()
    assert metrics["test"]["loss"] < variance_of_pixels / 2


def test_what_is_transferred_is_the_last_epoch_as_the_source_reports_it(tmp_path, monkeypatch):
    assert epochs_taken(TASK, tmp_path, monkeypatch, "encoder_run", "transfer") == ["last"]
