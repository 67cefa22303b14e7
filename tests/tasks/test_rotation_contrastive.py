"""rotation_contrastive: turned images, transferred blocks, and the contrastive loss, against NumPy."""

import json
import shutil
import signal

import in_process
import initial_weights
import keras
import numpy as np
import pytest
from PIL import Image
from stopped_before import Enough, epochs_taken, until_enough

from common import checkpoints
from common.command_line import parse_strictly
from common.data import pipeline, sources, splits
from common.errors import ConfigError
from common.loop import Loop
from common.trainer import Trainer
from slurm.plan import load_task
from tasks.rotation_contrastive import embedding, networks, pretext

TASK = load_task("rotation_contrastive")
SMALL = ["--dataset", "digits", "--limit-train", "200", "--limit-test", "60", "--epochs", "2"]
ROTATION = ["--preset", "rotation", *SMALL]
TRANSFER = ["--preset", "transfer", *SMALL]
BASE = ["--preset", "base", *SMALL]
REVERSE = ["--preset", "reverse", *SMALL]
CONTRASTIVE = ["--preset", "contrastive", *SMALL]


def config(*flags):
    return parse_strictly(TASK.PRESETS, "", list(flags))


def call(out, *flags, **more):
    return in_process.call(TASK, "--out", str(out), *flags, **more)


def folder_of(out, *flags):
    return out / "rotation_contrastive" / config("--out", str(out), *flags).name()


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def weights_of(folder, which="best"):
    """Weights of the best epoch, or of the last, by `layer/variable`."""
    kept = folder / "checkpoints"
    if which == "best":
        arrays = checkpoints.load(kept / checkpoints.latest(kept).data["best"]["train"]["file"]).arrays
    else:
        arrays = checkpoints.load(checkpoints.steps(kept)[0]).arrays
    return {key.split("/", 2)[2]: a for key, a in arrays.items() if key.startswith(("weights/", "model/"))}


@pytest.fixture(scope="module")
def data():
    return sources.load(config(*SMALL))


@pytest.fixture(scope="module")
def rotation(tmp_path_factory):
    """The folder of runs with a rotation run in it, and its run directory."""
    out = tmp_path_factory.mktemp("runs")
    assert call(out, *ROTATION) == 0
    return out, folder_of(out, *ROTATION)


def everything(split):
    return pipeline.pictures(split, np.arange(len(split)))


# --- the networks


def coloured(classes=10):
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    split = splits.whole(images, np.arange(20) % classes, 32)
    return splits.Dataset("cifar10", tuple("0123456789"[:classes]), split, split, split)


@pytest.mark.parametrize("preset", ["base", "rotation", "transfer", "contrastive"])
def test_initial_weights_are_those_of_either_framework(preset):
    for flags, check in (([], "torchs"), (["--initialisation", "keras"], "kerass")):
        keras.utils.set_random_seed(0)
        make = networks.embedder if preset == "contrastive" else networks.classifier
        layers = initial_weights.weighted(make(config("--preset", preset, *flags), coloured()))
        assert len(layers) == (7 if preset == "contrastive" else 5)
        getattr(initial_weights, f"assert_{check}")(layers)


