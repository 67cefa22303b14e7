"""Cached activations of frozen layers: the same training as without, faster; views; files; what is refused."""

import dataclasses
import functools
import gc
import signal
import weakref

import keras
import numpy as np
import pytest

from common import checkpoints, features, runs, setup
from common.augment.layer import Augment
from common.backbones import STAGES, networks
from common.data import pipeline, sources, splits
from common.devices import Devices
from common.errors import ConfigError
from common.files import StorageError
from common.fine_tuning import FineTuning
from common.objective import CrossEntropy, Objective
from common.phase import Phase
from common.stopping import Interrupted
from common.trainer import Trainer
from slurm.plan import load_task

PHASES = (
    Phase("head", epochs=2, optimizer="adam", rate=1e-3),
    Phase("last_block", epochs=2, optimizer="nadam", rate=1e-3, clip_norm=1.0),
)
TRAINABLE = {"head": (), "last_block": ("layer4",)}
DROPOUT = {"head": 0.3, "last_block": 0.2}


pytestmark = pytest.mark.usefixtures("float32_afterwards")


@pytest.fixture(scope="module")
def data():
    return sources.load(FineTuning(dataset="digits", limit_train=100))


def build(config, backbone, recipe="none", at="native"):
    """A model of digits; without a recipe at all (None) it has no layer for one."""
    image = keras.Input((8, 8, 1), dtype="uint8", name="image")
    augment = Augment(recipe, config.seed, at, name="augment") if recipe else None
    x = backbone.extract(augment(image)) if augment and at == "native" else backbone.extract(image, augment=augment)
    x = keras.layers.Dropout(0.5, seed=config.seed, name="dropout")(x)
    return keras.Model(image, keras.layers.Dense(10, dtype="float32", name="head")(x))


def train(out, data, recipe="none", views=0, at="native", stop_after=None, make=Trainer, **fields):
    """Open, train or resume; the run, its model, its progress, and the cuts that were made."""
    config = FineTuning(preset="test", dataset="digits", out=out, batch_size=32, image_size=32, **fields)
    keras.utils.clear_session(free_memory=False)
    setup.set_up(config, Devices())
    backbone = networks.build(config.backbone, 32)
    model = build(config, backbone, recipe, at)
    cuts = []
    with runs.open_run(config, "test", "") as run:

        def configure(phase):
            backbone.set_trainable(TRAINABLE[phase.name])
            model.get_layer("dropout").rate = DROPOUT[phase.name]

        def cut(phase):
            if phase.name == stop_after:
                run.stop.signal = signal.SIGTERM
            cuts.append(features.cut(config, phase, model, backbone, data, recipe != "none" and not views, views))
            return cuts[-1]

        trainer = make(run, model, data, configure=configure, cut=cut)
        trainer.fit(PHASES)
        return run, model, trainer.progress, cuts


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def variables(model):
    return checkpoints.gather("model", model.variables)


@pytest.fixture(scope="module")
def uncached(tmp_path_factory, data):
    return train(tmp_path_factory.mktemp("off"), data, cache_features="off")


@pytest.mark.parametrize(("gigabytes", "at"), [(1.0, "native"), (1e-6, "native"), (1.0, "input")])
def test_training_is_the_same_bit_for_bit(tmp_path, data, uncached, gigabytes, at, capsys):
    _, expected_model, expected, none = uncached
    run, model, progress, cuts = train(tmp_path, data, at=at, cache_features="on", cache_gigabytes=gigabytes)
    assert none == [None, None]
    assert [cut.on_disk for cut in cuts] == [gigabytes < 1] * 2
    assert [cut.lower.output_shape[1:] for cut in cuts] == [(512,), (2, 2, 256)]
    assert untimed(progress.rows) == untimed(expected.rows)
    assert progress.best == expected.best  # names hold the digests of all weights
    for name, array in variables(expected_model).items():
        np.testing.assert_array_equal(array, variables(model)[name], err_msg=name)
    assert not (run.folder / features.FOLDER).exists()
    assert f"computed once, kept {'on disk' if gigabytes < 1 else 'in memory'}" in capsys.readouterr().out


