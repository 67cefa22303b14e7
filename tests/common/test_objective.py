"""What a model is trained for: soft targets of a transform, label smoothing, and which loss is reported."""

import signal

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from scipy.special import log_softmax
from small_training import state, train, untimed

from common.config import Config
from common.data import pipeline, sources
from common.devices import Devices
from common.errors import ConfigError
from common.objective import CLASSIFICATION, Accuracy, CrossEntropy, Objective
from common.stopping import Interrupted


@pytest.fixture(scope="module")
def data():
    return sources.load(Config(dataset="digits", limit_train=200))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, data):
    """The trainer of a run on labels; a test may measure with it."""
    return train(tmp_path_factory.mktemp("plain"), data)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, data):
    """The trainer of a run on mixtures that nothing stopped; only read it."""
    more = {"objective": Objective(CrossEntropy()), "transform": mixup}
    return train(tmp_path_factory.mktemp("mixed"), data, more=more)


def log_probabilities(trainer, split):
    return scipy.special.log_softmax(trainer.predict(split).astype(np.float64), axis=1)


def plain_cross_entropy(trainer, split):
    return -log_probabilities(trainer, split)[np.arange(len(split)), split.labels].mean()


def as_probabilities(images, labels, batch_seed):
    return images, tf.one_hot(labels, 10)


def test_sure_probabilities_train_as_labels_do(tmp_path, data, plain):
    more = {"objective": Objective(CrossEntropy()), "transform": as_probabilities}
    soft = train(tmp_path, data, more=more)
    for ours, theirs in zip(soft.progress.rows, plain.progress.rows, strict=True):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key
    ours, theirs = (trainer.evaluate(trainer.data.train).metrics for trainer in (soft, plain))
    for split in ("train", "test"):  # whose targets are labels
        assert ours[split]["accuracy"] == pytest.approx(theirs[split]["accuracy"], abs=0.01)
        assert ours[split]["loss"] == pytest.approx(theirs[split]["loss"], rel=1e-3)


def test_accuracy_of_probabilities_is_that_of_the_most_probable_class():
    rng = np.random.default_rng(0)
    scores, soft = rng.normal(size=(2, 50, 4)).astype("float32")
    labels = soft.argmax(axis=1)
    expected = np.mean(scores.argmax(axis=1) == labels)
    assert 0 < expected < 1
    for targets in (soft, labels, labels[:, None]):
        metric = Accuracy()
        metric.update_state(targets, scores)
        assert float(metric.result()) == pytest.approx(expected)


def test_label_smoothing_reports_the_plain_cross_entropy(tmp_path, data):
    trainer = train(tmp_path, data, more={"objective": Objective(CrossEntropy(0.2))})
    metrics = trainer.evaluate().metrics
    for name, split in (("validation", data.validation), ("test", data.test)):
        plain = plain_cross_entropy(trainer, split)
        smoothed = 0.8 * plain - 0.2 * log_probabilities(trainer, split).mean()
        assert metrics[name]["loss"] == pytest.approx(plain, rel=1e-4)
        assert smoothed > 1.02 * plain
    best = trainer.progress.best["full"]
    smoothed = 0.8 * plain_cross_entropy(trainer, data.validation)
    smoothed -= 0.2 * log_probabilities(trainer, data.validation).mean()
    assert best["val_loss"] == pytest.approx(smoothed, rel=1e-4)  # what was trained with chooses and is in the history


def test_the_loss_of_training_is_reported_where_that_is_asked_for(tmp_path, data):
    trainer = train(tmp_path, data, more={"objective": Objective(CrossEntropy(0.2), reported="loss")})
    smoothed = 0.8 * plain_cross_entropy(trainer, data.test) - 0.2 * log_probabilities(trainer, data.test).mean()
    assert trainer.evaluate().metrics["test"]["loss"] == pytest.approx(smoothed, rel=1e-4)


def mixup(images, labels, batch_seed):
    """Each image with the one after it, by a share that the seed of the batch draws (Zhang et al. 2018)."""
    share = tf.random.stateless_uniform([tf.shape(labels)[0]], batch_seed)
    of_image, of_class = share[:, None, None, None], share[:, None]
    pixels, classes = tf.cast(images, tf.float32), tf.one_hot(labels, 10)
    mixed = of_image * pixels + (1 - of_image) * tf.roll(pixels, 1, axis=0)
    targets = of_class * classes + (1 - of_class) * tf.roll(classes, 1, axis=0)
    return tf.cast(tf.round(mixed), tf.uint8), targets


