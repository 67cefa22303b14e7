"""Exported classifiers give what their runs' networks give, in the runtimes that they are for."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest import mock

import in_process
import keras
import numpy as np
import pytest
from PIL import Image

from common import export, model_card, trained
from common.backbones import BACKBONES
from common.data.image_files import reader
from common.run_folder import RunFolder
from common.workarounds.resizing import Resizing

# Every task whose run has a classifier, and the flags that the demo needs for one.
CLASSIFIERS = {
    "cifar_phased": [],
    "fer_layerwise_lr": ["--backbone=tiny"],
    "hinge_svm": [],
    "permuted_cnn": [],
    "rotation_contrastive": [],
    "autoencoder_sweep": ["--task=classify"],
}
# Each line of its input names a model, images, and where what it gives for them goes.
LOAD_WHERE_ONLY_KERAS_IS = """
import sys, keras, numpy as np
for line in sys.stdin:
    model, images, given = line.rstrip().split(",")
    np.save(given, keras.saving.load_model(model).predict(np.load(images), verbose=0))
    assert not any(name.split(".")[0] in ("common", "tasks") for name in sys.modules)
    keras.utils.clear_session()
    print("done", flush=True)
"""


@pytest.fixture(scope="module", params=CLASSIFIERS)
def run(request, demos):
    """A finished run of each task that has a classifier."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", "tiny_backbone:TINY")
        return demos(request.param, *CLASSIFIERS[request.param])


@pytest.fixture(scope="module")
def network(run):
    """The run's network."""
    return trained.load(run)


@pytest.fixture(scope="module")
def images(network):
    """Images as the network takes them, by chance."""
    return np.random.default_rng(0).integers(0, 256, (9, *network.model.input_shape[1:])).astype(np.uint8)


@pytest.fixture(scope="module")
def probabilities(network, images):
    """What the network says of the images."""
    return trained.probabilities(network.model.predict(images, verbose=0))


@pytest.fixture(scope="module")
def only_keras(tmp_path_factory):
    """A process that has Keras and none of this project's code: it loads models, one after another."""
    command = [sys.executable, "-I", "-c", LOAD_WHERE_ONLY_KERAS_IS]
    folder = tmp_path_factory.mktemp("only_keras")
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def exported(run, kind, out):
    export.main([str(run), "--to", kind, "--out", str(out)])
    return out / export.TARGETS[kind][0]


def by_keras(path, images, only_keras):
    given = path.with_name("given.npy")
    np.save(path.with_name("images.npy"), images)
    print(path, path.with_name("images.npy"), given, sep=",", file=only_keras.stdin, flush=True)
    assert only_keras.stdout.readline() == "done\n"
    return np.load(given)


def by_tensorflow(path, images, _):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # whose variables live as long as it does
    return loaded.serve(images).numpy()


def by_onnx_runtime(path, images, _):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def by_litert(path, images, _):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(made["index"])


