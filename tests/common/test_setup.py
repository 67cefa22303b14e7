"""What a process that trains sets up before anything is computed."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from common import setup
from common.config import Config
from common.devices import Devices
from common.errors import ConfigError

SET_UP = """
from common import devices, setup
from common.config import Config

devices.FIXED_ORDER = "--xla_no_such_flag"
config = Config(dataset="digits", deterministic=%r, devices=%d)
chosen = devices.choose(config, "jax")
chosen.join()
setup.set_up(config, chosen)
print("set up")
"""


@pytest.mark.parametrize(
    ("deterministic", "devices", "heard"), [("yes", 1, True), ("yes", 2, True), ("auto", 1, False)]
)
def test_xla_hears_what_is_asked_of_it_on_jax(deterministic, devices, heard):
    """It ends the process for a flag that it does not know, so it has not read its flags too early."""
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", SET_UP % (deterministic, devices)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert ("Unknown flag in XLA_FLAGS: --xla_no_such_flag" in done.stderr, "set up" in done.stdout) == (
        heard,
        not heard,
    )


@pytest.mark.parametrize("gpu", [False, True])
def test_float32_is_no_tf32_on_a_gpu(monkeypatch, gpu):
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    monkeypatch.setattr(setup, "on_gpu", lambda: gpu)
    try:
        tf.config.experimental.enable_tensor_float_32_execution(True)
        setup.set_up(Config(dataset="digits", precision="float32", deterministic="no"), Devices())
        assert tf.config.experimental.tensor_float_32_execution_enabled() is not gpu
        if keras.backend.backend() == "jax":
            import jax

            assert jax.config.jax_default_matmul_precision == ("highest" if gpu else None)
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
        if keras.backend.backend() == "jax":
            jax.config.update("jax_default_matmul_precision", None)


@pytest.mark.parametrize(
    ("given", "declined", "sees", "fails"),
    [
        ("1", None, [], True),
        ("2", None, ["NVIDIA H100"], False),
        ("0", None, [], False),
        (None, None, [], False),
        ("1", ("CUDA_VISIBLE_DEVICES", ""), [], False),
        ("1", ("JAX_PLATFORMS", "cpu"), [], False),
    ],
)
def test_a_gpu_from_slurm_that_the_backend_does_not_find_is_a_mistake(monkeypatch, given, declined, sees, fails):
    for name in ("SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv("SLURM_GPUS_ON_NODE", given)
    if declined:
        monkeypatch.setenv(*declined)
    devices = Devices()
    monkeypatch.setattr(devices, "gpus", lambda: sees)
    if not fails:
        setup.check_gpus(devices)
        return
    with pytest.raises(ConfigError, match=r"^SLURM gave this run 1 GPU, but \w+ finds none on .*requirements.txt"):
        setup.check_gpus(devices)


@pytest.mark.parametrize(("backend", "hidden"), [("jax", [([], "GPU")]), ("tensorflow", [])])
def test_tensorflow_leaves_a_gpu_to_the_backend(monkeypatch, backend, hidden):
    """Wherever a network is made or loaded: predictions too."""
    calls = []
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *given: calls.append(given))
    setup.reset_keras()
    assert calls == hidden


FOUND = """
from common import setup
from common.errors import ConfigError

try:
    setup.on_gpu()
except ConfigError as error:
    print(error)
"""


def test_a_platform_that_is_not_there_is_one_line():
    surroundings = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cuda"}
    command, root = [sys.executable, "-c", FOUND], Path(__file__).parents[2]
    done = subprocess.run(command, env=surroundings, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "jax finds no device; JAX_PLATFORMS is cuda\n"