@pytest.mark.parametrize("phase", ["head", "full"])
def test_mixup_by_a_transform_trains_and_resumes_bit_for_bit(tmp_path, data, plain, mixed, phase):
    more = {"objective": Objective(CrossEntropy()), "transform": mixup}
    assert untimed(mixed.progress.rows) != untimed(plain.progress.rows)

    def stop(trainer):
        return [Stop(trainer, phase)]

    with pytest.raises(Interrupted):
        train(tmp_path, data, more=more | {"callbacks": stop})
    resumed = train(tmp_path, data, more=more)
    assert untimed(resumed.progress.rows) == untimed(mixed.progress.rows)
    expected, found = state(mixed.model), state(resumed.model)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    assert resumed.evaluate().metrics["test"]["accuracy"] > 0.1


class Stop(keras.callbacks.Callback):
    """Asks the run to stop at the third step of a phase's second epoch."""

    def __init__(self, trainer, phase):
        super().__init__()
        self.trainer = trainer
        self.phase = phase

    def on_train_batch_end(self, batch, logs=None):
        progress = self.trainer.progress
        if (self.trainer.phases[progress.phase].name, progress.epoch, batch) == (self.phase, 1, 2):
            self.trainer.run.stop.signal = signal.SIGTERM


def test_an_objective_without_scores_of_classes_has_no_cross_entropy():
    with pytest.raises(ValueError, match='allowed: reported="loss"'):
        Objective(keras.losses.MeanSquaredError(), scores_classes=False)
    assert Objective(keras.losses.MeanSquaredError(), scores_classes=False, reported="loss").metrics() == []
    assert [metric.name for metric in CLASSIFICATION.metrics()] == ["accuracy"]


@pytest.mark.parametrize("classes", [3, 4])
def test_cross_entropy_is_that_of_the_formula(classes):
    """As many images as classes too, which must not be taken for probabilities."""
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(4, classes)).astype("float32"), rng.integers(0, classes, 4)
    one_hot = np.eye(classes, dtype="float32")[labels]
    for smoothing in (0.0, 0.1):
        wanted = (1 - smoothing) * one_hot + smoothing / classes  # Szegedy et al. 2016, equation 7 on
        expected = -(wanted * log_softmax(scores.astype(float), axis=1)).sum(axis=1).mean()
        for targets in (labels, one_hot):
            np.testing.assert_allclose(CrossEntropy(smoothing)(targets, scores), expected, rtol=1e-6)


def dense(regularizer):
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, kernel_regularizer=regularizer)])


def test_history_and_metrics_have_one_loss_unless_labels_are_smoothed_or_weights_penalised():
    plain, penalised = (dense(regularizer) for regularizer in (None, "l2"))
    assert CLASSIFICATION.reports_trained_loss(plain)
    assert not CLASSIFICATION.reports_trained_loss(penalised)
    assert Objective(CrossEntropy()).reports_trained_loss(plain)
    assert not Objective(CrossEntropy(0.1)).reports_trained_loss(plain)
    assert Objective(CrossEntropy(0.1), reported="loss").reports_trained_loss(penalised)


def test_smoothing_is_a_share():
    with pytest.raises(ValueError, match="smoothing is 1; allowed: 0 <= smoothing < 1"):
        CrossEntropy(1)


def test_targets_of_a_part_of_a_batch_are_refused(data):
    """Each of several processes has its own images and the labels of all, which a mixture would not fit."""

    class Part(Devices):
        reads_all = False

    def mixed(images, labels, batch_seed):
        return images, tf.one_hot(labels, 10)

    for transform, refused in ((mixed, True), (lambda images, labels, batch_seed: (images, labels), False)):
        arguments = (data.train, 32, 0, range(1), 0, transform, 1, Part())
        if refused:
            with pytest.raises(ConfigError, match="--nodes 1"):
                pipeline.training(*arguments)
        else:
            pipeline.training(*arguments)