@pytest.mark.parametrize(
    ("kind", "loaded"),
    [("keras", by_keras), ("savedmodel", by_tensorflow), ("onnx", by_onnx_runtime), ("litert", by_litert)],
)
def test_another_runtime_gives_the_same_probabilities(
    run, network, images, probabilities, only_keras, kind, loaded, tmp_path, monkeypatch
):
    path = exported(run, kind, tmp_path)
    for count in (1, 9):  # any batch
        given = loaded(path, images[:count], only_keras)
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, probabilities[:count], atol=1e-4)
        clear = np.diff(np.sort(probabilities[:count])[:, -2:]).ravel() > 1e-4
        assert (given.argmax(1) == probabilities[:count].argmax(1))[clear].all()
    card = (tmp_path / "README.md").read_text()
    assert path.name in card
    assert all(f"`{name}`" in card for name in network.class_names)
    assert (tmp_path / "labels.txt").read_text().splitlines() == list(network.class_names)
    assert f"accuracy {json.loads((run / 'metrics.json').read_text())['test']['accuracy']:.4f}" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    mode = "RGB" if images.shape[-1] == 3 else "L"
    Image.fromarray(images[0].squeeze()).convert(mode).save(tmp_path / "photo.jpg", quality=100, subsampling=0)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)  # as it stands there, from top to bottom
    photo = Image.open("photo.jpg")
    same = trained.probabilities(network.model.predict(np.asarray(photo).reshape(1, *images.shape[1:]), verbose=0))
    np.testing.assert_allclose(names["probabilities"], same, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_card_prepares_an_image_of_16_bits_as_predict_reads_it(tmp_path, monkeypatch, channels):
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "photo.png")
    (read,) = reader(8, channels)([str(tmp_path / "photo.png")])
    code = model_card.PREPARING.format(side=8, mode="L" if channels == 1 else "RGB").replace("photo.jpg", "photo.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    np.testing.assert_array_equal(names["images"][0], read)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("width", "height", "side"), [(9, 8, 8), (8, 9, 8), (31, 32, 32), (17, 16, 8), (101, 80, 32), (40, 41, 64)]
)
def test_the_card_prepares_an_image_as_training_does(tmp_path, monkeypatch, width, height, side, mode):
    """To one level of grey: the same square, to the pixel, also of a length that is odd."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / "photo.png")
    (read,) = reader(side, len(mode))([str(tmp_path / "photo.png")])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(model_card.PREPARING.format(side=side, mode=mode).replace("photo.jpg", "photo.png"), names)
    assert names["images"].dtype == np.uint8
    np.testing.assert_allclose(names["images"][0].astype(int), read, atol=1)


def test_the_card_has_the_whole_command_and_no_path(run, network):
    config = json.loads((run / "config.json").read_text())
    weights = {"weights": "w.safetensors@sha256:0123"}
    content = config | {
        "config": config["config"] | {"dataset": "image_folder:/home/me/my photos", **weights},
        "setting": "dataset=image_folder:/home/me/my photos weights=w.safetensors@sha256:0123 limit_train=None "
        "fast=False",
    }
    with mock.patch.object(RunFolder, "config", return_value=content):
        card = model_card.text(run, network, "model.keras")
    assert "/home" not in card
    assert "\ndatasets:" not in card  # of the hub's own ids
    assert "\nlicense_name: see-the-source-of-w.safetensors\n" in card
    made = f"train.py --preset {config['config']['preset']} --dataset 'image_folder:my photos' --weights w.safetensors"
    assert f"{made} --limit-train None --no-fast --seed {config['config']['seed']}`" in card
    assert "`w.safetensors`: a file of weights, or a run's backbone, with the SHA-256 0123…" in card


def test_the_card_says_which_code_trained_the_run():
    assert model_card.code({"commit": "ab12", "dirty": False}) == "commit `ab12`"
    assert model_card.code({"commit": "ab12", "dirty": True}) == "commit `ab12` with uncommitted changes"
    assert model_card.code({"commit": None, "dirty": None}) == "code of no commit"


@pytest.mark.parametrize(
    ("kind", "loaded"),
    [("keras", by_keras), ("savedmodel", by_tensorflow), ("onnx", by_onnx_runtime), ("litert", by_litert)],
)
def test_a_network_that_shrinks_its_images_is_exported_with_the_antialiasing(tmp_path, only_keras, kind, loaded):
    def network(layer):
        inputs = keras.Input((96, 96, 3), dtype="uint8", name="image")
        small = layer(32, 32, dtype="float32", name="resize")(keras.ops.cast(inputs, "float32"))
        return keras.Model(inputs, keras.layers.Flatten()(keras.layers.AveragePooling2D(16)(small)))

    model, images = network(Resizing), np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3)).astype(np.uint8)
    expected = trained.probabilities(np.asarray(model(images)))
    assert np.abs(expected - trained.probabilities(np.asarray(network(keras.layers.Resizing)(images)))).max() > 0.1
    plain = export.with_probabilities(model, kind)
    plain(images)
    path = tmp_path / export.TARGETS[kind][0]
    export.save(plain, kind, path)
    np.testing.assert_allclose(loaded(path, images, only_keras), expected, atol=1e-4)


# The others differ from these in depth and width alone.
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2"])
def test_every_backbone_is_of_stock_layers(name):
    """In float32, whatever it was trained in, with the same weights."""
    from common.backbones import networks

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = networks.build(name, 32)
        inputs = keras.Input((20, 20, 3), dtype="uint8", name="image")
        outputs = keras.layers.Dense(4, dtype="float32")(backbone.extract(inputs))
        model = keras.Model(inputs, outputs)
        plain = export.with_probabilities(model, "keras")
    finally:
        keras.config.set_dtype_policy("float32")

    def layers_of(part):
        for layer in part.layers:
            yield layer
            yield from layers_of(layer) if isinstance(layer, keras.Model) else ()

    every = list(layers_of(plain))
    assert all(type(layer).__module__.startswith("keras.") for layer in every)
    assert {layer.compute_dtype for layer in every if layer.weights and not isinstance(layer, keras.Model)} == {
        "float32"
    }
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def one_run(demos):
    return demos("hinge_svm")


@pytest.fixture
def hub(monkeypatch):
    """A local stand-in of the hub's interface, and the requests that it got."""
    got = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self, content, code=200):
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            got.append((self.path, b""))
            self.answer({"id": "me/mine", "sha": "0" * 40, "siblings": []})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, body))
            if "taken" in self.path:
                self.answer({"error": "You don't have the rights"}, 403)
            elif self.path.endswith("/preupload/main"):
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            elif "/commit/" in self.path:
                self.answer(
                    {
                        "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/1",
                        "commitOid": "1" * 40,
                        "success": True,
                    }
                )
            else:
                self.answer({"url": f"http://{self.headers['Host']}/me/mine"})

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield address, got
    server.shutdown()
    server.server_close()


