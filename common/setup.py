"""What holds for a whole process that trains: seeds, devices, precision, repeats that are bit-identical."""

import os
import socket

import keras
import tensorflow as tf

from common import garbage, precision
from common.config import Config
from common.devices import Devices
from common.environment import processor
from common.errors import ConfigError
from common.workarounds.jax_state import keep_state_as_it_is


def reset_keras() -> None:
    """Keras's own defaults, whatever a keras.json of the user's says, and a GPU for its backend alone."""
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # tf.data must not take the memory that the model needs


def set_up(config: Config, devices: Devices) -> None:
    """Seed everything, choose devices and precision, and make repeats bit-identical if that is asked for."""
    garbage.resume()
    reset_keras()
    if keras.backend.backend() == "jax":
        keep_state_as_it_is()
    tf.get_logger().setLevel("ERROR")  # it warns of each phase's compilation
    devices.activate()
    check_gpus(devices)
    compute_in_float32()
    keras.utils.set_random_seed(config.seed)
    policy = config.precision
    if policy == "auto":
        policy = "mixed_float16" if on_gpu() else "float32"
    check_bfloat16(policy)
    keras.config.set_dtype_policy(policy)
    if is_deterministic(config):
        tf.config.experimental.enable_op_determinism()


def check_bfloat16(policy: str) -> None:
    """Raise ConfigError if oneDNN's limit excludes bfloat16, which TensorFlow would report as a traceback."""
    limit = precision.onednn_limit()
    excluded = limit and not limit.startswith(("AVX512_CORE", "AVX10")) and "avx512f" in processor()["instruction_sets"]
    if policy == "mixed_bfloat16" and excluded and uses_onednn():
        raise ConfigError(f"oneDNN is limited to {limit} (ONEDNN_MAX_CPU_ISA); bfloat16 needs AVX512_CORE or no limit")


def uses_onednn() -> bool:
    """Whether TensorFlow computes on a CPU with oneDNN."""
    return precision.onednn_is_on() and keras.backend.backend() == "tensorflow" and not on_gpu()


def advise(config: Config) -> None:
    """Print a note if bfloat16 was measured to be faster for this network on such a processor."""
    if config.precision == "auto" and uses_onednn():
        said = precision.advice(config.architecture, processor()["instruction_sets"])
        if said:
            print(said, flush=True)


def check_gpus(devices: Devices) -> None:
    """Raise ConfigError if SLURM has given this process GPUs, but its backend finds none.

    It would go on, on the CPU, for many times as long. CUDA_VISIBLE_DEVICES and JAX_PLATFORMS can ask for that.
    """
    given = os.environ.get("SLURM_GPUS_ON_NODE", "0")
    declined = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1") or os.environ.get("JAX_PLATFORMS") == "cpu"
    if given not in ("", "0") and not declined and not devices.gpus():
        raise ConfigError(
            f"SLURM gave this run {given} GPU{'s' * (given != '1')}, but {keras.backend.backend()} finds none on "
            f"{socket.gethostname()}; does nvidia-smi work there, and is requirements.txt installed, not "
            "requirements-cpu.txt? (--gpus 0 asks for none)"
        )


def compute_in_float32() -> None:
    """Let float32 be float32 on NVIDIA cards: by default products there have the 10 bits of TF32.

    Mixed precision loses no speed: its products are of 16 bits.
    """
    if on_gpu():
        tf.config.experimental.enable_tensor_float_32_execution(False)
        if keras.backend.backend() == "jax":
            import jax

            jax.config.update("jax_default_matmul_precision", "highest")


def on_gpu() -> bool:
    """Whether Keras's backend computes on a GPU. Raises ConfigError if it finds no device at all."""
    try:
        devices = keras.distribution.list_devices()
    except (RuntimeError, AssertionError) as error:  # JAX's
        asked = os.environ.get("JAX_PLATFORMS")
        raise ConfigError(f"{keras.backend.backend()} finds no device; JAX_PLATFORMS is {asked}") from error
    return any(device.startswith("gpu") for device in devices)


def is_deterministic(config: Config) -> bool:
    """Whether operations must give the same bits each time."""
    return config.deterministic == "yes" or (config.deterministic == "auto" and not on_gpu())


def environment(config: Config, devices: Devices, model: keras.Model) -> dict:
    """Facts of a compiled model's surroundings for environment.json."""
    return {
        "backend": keras.backend.backend(),
        "devices": (names := devices.names()),
        "gpus": devices.gpus()[: len(names)],  # it may see more
        "precision": keras.config.dtype_policy().name,
        "jit_compile": bool(model.jit_compile),
        "op_determinism": is_deterministic(config),
        "onednn": precision.onednn_is_on(),
        "onednn_max_cpu_isa": precision.onednn_limit() or None,
    }
