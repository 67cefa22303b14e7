"""Augmentation against NumPy, SciPy, the standard library and KerasCV, on photographs."""

import colorsys

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from keras import ops
from sklearn.datasets import load_sample_image

from common.augment import AUGMENTATIONS
from common.augment.host import host_augment, keras_cv
from common.augment.layer import Augment, as_one_kernel
from common.augment.recipes import Recipe
from common.backbones import networks
from common.errors import ConfigError

# Grey levels out of 255. Device and KerasCV differ by 0.0045 at most and 0.00005 on average, device and the references
# in double precision by 0.0002 at most, with either backend: single precision, times the steps between pixels.
TOLERANCE = 0.01

RECIPES = {name: AUGMENTATIONS.load(name) for name in AUGMENTATIONS}

# Every change on its own, so that none hides behind another.
PARTS = {
    "flip": Recipe(flip_horizontal=0.5, flip_vertical=0.5),
    "crop": Recipe(crop_padding=1 / 8),
    "rotation": Recipe(rotation=30.0),
    "translation": Recipe(translation=0.2),
    "scale": Recipe(scale=(0.7, 1.5)),
    "shear": Recipe(shear=20.0),
    "brightness": Recipe(jitter=1.0, brightness=0.5),
    "contrast": Recipe(jitter=1.0, contrast=0.5),
    "saturation": Recipe(jitter=1.0, saturation=0.5),
    "hue": Recipe(jitter=1.0, hue=0.5),
    "blur": Recipe(blur=1.0),
}


def photos(n, height, width, zoom=1):
    """Crops of scikit-learn's two photographs, `zoom` times reduced: float32, whole numbers."""
    rng = np.random.default_rng(0)
    pictures = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    crops = []
    for i in range(n):
        picture = pictures[i % 2]
        y = rng.integers(picture.shape[0] - height * zoom)
        x = rng.integers(picture.shape[1] - width * zoom)
        crop = picture[y : y + height * zoom, x : x + width * zoom]
        crops.append(crop.reshape(height, zoom, width, zoom, 3).mean((1, 3)).round())
    return np.stack(crops).astype("float32")


def draw(recipe, n, seed=0):
    rng = np.random.default_rng(seed)
    return recipe.sample(lambda shape, low, high: rng.uniform(low, high, shape).astype("float32"), n)


def on_device(recipe, images, params):
    params = {name: ops.convert_to_tensor(values) for name, values in params.items()}
    return ops.convert_to_numpy(recipe.apply(ops.convert_to_tensor(images), params))


def on_host(recipe, images, params):
    params = {name: tf.constant(values) for name, values in params.items()}
    return keras_cv(recipe)(tf.constant(images), params).numpy()


def set_params(recipe, n=1, **values):
    """Parameters of a recipe whose draws are replaced by given values."""
    params = draw(recipe, n)
    return params | {name: np.full(n, value, params[name].dtype) for name, value in values.items()}


def register(patch, name, recipe):
    """Let a recipe be known by a name, as a task does with its own."""
    patch.setitem(globals(), f"made_{name}", recipe)
    patch.setitem(AUGMENTATIONS, name, f"{__name__}:made_{name}")


def test_the_command_line_offers_these_recipes():
    assert tuple(AUGMENTATIONS) == ("none", "flip_crop", "affine_colour_blur")
    assert all(isinstance(recipe, Recipe) for recipe in RECIPES.values())


