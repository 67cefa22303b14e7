"""Where ImageNet weights come from, and loading them into a backbone with every tensor accounted for.

They come from the Hugging Face hub, one safetensors file each: torchvision's, those of the published runs, for the
ResNets, and timm's for MobileNetV2. A file that does not fit is one line that names the first wrong tensor, and
nothing has been assigned by then.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import checkpoints, files
from common.backbones import BACKBONES
from common.errors import ConfigError

if TYPE_CHECKING:
    import keras  # `locate` does without

REPOSITORIES = {name: f"timm/{name}.tv_in1k" for name in BACKBONES} | {"mobilenet_v2": "timm/mobilenetv2_100.ra_in1k"}

# torch's name of each variable of a Keras layer. A convolution and a batch normalisation both say "weight".
TORCH_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Axes of a torch tensor in Keras' order: OIHW -> HWIO (grouped convolutions too), (out, in) -> (in, out).
KERAS_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
DEPTHWISE_AXES = (2, 3, 0, 1)  # (channels, 1, h, w) -> (h, w, channels, 1)


class WeightsError(ConfigError):
    """Weights that are absent, unreadable, or do not fit the model. The message is one line."""


def locate(name: str, weights: str, offline: bool) -> Path | None:
    """Return the file that holds `weights` for the backbone `name`, fetching it where that is allowed.

    Args:
        name: a backbone, one of `common.backbones.BACKBONES`.
        weights: "imagenet", "none" or the path of a file.
        offline: never reach for the network.

    Returns:
        A file that exists, or None for "none". What is already on this machine is found without a network.

    Raises:
        WeightsError: no such file; or ImageNet weights are absent and `offline` is set or no host answers.

    """
    if weights == "none":
        return None
    if weights == "imagenet":
        found = is_present(name)
        if found is None and offline:
            raise _absent(name, "are not on this machine")
        return found or fetch(name)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(f"no weights file {path}: give 'imagenet', 'none' or the path of a .safetensors file")
    return path


def is_present(name: str) -> Path | None:
    """Return the local copy of the ImageNet weights of `name`, or None. Needs no network and no Keras."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(_repository(name), "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def fetch(name: str) -> Path:
    """Download the ImageNet weights of `name` unless they are here, showing progress, and return their path.

    Raises:
        WeightsError: no host answers, or it does not have the file.

    """
    found = is_present(name)
    if found is not None:
        return found
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # hf_hub_download tries an unreachable host for half a minute; this asks once.
        get_hf_file_metadata(hf_hub_url(_repository(name), "model.safetensors"), timeout=10)
        return Path(hf_hub_download(_repository(name), "model.safetensors"))
    except Exception as error:  # the library raises many kinds
        raise _absent(name, f"cannot be fetched ({_first_line(error)})") from error


def load_safetensors(model, path: str | Path) -> None:
    """Assign every variable of a Keras `model` from a safetensors file with torch's names and layout.

    A variable "layer1.0.bn1/moving_mean" is the tensor "layer1.0.bn1.running_mean": layers must bear the names
    of torch's modules. Convolution kernels are turned from OIHW to HWIO (depthwise ones to HWIO with the channels as
    I), linear ones from (out, in) to (in, out), and float16 becomes the type of the variable. `num_batches_tracked`,
    and a classifier (`fc`, `classifier`) that the model does not have, are passed over.

    Raises:
        WeightsError: the file is missing, unreadable, of another format, or a tensor is missing, unexpected or
            of another shape. The model is then as it was.

    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: backbones load .safetensors files only")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({_first_line(error)})") from error
    expected = _by_torch_name(model)
    _assign(path, expected, {name: tensors[name] for name in tensors if name in expected or not _surplus(name)})


def export(model: "keras.Model", path: Path) -> None:
    """Write every variable of a backbone to the file that `load_safetensors` reads it from, bit for bit.

    Raises:
        StorageError: the file cannot be written.

    """
    # Every run with a backbone writes it: a tenth of what its checkpoints take, and who starts from the run needs
    # neither its model nor its code.
    from safetensors.numpy import save

    tensors = {
        name: np.ascontiguousarray(np.transpose(checkpoints.snapshot(variable), np.argsort(axes)))
        for name, (variable, axes) in _by_torch_name(model).items()
    }
    files.write(path, save(tensors, {"format": "pt"}))  # which PyTorch's libraries ask for


def _by_torch_name(model) -> dict[str, tuple]:
    """Return each variable of a model with its axes in torch's layout, by its name there."""
    return {
        f"{layer.name}.{TORCH_NAMES[variable.name]}": (variable, _keras_axes(layer, variable))
        for layer in model.layers
        for variable in layer.weights
    }


def _assign(path: Path, expected: dict, arrays: dict[str, np.ndarray]) -> None:
    """Assign `arrays` to `expected`, {name: (variable, axes)}, once all names and shapes are known to fit."""
    for name, (variable, axes) in expected.items():
        stored_shape = tuple(variable.shape[axes.index(axis)] for axis in range(len(axes)))
        if name not in arrays:
            raise WeightsError(f"{path}: tensor {name} is missing, expected with shape {stored_shape}")
        if arrays[name].shape != stored_shape:
            raise WeightsError(f"{path}: tensor {name} has shape {arrays[name].shape}, expected {stored_shape}")
    for name in arrays:
        if name not in expected:
            raise WeightsError(f"{path}: unexpected tensor {name} with shape {arrays[name].shape}")
    for name, (variable, axes) in expected.items():
        variable.assign(np.transpose(arrays[name], axes).astype(variable.dtype))


def _keras_axes(layer, variable) -> tuple[int, ...]:
    import keras

    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) and variable.name == "kernel"
    return DEPTHWISE_AXES if depthwise else KERAS_AXES[len(variable.shape)]


def _surplus(name: str) -> bool:
    """Tell whether a torch tensor has no place in a Keras backbone: counters, and the ImageNet classifier."""
    return name.endswith(".num_batches_tracked") or name.startswith(("fc.", "classifier."))


def _repository(name: str) -> str:
    if name not in REPOSITORIES:
        raise WeightsError(f"unknown backbone {name!r}: one of {', '.join(REPOSITORIES)}")
    return REPOSITORIES[name]


def _absent(name: str, reason: str) -> WeightsError:
    return WeightsError(
        f"ImageNet weights of {name} {reason}; where there is a network, run: "
        f"python -m common.data prepare --weights {name}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
