"""The forecast of a run's time: its arithmetic against published counts, its words, and when it comes."""

import dataclasses

import keras
import numpy as np
import pytest

from common import forecast
from common.backbones import STAGES, networks
from common.config import Config
from common.data import splits
from common.phase import Phase

PHASE = Phase("train", 1, "sgd", 0.1)


@pytest.mark.parametrize(
    ("name", "published"),  # multiplications of the whole network at 224 pixels, from the papers' tables
    [("mobilenet_v2", 300e6), ("resnet18", 1.8e9)],
)
def test_multiplications_are_those_that_are_published(name, published):
    backbone = networks.build(name, 224)
    backbone.set_trainable(STAGES)
    work = forecast.work(backbone.model)
    assert work.forward == pytest.approx(published, rel=0.03)
    assert work.step == 3 * work.forward


def test_a_frozen_network_has_no_gradients_and_a_trained_end_has_its_own():
    image = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, name="first")(image)  # 3 x 3 x 2 x 4 products at 6 x 6 places
    x = keras.layers.Conv2D(5, 1, name="second")(x)  # 4 x 5 products at 6 x 6 places
    model = keras.Model(image, keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(x)))
    first, second, head = 72 * 36, 20 * 36, 15
    assert forecast.work(model) == forecast.Work(first + second + head, 3 * (first + second + head))
    model.get_layer("first").trainable = False
    assert forecast.work(model).step == first + 3 * (second + head)
    model.get_layer("second").trainable = False
    assert forecast.work(model).step == first + second + 3 * head


def works_at(sides, usual, any_size):
    """The work of a phase at each side of the images; None: the usual one."""
    backbone = networks.build("mobilenet_v2", usual, any_size=any_size)
    image = keras.Input((32, 32, 3), dtype="uint8")
    model = keras.Model(image, backbone.extract(image, usual))
    phases = [dataclasses.replace(PHASE, name=str(side)) for side in sides]
    of_phase = dict(zip(map(str, sides), sides, strict=True))

    def configure(phase):
        networks.set_image_size(model, of_phase[phase.name] or usual)

    return forecast.survey(model, phases, configure)


def test_phases_of_other_image_sizes_count_by_their_pixels():
    works = works_at((32, 48, None), 64, any_size=True)
    small, middle, large = (works[name].step for name in ("32", "48", "None"))
    assert middle / small == pytest.approx(48**2 / 32**2, rel=1e-3)
    assert large / small == pytest.approx(64**2 / 32**2, rel=1e-3)


def test_a_phase_that_names_the_common_size_counts_as_one_that_does_not():
    works = works_at((96, None), 96, any_size=False)
    assert works["96"] == works["None"]


@pytest.mark.parametrize(
    ("seconds", "smaller", "said"),
    [
        (20, "laptop", "all phases will take about 1 min on this processor"),
        (3900, "laptop", "all phases will take about 1 h 05 min on this processor"),
        (
            54_000,
            "laptop",
            "all phases will take about 15 h 00 min on this processor; --preset laptop is made for a CPU",
        ),
        (54_000, None, "all phases will take about 15 h 00 min on this processor"),
    ],
)
def test_sentence(seconds, smaller, said):
    assert forecast.sentence(seconds, smaller) == said


def images(count):
    return splits.Split(np.zeros((count, 1), np.uint8), np.arange(count), np.arange(count), 1)


def test_it_prints_once_a_forecast_from_the_steps_after_the_first(monkeypatch, capsys):
    """Two phases of 640 images, the second with three times the work: 10 s a step in the first one."""
    clock = iter(np.arange(0.0, 1000.0, 10.0))
    monkeypatch.setattr(forecast.time, "monotonic", lambda: next(clock))
    data = splits.Dataset("made", ("a", "b"), images(640), images(0), images(0))
    phases = [dataclasses.replace(PHASE, name=name, epochs=epochs) for name, epochs in (("one", 3), ("two", 2))]
    works = {"one": forecast.Work(1.0, 1.0), "two": forecast.Work(1.0, 3.0)}
    callback = forecast.Forecast(Config(batch_size=64), phases, works, 1, data)
    for step in range(5):
        callback.on_train_batch_end(step)
    # Two epochs of the first phase are left, 100 s each, and two of the second, 300 s each.
    assert capsys.readouterr().out == "all phases will take about 13 min on this processor\n"


def test_an_epoch_that_is_over_before_says_it_too(monkeypatch, capsys):
    clock = iter(np.arange(0.0, 100.0, 1.0))
    monkeypatch.setattr(forecast.time, "monotonic", lambda: next(clock))
    data = splits.Dataset("made", ("a", "b"), images(64 * 4), images(0), images(0))
    phases = [dataclasses.replace(PHASE, epochs=30)]
    callback = forecast.Forecast(Config(batch_size=64), phases, {"train": forecast.Work(1.0, 1.0)}, 0, data)
    for step in range(4):
        callback.on_train_batch_end(step)
    next(clock)  # validation takes time too, which is not the steps'
    callback.on_epoch_end(0)
    assert capsys.readouterr().out == "all phases will take about 2 min on this processor\n"


def test_a_last_batch_that_is_smaller_does_not_count(monkeypatch, capsys):
    """JAX compiles for it, here for an hour."""
    clock = iter([0.0, 1.0, 2.0, 3600.0])
    monkeypatch.setattr(forecast.time, "monotonic", lambda: next(clock))
    data = splits.Dataset("made", ("a", "b"), images(64 * 3 + 5), images(0), images(0))
    phases = [dataclasses.replace(PHASE, epochs=30)]
    callback = forecast.Forecast(Config(batch_size=64), phases, {"train": forecast.Work(1.0, 1.0)}, 0, data)
    for step in range(4):
        callback.on_train_batch_end(step)
    callback.on_epoch_end(0)
    assert capsys.readouterr().out == "all phases will take about 2 min on this processor\n"