def test_the_classifier_is_that_of_the_source():
    model = networks.classifier(config(), coloured())
    convolutions = [layer.kernel.shape for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    dense = [layer.kernel.shape for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert convolutions == [(3, 3, 3, 32), (3, 3, 32, 64), (3, 3, 64, 128)]
    assert dense == [(2048, 256), (256, 10)]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.25] * 4
    seeds = [layer.seed for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(set(seeds)) == 4
    (phase,) = config().phases
    assert (phase.optimizer, phase.rate, phase.epochs) == ("adam", 1e-3, 22)


def test_the_embedding_network_is_that_of_the_source():
    model = networks.embedder(config("--preset", "contrastive"), coloured())
    convolutions = [layer.kernel.shape for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    dense = [layer.kernel.shape for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert convolutions == [(3, 3, 3, 32), (3, 3, 32, 10)]
    assert dense == [(640, 1000), (1000, 500), (500, 100), (100, 10), (10, 2)]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.1] * 2
    (phase,) = config("--preset", "contrastive").phases
    assert (phase.optimizer, phase.rate, phase.epochs) == ("adam", 1e-3, 20)


def test_pixels_are_scaled_in_float32_under_any_precision():
    """In bfloat16 neighbouring levels of grey would become one."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs, pixels = networks.image_input(coloured())
    finally:
        keras.config.set_dtype_policy("float32")
    grey = np.broadcast_to(np.arange(256, dtype="uint8")[:, None, None, None], (256, 32, 32, 3))
    found = keras.ops.convert_to_numpy(keras.Model(inputs, pixels)(grey))
    np.testing.assert_allclose(found, grey / 127.5 - 1.0, atol=1e-6)


def test_half_turned_and_two_outputs():
    model = networks.classifier(config("--preset", "rotation"), coloured(2))
    assert model.output_shape == (None, 2)


# --- turned images


def test_half_of_each_split_is_turned_by_90_degrees(data):
    turned = pretext.half_turned(data, seed=3)
    assert turned.class_names == ("upright", "turned")
    for name in ("train", "validation", "test"):
        before, after = everything(getattr(data, name)), everything(getattr(turned, name))
        labels = getattr(turned, name).labels
        assert abs(labels.sum() - len(labels) / 2) <= 0.5
        for old, new, label in zip(before, after, labels, strict=True):
            # anticlockwise: what was in the last column comes to be the first row
            expected = np.stack([old[:, -1 - i] for i in range(old.shape[1])]) if label else old
            np.testing.assert_array_equal(new, expected)


def test_the_seed_chooses_what_is_turned_but_in_the_test_split(data):
    first, again, other = (pretext.half_turned(data, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.labels, again.train.labels)
    assert (first.train.labels != other.train.labels).any()
    assert (first.validation.labels != other.validation.labels).any()
    np.testing.assert_array_equal(first.test.labels, other.test.labels)
    np.testing.assert_array_equal(everything(first.test), everything(other.test))


def test_the_images_of_the_data_set_itself_stay_as_they_are(data):
    before = everything(data.train).copy()
    pretext.half_turned(data, seed=0)
    np.testing.assert_array_equal(everything(data.train), before)


def test_turned_images_of_a_folder_keep_their_names(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(30):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    data = sources.load(
        config("--preset", "rotation", "--dataset", f"image_folder:{tmp_path}", "--data-dir", str(tmp_path))
    )
    turned = pretext.half_turned(data, seed=0)
    for name in ("train", "validation", "test"):
        names = data.names(getattr(data, name))
        assert turned.names(getattr(turned, name)) == names
        upright = np.flatnonzero(getattr(turned, name).labels == 0)
        shown = pipeline.pictures(getattr(turned, name), upright)
        for place, image in zip(upright, shown, strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / names[place])))
    assert turned.names(turned.test.take(np.array([3, 1]))) == [data.names(data.test)[place] for place in (3, 1)]
    assert turned.fingerprint() == data.fingerprint()


def test_images_are_mixed_for_evaluation_alone(data):
    mixed, other = pretext.mixed(data, 0), pretext.mixed(data, 1)
    assert mixed.train is data.train
    for name in ("validation", "test"):
        places = getattr(mixed, name).places
        assert sorted(places) == sorted(getattr(data, name).places)
        assert list(places) != list(getattr(data, name).places)
    np.testing.assert_array_equal(mixed.test.places, other.test.places)
    assert list(mixed.validation.places) != list(other.validation.places)


# --- transfer


@pytest.mark.parametrize(("blocks", "trained"), [(1, False), (3, False), (1, True)])
def test_blocks_come_from_the_rotation_run_and_move_if_they_are_trained(rotation, blocks, trained):
    out, source = rotation
    flags = [*TRANSFER, "--blocks", str(blocks), *([] if trained else ["--no-train-blocks"])]
    assert call(out, *flags) == 0
    folder = folder_of(out, *flags)
    pretext_weights, best, last = weights_of(source), weights_of(folder), weights_of(folder, "last")
    for number in (1, 2, 3):
        for kind in ("kernel", "bias"):
            name = f"block{number}/{kind}"
            stayed = [np.array_equal(pretext_weights[name], weights[name]) for weights in (best, last)]
            assert stayed == [number <= blocks and not trained] * 2, name
    metrics = metrics_of(folder)
    assert {split: metrics[split]["n"] for split in ("train", "validation", "test")} == {
        "train": 180,
        "validation": 20,
        "test": 60,
    }
    assert len(metrics["test"]["per_class"]) == 10


def test_training_begins_from_the_blocks_of_the_rotation_run(rotation, tmp_path):
    """At a rate near zero nothing moves, so what is trained is still what was taken; the rest is a fresh start."""
    _, source = rotation
    flags = [*TRANSFER, "--blocks", "2", "--rate", "1e-30"]
    named = [*flags, "--pretext-run", str(source)]
    assert call(tmp_path, *named) == 0
    weights, pretext_weights = weights_of(folder_of(tmp_path, *named)), weights_of(source)
    for number in (1, 2):
        np.testing.assert_array_equal(weights[f"block{number}/kernel"], pretext_weights[f"block{number}/kernel"])
    for name in ("block3/kernel", "hidden/kernel"):
        assert (weights[name] != pretext_weights[name]).mean() > 0.9


def test_seeds_of_layers_stay_below_two_to_the_32_for_the_largest_seed():  # JAX takes no others
    model = networks.classifier(config("--seed", str(2**32 - 1)), coloured())
    seeds = [layer.seed for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(set(seeds)) == len(seeds) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_missing_rotation_run_is_one_line_that_names_the_command(tmp_path, capsys):
    assert call(tmp_path, *TRANSFER, "--seed", "3") == 2
    line = in_process.one_error(capsys)
    assert f"no finished rotation run in {tmp_path}" in line
    assert "`python tasks/rotation_contrastive/train.py --preset rotation --seed 3`" in line
    assert not list(tmp_path.glob("**/config.json"))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("experiment", "base", "has experiment base; this run needs rotation"),
        ("dataset", "mnist", "has dataset mnist; this run needs"),
        ("seed", 5, "has seed 5; this run needs 0"),  # its training images are not those of this run
        ("limit_train", 100, "has limit_train 100; this run needs 200"),
    ],
)
def test_a_run_that_does_not_fit_is_one_line(rotation, tmp_path, capsys, field, value, said):
    shutil.copytree(rotation[1], tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    content["config"][field] = value
    path.write_text(json.dumps(content))
    assert call(tmp_path / "runs", *TRANSFER, "--pretext-run", str(tmp_path / "run")) == 2
    assert said in in_process.one_error(capsys)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of runs with a base run in it, and its run directory."""
    out = tmp_path_factory.mktemp("runs")
    assert call(out, *BASE) == 0
    return out, folder_of(out, *BASE)


@pytest.mark.parametrize("trained", [True, False])
def test_the_reverse_transfer_trains_or_keeps_the_blocks_of_the_base_run(base, trained):
    out, source = base
    flags = [*REVERSE, *([] if trained else ["--no-train-blocks"])]
    assert call(out, *flags) == 0
    folder = folder_of(out, *flags)
    taken, last = weights_of(source), weights_of(folder, "last")
    for number in (1, 2, 3):
        for kind in ("kernel", "bias"):
            name = f"block{number}/{kind}"
            assert np.array_equal(taken[name], last[name]) == (not trained), name
    assert (last["hidden/kernel"] != taken["hidden/kernel"]).mean() > 0.9
    assert last["head/kernel"].shape == (256, 2)
    assert [scores["class"] for scores in metrics_of(folder)["test"]["per_class"]] == ["upright", "turned"]


def test_a_pretext_run_may_be_named_by_the_end_of_its_name(rotation):
    out, source = rotation
    names = (str(source), source.name[-8:])
    whole, end = (config(*TRANSFER, "--out", str(out), "--pretext-run", name) for name in names)
    assert TASK.pretext_run(end) == TASK.pretext_run(whole) == source
    assert end.name() == whole.name()


def test_each_transfer_needs_the_run_of_its_own_kind(rotation, tmp_path, capsys):
    assert call(tmp_path, *REVERSE) == 2
    line = in_process.one_error(capsys)
    assert "no finished base run in" in line
    assert "`python tasks/rotation_contrastive/train.py --preset base --seed 0`" in line
    assert call(tmp_path, *REVERSE, "--pretext-run", str(rotation[1])) == 2
    assert "has experiment rotation; this run needs base" in in_process.one_error(capsys)


def test_presets_follow_the_convention_of_the_source():
    for preset in ("base", "rotation", "transfer", "reverse", "contrastive"):
        (phase,) = config("--preset", preset, "--weight-decay", "1e-3").phases
        assert (phase.convention, phase.weight_decay) == ("torch", 1e-3)
    assert TASK.RotationConfig().phases[0].convention == "keras"
    assert config("--convention", "keras").name() != config().name()


def test_flags_of_an_experiment_make_another_run():
    assert config("--preset", "transfer", "--blocks", "3").name() != config("--preset", "transfer").name()
    assert config("--preset", "contrastive", "--margin", "3").name() != config("--preset", "contrastive").name()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pretext-run", "."], "pretext-run '.': not found; allowed: own, or a finished run: its folder"),
        (["--blocks", "4"], "blocks is 4; allowed: 1 to 3"),
        (["--margin", "0"], "margin is 0.0; it must be above zero"),
        (["--margin", "3"], "margin is for --preset contrastive"),
        (["--preset", "rotation", "--blocks", "3"], "blocks is for --preset transfer and reverse"),
        (["--preset", "contrastive", "--no-train-blocks"], "train-blocks is for --preset transfer and reverse"),
        (["--preset", "contrastive", "--devices", "2"], "one device, or JAX"),
        (["--preset", "transfer", "--pretext-run", "nowhere"], "pretext-run 'nowhere': not found"),
        (["--dropout", "1"], "dropout is 1.0; allowed: 0 <= dropout < 1"),
    ],
)
def test_bad_input_is_one_line(flags, said):
    with pytest.raises(ConfigError, match=said) as error:
        config(*flags)
    assert "\n" not in str(error.value)


# --- the contrastive loss


def by_numpy(labels, points, margin):
    """The loss of each pair, from its definition."""
    losses = []
    for i in range(len(labels)):
        j = (i - 1) % len(labels)
        distance = np.linalg.norm(points[i].astype(np.float64) - points[j])
        same = labels[i] == labels[j]
        losses.append(distance**2 if same else max(margin - distance**2, 0))
    return np.array(losses)


@pytest.mark.parametrize("margin", [0.5, 2.0])
@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_the_loss_is_that_of_numpy_on_random_pairs(margin, shape):
    rng = np.random.default_rng(0)
    labels, points = rng.integers(0, 3, shape), rng.normal(size=(50, 2)).astype(np.float32)
    expected = by_numpy(labels.ravel(), points, margin)
    assert min((expected == 0).sum(), (expected > margin).sum()) > 3  # both sides of the hinge
    loss = networks.ContrastiveLoss(margin)
    assert float(loss(labels, points)) == pytest.approx(expected.mean(), rel=1e-6)
    np.testing.assert_allclose(np.array(loss.call(labels, points)), expected, rtol=1e-5, atol=1e-6)


def test_no_image_is_paired_with_itself():
    """Images of one class, far apart: a pair of an image with itself would have a loss of 0."""
    for count in range(2, 9):
        points = np.stack([10.0 * np.arange(count), np.zeros(count)], axis=1).astype(np.float32)
        losses = np.array(networks.ContrastiveLoss().call(np.zeros(count, int), points))
        assert losses.min() >= 100


def test_a_single_image_has_no_pair():
    point = np.array([[3.0, 4.0]], np.float32)
    assert float(networks.ContrastiveLoss()(np.array([7]), point)) == 0


def test_the_gradient_is_that_of_finite_differences():
    import tensorflow as tf

    rng = np.random.default_rng(1)
    labels, points = rng.integers(0, 3, 12), rng.normal(size=(12, 2))
    loss = networks.ContrastiveLoss(2.0, dtype="float64")
    with tf.GradientTape() as tape:
        places = tf.Variable(points)
        value = loss(labels, places)
    gradient = tape.gradient(value, places).numpy()
    for index in np.ndindex(points.shape):
        step = np.zeros_like(points)
        step[index] = 1e-6
        difference = by_numpy(labels, points + step, 2.0).mean() - by_numpy(labels, points - step, 2.0).mean()
        assert gradient[index] == pytest.approx(difference / 2e-6, abs=1e-6)


def test_the_loss_comes_back_from_its_config():
    loss = networks.ContrastiveLoss(0.7)
    assert networks.ContrastiveLoss.from_config(loss.get_config()).margin == 0.7


# --- the embedding


def test_neighbours_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    labels = [rng.integers(0, 3, n) for n in (200, 50)]
    train, test = (centres[own] + rng.normal(size=(len(own), 2)) for own in labels)
    right = 0
    for point, label in zip(test, labels[1], strict=True):
        nearest = labels[0][np.argsort(((train - point) ** 2).sum(axis=1))[:20]]
        right += np.bincount(nearest, minlength=3).argmax() == label
    found = embedding.scores((train, labels[0]), (test, labels[1]))
    assert found["20-NN accuracy (%)"] == pytest.approx(100 * right / 50)


def test_centroids_are_the_means_of_each_class():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(50, 2)).astype(np.float32), rng.integers(0, 3, 50)
    labels[labels == 1] = 2
    found = embedding.centroids(points, labels, ("a", "b", "c"))
    assert found.keys() == {"a", "c"}  # b has no image
    for name, label in (("a", 0), ("c", 2)):
        own = [point for point, of in zip(points.astype(float), labels, strict=True) if of == label]
        np.testing.assert_allclose(found[name], sum(own) / len(own), rtol=1e-12)
    assert json.loads(json.dumps(found)) == found


