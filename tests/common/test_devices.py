"""A batch shared among devices: the same training as on one, stop and resume, and what is refused.

Every run is a process of its own, since devices are chosen before a backend starts.
"""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import kill_and_resume
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from common.config import Config
from common.data import pipeline, sources
from common.devices import Devices, choose
from common.devices.mesh import SLURM, Mesh, surroundings
from common.devices.mirrored import Mirrored
from common.errors import ConfigError

FIXTURES = Path(__file__).parent / "fixtures"
STEADY = ["--preset", "steady"]
STOPPED = 143
PATIENCE = 900  # seconds; a run takes ten where the machine is idle
QUICK = "--xla_backend_optimization_level=0"  # compiles in half the time


def start(out, flags, backend, **environment):
    """Begin a run; its output goes to a log beside the folder."""
    log = out.with_name(f"{out.name}.log{environment.get('KERAS_DISTRIBUTION_PROCESS_ID', '')}")
    command = [sys.executable, str(FIXTURES / "shared_run" / "train.py"), "--out", str(out), *flags]
    environment = os.environ | {"KERAS_BACKEND": backend, "LOSSES": str(out), "XLA_FLAGS": QUICK} | environment
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def train(out, *flags, backend, processes=1, **environment):
    """Run to the end; the exit codes of its processes."""
    if processes == 1:
        return [start(out, flags, backend, **environment).wait(PATIENCE)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    places = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes)}
    begun = [
        start(out, [*flags, "--nodes", "2"], backend, **environment, **places, KERAS_DISTRIBUTION_PROCESS_ID=str(i))
        for i in range(processes)
    ]
    return [process.wait(PATIENCE) for process in begun]


def logs(out):
    return "".join(path.read_text() for path in sorted(out.parent.glob(f"{out.name}.log*")))


def losses(out):
    """The running mean of the loss after each step."""
    return np.array(json.loads(out.with_name(f"{out.name}.first").read_text()))


def history(out):
    with next(out.glob("*/*/history.csv")).open() as file:
        return [
            {k: float(row[k]) for k in ("loss", "accuracy", "val_loss", "val_accuracy")} for row in csv.DictReader(file)
        ]