@pytest.mark.parametrize(("recipe", "views", "at"), [("none", 0, "native"), ("flip_crop", 2, "native")])
def test_stopped_in_the_middle_of_a_cached_epoch_and_resumed(tmp_path, data, tiny_backbone, recipe, views, at):
    fields = {"backbone": tiny_backbone}
    _, whole, expected, _ = train(tmp_path / "whole", data, recipe, views, at, **fields)
    stopped = {"stop_after": "last_block", "cache_gigabytes": 1e-6, "cache_features": "on"}
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", data, recipe, views, at, **fields, **stopped)
    assert not list(tmp_path.glob(f"parts/*/*/{features.FOLDER}"))
    _, resumed, progress, cuts = train(tmp_path / "parts", data, recipe, views, at, **fields)
    assert cuts[-1] is not None  # the phase that goes on is cached
    assert untimed(progress.rows) == untimed(expected.rows)
    for name, array in variables(whole).items():
        np.testing.assert_array_equal(array, variables(resumed)[name], err_msg=name)


def test_a_loss_of_ones_own_is_measured_though_only_a_part_was_trained(tmp_path, data, tiny_backbone, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PHASES", PHASES[:1])
    made = []

    def make(*arguments, **more):
        made.append(Trainer(*arguments, objective=Objective(CrossEntropy(0.1), reported="loss"), **more))
        return made[-1]

    losses = []
    for cached in ("off", "on"):
        train(tmp_path / cached, data, backbone=tiny_backbone, cache_features=cached, make=make)
        losses.append(made[-1].evaluate().metrics["test"]["loss"])
    assert losses[0] == losses[1]


def test_nothing_is_computed_once_of_images_that_a_transform_changes(tmp_path, data, tiny_backbone):
    seen = []

    def transform(images, labels, batch_seed):
        seen.append(images.shape[1:])
        return images, labels

    *_, cuts = train(tmp_path, data, backbone=tiny_backbone, make=functools.partial(Trainer, transform=transform))
    assert cuts == []
    assert set(seen) == {(8, 8, 1)}  # images, not activations


@pytest.mark.parametrize(
    ("name", "stages", "shape"),
    [
        ("resnet18", (), (512,)),
        ("resnet18", ("layer4",), (4, 4, 256)),
        ("resnet18", ("layer2", "layer3", "layer4"), (16, 16, 64)),
        ("resnet50", ("layer3", "layer4"), (8, 8, 512)),
        ("mobilenet_v2", (), (1280,)),
        ("mobilenet_v2", ("layer4",), (4, 4, 96)),
        ("mobilenet_v2", ("layer2",), (16, 16, 24)),
    ],
)
def test_the_two_parts_are_the_model(data, name, stages, shape):
    config = FineTuning(backbone=name, image_size=64)
    backbone = networks.build(name, 64)
    model = build(config, backbone)
    backbone.set_trainable(stages)
    part = features.cut(config, PHASES[0], model, backbone, data)
    images = pipeline.pictures(data.train, np.arange(4))
    assert part.lower.output_shape[1:] == shape
    whole = model.predict_on_batch(images)
    parts = part.upper.predict_on_batch(part.lower.predict_on_batch(images))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)
    assert not part.lower.trainable_variables
    assert [v.path for v in part.upper.trainable_variables] == [v.path for v in model.trainable_variables]


def test_a_network_whose_images_change_in_size_is_not_cut(data, capsys):
    backbone = networks.build("resnet18", 64, any_size=True)
    image = keras.Input((8, 8, 1), dtype="uint8", name="image")
    model = keras.Model(image, keras.layers.Dense(10, name="head")(backbone.extract(image, 64)))
    backbone.set_trainable(("layer4",))
    said = "phase head: nothing is computed once, as the phases differ in image size\n"
    for asked, printed in (("auto", ""), ("on", said)):
        config = FineTuning(image_size=64, cache_features=asked)
        assert features.cut(config, PHASES[0], model, backbone, data) is None
        assert capsys.readouterr().out == printed


@pytest.mark.parametrize("regime", ["layer", "keep", "follow"])
def test_a_network_that_follows_the_batches_is_not_cut(data, regime):
    config = FineTuning(image_size=32, batch_norm=regime)
    backbone = networks.build("resnet18", 32)
    model = build(config, backbone)
    backbone.set_trainable((), regime)
    part = features.cut(config, PHASES[0], model, backbone, data)
    assert (part is None) == (regime == "follow")


@pytest.mark.parametrize("stages", [("stem",), ("layer1", "layer2"), STAGES])
def test_a_network_that_is_trained_from_its_beginning_is_not_cut(data, stages):
    config = FineTuning(cache_features="on", image_size=32)
    backbone = networks.build("resnet18", 32)
    model = build(config, backbone)
    backbone.set_trainable(stages)
    assert features.cut(config, PHASES[0], model, backbone, data) is None


