"""hinge_svm: both losses against closed forms, the solution against scikit-learn, and the run as a user sees it."""

import json
import shutil
import signal
from types import SimpleNamespace
from typing import get_args, get_type_hints

import in_process
import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from common.command_line import parse_strictly
from common.data import pipeline, splits
from common.errors import ConfigError
from common.loop import Loop
from common.progress import Progress
from slurm.plan import load_task
from tasks.hinge_svm import hinge

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 64)
SCORES = {
    "random": RNG.normal(size=(64, 10)),
    "every wrong score negative": np.where(np.eye(10)[LABELS] > 0, 0.5, -RNG.uniform(0.1, 3, (64, 10))),
    "all right by more than the margin": np.eye(10)[LABELS] * 5.0,
}


def crammer_singer(labels, scores):
    """Loss and subgradient of the mean, row by row."""
    losses, gradient = [], np.zeros_like(scores)
    for row, (label, s) in enumerate(zip(labels, scores, strict=True)):
        wrong = max((j for j in range(len(s)) if j != label), key=lambda j: s[j])  # the first of equals
        losses.append(max(0.0, 1 + s[wrong] - s[label]))
        if losses[-1] > 0:
            gradient[row, wrong] += 1
            gradient[row, label] -= 1
    return np.array(losses), gradient / len(labels)


def weston_watkins(labels, scores):
    """Loss and subgradient of the mean, row by row."""
    losses, gradient = np.zeros(len(labels)), np.zeros_like(scores)
    for row, (label, s) in enumerate(zip(labels, scores, strict=True)):
        for j in range(len(s)):
            if j != label and 1 + s[j] - s[label] > 0:
                losses[row] += 1 + s[j] - s[label]
                gradient[row, j] += 1
                gradient[row, label] -= 1
    return losses, gradient / len(labels)


CLOSED = {"crammer_singer": crammer_singer, "weston_watkins": weston_watkins}


def value_and_gradient(name, labels, scores):
    variable = tf.Variable(scores, dtype=tf.float64)
    with tf.GradientTape() as tape:
        mean = hinge.LOSSES[name](dtype="float64")(tf.constant(labels), variable)
    return float(mean), tape.gradient(mean, variable).numpy()


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_loss_and_subgradient_equal_the_closed_form(name, scores):
    losses, expected = CLOSED[name](LABELS, scores)
    mean, gradient = value_and_gradient(name, LABELS, scores)
    assert mean == pytest.approx(losses.mean(), rel=1e-12)
    np.testing.assert_allclose(gradient, expected, atol=1e-15)


@pytest.mark.parametrize("name", CLOSED)
def test_gradient_equals_finite_differences(name):
    scores, step = RNG.normal(size=(4, 5)), 1e-6
    labels = np.array([0, 1, 2, 4])
    _, gradient = value_and_gradient(name, labels, scores)
    for place in np.ndindex(scores.shape):
        moved = [scores.copy(), scores.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (value_and_gradient(name, labels, s)[0] for s in moved)
        assert gradient[place] == pytest.approx((up - down) / (2 * step), abs=1e-7)


def test_of_equal_wrong_scores_one_is_the_strongest():
    _, gradient = value_and_gradient("crammer_singer", np.array([0]), np.array([[0.0, 2.0, 2.0, 1.0]]))
    assert gradient.tolist() == [[-1, 1, 0, 0]]


@pytest.mark.parametrize("name", CLOSED)
def test_at_a_margin_of_exactly_one_the_subgradient_is_zero(name):
    mean, gradient = value_and_gradient(name, np.array([0]), np.array([[1.0, 0.0, -4.0]]))
    assert mean == 0
    assert not gradient.any()


def test_crammer_singer_is_not_the_categorical_hinge():
    scores, labels = SCORES["every wrong score negative"], LABELS
    theirs = keras.losses.CategoricalHinge()(np.eye(10)[labels], scores)
    assert value_and_gradient("crammer_singer", labels, scores)[0] < float(theirs) - 0.1


def test_the_minimum_is_that_of_scikit_learn():
    """The same objective, W alone: mean of the losses + lambda * sum W^2, where lambda = 1 / (2 C n)."""
    images, labels = load_digits(return_X_y=True)
    images, labels, strength = (images[:600] / 16).astype(np.float32), labels[:600], 0.1
    weight = 1 / (2 * strength * len(images))
    svc = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=strength, max_iter=100_000, tol=1e-6)
    theirs = svc.fit(images, labels).coef_.T

    kernel = keras.Variable(np.zeros((64, 10), np.float32))
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.PolynomialDecay(0.02, 1500, 1e-5))
    optimizer.build([kernel])
    loss = hinge.CrammerSinger()

    def objective(weights):
        return loss(labels, keras.ops.matmul(images, weights)) + weight * keras.ops.sum(weights**2)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = objective(kernel.value)
        optimizer.apply(tape.gradient(value, [kernel.value]), [kernel])

    for _ in range(1500):
        step()
    ours = float(objective(kernel.value))
    assert ours == pytest.approx(float(objective(theirs.astype(np.float32))), rel=0.01)


