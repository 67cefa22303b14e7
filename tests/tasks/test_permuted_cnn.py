"""permuted_cnn: the permutation, what the network sees of it, and the network itself, against NumPy and PyTorch."""

import itertools
import json
import sys
from pathlib import Path

import in_process
import initial_weights
import keras
import numpy as np
import pytest
from PIL import Image

from common import explain
from common.command_line import parse_strictly
from common.data import DATASETS, pipeline, sources, splits
from common.errors import ConfigError
from slurm.plan import load_task

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.append(str(FIXTURES))
import permuted_tensors  # noqa: E402 - as the script beside it imports it

TASK = load_task("permuted_cnn")
WHOLE = np.arange(28 * 28)


def config(*flags):
    return parse_strictly(TASK.PRESETS, "", ["--preset", "demo", *flags])


def published(*flags):
    return parse_strictly(TASK.PRESETS, "", ["--preset", "permuted", *flags])


def call(out, *flags):
    return in_process.call(TASK, "--out", str(out), "--preset", "demo", *flags)


@pytest.fixture(scope="module")
def digits():
    return sources.load(config())


def letters(n=40, side=28):
    """Random images of the size, the kind and the classes of notMNIST."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, side, side, 1), dtype=np.uint8)
    split = splits.whole(images, np.arange(n) % 10, side)
    return splits.Dataset("notmnist", tuple("ABCDEFGHIJ"), split, split, split)


# --- the permutation


@pytest.mark.parametrize("block", [1, 2, 4, 7, 14, 28, None])
def test_every_pixel_moves_to_exactly_one_place(block):
    order = TASK.permutation(28, block, seed=0)
    assert order.shape == (784,)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(784))


@pytest.mark.parametrize("block", [14, None])
def test_a_map_is_drawn_only_where_no_pixel_has_moved(block):
    own = published("--padding", "same", "--block", str(block))
    model = TASK.build(own, TASK.permutation(28, block, seed=3), letters())
    seen = keras.Model(model.input, model.get_layer("permuted").output)
    images = pipeline.pictures(letters().train, np.arange(10))
    pixels = seen.predict(images, verbose=0) * 127.5 + 127.5
    if block is None:
        np.testing.assert_allclose(pixels, images, atol=1e-3)
        explain.last_stage(model)
    else:
        assert abs(pixels - images).mean() > 10
        with pytest.raises(ConfigError, match="its network moves pixels, so a map would not be of the image"):
            explain.last_stage(model)


@pytest.mark.parametrize(("flags", "seen"), [((), 24), (("--image-size", "24"), 28), (("--padding", "same"), 28)])
def test_unpadded_convolutions_see_the_first_24_rows_and_columns_alone(flags, seen):
    own = published("--block", "None", *flags)
    model = TASK.build(own, TASK.permutation(own.image_size or 28, None, 0), letters())
    images = pipeline.pictures(letters().train, np.arange(4))

    def differs(rows, columns):
        changed = images.copy()
        changed[:, rows, columns] = 255 - changed[:, rows, columns]
        return not np.array_equal(*(model.predict(own, verbose=0) for own in (images, changed)))

    everything = slice(None)
    assert differs(slice(seen - 1, seen), everything)
    assert differs(everything, slice(seen - 1, seen))
    if seen < 28:
        assert not differs(slice(seen, None), everything)
        assert not differs(everything, slice(seen, None))


def test_images_are_resized_before_they_are_permuted():
    own = published("--image-size", "24")
    order = TASK.permutation(24, 1, seed=3)
    model = TASK.build(own, order, letters())
    images = pipeline.pictures(letters().train, np.arange(4))
    seen = keras.Model(model.input, model.get_layer("permuted").output).predict(images, verbose=0)
    small = np.array(keras.ops.image.resize(images.astype("float32"), (24, 24), interpolation="bilinear"))
    expected = small.reshape(4, -1)[:, order].reshape(4, 24, 24, 1) / 127.5 - 1
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_pixels_are_floats_from_the_start():
    """Integers would be resized to integers on JAX; in 16 bits neighbouring levels of grey would become one."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        own = config("--image-size", "24")
        model = TASK.build(own, np.arange(24 * 24), letters())
    finally:
        keras.config.set_dtype_policy("float32")
    for name in ("resize", "scale"):
        assert model.get_layer(name).input.dtype == model.get_layer(name).output.dtype == "float32"


def tiles(image, block):
    """The blocks of an image (h, w), row by row, cut out one by one."""
    starts = range(0, len(image), block)
    return [image[top : top + block, left : left + block] for top in starts for left in starts]


