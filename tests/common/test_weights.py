import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from common import weights
from common.weights import WeightsError, load_h5, load_safetensors

ROOT = Path(__file__).parents[2]
PREPARE = "where there is a network, run: python -m common.data prepare --weights "
MOBILENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{}_no_top.h5"

# Keras 3.15 reads a variable with np.array, which NumPy 2 warns of: not ours to mend.
keras_reads = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def small_model():
    """Return a network with each kind of layer that torch lays out in its own way."""
    return keras.Sequential(
        [
            keras.Input((4, 4, 6)),
            keras.layers.Conv2D(8, (3, 2), groups=2, name="layer1.0.conv1"),
            keras.layers.BatchNormalization(name="layer1.0.bn1"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, name="fc"),
        ]
    )


def torch_tensors():
    """Return what torch would save for `small_model`: outputs first, then inputs, then the window."""
    rng = np.random.default_rng(0)
    shapes = {
        "layer1.0.conv1.weight": (8, 3, 3, 2),
        "layer1.0.conv1.bias": (8,),
        "layer1.0.bn1.weight": (8,),
        "layer1.0.bn1.bias": (8,),
        "layer1.0.bn1.running_mean": (8,),
        "layer1.0.bn1.running_var": (8,),
        "fc.weight": (5, 8),
        "fc.bias": (5,),
    }
    tensors = {name: rng.random(shape, "float32") for name, shape in shapes.items()}
    return tensors | {"layer1.0.bn1.num_batches_tracked": np.array(3, "int64")}


def values(model):
    return {f"{layer.name}/{v.name}": np.asarray(v).copy() for layer in model.layers for v in layer.weights}


def check_refused(load, model, path, message):
    """Check for one line that begins with the file's path, and that nothing was assigned."""
    before = values(model)
    with pytest.raises(WeightsError) as error:
        load(model, path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_safetensors_fill_every_variable_in_keras_layout(tmp_path):
    model, tensors = small_model(), torch_tensors()
    save_file(tensors, tmp_path / "m.safetensors")
    load_safetensors(model, tmp_path / "m.safetensors")
    loaded = values(model)
    kernel = tensors["layer1.0.conv1.weight"]
    assert loaded["layer1.0.conv1/kernel"].shape == (3, 2, 3, 8)
    assert loaded["layer1.0.conv1/kernel"][2, 1, 0, 7] == kernel[7, 0, 2, 1]
    np.testing.assert_array_equal(loaded["layer1.0.conv1/bias"], tensors["layer1.0.conv1.bias"])
    np.testing.assert_array_equal(loaded["fc/kernel"], tensors["fc.weight"].T)
    for ours, theirs in (
        ("gamma", "weight"),
        ("beta", "bias"),
        ("moving_mean", "running_mean"),
        ("moving_variance", "running_var"),
    ):
        np.testing.assert_array_equal(loaded[f"layer1.0.bn1/{ours}"], tensors[f"layer1.0.bn1.{theirs}"])


def test_safetensors_classifier_is_passed_over_where_the_model_has_none(tmp_path):
    save_file(torch_tensors(), tmp_path / "m.safetensors")
    headless = keras.Sequential(small_model().layers[:-1])
    headless.build((None, 4, 4, 6))
    load_safetensors(headless, tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, "tensor fc.bias is missing, expected with shape (5,)"),
        (
            {"layer1.0.conv1.weight": (8, 6, 3, 2), "fc.bias": (6,)},
            "tensor layer1.0.conv1.weight has shape (8, 6, 3, 2), expected (8, 3, 3, 2)",
        ),
        ({"layer1.1.conv1.weight": (1, 2)}, "unexpected tensor layer1.1.conv1.weight with shape (1, 2)"),
    ],
)
def test_safetensors_that_do_not_fit_name_the_first_wrong_tensor(tmp_path, change, message):
    tensors = torch_tensors()
    for name, shape in change.items():
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = np.zeros(shape, "float32")
    save_file(tensors, tmp_path / "m.safetensors")
    check_refused(load_safetensors, small_model(), tmp_path / "m.safetensors", message)


def test_safetensors_that_cannot_be_read(tmp_path):
    model, path = small_model(), tmp_path / "m.safetensors"
    check_refused(load_safetensors, model, path, "no such file")
    save_file(torch_tensors(), path)
    whole = path.read_bytes()
    for part in (whole[:-1], whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        path.write_bytes(part)
        check_refused(load_safetensors, model, path, "not a readable safetensors file (")
    renamed = path.rename(tmp_path / "m.pth")
    check_refused(load_safetensors, model, renamed, "this backbone loads .safetensors files only")


def save_legacy(model, path):
    """Write `model` in the layout of Keras 2, with other layer names and a list of names in two chunks."""
    with h5py.File(path, "w") as file:
        names = [f"old_{index}" for index in range(len(model.layers))]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:1], names[1:]
        for name, layer in zip(names, model.layers, strict=True):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{v.name}:0".encode() for v in layer.weights]
            for v in layer.weights:
                group[f"{name}/{v.name}:0"] = np.asarray(v)