def run(out, *flags):
    """A finished run: its folder and its metrics."""
    assert in_process.call(load_task("hinge_svm"), "--out", str(out), *flags) == 0
    (folder,) = (out / "hinge_svm").iterdir()
    return folder, json.loads((folder / "metrics.json").read_text())


def test_the_norm_is_that_of_the_weights_alone():
    task = load_task("hinge_svm")
    from common.data import sources

    data = sources.load(task.PRESETS["demo"])
    for norm, power in (("L1", 1), ("L2", 2)):
        argv = ["--preset", "demo", "--norm", norm, "--regularisation", "3"]
        model = task.build(parse_strictly(task.PRESETS, "", argv), data)
        kernel, bias = model.get_layer("scores").get_weights()
        model.get_layer("scores").set_weights([kernel, bias + 7])
        assert float(model.losses[0]) == pytest.approx(3 * (np.abs(kernel) ** power).sum(), rel=1e-5)
        assert len(model.losses) == 1


def test_w_starts_with_the_deviation_that_is_asked_for():
    task = load_task("hinge_svm")
    from common.data import sources

    data = sources.load(task.PRESETS["demo"])
    for deviation in (0.0, 1e-4, 3.0):
        argv = ["--preset", "demo", "--initial-deviation", str(deviation)]
        kernel = task.build(parse_strictly(task.PRESETS, "", argv), data).get_layer("scores").get_weights()[0]
        assert kernel.std() == pytest.approx(deviation, rel=0.1)  # of 640 weights


def test_the_model_is_linear_in_the_pixels_less_their_mean():
    task = load_task("hinge_svm")
    from common.data import pipeline, sources

    data = sources.load(task.PRESETS["demo"])
    model = task.build(parse_strictly(task.PRESETS, "", ["--preset", "demo"]), data)
    images = pipeline.pictures(data.train, np.arange(len(data.train)))
    kernel, bias = model.get_layer("scores").get_weights()
    flat = images.reshape(len(images), -1).astype(np.float64)
    expected = (flat - flat.mean(axis=0)) @ kernel + bias
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-4)