@pytest.mark.parametrize("block", [1, 2, 4, 7, 14])
def test_blocks_move_whole(block):
    source = WHOLE.reshape(28, 28)
    moved = tiles(TASK.permutation(28, block, seed=3).reshape(28, 28), block)
    known = {tile.tobytes(): place for place, tile in enumerate(tiles(source, block))}
    places = [known[tile.tobytes()] for tile in moved]  # KeyError: a block that the source does not have
    assert sorted(places) == list(range(len(moved)))
    assert places != sorted(places)


@pytest.mark.parametrize("block", [None, 28])
def test_nothing_moves_without_blocks_or_with_one(block):
    for seed in range(3):
        np.testing.assert_array_equal(TASK.permutation(28, block, seed), WHOLE)


@pytest.mark.parametrize("block", [1, 4, 14])
def test_the_seed_alone_draws_it(block):
    first = TASK.permutation(28, block, seed=1)
    np.random.seed(99)  # noqa: NPY002 - whatever the global generator has been through
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(TASK.permutation(28, block, seed=1), first)
    assert any((TASK.permutation(28, block, seed) != first).any() for seed in (2, 3))


def test_a_block_smaller_than_the_image_always_moves_something():
    """Four blocks have 24 orders; seeds 1, 33, 41 and 46 draw the one in which all stay, first."""
    for seed in range(100):
        order = TASK.permutation(28, 14, seed)
        assert sorted(order) == list(range(784))
        assert (order != WHOLE).any()


def test_single_pixels_have_no_favourite_place():
    """The mean place of each of 16 pixels over 2000 seeds: 7.5, with deviation sqrt((16^2 - 1) / 12 / 2000)."""
    orders = np.stack([TASK.permutation(4, 1, seed) for seed in range(2000)])
    np.testing.assert_allclose(np.argsort(orders, axis=1).mean(axis=0), 7.5, atol=5 * np.sqrt(255 / 12 / 2000))


def test_a_block_that_does_not_divide_the_side_is_one_line(tmp_path, capsys):
    with pytest.raises(ConfigError, match="block is 5, which does not divide the image's side of 28 pixels"):
        parse_strictly(TASK.PRESETS, "", ["--block", "5"])
    assert call(tmp_path, "--block", "3") == 2
    printed = capsys.readouterr()
    assert printed.err == "error: block is 3, which does not divide the image's side of 8 pixels\n"
    assert "phase train" not in printed.out
    assert not list(tmp_path.iterdir())


