"""The forecast of a run's time: its arithmetic against published counts, its words, and when it comes."""

import keras
import numpy as np
import pytest

from common import backbones, forecast
from common.config import Config, Phase

PHASE = Phase("train", "full", 1, "sgd", 0.1)


@pytest.mark.parametrize(
    ("name", "published"),  # multiplications of the whole network at 224 pixels, from the papers' tables
    [("mobilenet_v2", 300e6), ("resnet18", 1.8e9)],
)
def test_multiplications_are_those_that_are_published(name, published):
    backbone = backbones.build(name, 224)
    backbone.set_trainable(backbones.STAGES)
    work = forecast.work(backbone.model, PHASE)
    assert work.forward == pytest.approx(published, rel=0.03)
    assert work.step == 3 * work.forward


def test_a_frozen_network_has_no_gradients_and_a_trained_end_has_its_own():
    image = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, name="first")(image)  # 3 x 3 x 2 x 4 products at 6 x 6 places
    x = keras.layers.Conv2D(5, 1, name="second")(x)  # 4 x 5 products at 6 x 6 places
    model = keras.Model(image, keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(x)))
    first, second, head = 72 * 36, 20 * 36, 15
    assert forecast.work(model, PHASE) == forecast.Work(first + second + head, 3 * (first + second + head))
    model.get_layer("first").trainable = False
    assert forecast.work(model, PHASE).step == first + 3 * (second + head)
    model.get_layer("second").trainable = False
    assert forecast.work(model, PHASE).step == first + second + 3 * head


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
        (54_000, "now", "all phases will take about 15 h 00 min on this processor"),
    ],
)
def test_sentence(seconds, smaller, said):
    assert forecast.sentence(seconds, smaller, "now") == said


def test_it_says_once_what_the_steps_after_the_first_one_tell(monkeypatch, capsys):
    clock = iter(np.arange(0.0, 1000.0, 10.0))
    monkeypatch.setattr(forecast.time, "monotonic", lambda: next(clock))
    # A step of 64 images takes 10 s, and the run has as many multiplications ahead as 60 of them have.
    callback = forecast.Forecast(Config(batch_size=64), forecast.Work(1.0, 3.0), 60 * 64 * 3.0)
    for step in range(5):
        callback.on_train_batch_end(step)
    assert capsys.readouterr().out == "all phases will take about 10 min on this processor\n"