def test_auto_caches_what_pays_and_fits(data, capsys):
    auto = FineTuning(image_size=32)
    backbone = networks.build("resnet18", 32)
    model = build(auto, backbone)
    backbone.set_trainable(())

    def is_cut(changing=False, epochs=2, **fields):
        config = dataclasses.replace(auto, **fields)
        phase = dataclasses.replace(PHASES[0], epochs=epochs)
        return features.cut(config, phase, model, backbone, data, changing) is not None

    assert is_cut()
    assert not is_cut(epochs=1)
    assert is_cut(epochs=1, cache_features="on")
    assert not is_cut(cache_features="off")
    assert not is_cut(changing=True)
    assert not is_cut(devices=2)
    capsys.readouterr()
    assert not is_cut(cache_gigabytes=1e-6)
    assert "take 0 MB, above --cache-gigabytes 1e-06; computed again in every epoch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("precision", "gigabytes", "at"),
    [
        ("float32", 1.0, "native"),
        ("mixed_float16", 1.0, "native"),
        ("mixed_bfloat16", 1.0, "native"),
        ("mixed_float16", 1e-6, "native"),  # on disk; float32 is so in other tests
        ("mixed_bfloat16", 1e-6, "native"),
        ("float32", 1.0, "input"),
    ],
)
def test_views_are_those_of_the_augmentation(tmp_path, data, precision, gigabytes, at):
    config = FineTuning(out=tmp_path, batch_size=32, image_size=32, precision=precision, cache_gigabytes=gigabytes)
    config = dataclasses.replace(config, cache_features="on", seed=5)
    setup.set_up(config, Devices())
    backbone = networks.build("resnet18", 32)
    model = build(config, backbone, "flip_crop", at)
    backbone.set_trainable(())
    part = features.cut(config, PHASES[0], model, backbone, data, views=2)
    before = np.array(part.augment.variables[0])
    with runs.open_run(config, "test", "") as run:
        seen = features.cached(run, part, data)
        rows = np.array(seen.train.store)
        features.forget(run)
    n = len(data.train)
    assert rows.dtype == precision.removeprefix("mixed_")
    assert rows.shape == (2 * n, 512)
    np.testing.assert_array_equal(seen.train.labels, np.tile(data.train.labels, 2))
    np.testing.assert_array_equal(np.array(part.augment.variables[0]), before)
    images = pipeline.pictures(data.train, np.arange(32))
    if at == "input":
        images = keras.ops.image.resize(images.astype("float32"), (32, 32))
    augment = Augment("flip_crop", 5, at)
    for view in (0, 1):
        augment.variables[0].assign(np.array([5, (1 + view) * features.DRAWS], before.dtype))
        expected = part.lower.predict_on_batch(augment(images, training=True)).astype("float32")
        np.testing.assert_allclose(rows[view * n :][:32].astype("float32"), expected, rtol=2e-2, atol=2e-2)
        np.testing.assert_array_less(0.05, np.abs(rows[(1 - view) * n :][:32].astype("float32") - expected).max())
    batch = next(iter(pipeline.training(seen.train, 8, 0, range(1), views=2)))[0]
    assert keras.backend.standardize_dtype(batch.dtype) == precision.removeprefix("mixed_")


def test_a_model_without_augmentation_is_cached_too(tmp_path, data):
    config = FineTuning(out=tmp_path, batch_size=32, image_size=32)
    backbone = networks.build("resnet18", 32)
    model = build(config, backbone, None)
    backbone.set_trainable(("layer4",))
    part = features.cut(config, PHASES[0], model, backbone, data)
    with runs.open_run(config, "test", "") as run:
        seen = features.cached(run, part, data)
    batches = pipeline.evaluation(seen.validation, 4)
    found = np.concatenate([np.asarray(part.upper.predict_on_batch(batch)) for batch, _ in batches.as_numpy_iterator()])
    images = pipeline.pictures(data.validation, np.arange(len(data.validation)))
    np.testing.assert_allclose(found, model.predict_on_batch(images), rtol=1e-4, atol=1e-4)


def test_views_are_cached_whatever_their_size(data):
    backbone = networks.build("resnet18", 32)
    config = FineTuning(image_size=32, cache_gigabytes=1e-6)
    model = build(config, backbone, "flip_crop")
    backbone.set_trainable(())
    assert features.cut(config, PHASES[0], model, backbone, data, views=1).on_disk