def test_the_validation_loss_is_read_at_regular_steps(tmp_path):
    folder, metrics = run(tmp_path, "--preset", "demo", "--epochs", "3", "--validate-every", "7")
    steps = -(-1293 // 50) * 3
    assert [row["step"] for row in metrics["iterations"]] == list(range(7, steps + 1, 7))
    assert metrics["iterations"][-1]["loss"] == pytest.approx(metrics["validation"]["loss"], rel=0.2)
    assert {path.stem for path in folder.glob("figures/*.png")} >= {"samples", "templates", "loss_by_step"}


THREE_EPOCHS = ["--preset", "demo", "--limit-train", "300", "--epochs", "3", "--regularisation", "5000"]  # of 6 steps


@pytest.fixture(scope="module")
def read_every(tmp_path_factory):
    """Finished runs, by the steps from one reading to the next: each 18 steps, so a thousand means never."""
    return {
        every: run(tmp_path_factory.mktemp("every"), *THREE_EPOCHS, "--validate-every", str(every))
        for every in (1, 4, 1000)
    }


def test_the_training_loss_is_the_mean_of_the_steps_since_the_last_reading(read_every):
    """Of every step by itself it is that of the batch, which NumPy computes for the first; 6 steps are an epoch."""
    flags, each, fourth = THREE_EPOCHS, read_every[1], read_every[4]
    losses = np.array([row["train_loss"] for row in each[1]["iterations"]])
    images = np.array(3 * [50, 50, 50, 50, 50, 20])
    assert [row["step"] for row in fourth[1]["iterations"]] == [4, 8, 12, 16]
    for row in fourth[1]["iterations"]:
        since = slice(row["step"] - 4, row["step"])
        assert row["train_loss"] == pytest.approx(np.average(losses[since], weights=images[since]), rel=1e-5)
    history = np.genfromtxt(each[0] / "history.csv", delimiter=",", names=True, usecols=range(1, 4))
    by_epoch = [np.average(losses[s : s + 6], weights=images[s : s + 6]) for s in (0, 6, 12)]
    np.testing.assert_allclose(history["loss"], by_epoch, rtol=1e-5)

    task = load_task("hinge_svm")
    from common.data import pipeline, sources

    data = sources.load(parse_strictly(task.PRESETS, "", flags))
    kernel, bias = task.build(parse_strictly(task.PRESETS, "", flags), data).get_layer("scores").get_weights()
    batch, labels = (part.numpy() for part in next(iter(pipeline.training(data.train, 50, 0, range(1)))))
    mean = pipeline.pictures(data.train, np.arange(len(data.train))).mean(axis=0)
    scores = (batch - mean).reshape(50, -1) @ kernel + bias
    hinges, _ = weston_watkins(labels, scores)
    assert losses[0] == pytest.approx(hinges.mean() + 5000 * np.square(kernel).sum(), rel=1e-4)


def test_both_losses_are_the_same_after_a_stop_between_two_readings(read_every, tmp_path, monkeypatch):
    flags = [*THREE_EPOCHS, "--validate-every", "4"]
    _, whole = read_every[4]

    def stopped(loop, batch, logs=None, save=Loop.on_train_batch_end):
        if (len(loop.progress.rows), batch) == (1, 2):  # step 9, one after a reading, in the second epoch
            signal.raise_signal(signal.SIGTERM)
        save(loop, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "on_train_batch_end", stopped)
        code = in_process.call(load_task("hinge_svm"), "--out", str(tmp_path / "stopped"), *flags)
    assert code == 128 + signal.SIGTERM
    _, resumed = run(tmp_path / "stopped", *flags)
    assert [row["step"] for row in whole["iterations"]] == [4, 8, 12, 16]
    assert resumed["iterations"] == whole["iterations"]


def test_the_reading_leaves_the_running_means_alone(read_every):
    every, never = read_every[1][0], read_every[1000][0]
    columns = slice(0, 7)  # without times
    histories = [
        [row.split(",")[columns] for row in (f / "history.csv").read_text().splitlines()] for f in (every, never)
    ]
    assert histories[0] == histories[1]


def test_a_run_whose_checkpoints_are_gone_says_that_it_begins_again(tmp_path, capsys):
    flags = ["--preset", "demo", "--limit-train", "200", "--epochs", "2"]
    folder, first = run(tmp_path, *flags)
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    said = "note: the checkpoints of this run are gone, so it begins again from the start"
    assert said not in capsys.readouterr().out
    _, again = run(tmp_path, *flags)
    assert said in capsys.readouterr().out
    assert again["test"] == first["test"]


def test_a_rate_that_is_too_high_ends_as_diverged(tmp_path):
    _, metrics = run(tmp_path, "--preset", "demo", "--rate", "10", "--regularisation", "1000")
    assert metrics["status"] == "diverged"
    assert metrics["diverged"]["phase"] == "train"


def test_bad_input_is_one_line():
    presets = load_task("hinge_svm").PRESETS
    for flag in ("regularisation", "initial-deviation"):
        for value in ("-1.0", "inf", "nan"):
            with pytest.raises(ConfigError, match=f"{flag} is {value}; allowed: zero and above, finite"):
                parse_strictly(presets, "", [f"--{flag}", value])
    with pytest.raises(ConfigError, match="validate-every is 0"):
        parse_strictly(presets, "", ["--validate-every", "0"])


def test_summary_has_colour_and_symmetry():
    rng = np.random.default_rng(0)
    blue = rng.normal(size=(6, 6, 3)) + np.array([0.0, 0.0, 5.0])
    half = rng.normal(size=(6, 3, 1))
    symmetric = np.concatenate([half, half[:, ::-1]], axis=1) * np.ones(3)
    found = hinge.summary(np.stack([blue, symmetric]), ["ship", "horse"])
    assert np.argmax(found["ship"]["colour"]) == 2
    assert found["ship"]["colour"][2] == pytest.approx((blue[..., 2].mean() - blue.mean()) / blue.std(), abs=1e-4)
    assert found["ship"]["mirror"] == pytest.approx(
        scipy.stats.pearsonr(blue.ravel(), np.fliplr(blue).ravel()).statistic, abs=1e-4
    )
    assert found["horse"]["mirror"] == 1
    np.testing.assert_allclose(found["horse"]["colour"], 0, atol=1e-4)


def test_every_loss_that_the_command_line_takes_is_there():
    assert set(get_args(get_type_hints(load_task("hinge_svm").SVMConfig)["loss"])) == set(hinge.LOSSES)


def small(side, channels):
    """Twenty images by chance, as each split."""
    images = np.random.default_rng(0).integers(0, 256, (20, side, side, channels), np.uint8)
    split = splits.whole(images, np.arange(20) % 10, side)
    return splits.Dataset("small", tuple("0123456789"), split, split, split)


def test_a_template_has_the_weights_of_one_class_pixel_by_pixel():
    task, data = load_task("hinge_svm"), small(4, 3)
    model = task.build(parse_strictly(task.PRESETS, "", ["--preset", "demo"]), data)
    wanted = np.random.default_rng(1).normal(size=(10, 4, 4, 3)).astype("float32")
    model.get_layer("scores").set_weights([wanted.reshape(10, -1).T, np.zeros(10)])
    np.testing.assert_array_equal(task.templates_of(model, data), wanted)


def test_a_reading_of_the_validation_loss_has_the_norm():
    """By NumPy, of weights at hand and lambda = 5."""
    task, data = load_task("hinge_svm"), small(4, 1)
    model = task.build(parse_strictly(task.PRESETS, "", ["--preset", "demo", "--regularisation", "5"]), data)
    kernel = np.random.default_rng(1).normal(size=(16, 10)).astype("float32")
    model.get_layer("scores").set_weights([kernel, np.zeros(10)])
    images = pipeline.pictures(data.validation, np.arange(20)).reshape(20, -1).astype(float)
    scores = (images - images.mean(0)) @ kernel
    right = scores[np.arange(20), data.validation.labels]
    expected = (np.maximum(0, 1 + scores - right[:, None]).sum(1) - 1).mean() + 5 * np.square(kernel).sum()
    trainer = SimpleNamespace(
        progress=Progress(), data=data, batch_size=10, steps=2, predict=lambda _: scores.astype("float32")
    )
    callback = hinge.ValidationLoss(trainer, hinge.WestonWatkins(), 1)
    callback.set_model(model)
    assert callback.read() == pytest.approx(expected, rel=1e-5)