def test_blocks_are_held_against_the_side_of_the_data_sets_images():
    for dataset, side in TASK.SIDES.items():
        config("--dataset", dataset, "--block", str(side // 2))
    with pytest.raises(ConfigError, match="block is 7, which does not divide the image's side of 48 pixels"):
        parse_strictly(TASK.PRESETS, "", ["--dataset", "fer2013", "--block", "7"])


@pytest.mark.parametrize(("flags", "side"), [((), 28), (("--image-size", "48"), 48), (("--image-size", "14"), 14)])
def test_pictures_of_a_folder_are_decoded_at_the_side_that_the_network_sees(tmp_path, flags, side):
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "frogs" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    own = config("--dataset", f"image_folder:{tmp_path / 'frogs'}", "--data-dir", str(tmp_path), *flags)
    assert pipeline.pictures(sources.load(own).train, np.arange(3)).shape == (3, side, side, 3)


@pytest.mark.parametrize("dataset", ["tfds:kmnist", "frogs"])
def test_of_other_data_sets_the_side_is_known_when_they_are_read(monkeypatch, dataset):
    """Of one of TFDS, or one of somebody's own."""
    monkeypatch.setitem(DATASETS, "frogs", DATASETS["digits"])
    own = config("--dataset", dataset, "--block", "8", "--padding", "same")
    own.check_side(32)
    with pytest.raises(ConfigError, match="block is 8, which does not divide the image's side of 28 pixels"):
        own.check_side(28)


@pytest.mark.parametrize("block", ["0", "-2", "1.5", "all"])
def test_other_blocks_are_one_line(block, tmp_path, capsys):
    assert call(tmp_path, f"--block={block}") == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- what the network sees


@pytest.mark.parametrize("network", ["cnn", "mlp"])
@pytest.mark.parametrize("block", [1, 2, None])
def test_the_network_sees_the_scaled_pixels_in_that_order(digits, network, block):
    order = TASK.permutation(8, block, seed=0)
    model = TASK.build(config("--network", network), order, digits)
    seen = keras.Model(model.input, model.get_layer("permuted").output)
    for split in (digits.train, digits.validation, digits.test):
        images = pipeline.pictures(split, np.arange(10))
        flat = images.reshape(10, -1).astype(np.float64) / 127.5 - 1
        assert flat.min() == -1
        np.testing.assert_allclose(np.asarray(seen(images)).reshape(10, -1), flat[:, order], atol=1e-6)


def test_colours_move_with_their_pixel():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    split = splits.whole(images, np.arange(6) % 2, 8)
    data = splits.Dataset("image_folder:photos", ("cat", "dog"), split, split, split)
    order = TASK.permutation(8, 2, seed=0)
    model = TASK.build(config(), order, data)
    seen = np.asarray(keras.Model(model.input, model.get_layer("permuted").output)(images))
    for place, source in enumerate(order):
        expected = images[:, source // 8, source % 8] / 127.5 - 1
        np.testing.assert_allclose(seen[:, place // 8, place % 8], expected, atol=1e-6)


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_the_cnn_is_that_of_the_source():
    """28 pixels a side become 26, 24, 12, 10, 5, 3 and 1: 512 numbers, without a mean."""
    model = TASK.build(published(), TASK.permutation(28, 1, 0), letters())
    convolutions, pools = layers_of(model, keras.layers.Conv2D), layers_of(model, keras.layers.MaxPooling2D)
    assert [c.output.shape[1:] for c in convolutions] == [(26, 26, 64), (24, 24, 128), (10, 10, 256), (3, 3, 512)]
    assert [p.output.shape[1:] for p in pools] == [(12, 12, 128), (5, 5, 256), (1, 1, 512)]
    assert not layers_of(model, keras.layers.GlobalAveragePooling2D)
    assert model.get_layer("head").input.shape == (None, 512)
    assert model.output.shape == (None, 10)


@pytest.mark.parametrize(("side", "left"), [(24, 1), (28, 1), (32, 2), (48, 4)])
def test_the_number_of_weights_is_that_of_the_formula(side, left):
    model = TASK.build(published("--block", "None"), np.arange(side * side), letters(side=side))
    pairs = itertools.pairwise((1, 64, 128, 256, 512))
    convolutions = sum(9 * inputs * outputs + outputs for inputs, outputs in pairs)
    assert model.count_params() == convolutions + 4 * 64 + (left * left * 512 + 1) * 10


def test_images_too_small_for_unpadded_convolutions_are_one_line():
    said = "padding is valid, and images of 8 pixels are too small for that; allowed: 24 pixels and more, or padding sa"
    with pytest.raises(ConfigError, match=said) as error:
        published("--dataset", "digits")
    assert "\n" not in str(error.value)
    for flags in (["--padding", "same"], ["--network", "mlp"]):
        published("--dataset", "digits", *flags)
    with pytest.raises(ValueError, match="zero or negative"):  # one pixel less than allowed
        TASK.build(published(), np.arange(23 * 23), letters(side=23))


def test_the_source_gives_what_pytorch_gives():
    """The same weights in PyTorch: outputs in training and in evaluation, and moving statistics after the former."""
    model = TASK.build(published("--block", "None"), WHOLE, letters())
    tensors = permuted_tensors.weights()
    for number, layer in enumerate(layers_of(model, keras.layers.Conv2D)):
        layer.set_weights(tensors[f"convolution{number}"])
    (normalisation,) = layers_of(model, keras.layers.BatchNormalization)
    normalisation.set_weights(tensors["normalisation"])
    model.get_layer("head").set_weights(tensors["head"])
    images = permuted_tensors.images()
    found = {mode: np.asarray(model(images, training=mode == "training")) for mode in ("evaluation", "training")}
    found |= {"mean": np.asarray(normalisation.moving_mean), "variance": np.asarray(normalisation.moving_variance)}
    with np.load(FIXTURES / "permuted_outputs.npz") as expected:
        assert set(expected) == set(found)
        for name, ours in found.items():
            error = np.abs(ours - expected[name]).max() / np.abs(expected[name]).max()
            assert error < 1e-4, name
        assert np.abs(expected["training"] - expected["evaluation"]).max() > 0.1  # the modes can be told apart


@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_initial_weights_are_those_of_either_framework(network):
    for flags, check in (([], "torchs"), (["--initialisation", "keras"], "kerass")):
        keras.utils.set_random_seed(0)
        model = TASK.build(published("--network", network, *flags), WHOLE, letters())
        layers = initial_weights.weighted(model)
        assert len(layers) == {"cnn": 5, "mlp": 3}[network]
        getattr(initial_weights, f"assert_{check}")(layers)


def test_the_demo_starts_from_kerass():
    assert (config().initialisation, config().padding) == ("keras", "same")


def test_arms_say_in_what_they_differ():
    """Their values are the class's defaults, which a row must name all the same, as the preset's are others."""
    assert "padding" not in published().setting(TASK.PRESETS)
    arm = published("--padding", "same", "--initialisation", "keras")
    assert set(arm.setting(TASK.PRESETS).split()) >= {"padding=same", "initialisation=keras"}
    assert arm.name() != published().name()


def test_the_padded_cnn_takes_the_mean_over_the_image():
    model = TASK.build(config(), TASK.permutation(28, 1, 0), letters())
    widths = (1, 64, 128, 256, 512)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [c.kernel.shape for c in convolutions] == [(3, 3, *pair) for pair in itertools.pairwise(widths)]
    assert [c.output.shape[1:3] for c in convolutions] == [(28, 28), (28, 28), (14, 14), (7, 7)]
    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert [p.output.shape[1:] for p in pools] == [(14, 14, 128), (7, 7, 256), (3, 3, 512)]
    assert isinstance(model.layers[-2], keras.layers.GlobalAveragePooling2D)
    assert model.get_layer("head").input.shape == (None, 512)
    assert model.output.shape == (None, 10)
    # 3 * 3 * in * out weights and out biases; 4 numbers a channel of the normalisation; 512 * 10 + 10.
    assert model.count_params() == 640 + 4 * 64 + 73_856 + 295_168 + 1_180_160 + 5_130
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == model.count_params() - 2 * 64


@pytest.mark.parametrize("make", [config, published])
def test_normalisation_comes_between_the_first_convolution_and_its_relu(make):
    model = TASK.build(make(), TASK.permutation(28, 1, 0), letters())
    kinds = [type(layer).__name__ for layer in model.layers]
    first = kinds.index("Conv2D")
    assert kinds[first : first + 4] == ["Conv2D", "BatchNormalization", "ReLU", "Conv2D"]
    assert model.layers[first].activation is keras.activations.linear
    assert kinds.count("BatchNormalization") == 1
    assert {c.activation for c in model.layers[first + 3 :] if isinstance(c, keras.layers.Conv2D)} == {
        keras.activations.relu
    }


def test_training_is_that_of_the_source():
    (phase,) = TASK.PRESETS["permuted"].phases
    assert (phase.optimizer, phase.rate, phase.momentum, phase.epochs) == ("sgd", 0.01, 0.5, 20)
    assert (TASK.PRESETS["permuted"].batch_size, TASK.PRESETS["permuted"].dataset) == (64, "notmnist")


# --- the control


def perceptrons(data):
    """One that sees the images as they are, and one whose images and first weights are permuted alike."""
    order = TASK.permutation(28, 1, seed=0)
    plain, permuted = (TASK.build(config("--network", "mlp"), o, data) for o in (WHOLE, order))
    kernel, *rest = plain.get_weights()
    permuted.set_weights([kernel[order], *rest])
    return plain, permuted, order


def test_the_perceptron_has_two_hidden_layers():
    plain, _, _ = perceptrons(letters())
    assert [w.shape for w in plain.get_weights()] == [(784, 512), (512,), (512, 512), (512,), (512, 10), (10,)]


def test_the_perceptron_does_not_care():
    """Permuted images with the first weights permuted alike: the same outputs, before training and after."""
    data = letters()
    images = pipeline.pictures(data.train, np.arange(40))
    plain, permuted, order = perceptrons(data)
    np.testing.assert_allclose(permuted(images), plain(images), atol=1e-5)
    for model in (plain, permuted):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.5), loss)
        for _ in range(3):
            model.train_on_batch(images, data.train.labels)
    moved = np.abs(plain.get_weights()[0][order] - perceptrons(data)[0].get_weights()[0][order]).max()
    assert moved > 1e-3
    np.testing.assert_allclose(permuted.get_weights()[0], plain.get_weights()[0][order], atol=1e-5)
    np.testing.assert_allclose(permuted(images), plain(images), atol=1e-4)


def test_the_convolutions_care():
    data = letters()
    images = pipeline.pictures(data.train, np.arange(8))
    plain, permuted = (TASK.build(config(), o, data) for o in (WHOLE, TASK.permutation(28, 1, 0)))
    permuted.set_weights(plain.get_weights())
    assert np.abs(np.asarray(permuted(images)) - np.asarray(plain(images))).max() > 1e-3


# --- the run


def test_metrics_hold_the_permutation_and_all_three_splits(tmp_path):
    flags = ["--network", "mlp", "--block", "2", "--seed", "5", "--epochs", "1", "--limit-train", "120"]
    assert call(tmp_path, *flags) == 0
    (folder,) = tmp_path.glob("*/*")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["permutation"] == TASK.permutation(8, 2, 5).tolist()
    assert {split: metrics[split]["n"] for split in ("train", "validation", "test")} == {
        "train": 108,
        "validation": 12,
        "test": 360,
    }
    assert {path.stem for path in folder.glob("figures/*.png")} >= {"images", "learning_curves"}
    setting = json.loads((folder / "config.json").read_text())["setting"]
    assert set(setting.split()) >= {"dataset=digits", "network=mlp", "block=2"}