def test_a_linear_probe_parts_what_a_line_parts_and_nothing_else():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 2))
    sides, quadrants = points[:, 0] > 0, points[:, 0] * points[:, 1] > 0
    split = slice(0, 300), slice(300, 400)
    for labels, low, high in ((sides, 97, 100), (quadrants, 30, 70)):
        parts = [(points[s], labels[s].astype(int)) for s in split]
        found = embedding.scores(*parts)
        assert low <= found["linear probe accuracy (%)"] <= high
        assert found["20-NN accuracy (%)"] > 85


def test_a_contrastive_run_ends_with_figures_of_both_embeddings(tmp_path, monkeypatch):
    measured, fitted = [], []

    def scores(train, test, whole=embedding.scores):
        fitted.append((len(train[1]), len(test[1])))
        return whole(train, test)

    def noted(trainer, train, whole=Trainer.evaluate):
        measured.extend([trainer.data.train.places, train.places])
        return whole(trainer, train)

    monkeypatch.setattr(Trainer, "evaluate", noted)
    monkeypatch.setattr(embedding, "scores", scores)
    flags = ["--preset", "contrastive", "--dataset", "digits", "--epochs", "8"]
    assert call(tmp_path, *flags) == 0
    assert fitted == [(1293, 360)] * 2  # on training images; before and after
    as_stored, in_pairs = measured
    assert sorted(in_pairs) == sorted(as_stored)
    assert list(in_pairs) != list(as_stored)  # in a folder of images, neighbours are of one class
    folder = folder_of(tmp_path, *flags)
    metrics = metrics_of(folder)
    assert metrics["test"].keys() == {"n", "loss"}
    scores = metrics["by_name"]
    assert scores["20-NN accuracy (%)"] > 40 > scores["untrained: 20-NN accuracy (%)"] > 5
    assert scores["linear probe accuracy (%)"] > scores["untrained: linear probe accuracy (%)"]
    places = np.array([metrics["centroids"][digit] for digit in "0123456789"])
    assert places.shape == (10, 2)
    distances = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(10, 1)]
    assert distances.max() > 0.5  # the loss has pushed some classes apart
    assert (folder / "figures" / "embedding.png").is_file()
    assert not (folder / "predictions.npz").exists()


