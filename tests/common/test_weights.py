import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from common import weights
from common.weights import WeightsError, load_safetensors

ROOT = Path(__file__).parents[2]
PREPARE = "on a machine with a network, run: python -m common.data prepare --weights "
OR = "; or give a .safetensors file: --weights FILE"


def small_model():
    """Return a network with each kind of layer that torch lays out in its own way."""
    return keras.Sequential(
        [
            keras.Input((4, 4, 6)),
            keras.layers.Conv2D(8, (3, 2), groups=2, name="layer1.0.conv1"),
            keras.layers.BatchNormalization(name="layer1.0.bn1"),
            keras.layers.DepthwiseConv2D((2, 1), name="blocks.0.0.conv_dw"),
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
        "blocks.0.0.conv_dw.weight": (8, 1, 2, 1),
        "blocks.0.0.conv_dw.bias": (8,),
        "fc.weight": (5, 8),
        "fc.bias": (5,),
    }
    tensors = {name: rng.random(shape, "float32") for name, shape in shapes.items()}
    return tensors | {"layer1.0.bn1.num_batches_tracked": np.array(3, "int64")}


def values(model):
    return {f"{layer.name}/{v.name}": np.asarray(v).copy() for layer in model.layers for v in layer.weights}


def check_refused(model, path, message):
    """Check for one line that begins with the file's path, and that nothing was assigned."""
    before = values(model)
    with pytest.raises(WeightsError) as error:
        load_safetensors(model, path)
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
    assert loaded["blocks.0.0.conv_dw/kernel"].shape == (2, 1, 8, 1)
    assert loaded["blocks.0.0.conv_dw/kernel"][1, 0, 5, 0] == tensors["blocks.0.0.conv_dw.weight"][5, 0, 1, 0]
    np.testing.assert_array_equal(loaded["blocks.0.0.conv_dw/bias"], tensors["blocks.0.0.conv_dw.bias"])
    for ours, theirs in (
        ("gamma", "weight"),
        ("beta", "bias"),
        ("moving_mean", "running_mean"),
        ("moving_variance", "running_var"),
    ):
        np.testing.assert_array_equal(loaded[f"layer1.0.bn1/{ours}"], tensors[f"layer1.0.bn1.{theirs}"])


def test_float16_tensors_become_float32(tmp_path):
    model, tensors = small_model(), torch_tensors()
    half = tensors | {"fc.weight": tensors["fc.weight"].astype("float16")}
    save_file(half, tmp_path / "m.safetensors")
    load_safetensors(model, tmp_path / "m.safetensors")
    kernel = model.layers[-1].kernel
    assert keras.backend.standardize_dtype(kernel.dtype) == "float32"
    np.testing.assert_array_equal(np.asarray(kernel), half["fc.weight"].T)
    assert not np.array_equal(np.asarray(kernel), tensors["fc.weight"].T)


@pytest.mark.parametrize("classifier", ["fc", "classifier"])  # of torchvision's ResNets, and of timm's MobileNetV2
def test_safetensors_classifier_is_skipped_if_the_model_has_none(tmp_path, classifier):
    tensors = {name.replace("fc.", f"{classifier}."): tensor for name, tensor in torch_tensors().items()}
    save_file(tensors, tmp_path / "m.safetensors")
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
    check_refused(small_model(), tmp_path / "m.safetensors", message)


def test_safetensors_that_cannot_be_read(tmp_path):
    model, path = small_model(), tmp_path / "m.safetensors"
    check_refused(model, path, "no such file")
    save_file(torch_tensors(), path)
    whole = path.read_bytes()
    for part in (whole[:-1], whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        path.write_bytes(part)
        check_refused(model, path, "not a readable safetensors file (")
    renamed = path.rename(tmp_path / "m.pth")
    check_refused(model, renamed, "backbones load .safetensors files only")


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
    lines = in_new_process(code, HF_HOME=str(tmp_path))
    assert lines == [
        f"ImageNet weights of {name} are not on this machine; {PREPARE}{name}{OR}"
        for name in ("wide_resnet50_2", "mobilenet_v2")
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "repository"),
    [("resnet18", "models--timm--resnet18.tv_in1k"), ("mobilenet_v2", "models--timm--mobilenetv2_100.ra_in1k")],
)
def test_weights_in_the_hub_cache_are_found_offline(tmp_path, name, repository):
    folder = tmp_path / "hub" / repository
    file = folder / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    code = f"""
print(weights.locate("{name}", "imagenet", offline=True), weights.fetch("{name}"), weights.is_present("resnet34"))
assert "keras" not in sys.modules
"""
    lines = in_new_process(code, HF_HOME=str(tmp_path), HF_ENDPOINT="http://localhost:9")
    assert lines == [f"{file} {file} None"]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as one file takes."""

    content = b"weights of a network"

    def do_HEAD(self):
        found = self.path.startswith(("/timm/resnet18.tv_in1k/", "/timm/mobilenetv2_100.ra_in1k/"))
        found = found and self.path.endswith("/resolve/main/model.safetensors")
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


def test_weights_are_fetched_from_the_hub(tmp_path):
    server = ThreadingHTTPServer(("localhost", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = """
for name in ("resnet18", "mobilenet_v2"):
    path = weights.locate(name, "imagenet", offline=False)
    print(path.read_text(), path == weights.is_present(name))
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
    assert lines[:2] == ["weights of a network True"] * 2
    assert lines[2].startswith("ImageNet weights of resnet34 cannot be fetched (")
    assert lines[2].endswith(f"; {PREPARE}resnet34{OR}")
    assert len(lines) == 3


def test_host_that_does_not_answer_is_one_line(tmp_path):
    code = """
try:
    weights.locate("mobilenet_v2", "imagenet", offline=False)
except weights.WeightsError as error:
    print(error)
"""
    lines = in_new_process(code, HF_HOME=str(tmp_path), HF_ENDPOINT="http://localhost:9")
    assert len(lines) == 1
    assert lines[0].startswith("ImageNet weights of mobilenet_v2 cannot be fetched (")
    assert lines[0].endswith(f"; {PREPARE}mobilenet_v2{OR}")


def test_locate_takes_none_or_a_path(tmp_path):
    assert weights.locate("resnet18", "none", offline=True) is None
    (tmp_path / "mine.safetensors").touch()
    path = str(tmp_path / "mine.safetensors")
    assert weights.locate("resnet18", path, offline=True) == Path(path)
    message = r"^no weights file imagnet: give 'imagenet', 'none' or the path of a \.safetensors file$"
    with pytest.raises(WeightsError, match=message):
        weights.locate("resnet18", "imagnet", offline=True)
    with pytest.raises(WeightsError, match=r"^there are no ImageNet weights of vgg; allowed: .* \(resnet18, "):
        weights.locate("vgg", "imagenet", offline=True)