def saved(tmp_path, layout):
    """Return a model and the file that holds it, in either of Keras' layouts."""
    model = small_model()
    for variable in model.variables:
        variable.assign(np.random.default_rng(0).random(variable.shape))
    path = tmp_path / {"keras3": "m.weights.h5", "legacy": "m.h5"}[layout]
    model.save_weights(path) if layout == "keras3" else save_legacy(model, path)
    return model, path


@keras_reads
@pytest.mark.parametrize("layout", ["keras3", "legacy"])
def test_h5_fills_every_variable(tmp_path, layout):
    model, path = saved(tmp_path, layout)
    other = small_model()
    load_h5(other, path)
    for name, value in values(other).items():
        np.testing.assert_array_equal(value, values(model)[name])


@keras_reads
def test_legacy_h5_is_read_as_keras_reads_it(tmp_path):
    _, path = saved(tmp_path, "legacy")
    ours, theirs = small_model(), small_model()
    load_h5(ours, path)
    theirs.load_weights(path)
    for one, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(one, other)


@keras_reads
@pytest.mark.parametrize(
    ("layout", "group", "dataset"),
    [("keras3", "layers/batch_normalization/vars", "1"), ("legacy", "old_1", "old_1/beta:0")],
)
def test_h5_that_does_not_fit_names_the_first_wrong_variable(tmp_path, layout, group, dataset):
    model, path = saved(tmp_path, layout)
    with h5py.File(path, "a") as file:
        del file[group][dataset]
        file[group][dataset] = np.zeros(9)
    check_refused(load_h5, model, path, "tensor layer1.0.bn1/beta has shape (9,), expected (8,)")


@keras_reads
def test_h5_with_a_variable_too_few_or_too_many(tmp_path):
    model, path = saved(tmp_path, "keras3")
    with h5py.File(path, "a") as file:
        file["layers/dense/vars/2"] = np.zeros((3, 4))
    check_refused(load_h5, model, path, "unexpected tensor fc/2 with shape (3, 4)")
    with h5py.File(path, "a") as file:
        del file["layers/conv2d"]
    check_refused(load_h5, model, path, "tensor layer1.0.conv1/kernel is missing, expected with shape (3, 2, 3, 8)")


@keras_reads
def test_legacy_h5_with_a_layer_too_few_or_too_many(tmp_path):
    model, path = saved(tmp_path, "legacy")
    with h5py.File(path, "a") as file:
        file.attrs["layer_names1"] = ["old_1", "old_2"]
    check_refused(load_h5, model, path, "tensor fc/kernel is missing, expected with shape (8, 5)")
    with h5py.File(path, "a") as file:
        file.attrs["layer_names1"] = ["old_1", "old_2", "old_3", "old_0"]
    check_refused(load_h5, model, path, "unexpected tensor old_0/0 with shape (3, 2, 3, 8)")


@keras_reads
def test_h5_that_cannot_be_read(tmp_path):
    model, path = saved(tmp_path, "keras3")
    whole = path.read_bytes()
    for part in (whole[:-100], whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        path.write_bytes(part)
        check_refused(load_h5, model, path, "not a readable HDF5 weights file (")
    with h5py.File(path, "w") as file:
        file["something"] = 1
    check_refused(load_h5, model, path, "not a readable HDF5 weights file (")
    path.unlink()
    check_refused(load_h5, model, path, "no such file")
    check_refused(load_h5, model, tmp_path / "m.keras", "this backbone loads .h5 files only")


def in_new_process(code, **environment):
    """Run `code` where both caches are elsewhere, as their libraries read that at import; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\nfrom common import weights\n{code}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()


def test_absent_imagenet_weights_name_the_prepare_command_without_importing_keras(tmp_path):
    code = """
for name in ("wide_resnet50_2", "mobilenet_v2"):
    assert weights.is_present(name) is None
    try:
        weights.locate(name, "imagenet", offline=True)
    except weights.WeightsError as error:
        print(error)
assert "keras" not in sys.modules
"""
    lines = in_new_process(code, HF_HOME=str(tmp_path), KERAS_HOME=str(tmp_path))
    assert lines == [
        f"ImageNet weights of {name} are not on this machine; {PREPARE}{name}"
        for name in ("wide_resnet50_2", "mobilenet_v2")
    ]
    assert list(tmp_path.iterdir()) == []


def test_resnet_weights_in_the_hub_cache_are_found_offline(tmp_path):
    repository = tmp_path / "hub" / "models--timm--resnet18.tv_in1k"
    file = repository / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    code = """
print(weights.locate("resnet18", "imagenet", offline=True), weights.fetch("resnet18"), weights.is_present("resnet34"))
assert "keras" not in sys.modules
"""
    lines = in_new_process(code, HF_HOME=str(tmp_path), HF_ENDPOINT="http://localhost:9")
    assert lines == [f"{file} {file} None"]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as one file takes."""

    content = b"weights of a ResNet"

    def do_HEAD(self):
        found = self.path == "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
        self.send_response(200 if found else 404)
        self.send_header("ETag", '"1234"')
        self.send_header("X-Repo-Commit", "abc")
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *args):
        pass