def test_a_contrastive_run_that_goes_on_has_the_same_untrained_embedding(tmp_path, monkeypatch):
    assert call(tmp_path / "whole", *CONTRASTIVE, drawn=True) == 0

    def stop(loop, epoch, logs=None, whole=Loop.on_epoch_end):
        loop.run.stop.signal = signal.SIGTERM
        whole(loop, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "on_epoch_end", stop)
        assert call(tmp_path / "parts", *CONTRASTIVE) != 0
    assert call(tmp_path / "parts", *CONTRASTIVE, drawn=True) == 0
    whole, parts = (folder_of(tmp_path / out, *CONTRASTIVE) for out in ("whole", "parts"))
    assert metrics_of(whole)["by_name"] == metrics_of(parts)["by_name"]
    names = sorted(path.name for path in whole.glob("figures/*.png"))
    assert "embedding.png" in names
    for name in names:
        assert (whole / "figures" / name).read_bytes() == (parts / "figures" / name).read_bytes()


def test_the_demo_reads_digits(tmp_path):
    assert call(tmp_path, "--preset", "demo") == 0
    (folder,) = tmp_path.glob("*/*")
    assert metrics_of(folder)["test"]["accuracy"] > 0.9


def by_chance(n=20):
    """Grey images by chance, as each split."""
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), np.uint8)
    split = splits.whole(images, np.arange(n) % 10, 8)
    return splits.Dataset("by chance", tuple("0123456789"), split, split, split)