@pytest.mark.parametrize(
    ("recipe", "side"),
    [
        pytest.param(recipe, side, id=f"{name}-{side}")
        for side, recipes in ((32, PARTS | RECIPES), (96, RECIPES))
        for name, recipe in recipes.items()
    ],
)
def test_device_and_keras_cv_make_the_same_pictures(recipe, side):
    images = photos(24, side, side, zoom=192 // side)
    params = draw(recipe, len(images))
    changed = on_device(recipe, images, params)
    np.testing.assert_allclose(changed, on_host(recipe, images, params), rtol=0, atol=TOLERANCE)
    assert changed.min() >= -TOLERANCE
    assert changed.max() <= 255 + TOLERANCE
    # Nothing would be compared if nothing changed.
    assert (recipe == Recipe()) == np.array_equal(changed, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_device_and_keras_cv_agree_off_the_square(channels):
    images = photos(24, 24, 40, zoom=4)[..., :channels]
    recipe = RECIPES["affine_colour_blur"]
    params = draw(recipe, len(images))
    changed = on_device(recipe, images, params)
    np.testing.assert_allclose(changed, on_host(recipe, images, params), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (28, 28, 1), (24, 40, 3)])
def test_flips_and_crops_are_exact(height, width, channels):
    images = photos(64, height, width)[..., :channels]
    recipe = RECIPES["flip_crop"]
    params = draw(recipe, len(images))
    changed = on_device(recipe, images, params)
    room = {28: 4, 24: 3, 32: 4, 40: 5}  # an eighth of the side, rounded
    y, x = room[height], room[width]
    tops = set()
    for i, image in enumerate(images):
        expected = image[:, ::-1] if params["flip_x"][i] else image
        expected = np.pad(expected, ((y, y), (x, x), (0, 0)))
        top, left = int(params["crop_y"][i] * (2 * y + 1)), int(params["crop_x"][i] * (2 * x + 1))
        np.testing.assert_array_equal(changed[i], expected[top : top + height, left : left + width])
        tops.add(top)
    assert tops == set(range(2 * y + 1))


def test_flips_are_left_right_and_upside_down():
    images = photos(1, 8, 12)
    flipped = on_device(PARTS["flip"], images, set_params(PARTS["flip"], flip_x=True, flip_y=False))
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])
    flipped = on_device(PARTS["flip"], images, set_params(PARTS["flip"], flip_x=False, flip_y=True))
    np.testing.assert_array_equal(flipped, images[:, ::-1])


def test_directions():
    images = photos(1, 32, 32)

    def affine(**values):
        neutral = {"angle": 0, "shift_x": 0, "shift_y": 0, "scale": 1, "shear": 0}
        return on_device(Recipe(rotation=1.0), images, set_params(Recipe(), **neutral | values))[0]

    np.testing.assert_allclose(affine(angle=90), np.rot90(images[0], -1), atol=TOLERANCE)  # clockwise
    right, down = np.zeros_like(images[0]), np.zeros_like(images[0])
    right[:, 4:], down[4:] = images[0, :, :-4], images[0, :-4]
    np.testing.assert_array_equal(affine(shift_x=4 / 32), right)
    np.testing.assert_array_equal(affine(shift_y=4 / 32), down)
    assert np.all(affine(scale=0.5)[:7] == 0)  # smaller: a wide black border
    leaning = affine(shear=45)
    assert np.all(leaning[0, :14] == 0)  # the top moves right,
    assert np.all(leaning[-1, -14:] == 0)  # the bottom left


def test_affine_map_against_scipy():
    images = photos(16, 24, 40)
    recipe = Recipe(rotation=10.0, translation=0.1, scale=(0.9, 1.1), shear=10.0)
    params = draw(recipe, len(images))
    changed = on_device(recipe, images, params)
    centre = np.array([39 / 2, 23 / 2])
    for i, image in enumerate(images):
        angle, shear = np.radians(params["angle"][i]), np.radians(params["shear"][i])
        # From the image to the result, (x, y), as torchvision's affine documents it.
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        back = np.linalg.inv(params["scale"][i] * turn @ [[1, -np.tan(shear)], [0, 1]])
        shift = np.array([params["shift_x"][i] * 40, params["shift_y"][i] * 24])
        offset = centre - back @ (centre + shift)
        for channel in range(3):
            expected = scipy.ndimage.affine_transform(
                image[..., channel].T.astype("float64"), back, offset, order=1, mode="grid-constant"
            ).T
            np.testing.assert_allclose(changed[i, ..., channel], expected, rtol=0, atol=TOLERANCE)


def grey(image):
    return image @ np.array([0.2989, 0.587, 0.114])


def turn_hue(image, turns):
    hsv = (colorsys.rgb_to_hsv(*pixel / 255) for pixel in image.reshape(-1, 3))
    return 255 * np.array([colorsys.hsv_to_rgb((h + turns) % 1, s, v) for h, s, v in hsv]).reshape(image.shape)