def test_resnet_weights_are_fetched_from_the_hub(tmp_path):
    server = ThreadingHTTPServer(("localhost", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = """
path = weights.locate("resnet18", "imagenet", offline=False)
print(path.read_text(), path == weights.is_present("resnet18"))
try:
    weights.fetch("resnet34")
except weights.WeightsError as error:
    print(error)
"""
    try:
        url = f"http://localhost:{server.server_port}"
        lines = in_new_process(code, HF_HOME=str(tmp_path), HF_ENDPOINT=url, HF_HUB_DISABLE_XET="1")
    finally:
        server.shutdown()
        server.server_close()
    assert lines[0] == "weights of a ResNet True"
    assert lines[1].startswith("ImageNet weights of resnet34 cannot be fetched (")
    assert lines[1].endswith(f"; {PREPARE}resnet34")
    assert len(lines) == 2


def test_host_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "MOBILENET_URL", "http://localhost:9")
    with pytest.raises(WeightsError) as error:
        weights.locate("mobilenet_v2", "imagenet", offline=False)
    assert str(error.value).startswith("ImageNet weights of mobilenet_v2 cannot be fetched (")
    assert str(error.value).endswith(f"; {PREPARE}mobilenet_v2")
    assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    code = """
try:
    weights.fetch("resnet18")
except weights.WeightsError as error:
    print(error)
"""
    lines = in_new_process(code, HF_HOME=str(tmp_path), HF_ENDPOINT="http://localhost:9")
    assert len(lines) == 1
    assert lines[0].endswith(f"; {PREPARE}resnet18")


def test_mobilenet_weights_are_fetched_for_the_image_size_or_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(weights, "MOBILENET_URL", tmp_path.as_uri())
    for size in (96, 128, 160, 192, 224):
        (tmp_path / MOBILENET_FILE.format(size)).write_text(str(size))
    models = tmp_path / "home" / "models"
    assert weights.locate("mobilenet_v2", "imagenet", offline=False, image_size=96).read_text() == "96"
    assert weights.locate("mobilenet_v2", "imagenet", offline=False, image_size=100).read_text() == "224"
    assert {path.name for path in models.glob("*.h5")} == {MOBILENET_FILE.format(size) for size in (96, 224)}
    assert weights.is_present("mobilenet_v2", 128) is None
    assert weights.fetch("mobilenet_v2") == weights.is_present("mobilenet_v2")
    assert len(list(models.glob("*.h5"))) == 5
    assert not list(models.glob("*.part"))
    assert weights.is_present("mobilenet_v2", 128).read_text() == "128"


def test_mobilenet_weights_lie_where_keras_looks(tmp_path, monkeypatch):
    from keras.src.backend.config import keras_home

    assert weights._mobilenet_path(224).parent == Path(keras_home()) / "models"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert weights._mobilenet_path(160) == tmp_path / "models" / MOBILENET_FILE.format(160)


def test_locate_takes_none_or_a_path(tmp_path):
    assert weights.locate("resnet18", "none", offline=True) is None
    (tmp_path / "mine.safetensors").touch()
    path = str(tmp_path / "mine.safetensors")
    assert weights.locate("resnet18", path, offline=True) == Path(path)
    message = r"^no weights file imagnet: give 'imagenet', 'none' or the path of a \.safetensors file$"
    with pytest.raises(WeightsError, match=message):
        weights.locate("resnet18", "imagnet", offline=True)
    with pytest.raises(WeightsError, match=r"^unknown backbone 'vgg': one of resnet18, "):
        weights.locate("vgg", "imagenet", offline=True)