def state(out):
    """The variables of the last checkpoint, batch normalisation's statistics among them."""
    path = max(out.glob("*/*/checkpoints/step-*"), key=lambda path: path.name)
    return safetensors.numpy.load_file(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by backend, devices and processes, each made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(backend, count=1, processes=1, *flags):
        out = folder / "-".join([backend, str(count), str(processes), *(flag.strip("-") for flag in flags)])
        if out not in made:
            made[out] = train(out, *STEADY, "--devices", str(count), *flags, backend=backend, processes=processes)
            assert made[out] == [0] * processes, logs(out)
        return out

    return run


@pytest.mark.parametrize(("backend", "count", "processes"), [("tensorflow", 2, 1), ("jax", 2, 1), ("jax", 1, 2)])
def test_training_is_that_of_one_device(runs, backend, count, processes):
    one, shared = runs(backend), runs(backend, count, processes)
    np.testing.assert_allclose(losses(shared)[:5], losses(one)[:5], rtol=1e-4)
    # The epochs' means count the last batch of 29 images right, training and validation.
    for ours, theirs in zip(history(shared), history(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    expected, found = state(one), state(shared)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
    predictions = [np.load(next(out.glob("*/*/predictions.npz"))) for out in (one, shared)]
    for name in predictions[0].files:
        ours, theirs = (saved[name] for saved in predictions)
        assert ours.shape == theirs.shape
        if "probabilities" in name:
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    environment = json.loads(next(shared.glob("*/*/environment.json")).read_text())
    assert len(environment["devices"]) == 2
    assert "Traceback" not in logs(shared)
    assert "UserWarning" not in logs(shared)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_statistics_that_follow_are_those_of_the_whole_batch(runs, backend):
    one, shared = (runs(backend, count, 1, "--batch-norm", "follow") for count in (1, 2))
    np.testing.assert_allclose(losses(shared)[:5], losses(one)[:5], rtol=1e-4)
    expected, found = state(one), state(shared)
    for name in (name for name in expected if "norm0" in name):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
        assert "moving" not in name or not np.isin(expected[name], (0, 1)).any()


def test_first_steps_of_a_resnet(runs):
    # 160 images to train, five batches. A rate so low that rounding, which random weights amplify, stays small.
    flags = ("--network", "resnet18", "--phases.0.epochs", "1", "--phases.0.rate", "0.001", "--limit-train", "178")
    one, shared = runs("tensorflow", 1, 1, *flags), runs("tensorflow", 2, 1, *flags)
    np.testing.assert_allclose(losses(shared)[:5], losses(one)[:5], rtol=1e-4)


def test_only_the_first_process_writes_and_speaks(runs):
    out = runs("jax", 1, 2)
    first, other = (out.with_name(f"{out.name}.log{i}").read_text() for i in range(2))
    assert "full 2/2  loss" in first
    assert "loss" not in other
    (folder,) = out.glob("*/*")
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.json",
        "environment.json",
        "figures",
        "history.csv",
        "metrics.json",
        "model.keras",
        "outcomes.json",
        "predictions.npz",
        "report.html",
    }
    np.testing.assert_array_equal(json.loads(out.with_name(f"{out.name}.other").read_text()), losses(out))


def test_two_processes_stop_and_resume_to_the_same_end(runs, tmp_path):
    whole, out = runs("jax", 1, 2), tmp_path / "parts"
    first, other = train(out, *STEADY, "--devices", "1", backend="jax", processes=2, STOP_AT="9")
    assert first == STOPPED
    assert other not in (0, None)  # it cannot go on alone, and does not hang
    assert "SIGTERM: saving at the end of this step" in logs(out)
    assert train(out, *STEADY, "--devices", "1", backend="jax", processes=2) == [0, 0], logs(out)
    assert "resuming: phase full, epoch 2, step 3" in logs(out)
    assert kill_and_resume.differences(kill_and_resume.contents(whole), kill_and_resume.contents(out)) == []


def test_two_replicas_with_random_changes_stop_and_resume_to_the_same_end(tmp_path):
    flags = ["--preset", "random", "--devices", "2"]
    whole, out = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *flags, backend="tensorflow") == [0], logs(whole)
    assert train(out, *flags, backend="tensorflow", STOP_AT="9") == [STOPPED], logs(out)
    assert train(out, *flags, backend="tensorflow") == [0], logs(out)
    assert "resuming: phase one, epoch 2, step 3" in logs(out)
    assert kill_and_resume.differences(kill_and_resume.contents(whole), kill_and_resume.contents(out)) == []


def test_replicas():
    command = [sys.executable, str(FIXTURES / "replicas.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": "tensorflow"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all good\n"


@pytest.mark.parametrize(("variables"), [{}, {"JOB_ADDRESSES": "a:1", "PROCESS_ID": "one"}, {"JOB_ADDRESSES": "a:1"}])
def test_variables_that_do_not_say_which_process_this_is_are_one_line(monkeypatch, variables):
    for name, value in {"NUM_PROCESSES": "2", **variables}.items():
        monkeypatch.setenv(f"KERAS_DISTRIBUTION_{name}", value)
    with pytest.raises(ConfigError, match=r"NUM_PROCESSES=2, .*; allowed: HOST:PORT, the number of processes, and"):
        surroundings()


def config(**fields):
    return Config(preset="test", dataset="digits", **fields)


@pytest.mark.parametrize(
    ("fields", "backend", "message"),
    [
        ({"nodes": 2}, "tensorflow", "nodes is 2, and Keras 3 trains on several machines with JAX alone"),
        ({"devices": 3}, "tensorflow", "batch-size is 64, which 1 x 3 devices cannot share"),
        ({"devices": 2, "nodes": 64}, "jax", "batch-size is 64, which 64 x 2 devices cannot share"),
        ({"devices": 0}, "jax", "devices is 0; it must be above zero"),
        ({"nodes": -1}, "jax", "nodes is -1; it must be above zero"),
        ({"seeds": "0:3"}, "tensorflow", "seeds is 0:3, and several are one program with JAX alone: KERAS_BACKEND=jax"),
        ({"seeds": "0:3", "devices": 2}, "jax", "seeds is 0:3, which takes one device; devices x nodes is 2"),
        ({"seeds": "0:3", "seed": 1}, "jax", "seeds is 0:3 and seed is 1; allowed: one of them"),
        ({"seeds": "4294967296"}, "jax", "seeds is 4294967296; allowed: 0 to 4294967295"),
        ({"seeds": "3:0"}, "jax", "seeds '3:0'; allowed: FIRST:END"),
    ],
)
def test_what_cannot_be_shared_is_refused(monkeypatch, fields, backend, message):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(ConfigError, match=message):
        config(**fields).check()


def test_the_number_of_devices_is_not_part_of_the_name():
    assert config(devices=2).name() == config(nodes=4).name() == config().name()


@pytest.mark.parametrize(
    ("fields", "backend", "kind", "counts"),
    [
        ({}, "tensorflow", Devices, {}),
        ({}, "jax", Devices, {}),
        ({"devices": 2}, "tensorflow", Mirrored, {"count": 2}),
        ({"devices": 2}, "jax", Mesh, {"count": 2, "nodes": 1}),
        ({"nodes": 4}, "jax", Mesh, {"count": 1, "nodes": 4}),
        ({"devices": 2, "nodes": 4}, "jax", Mesh, {"count": 2, "nodes": 4}),
    ],
)
def test_devices_are_chosen_by_their_number_and_the_backend(fields, backend, kind, counts):
    devices = choose(config(**fields), backend)
    assert type(devices) is kind
    assert {name: getattr(devices, name) for name in counts} == counts
    assert devices.is_primary
    assert devices.reads_all  # until it has joined others


def test_one_device_is_alone():
    alone = Devices()
    alone.join()
    assert alone.broadcast("a text") == "a text"
    assert not alone.is_peer_lost(RuntimeError("UNAVAILABLE"))
    alone.leave(RuntimeError())  # goes on
    assert alone.steps(5) is None
    assert alone.replica_values([]) == []
    assert len(alone.names()) == 1


def test_one_device_is_named_of_several(monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1"])
    assert Devices().names() == ["gpu:0"]


@pytest.mark.parametrize("tasks", [None, "1", "3"])
def test_another_number_of_processes_is_refused(monkeypatch, tasks):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for name in SLURM:
        if tasks is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, tasks)
    with pytest.raises(ConfigError, match=f"nodes is 2, and the number of processes that were started is {tasks or 1}"):
        Mesh(1, 2).connect()


def test_more_devices_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])
    with pytest.raises(ConfigError, match="devices is 2; this machine has 1"):
        choose(config(devices=2), "tensorflow").join()


@pytest.mark.parametrize(
    ("kind", "backend", "seen"),
    [
        (Devices(), "tensorflow", ["first"]),
        (Devices(), "jax", None),
        (Mirrored(2), "tensorflow", ["first", "second"]),
    ],
)
def test_tensorflow_takes_no_more_gpus_than_asked_for(monkeypatch, kind, backend, seen):
    """It reserves the memory of each that it sees, so that another run could not start on the same machine."""
    calls = []
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["first", "second", "third"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *given: calls.append(given))
    kind.join() if isinstance(kind, Mirrored) else kind.activate()
    assert calls == ([(seen, "GPU")] if seen else [])


@pytest.mark.parametrize(("images", "batch", "replicas"), [(5000, 64, 2), (4993, 64, 4), (21, 32, 2), (9, 8, 4)])
def test_every_batch_of_an_evaluation_reaches_all_replicas(images, batch, replicas):
    assert Devices().evaluation_batch(images, batch) == batch
    size = Mirrored(replicas).evaluation_batch(images, batch)
    assert size <= batch
    assert min(images, size) >= replicas
    assert images % size == 0 or images % size >= replicas


def test_processes_read_their_parts_of_the_same_batches(monkeypatch):
    data = sources.load(config(limit_train=200)).train

    def mesh(process, processes, size):
        """As it is in one of these processes, with so many devices in all."""
        devices = Mesh(2, processes)
        devices.process, devices.processes = process, processes
        laid_out = SimpleNamespace(device_mesh=SimpleNamespace(devices=np.zeros(size)))
        monkeypatch.setattr(keras.distribution, "distribution", lambda: laid_out)
        return devices

    def batches(process=0, processes=1):
        devices = mesh(process, processes, 2 * processes)
        return list(pipeline.training(data, 32, 5, range(2), skip=1, devices=devices).as_numpy_iterator())

    whole, parts = batches(), [batches(i, 2) for i in range(2)]
    assert [len(labels) for _, labels in whole[:5]] == [32, 32, 32, 32, 20]  # 180 images
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([images for images, _ in shares]), images)
        for _, seen in shares:
            np.testing.assert_array_equal(seen, labels)
    three = mesh(1, 2, 3)  # which does not divide 20
    last = list(pipeline.training(data, 32, 5, range(1), devices=three).as_numpy_iterator())[-1]
    np.testing.assert_array_equal(last[0], whole[4][0])
    # What a task computes from the images itself sees all of them.
    assert [len(images) for images, _ in pipeline.evaluation(data, 100)] == [100, 80]
    assert len(pipeline.pictures(data, np.arange(6))) == 6