def published(run, address, repository, out):
    """The command in a process of its own, as the hub's address is read when its library is imported."""
    command = [
        sys.executable,
        "-m",
        "common.export",
        str(run),
        "--to",
        "keras",
        "--out",
        str(out),
        "--publish",
        repository,
    ]
    environment = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret", "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_folder_is_pushed_to_the_hub(one_run, hub, tmp_path):
    address, got = hub
    done = published(one_run, address, "me/mine", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"published {address}/me/mine/commit/1" in done.stdout
    (commit,) = [body for path, body in got if "/commit/" in path]
    assert b"README.md" in commit
    assert b"model.keras" in commit


@pytest.mark.parametrize(
    ("repository", "closed", "said"),
    [
        ("me/taken", False, "error: --publish me/taken: "),
        ("no such name", False, "error: --publish no such name: Repo id must"),
        ("me/mine", True, "error: --publish me/mine: the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_line(one_run, hub, tmp_path, monkeypatch, capsys, repository, closed, said):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9" if closed else hub[0])
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(SystemExit) as stop:
        export.main([str(one_run), "--to", "keras", "--out", str(tmp_path), "--publish", repository])
    assert stop.value.code in (1, 2)
    assert in_process.one_error(capsys).startswith(said)


def test_a_folder_with_other_files_is_refused_and_an_earlier_export_is_not(one_run, tmp_path, capsys):
    for name in ("README.md", "photo.jpg"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("of mine")
        with pytest.raises(SystemExit) as stop:
            export.main([str(one_run), "--to", "keras", "--out", str(out)])
        assert stop.value.code == 2
        said = f"error: --out {out} holds other files: {name}; allowed: a new folder, or an earlier export --to keras\n"
        assert capsys.readouterr().err == said
        assert (out / name).read_text() == "of mine"
    (tmp_path / "README.md" / "model.keras").write_text("of mine too")
    with pytest.raises(SystemExit):
        export.main([str(one_run), "--to", "keras", "--out", str(tmp_path / "README.md")])
    for _ in range(2):
        export.main([str(one_run), "--to", "keras", "--out", str(tmp_path / "new")])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"model.keras", "labels.txt", "README.md"}


@pytest.mark.parametrize("kind", ["keras", "savedmodel"])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_export(one_run, tmp_path, capsys, monkeypatch, kind):
    out = tmp_path / "new"
    export.main([str(one_run), "--to", kind, "--out", str(out)])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(model, kind, path):
        path.write_text("half")
        raise RuntimeError(f"RESOURCE_EXHAUSTED: {path}; {os.strerror(errno.ENOSPC)}")  # as TensorFlow has it

    with monkeypatch.context() as patch:
        patch.setattr(export, "save", full)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            export.main([str(one_run), "--to", kind, "--out", str(out)])
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"error: cannot write {out / export.TARGETS[kind][0]}: no space left\n"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    export.main([str(one_run), "--to", kind, "--out", str(out)])  # with space again, over the earlier one
    assert {path for path in out.rglob("*") if path.is_file()} == before.keys()


def test_mistakes_are_one_line(one_run, tmp_path, capsys, monkeypatch):
    for arguments, said in (
        ([str(one_run), "--to", "onyx"], "invalid choice: 'onyx'"),
        (["nothing", "--to", "keras"], "run 'nothing': not found"),
        ([str(one_run), "--to", "keras", "--private"], "--private is for a repository; allowed: with --publish"),
        ([str(one_run), "--to", "keras", "--phase", "x"], "has no phase 'x'; allowed: train"),
    ):
        with pytest.raises(SystemExit) as stop:
            export.main(arguments)
        assert stop.value.code == 2
        assert said in in_process.one_error(capsys)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(SystemExit):
        export.main([str(one_run), "--to", "onnx"])
    assert "KERAS_BACKEND is jax; --to onnx needs tensorflow" in in_process.one_error(capsys)
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        export.main([str(one_run), "--to", "onnx"])
    assert "--to onnx needs tf2onnx and onnx; pip install tf2onnx onnx" in in_process.one_error(capsys)


def test_a_phases_network_has_a_folder_of_its_own(one_run, tmp_path, monkeypatch, capsys):
    (phase,) = RunFolder(one_run).metrics()["phases"]
    copy = shutil.copytree(one_run, tmp_path / "run")
    monkeypatch.setattr(export, "save", lambda model, kind, path: path.touch())
    for flags in ((), ("--phase", phase)):
        export.main([str(copy), "--to", "keras", *flags])
    written = [Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith("model.keras")]
    assert written == [copy / "export" / name / "model.keras" for name in ("keras", f"keras-{phase}")]


def test_a_run_without_its_network_is_one_line(one_run, tmp_path, capsys):
    copy = shutil.copytree(one_run, tmp_path / "run", ignore=shutil.ignore_patterns("model.keras"))
    with pytest.raises(SystemExit) as stop:
        export.main([str(copy), "--to", "keras"])
    assert stop.value.code == 2
    assert "has no model.keras" in in_process.one_error(capsys)