def test_a_run_that_is_stopped_while_it_computes_leaves_no_file(tmp_path, data, tiny_backbone, monkeypatch):
    def interrupted(config, part, split, views, name):
        yield np.zeros((32, 4), "float32")
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(features, "compute", interrupted)
    with pytest.raises(Interrupted):
        train(tmp_path, data, backbone=tiny_backbone, cache_features="on", cache_gigabytes=1e-6)
    assert list(tmp_path.glob("*/*/environment.json"))
    assert not list(tmp_path.glob(f"*/*/{features.FOLDER}"))


def test_the_activations_go_when_their_phase_has_ended(tmp_path, data, tiny_backbone, monkeypatch):
    made = []

    def cached(*arguments):
        assert all(store() is None for store in made)  # that of the phase before
        seen = features_cached(*arguments)
        made.append(weakref.ref(seen.train.store))
        return seen

    features_cached = features.cached
    monkeypatch.setattr(features, "cached", cached)
    train(tmp_path, data, backbone=tiny_backbone, cache_features="on")
    gc.collect()
    assert len(made) == 2
    assert made[-1]() is None


def test_each_epoch_takes_the_next_view():
    numbers = splits.Split(np.arange(30), np.arange(30), np.tile(np.arange(10), 3), 1)
    batches = list(pipeline.training(numbers, 4, 7, range(2, 6), views=3))
    rows = np.concatenate([b.numpy() for b, _ in batches]).reshape(4, 10)
    labels = np.concatenate([b.numpy() for _, b in batches]).reshape(4, 10)
    assert [set(row // 10) for row in rows] == [{2}, {0}, {1}, {2}]
    np.testing.assert_array_equal(rows % 10, labels)
    assert all(set(row) == set(range(10)) for row in labels)


def test_no_room_for_the_file_is_one_line(tmp_path, data):
    config = FineTuning(out=tmp_path, image_size=32, cache_features="on", cache_gigabytes=1e-6)
    backbone = networks.build("resnet18", 32)
    backbone.set_trainable(())
    part = features.cut(config, PHASES[0], build(config, backbone), backbone, data)
    with runs.open_run(config, "test", "") as run:
        (run.folder / features.FOLDER).write_text("a file where the folder should be")
        with pytest.raises(StorageError, match=r"cannot write .*train\.bin: File exists; --cache-features off"):
            features.cached(run, part, data)


def test_views_are_at_most_as_many_as_random_numbers_are_kept_apart_for():
    """The state of JAX's random numbers is 32 bits, for the images as they are too."""
    preset = load_task("cifar_phased").PRESETS["three_phase"]
    assert 256 * features.DRAWS == 2**32
    phases = tuple(dataclasses.replace(phase, epochs=1000) for phase in preset.phases)
    with pytest.raises(ConfigError, match="cache-views is 256; allowed with these phases: 0 to 255"):
        dataclasses.replace(preset, weights="none", batch_norm="layer", phases=phases, cache_views=256).check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cache_features": "on"}, "augmentation flip_crop changes every image in every epoch"),
        ({"cache_views": -1}, "cache-views is -1; allowed with these phases: 0 to 4"),
        ({"cache_views": 5}, "cache-views is 5; allowed with these phases: 0 to 4"),
        ({"cache_views": 2, "augmentation": "none"}, "cache-views is for an augmentation on the device"),
        ({"cache_views": 2, "augment_on": "host"}, "cache-views is for an augmentation on the device"),
        ({"cache_views": 2, "cache_features": "off"}, "cache-views needs one device, and cache-features auto or on"),
        ({"cache_views": 2, "devices": 2}, "cache-views needs one device, and cache-features auto or on"),
        ({"cache_features": "on", "augmentation": "none", "devices": 2}, "several devices cannot share"),
        ({"cache_gigabytes": 0.0}, "cache-gigabytes is 0.0; it must be above zero"),
    ],
)
def test_what_cannot_be_cached_is_one_line(fields, message):
    preset = load_task("cifar_phased").PRESETS["three_phase"]
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(preset, weights="none", batch_norm="layer", **fields).check()


def test_only_views_are_part_of_the_name():
    preset = dataclasses.replace(load_task("cifar_phased").PRESETS["three_phase"], weights="none", batch_norm="layer")
    for fields in ({"cache_features": "off"}, {"cache_gigabytes": 7.0}):
        assert dataclasses.replace(preset, **fields).name() == preset.name()
    assert dataclasses.replace(preset, cache_views=3).name() != preset.name()