@pytest.mark.parametrize("preset", ["base", "contrastive"])
def test_every_hidden_layer_has_a_relu_and_the_last_has_none(preset):
    """Each by NumPy, from what it is given."""
    data = by_chance()
    make = networks.embedder if preset == "contrastive" else networks.classifier
    model = make(parse_strictly(TASK.PRESETS, "", ["--preset", preset]), data)
    images = pipeline.pictures(data.train, np.arange(20))
    weighted = [layer for layer in model.layers if layer.weights]
    for layer in weighted:
        own = keras.Model(model.input, [layer.input, layer.output])(images, training=False)
        given, found = (np.asarray(part, float) for part in own)
        kernel, bias = (np.asarray(weights, float) for weights in layer.get_weights())
        if kernel.ndim == 2:
            expected = given @ kernel + bias
        else:
            padded = np.pad(given, ((0, 0), (1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
            expected = np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias
        if layer is not weighted[-1]:
            assert expected.min() < 0
            expected = np.maximum(expected, 0)
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=layer.name)


def test_the_margin_is_that_of_the_flag(tmp_path, monkeypatch):
    losses = []

    def begin(self, run, model, data, objective, **more):
        losses.append(objective.loss)
        raise Enough

    monkeypatch.setattr(Trainer, "__init__", begin)
    until_enough(TASK, tmp_path, "--preset", "contrastive", "--dataset", "digits", "--margin", "50")
    # Two points of two classes at a distance of 3: 50 - 9, for either as the one before.
    points = np.array([[0.0, 0.0], [3.0, 0.0]], "float32")
    assert float(losses[0](np.array([0, 1]), points)) == pytest.approx(41)


@pytest.mark.parametrize("preset", ["transfer", "reverse"])
def test_what_is_transferred_is_the_last_epoch_as_the_source_reports_it(tmp_path, monkeypatch, preset):
    assert epochs_taken(TASK, tmp_path, monkeypatch, "pretext_run", preset) == ["last"]


def test_the_linear_probe_does_not_depend_on_the_units_of_the_plane():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    points = np.array([[0, 0], [2, 0], [0, 2]])[labels] + rng.normal(size=(300, 2))
    found = [
        embedding.scores((units * points[:200], labels[:200]), (units * points[200:], labels[200:]))
        for units in (1.0, 1e-3)
    ]
    assert found[0] == pytest.approx(found[1])


def test_train_and_validation_are_turned_by_draws_of_their_own():
    turned = pretext.half_turned(by_chance(40), 3)  # one split thrice
    assert (turned.train.labels != turned.validation.labels).any()