COLOURS = {
    "brightness": lambda x, factor: x * factor,
    "contrast": lambda x, factor: factor * x + (1 - factor) * grey(x).mean(),
    "saturation": lambda x, factor: factor * x + (1 - factor) * grey(x)[..., None],
    "hue": turn_hue,
}


@pytest.mark.parametrize("name", COLOURS)
def test_each_colour_change_against_numpy(name):
    images = photos(8, 16, 16)
    params = draw(PARTS[name], len(images))
    changed = on_device(PARTS[name], images, params)
    for i, image in enumerate(images.astype("float64")):
        expected = np.clip(COLOURS[name](image, params[name][i]), 0, 255)
        np.testing.assert_allclose(changed[i], expected, rtol=0, atol=TOLERANCE)


def test_colours_change_in_the_order_of_their_names():
    images = photos(8, 16, 16)
    recipe = Recipe(jitter=1.0, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    params = draw(recipe, len(images))
    changed = on_device(recipe, images, params)
    for i, image in enumerate(images.astype("float64")):
        for name, change in COLOURS.items():
            image = np.clip(change(image, params[name][i]), 0, 255)
        np.testing.assert_allclose(changed[i], image, rtol=0, atol=TOLERANCE)


def test_grey_images_change_in_brightness_and_contrast_only():
    images = photos(8, 16, 16)[..., :1]
    recipe = Recipe(jitter=1.0, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    params = draw(recipe, len(images))
    brightness, contrast = params["brightness"][:, None, None, None], params["contrast"][:, None, None, None]
    expected = np.clip(images.astype("float64") * brightness, 0, 255)
    mean = expected.mean((1, 2, 3), keepdims=True)
    expected = np.clip(mean + contrast * (expected - mean), 0, 255)
    np.testing.assert_allclose(on_device(recipe, images, params), expected, rtol=0, atol=TOLERANCE)


def test_blur_against_scipy():
    images = photos(8, 16, 20)
    params = draw(PARTS["blur"], len(images))
    changed = on_device(PARTS["blur"], images, params)
    for i, image in enumerate(images.astype("float64")):
        kernel = np.exp(-0.5 * (np.arange(-1, 2) / float(params["sigma"][i])) ** 2)
        for axis in (0, 1):
            image = scipy.ndimage.convolve1d(image, kernel / kernel.sum(), axis=axis, mode="mirror")
        np.testing.assert_allclose(changed[i], image, rtol=0, atol=TOLERANCE)


def test_images_not_chosen_stay_exact():
    recipe = Recipe(jitter=0.5, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5, blur=0.5, blur_sigma=(0.5, 2.0))
    images = photos(64, 16, 16)
    params = draw(recipe, len(images))
    changed = on_device(recipe, images, params)
    same = np.all(changed == images, axis=(1, 2, 3))
    np.testing.assert_array_equal(same, ~(params["jitter"] | params["blur"]))
    assert 0 < same.sum() < len(images)


def test_parameters_have_the_stated_ranges_and_probabilities():
    n = 4000
    seeds = keras.random.SeedGenerator(0)
    draws = RECIPES["affine_colour_blur"].sample(
        lambda shape, low, high: keras.random.uniform(shape, low, high, seed=seeds), n
    )
    draws = {name: ops.convert_to_numpy(values) for name, values in draws.items()}
    for name, probability in {"flip_x": 0.3, "flip_y": 0.3, "jitter": 0.5, "blur": 0.5}.items():
        sigma = np.sqrt(probability * (1 - probability) / n)
        assert draws[name].dtype == bool
        assert abs(draws.pop(name).mean() - probability) < 4 * sigma, name
    ranges = {
        "crop_x": (0, 1),
        "crop_y": (0, 1),
        "angle": (-10, 10),
        "shift_x": (-0.1, 0.1),
        "shift_y": (-0.1, 0.1),
        "scale": (0.9, 1.1),
        "shear": (-10, 10),
        "brightness": (0.75, 1.25),
        "contrast": (0.75, 1.25),
        "saturation": (0.75, 1.25),
        "hue": (-0.1, 0.1),
        "sigma": (0.1, 2.0),
    }
    assert set(draws) == set(ranges)
    for name, (low, high) in ranges.items():
        values, width = draws[name], high - low
        assert low - 1e-6 <= values.min() < low + 0.01 * width, name
        assert high - 0.01 * width < values.max() <= high + 1e-6, name
        assert abs(values.mean() - (low + high) / 2) < 4 * width / np.sqrt(12 * n), name
    # No parameter repeats another's draws.
    correlations = np.corrcoef([draws[name] for name in ranges]) - np.eye(len(ranges))
    assert np.abs(correlations).max() < 5 / np.sqrt(n)


def test_the_recipes_of_the_sources():
    assert (RECIPES["flip_crop"].flip_horizontal, RECIPES["flip_crop"].crop_padding) == (0.5, 4 / 32)
    assert RECIPES["flip_crop"].at_input() == Recipe(flip_horizontal=0.5, crop_padding=4 / 224)
    assert RECIPES["affine_colour_blur"].at_input() == RECIPES["affine_colour_blur"]
    assert RECIPES["none"] == RECIPES["none"].at_input() == Recipe()


def resized(image, side):
    """Bilinear with the centres of pixels half a step in, by SciPy in double precision."""
    y, x = ((np.arange(side) + 0.5) * length / side - 0.5 for length in image.shape[:2])
    grid = np.meshgrid(y, x, indexing="ij")
    channels = np.moveaxis(image.astype("float64"), -1, 0)
    return np.stack([scipy.ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in channels], axis=-1)


def drawn(recipe, n, seed):
    """The parameters that a new layer of this seed draws first."""
    seeds = keras.random.SeedGenerator(seed)
    params = recipe.sample(lambda shape, low, high: keras.random.uniform(shape, low, high, seed=seeds), n)
    return {name: ops.convert_to_numpy(values) for name, values in params.items()}


def seen(recipe, at, images, side, seed=3):
    """What a backbone's network sees of images in training, before they are normalised: the models' own layers."""

    def network(x):
        return x

    network.input_shape = (None, side, side, 3)
    backbone = networks.Backbone("identity", network, keras.layers.Identity(dtype="float32"), 3, lambda name: "stem")
    inputs = keras.Input(images.shape[1:], dtype="uint8")
    layer = Augment(recipe, seed, at)
    outputs = backbone.extract(inputs, augment=layer) if at == "input" else backbone.extract(layer(inputs))
    return ops.convert_to_numpy(keras.Model(inputs, outputs)(images, training=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("at", "side", "room"), [("input", 224, 4), ("input", 96, 2), ("input", 64, 1), ("input", 32, 1), ("native", 96, 4)]
)
def test_flip_and_crop_after_or_before_the_resize(at, side, room, channels):
    images = photos(40, 32, 32)[..., :channels].astype("uint8")
    recipe = RECIPES["flip_crop"]
    params = drawn(recipe.at_input() if at == "input" else recipe, len(images), seed=3)
    found = seen("flip_crop", at, images, side)
    assert found.shape == (len(images), side, side, 3)
    moves = set()
    for i, image in enumerate(images):
        expected = resized(image, side) if at == "input" else image
        expected = expected[:, ::-1] if params["flip_x"][i] else expected
        y, x = (int(params[name][i] * (2 * room + 1)) - room for name in ("crop_y", "crop_x"))
        moves |= {y, x}
        expected = np.pad(expected, ((room, room), (room, room), (0, 0)))
        expected = expected[room + y :, room + x :][: len(image) if at == "native" else side]
        expected = expected[:, : len(expected)]
        expected = expected if at == "input" else resized(expected, side)
        np.testing.assert_allclose(found[i], np.broadcast_to(expected, found[i].shape), rtol=0, atol=TOLERANCE)
    assert moves == set(range(-room, room + 1))


def test_the_blur_has_three_taps_of_the_pixels_that_the_network_sees(monkeypatch):
    register(monkeypatch, "blur", PARTS["blur"])
    images = photos(6, 32, 32).astype("uint8")
    params = drawn(PARTS["blur"], len(images), seed=3)
    found = seen("blur", "input", images, 224)
    for i, image in enumerate(images):
        expected = resized(image, 224)
        kernel = np.exp(-0.5 * (np.arange(-1, 2) / float(params["sigma"][i])) ** 2)
        for axis in (0, 1):
            expected = scipy.ndimage.convolve1d(expected, kernel / kernel.sum(), axis=axis, mode="mirror")
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=TOLERANCE)


def test_the_blur_is_far_weaker_after_the_resize(monkeypatch):
    register(monkeypatch, "blur", Recipe(blur=1.0, blur_sigma=(1.0, 1.0)))
    images = photos(6, 32, 32, zoom=4).astype("uint8")
    plain = np.stack([resized(image, 224) for image in images])
    lost = {at: np.abs(seen("blur", at, images, 224) - plain).mean() for at in ("native", "input")}
    assert lost["native"] > 20 * lost["input"]


def state_of(layer):
    return ops.convert_to_numpy(ops.copy(layer.variables[0]))


def run(layer, images, training=True):
    return ops.convert_to_numpy(layer(ops.convert_to_tensor(images), training=training))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles the whole of a step")
@pytest.mark.parametrize("name", ["flip_crop", "affine_colour_blur"])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_one_kernel_the_pictures_are_the_same(name, channels):
    images = photos(16, 32, 40)[..., :channels]
    params = {key: ops.convert_to_tensor(values) for key, values in draw(RECIPES[name], 16).items()}
    compiled = as_one_kernel(RECIPES[name].apply)(ops.convert_to_tensor(images), params)
    plain = on_device(RECIPES[name], images, params)
    np.testing.assert_allclose(ops.convert_to_numpy(compiled), plain, rtol=0, atol=1e-2)
    if name == "flip_crop":
        np.testing.assert_array_equal(ops.convert_to_numpy(compiled), plain)


@pytest.mark.parametrize("recipe", ["flip_crop", "affine_colour_blur"])
def test_images_of_a_batch_differ(recipe):
    images = np.repeat(photos(1, 32, 32), 8, axis=0).astype("uint8")
    changed = run(Augment(recipe, seed=0), images)
    assert len(np.unique(changed, axis=0)) == 8


def test_the_generators_state_decides_the_pictures():
    images = photos(8, 32, 32).astype("uint8")
    layer = Augment("affine_colour_blur", seed=3)
    first = run(layer, images)
    state = state_of(layer)
    second = run(layer, images)
    assert not np.array_equal(first, second)
    layer.variables[0].assign(state)
    np.testing.assert_array_equal(run(layer, images), second)
    np.testing.assert_array_equal(run(Augment("affine_colour_blur", seed=3), images), first)
    assert not np.array_equal(run(Augment("affine_colour_blur", seed=4), images), first)


def test_inference_only_casts_and_draws_nothing():
    images = photos(4, 32, 32).astype("uint8")
    layer = Augment("affine_colour_blur", seed=0)
    state = state_of(layer)
    same = run(layer, images, training=False)
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(run(Augment("none", seed=0), images), images)
    np.testing.assert_array_equal(state_of(layer), state)


compiled_or_not = pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX compiles the whole of a step")


@pytest.mark.parametrize("jit_compile", [pytest.param(False, marks=compiled_or_not), True])
def test_a_compiled_model_trains_and_holds_the_state(jit_compile):
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    layer = Augment("affine_colour_blur", seed=0)
    outputs = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    model = keras.Model(inputs, outputs)
    assert any(variable is layer.variables[0] for variable in model.variables)
    model.compile(optimizer="sgd", loss="mse", jit_compile=jit_compile)
    before = state_of(layer)
    images = photos(6, 16, 16).astype("uint8")
    model.fit(images, np.zeros((6, 1)), batch_size=4, verbose=0)  # a full batch and the rest
    assert not np.array_equal(state_of(layer), before)
    # Called as the loop calls it in evaluation, it leaves the images alone.
    bare = keras.Model(inputs, layer.output)
    np.testing.assert_array_equal(bare.predict(images, verbose=0), images)


def test_a_copy_from_its_config_repeats_it():
    images = photos(4, 32, 32).astype("uint8")
    pictures = []
    for at in ("native", "input"):
        layer = Augment("flip_crop", seed=5, at=at)
        pictures.append(run(layer, images))
        np.testing.assert_array_equal(run(Augment.from_config(layer.get_config()), images), pictures[-1])
    assert not np.array_equal(*pictures)
    np.testing.assert_array_equal(run(Augment("flip_crop", seed=5), images), pictures[0])


@pytest.fixture
def mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(policy)


def test_half_precision_leaves_the_device_in_float32(mixed_precision):
    images = photos(8, 32, 32).astype("uint8")
    half = run(Augment("affine_colour_blur", seed=0), images)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    assert Augment("affine_colour_blur", seed=0)(inputs, training=True).dtype == "float32"
    np.testing.assert_array_equal(run(Augment("none", seed=0), images + np.float32(0.1)), images + np.float32(0.1))
    keras.config.set_dtype_policy("float32")
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, run(Augment("affine_colour_blur", seed=0), images))


def test_half_precision_leaves_the_host_in_float32(mixed_precision):
    images, seed = photos(8, 32, 32).astype("uint8"), tf.constant([0, 0], tf.int64)
    half = host_augment("affine_colour_blur", 0)(images, seed).numpy()
    keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(half, host_augment("affine_colour_blur", 0)(images, seed).numpy())


@pytest.mark.parametrize("recipe", RECIPES)
def test_host_pictures_depend_on_seed_epoch_and_step_alone(recipe):
    images = photos(12, 32, 32).astype("uint8")
    change = host_augment(recipe, seed=1)
    epoch = tf.constant(7, tf.int64)
    steps = tf.data.Dataset.from_tensor_slices(images).batch(4).enumerate()
    steps = steps.map(lambda step, batch: change(batch, tf.stack([epoch, step])), num_parallel_calls=2)
    _, _, third = steps.as_numpy_iterator()
    assert third.shape == (4, 32, 32, 3)
    assert third.dtype == np.uint8

    # A batch on its own, in another order and by a new function, as after a resume.
    def alone(seed, epoch, step):
        return host_augment(recipe, seed)(tf.constant(images[8:]), tf.constant([epoch, step], tf.int64)).numpy()

    np.testing.assert_array_equal(alone(1, 7, 2), third)
    for other in (alone(0, 7, 2), alone(1, 8, 2), alone(1, 7, 1)):
        assert np.array_equal(other, third) == (recipe == "none")


def test_host_pictures_are_those_of_the_device_rounded():
    images = photos(16, 32, 32)
    fixed = []

    class Recorder(Recipe):
        def sample(self, uniform, n):
            fixed.append(super().sample(uniform, n))
            return fixed[-1]

    recipe = Recorder(**vars(RECIPES["affine_colour_blur"]))
    with pytest.MonkeyPatch.context() as patch:
        register(patch, "recorder", recipe)
        rounded = host_augment("recorder", 0)(images.astype("uint8"), tf.constant([0, 0], tf.int64)).numpy()
    params = {name: values.numpy() for name, values in fixed[0].items()}
    assert not np.any(params["crop_x"] == params["crop_y"])  # every parameter has draws of its own
    np.testing.assert_allclose(on_device(recipe, images, params), rounded, rtol=0, atol=0.5 + TOLERANCE)


def test_host_needs_no_global_generator(monkeypatch):
    def refuse():
        raise RuntimeError("not allowed when determinism is enabled")

    monkeypatch.setattr(tf.random, "get_global_generator", refuse)
    host_augment("affine_colour_blur", 0)


@pytest.mark.parametrize("make", [Augment, host_augment])
def test_an_unknown_recipe_lists_the_known_ones(make):
    with pytest.raises(ConfigError, match=r"'blur'; allowed: none, flip_crop, affine_colour_blur$"):
        make("blur", 0)


@pytest.mark.parametrize("recipe", ["flip_crop", "affine_colour_blur"])
def test_images_may_change_in_size_from_one_phase_to_the_next(recipe):
    """Each size as if it were the only one: TensorFlow's functions would forget a size that changes."""
    rng = np.random.default_rng(0)
    pictures = [rng.uniform(0, 255, (2, side, side, 3)).astype("float32") for side in (16, 24, 16)]
    layer = Augment(recipe, 7, "input")
    changed = [np.asarray(layer(images, training=True)) for images in pictures]
    for number, images in enumerate(pictures):
        alone = Augment(recipe, 7, "input")
        for _ in range(number):  # so many draws have gone before
            alone(pictures[number], training=True)
        np.testing.assert_array_equal(changed[number], np.asarray(alone(images, training=True)))
