"""Grad-CAM against gradients by finite differences, on small networks; and the command on one of them."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from common import explain, plots
from common.backbones import networks
from common.errors import ConfigError
from common.trained import Trained


def flat(channels=3):
    """Convolutions, a mean over the image, a dense layer."""
    inputs = keras.Input((8, 8, channels), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(5, 3, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed=1))(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed=2))(layers.Dropout(0.5)(x))
    return keras.Model(inputs, outputs)


def nested(name):
    """As the fine-tuning tasks have it: a backbone within the network."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((20, 20, 3), dtype="uint8", name="image")
    x = networks.build(name, 64).extract(inputs)
    return keras.Model(inputs, layers.Dense(4)(layers.Dropout(0.5)(x)))


def photos(model, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, *model.input_shape[1:])).astype(np.uint8)


def by_finite_differences(features, head, place):
    """Grad-CAM by its definition: each channel weighed by the mean gradient of the score, then ReLU."""

    def score(values):
        return float(head(values.mean(axis=(1, 2))[:].astype(np.float32))[0, place])

    rows, columns, channels = features.shape[1:]
    gradients = np.zeros((rows, columns, channels))
    for where in np.ndindex(rows, columns, channels):
        change = np.zeros_like(features, np.float64)
        change[(0, *where)] = 10.0
        gradients[where] = (score(features + change) - score(features - change)) / 20.0
    return np.maximum((features[0] * gradients.mean(axis=(0, 1))).sum(-1), 0)


def test_a_map_is_grad_cam_by_its_definition():
    model = flat()
    images = photos(model)
    maps, told = explain.explained(Trained(model, ["a", "b", "c", "d"], 2), images)
    scores = model.predict(images, verbose=0)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    below, head = explain.last_stage(model)
    for image, own, (place, _) in zip(images, maps, told, strict=True):
        expected = by_finite_differences(below.predict(image[None], verbose=0), head, place)
        np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-6)
    assert [place for place, _ in told] == shares.argmax(1).tolist()
    np.testing.assert_allclose([share for _, share in told], shares.max(1), rtol=1e-5)


def test_a_chosen_class_is_explained():
    model = flat()
    images = photos(model)
    maps, told = explain.explained(Trained(model, ["a", "b", "c", "d"], 2), images, "c")
    assert [place for place, _ in told] == [2, 2]
    below, head = explain.last_stage(model)
    expected = by_finite_differences(below.predict(images[:1], verbose=0), head, 2)
    np.testing.assert_allclose(maps[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_maps_of_a_backbone_are_of_its_last_stage_and_add_up_to_the_score(name):
    """Where nothing is cut off by the ReLU, a map's sum is the score without the bias."""
    model = nested(name)
    images = photos(model)
    below, head = explain.last_stage(model)
    features = below.predict(images, verbose=0)
    assert features.shape[:3] == (2, 2, 2)  # 64 pixels, halved five times
    kernel, bias = head.get_weights()
    scores = features.mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(scores, model.predict(images, verbose=0), rtol=1e-3, atol=1e-4)
    whole = features[0] @ kernel[:, 1] / 4
    np.testing.assert_allclose(whole.sum() + bias[1], scores[0, 1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(explain.grad_cam(features[0], kernel[:, 1]), np.maximum(whole, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", [20, None])
def test_a_map_of_one_place_is_refused(side):
    """Also of a network for images of any size, as that of phases which differ in it."""
    inputs = keras.Input((side, side, 3), dtype="uint8", name="image")
    model = keras.Model(inputs, layers.Dense(4)(networks.build("resnet18", 32).extract(inputs)))
    with pytest.raises(ConfigError, match="its last stage has one place for all of an image"):
        explain.explained(Trained(model, ["a", "b", "c", "d"], 2), np.zeros((2, 20, 20, 3), np.uint8))


def test_the_colours_of_a_map_begin_at_nothing(tmp_path, drawn):
    """Its least value is not drawn as nothing: a map that is the same everywhere is all of the brightest colour."""
    maps = np.array([[[0.5, 0.5], [0.5, 0.5]], [[0.2, 0.4], [0.6, 0.8]], [[0.0, 0.0], [0.0, 0.0]]])
    plots.heat_maps(np.zeros((3, 8, 8, 3), np.uint8), maps, ["a", "b", "c"], tmp_path / "maps.png")
    drawn = [image for axes in drawn[0].axes for image in axes.images if image.get_cmap().name == "plasma"]
    shades = [image.norm(image.get_array()) for image in drawn]
    np.testing.assert_allclose(shades, [np.ones((2, 2)), maps[1] / 0.8, np.zeros((2, 2))])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/1.png", "b/2.png"], ["1.png", "2.png"]),
        (["x/a/1.png", "x/b/1.png", "x/b/2.png"], ["a/1.png", "b/1.png", "b/2.png"]),
        (["x/a/1.png", "x/1.png"], ["a/1.png", "1.png"]),
        (["x/1.png"], ["1.png"]),
    ],
)
def test_images_of_one_name_are_told_apart_by_their_folders(paths, names):
    assert explain.short_names([Path(path) for path in paths]) == names


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_the_title_fits_into_the_figure(tmp_path, drawn, count):
    plots.heat_maps(np.zeros((count, 8, 8, 3), np.uint8), np.ones((count, 20, 20)), ["a"] * count, tmp_path / "m.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    title = figure._suptitle.get_window_extent()
    assert 0 < title.x0 < title.x1 < figure.bbox.width


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photo.png", "this is one of the images to explain"),
        ("./photo.png", "this is one of the images to explain"),
        ("photo.jpg", "allowed: a name that ends in .png"),
        ("none/maps.png", "there is no folder none"),
    ],
)
def test_no_image_is_written_over(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").touch()
    with pytest.raises(ConfigError, match=said):
        explain.check_out(Path(name), [tmp_path / "photo.png"])
    explain.check_out(Path("maps.png"), [tmp_path / "photo.png"])


def test_a_network_without_such_an_end_is_refused():
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    dense = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs))))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs)))
    hidden = keras.Model(inputs, layers.Dense(3)(layers.Dense(5, activation="relu")(x)))
    for model in (dense, hidden):
        with pytest.raises(ConfigError, match="does not end in a mean over the image and one dense layer"):
            explain.last_stage(model)
