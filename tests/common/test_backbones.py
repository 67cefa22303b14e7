import importlib.util
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from common import weights
from common.backbones import BACKBONES, STAGES, blocks, networks, resnet
from common.backbones.networks import build
from common.errors import ConfigError
from common.workarounds.grouped_convolution import GroupedConv2D

FIXTURES = Path(__file__).parent / "fixtures"
MOBILENET_ENDS = ["blocks.0.0.bn2", "blocks.1.1.add", "blocks.2.2.add", "blocks.4.2.add", "bn2.act"]

# With torchvision's 1000-way classifier, as its documentation gives them.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext50_32x4d": 25_028_904,
    "wide_resnet50_2": 68_883_240,
    "mobilenet_v2": 3_504_872,
}

spec = importlib.util.spec_from_file_location("resnet_tensors", FIXTURES / "resnet_tensors.py")
resnet_tensors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(resnet_tensors)


@pytest.fixture(scope="module")
def torch_outputs():
    arrays = {}
    for name in ("resnet_outputs.npz", "mobilenet_outputs.npz"):
        with np.load(FIXTURES / name) as file:
            arrays |= file
    return arrays


@pytest.fixture(scope="module", params=tuple(PARAMETERS))
def backbone_and_file(request, torch_outputs, tmp_path_factory):
    """Give a backbone for 64 pixels and the file with its random weights, once for all tests of a name."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    write_torch_file(request.param, torch_outputs, path)
    yield build(request.param, 64, str(path)), path
    path.unlink()


def write_torch_file(name, torch_outputs, path):
    tensors, gain = {}, float(torch_outputs.get(f"{name}/gain", 1))
    for line in str(torch_outputs[f"{name}/tensors"]).splitlines():
        key, shape = line.split(" ")
        tensors[key] = resnet_tensors.tensor(key, tuple(int(side) for side in shape.split(",") if side), gain)
    save_file(tensors, path)


def largest_error(backbone, size, torch_outputs):
    """Return the largest difference from torch, over the five stages and the features, relative to each one."""
    ends = MOBILENET_ENDS if backbone.name == "mobilenet_v2" else ["maxpool"]
    for stage in STAGES[len(ends) :]:
        ends.append([n.name for n in backbone.model.layers if re.fullmatch(rf"{stage}\.\d+\.relu", n.name)][-1])
    outputs = [backbone.model.get_layer(name).output for name in ends]
    probe = keras.Model(backbone.model.input, [*outputs, backbone.model.output])
    errors = []
    for stage, output in zip((*STAGES, "features"), probe.predict_on_batch(resnet_tensors.image(size)), strict=True):
        ours = resnet_tensors.summary(np.asarray(output))
        theirs = torch_outputs[f"{backbone.name}/{size}/{stage}"]
        assert np.abs(theirs).max() > 0.1
        errors.append(np.abs(ours - theirs)[:-1].max() / np.abs(theirs[:-1]).max())
        errors.append(abs(ours[-1] - theirs[-1]) / theirs[-1])
    return max(errors)


def values(backbone, stage):
    layers = backbone.stage_layers(stage)
    return {v.path: np.asarray(v).copy() for layer in layers for v in layer.weights}


def test_every_backbone_with_imagenet_weights_is_compared_with_torch():
    assert set(PARAMETERS) <= set(BACKBONES)
    assert set(weights.REPOSITORIES) == set(PARAMETERS), "add its parameters, and torch's outputs to fixtures/"


def test_outputs_at_64_pixels_are_those_of_torch(backbone_and_file, torch_outputs):
    backbone, _ = backbone_and_file
    assert largest_error(backbone, 64, torch_outputs) < 1e-4


def test_outputs_at_224_pixels_are_those_of_torch(backbone_and_file, torch_outputs):
    backbone, path = backbone_and_file
    assert largest_error(build(backbone.name, 224, str(path)), 224, torch_outputs) < 1e-4


def test_mobilenet_at_odd_sides_is_that_of_torch(tmp_path, torch_outputs):
    write_torch_file("mobilenet_v2", torch_outputs, tmp_path / "model.safetensors")
    backbone = build("mobilenet_v2", 75, str(tmp_path / "model.safetensors"))
    assert largest_error(backbone, 75, torch_outputs) < 1e-4


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_network_of_any_size_is_that_of_torch_at_each(name, tmp_path, torch_outputs):
    write_torch_file(name, torch_outputs, tmp_path / "model.safetensors")
    backbone = build(name, 64, str(tmp_path / "model.safetensors"), any_size=True)
    assert backbone.model.input_shape == (None, None, None, 3)
    for size in (64, 224):
        assert largest_error(backbone, size, torch_outputs) < 1e-4


def test_model_sees_images_at_the_size_that_is_set():
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 1), "uint8")
    backbone = build("resnet18", 64, any_size=True)
    image = keras.Input((40, 40, 1), dtype="uint8")
    model = keras.Model(image, backbone.extract(image, 64))
    outputs = {}
    for size in (64, 32, 48):
        networks.set_image_size(model, size)
        outputs[size] = model.predict(images, verbose=0)
        fixed = build("resnet18", size)
        fixed.model.set_weights(backbone.model.get_weights())
        expected = keras.Model(image, fixed.extract(image)).predict(images, verbose=0)
        np.testing.assert_allclose(outputs[size], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(outputs[32] - outputs[48]).max() > 1e-2


@pytest.mark.parametrize("side", [32, 40, 63])
@pytest.mark.parametrize("size", [64, 96])
def test_images_that_get_smaller_are_antialiased_as_pil_has_it(size, side, tmp_path):
    """As those of files are; for a network that is saved and loaded, too, and with each size that is set."""
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    backbone = build("resnet18", 32, any_size=True)
    inputs = keras.Input((size, size, 3), dtype="uint8")
    model = keras.Model(inputs, backbone.extract(inputs, 32))
    networks.set_image_size(model, side)
    model.save(tmp_path / "m.keras")
    for made in (model, keras.models.load_model(tmp_path / "m.keras")):
        until = keras.Model(made.input, made.get_layer("resize").output)
        expected = [Image.fromarray(each).resize((side, side), Image.Resampling.BILINEAR) for each in images]
        # PIL rounds twice, after the rows and after the columns.
        np.testing.assert_allclose(until(images), np.array(expected), atol=1.01)


def test_what_is_exported_is_what_torch_had(backbone_and_file, tmp_path):
    backbone, path = backbone_and_file
    weights.export(backbone.model, tmp_path / "backbone.safetensors")
    theirs = {name: tensor for name, tensor in load_file(path).items() if not name.endswith("num_batches_tracked")}
    ours = load_file(tmp_path / "backbone.safetensors")
    assert set(ours) == {name for name in theirs if not name.startswith(("fc.", "classifier."))}
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)
    again = build(backbone.name, 32, str(tmp_path / "backbone.safetensors"))
    for one, other in zip(again.model.weights, backbone.model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_comparison_sees_the_padding_of_tensorflow(name, monkeypatch, tmp_path, torch_outputs):
    def pad_as_same_does(x, pixels, name):
        return keras.layers.ZeroPadding2D(((pixels - 1, pixels), (pixels - 1, pixels)))(x)

    for module in (blocks, resnet):
        monkeypatch.setattr(module, "pad", pad_as_same_does)
    write_torch_file(name, torch_outputs, tmp_path / "model.safetensors")
    backbone = build(name, 64, str(tmp_path / "model.safetensors"))
    assert largest_error(backbone, 64, torch_outputs) > 0.1


def check_size_and_stages(backbone):
    trainable = sum(math.prod(v.shape) for v in backbone.model.trainable_variables)
    assert trainable + (backbone.features + 1) * 1000 == PARAMETERS[backbone.name]
    by_stage = [layer.name for stage in STAGES for layer in backbone.stage_layers(stage)]
    assert sorted(by_stage) == sorted(layer.name for layer in backbone.model.layers if layer.weights)
    assert backbone.model.output_shape == (None, backbone.features)
    norms = [layer for layer in backbone.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.9}


def test_backbone_has_published_size_and_stages_hold_every_layer_once(backbone_and_file):
    backbone, _ = backbone_and_file
    check_size_and_stages(backbone)
    if backbone.name == "mobilenet_v2":
        return
    for stage in STAGES[1:]:
        assert all(layer.name.startswith(f"{stage}.") for layer in backbone.stage_layers(stage))
    assert [layer.name for layer in backbone.stage_layers("stem")] == ["conv1", "bn1"]


def test_mobilenet_is_cut_where_its_resolution_halves():
    backbone = build("mobilenet_v2", 64)
    # The depthwise convolution that halves the resolution opens each of the four layers.
    halving = {}
    for layer in backbone.model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D) and layer.strides != (1, 1):
            halving[layer.name] = next(s for s in STAGES if layer in backbone.stage_layers(s))
    assert halving == {
        "blocks.1.0.conv_dw": "layer1",
        "blocks.2.0.conv_dw": "layer2",
        "blocks.3.0.conv_dw": "layer3",
        "blocks.5.0.conv_dw": "layer4",
    }
    first_and_last = {stage: [backbone.stage_layers(stage)[i].name for i in (0, -1)] for stage in STAGES}
    assert first_and_last == {
        "stem": ["conv_stem", "blocks.0.0.bn2"],
        "layer1": ["blocks.1.0.conv_pw", "blocks.1.1.bn3"],
        "layer2": ["blocks.2.0.conv_pw", "blocks.2.2.bn3"],
        "layer3": ["blocks.3.0.conv_pw", "blocks.4.2.bn3"],
        "layer4": ["blocks.5.0.conv_pw", "bn2"],
    }


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_training_moves_only_the_stages_that_are_trainable(name):
    backbone = build(name, 32)
    backbone.set_trainable({"layer4"})
    outputs = keras.layers.Dense(3)(backbone.model.output)
    model = keras.Model(backbone.model.input, outputs)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {stage: values(backbone, stage) for stage in STAGES}
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3), "float32")
    model.train_on_batch(images, np.array([0, 1, 2, 0]))
    for stage in STAGES:
        for path, value in values(backbone, stage).items():
            moved = not np.array_equal(value, before[stage][path])
            assert moved == (stage == "layer4"), path


def test_set_trainable_undoes_what_it_did_before():
    backbone = build("resnet18", 32)
    everything = len(backbone.model.trainable_variables)
    backbone.set_trainable(set())
    assert backbone.model.trainable_variables == []
    backbone.model.trainable = False
    backbone.set_trainable(["stem", "layer2"])
    paths = [v.path for v in backbone.model.trainable_variables]
    assert {path.split(".")[0].split("/")[0] for path in paths} == {"conv1", "bn1", "layer2"}
    backbone.set_trainable(STAGES)
    assert len(backbone.model.trainable_variables) == everything


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("resnet18", "mixed_bfloat16"),
        ("resnext50_32x4d", "mixed_float16"),
        ("mobilenet_v2", "mixed_float16"),
    ],
)
def test_mixed_precision_computes_in_16_bits_and_normalises_in_32(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        backbone = build(name, 32)
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), "uint8")
    normalised = backbone.normalise(images)
    assert keras.backend.standardize_dtype(normalised.dtype) == "float32"
    features = backbone.model(normalised)
    assert keras.backend.standardize_dtype(features.dtype) == policy.removeprefix("mixed_")
    assert bool(keras.ops.all(keras.ops.isfinite(features)))
    assert {v.dtype for v in backbone.model.variables} == {"float32"}


def test_normalise_gives_what_the_weights_expect():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for name in ("resnet18", "mobilenet_v2"):
        np.testing.assert_allclose(build(name, 32).normalise(images), expected, atol=1e-5)


def test_grouped_convolution_is_that_of_keras_with_its_gradient():
    rng = np.random.default_rng(0)
    images, targets = rng.standard_normal((2, 5, 5, 8), "float32"), rng.standard_normal((2, 3, 3, 12), "float32")
    kernel = rng.standard_normal((3, 3, 2, 12), "float32")
    kernels, outputs = [], []
    for layer in (GroupedConv2D, keras.layers.Conv2D):
        model = keras.Sequential([keras.Input((5, 5, 8)), layer(12, 3, groups=4, use_bias=False)])
        model.set_weights([kernel])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        outputs.append(model.predict_on_batch(images))
        model.train_on_batch(images, targets)
        kernels.append(np.asarray(model.layers[0].kernel).copy())
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-4, atol=1e-5)
    assert np.abs(kernels[0] - kernel).max() > 0.01


def test_random_weights_are_he_normal_and_differ_from_layer_to_layer():
    backbone = build("resnet18", 32)
    first, second = (np.asarray(backbone.model.get_layer(f"layer4.1.conv{i}").kernel) for i in (1, 2))
    assert not np.array_equal(first, second)
    assert first.std() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    # timm divides a convolution's fan-out by its groups, torchvision does not.
    backbone = build("mobilenet_v2", 32)
    depthwise, pointwise = (
        np.asarray(backbone.model.get_layer(f"blocks.6.0.{n}").kernel) for n in ("conv_dw", "conv_pwl")
    )
    assert depthwise.std() == pytest.approx(math.sqrt(2 / 9), rel=0.03)
    assert pointwise.std() == pytest.approx(math.sqrt(2 / 320), rel=0.01)


def test_smallest_image_and_one_too_small():
    assert build("mobilenet_v2", 32).features == 1280
    with pytest.raises(ValueError, match=r"^image size 31 is too small for resnet18: at least 32 pixels"):
        build("resnet18", 31)


def test_unknown_names_list_the_good_ones():
    with pytest.raises(
        ConfigError, match=r"^unknown backbone 'resnet19'; allowed: resnet18, .*mobilenet_v2; did you mean resnet.*\?$"
    ):
        build("resnet19", 32)
    with pytest.raises(ValueError, match=r"^unknown stage 'layer5': choose from stem, .*layer4$"):
        build("mobilenet_v2", 32).set_trainable(["layer5"])


def test_other_files_than_safetensors_are_refused(tmp_path):
    (tmp_path / "m.weights.h5").touch()
    for name in ("resnet18", "mobilenet_v2"):
        with pytest.raises(ValueError, match=r"m\.weights\.h5: backbones load \.safetensors files only$"):
            build(name, 32, str(tmp_path / "m.weights.h5"))
