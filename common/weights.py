"""Sources of ImageNet weights, and loading them into a backbone with every tensor accounted for.

They come from the Hugging Face hub, one safetensors file per backbone: torchvision's for the ResNets, as in the
published runs, and timm's for MobileNetV2. If a file does not fit, the error is one line that names the first wrong
tensor, and nothing has been assigned.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import checkpoints, files
from common.errors import ConfigError, first_line

if TYPE_CHECKING:
    import keras  # not loaded by `locate`

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2")
# A backbone that is not here has no ImageNet weights.
REPOSITORIES = {name: f"timm/{name}.tv_in1k" for name in RESNETS} | {"mobilenet_v2": "timm/mobilenetv2_100.ra_in1k"}

# torch's name for each variable of a Keras layer; "weight" belongs to both convolution and batch normalisation.
TORCH_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Axes of a torch tensor in Keras's order: OIHW -> HWIO (grouped convolutions too), (out, in) -> (in, out).
KERAS_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
DEPTHWISE_AXES = (2, 3, 0, 1)  # (channels, 1, h, w) -> (h, w, channels, 1)


class WeightsError(ConfigError):
    """Weights that are missing, unreadable, or do not fit the model. The message is one line."""


def locate(name: str, weights: str, offline: bool) -> Path | None:
    """Return the file of `weights` for the backbone `name`; download it if necessary and allowed.

    Args:
        name: a backbone, one of `common.backbones.BACKBONES`.
        weights: "imagenet", "none" or the path of a file.
        offline: never use the network.

    Returns:
        An existing file, or None for "none". Files already on this machine are found without a network.

    Raises:
        WeightsError: no such file; or ImageNet weights are missing and cannot or may not be downloaded.

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
    """Return the local copy of the ImageNet weights of `name`, or None. Uses neither network nor Keras."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(_repository(name), "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def fetch(name: str) -> Path:
    """Return the path of the ImageNet weights of `name`; download them, with progress, if they are missing.

    Raises:
        WeightsError: no host answers, or it does not have the file.

    """
    found = is_present(name)
    if found is not None:
        return found
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # hf_hub_download retries an unreachable host for half a minute; this asks once.
        get_hf_file_metadata(hf_hub_url(_repository(name), "model.safetensors"), timeout=10)
        return Path(hf_hub_download(_repository(name), "model.safetensors"))
    except Exception as error:  # the library raises many kinds
        raise _absent(name, f"cannot be fetched ({first_line(error)})") from error


def load_safetensors(model: "keras.Model", path: str | Path) -> None:
    """Assign every variable of a Keras `model` from a safetensors file with torch's names and layout.

    Layers must have the names of torch's modules: variable "layer1.0.bn1/moving_mean" is tensor
    "layer1.0.bn1.running_mean". Convolution kernels are transposed from OIHW to HWIO (depthwise: I is the channels),
    linear ones from (out, in) to (in, out); float16 is cast to the dtype of the variable. `num_batches_tracked` is
    skipped, and so is a classifier (`fc`, `classifier`) that the model does not have.

    Raises:
        WeightsError: the file is missing, unreadable, of another format, or a tensor is missing, unexpected or
            of another shape. The model is then as it was.

    """
    path = Path(path)
    tensors = read(path)
    expected = _by_torch_name(model)
    _assign(path, expected, {name: tensors[name] for name in tensors if name in expected or not _surplus(name)})


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file. Raises WeightsError if it is missing, unreadable or of another format."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: backbones load .safetensors files only")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({first_line(error)})") from error


def export(model: "keras.Model", path: Path) -> None:
    """Write every variable of a backbone to a file from which `load_safetensors` restores it bit for bit.

    Raises:
        StorageError: the file cannot be written.

    """
    # Every run with a backbone writes this file. It is a tenth of the size of the checkpoints, and starting from it
    # needs neither the run's model nor its code.
    from safetensors.numpy import save

    tensors = {
        name: np.ascontiguousarray(np.transpose(checkpoints.snapshot(variable), np.argsort(axes)))
        for name, (variable, axes) in _by_torch_name(model).items()
    }
    files.write(path, save(tensors, {"format": "pt"}))  # required by PyTorch's libraries


def _by_torch_name(model: "keras.Model") -> dict[str, tuple]:
    """Return {torch's name: (variable, its axes in torch's layout)} for each variable of a model."""
    return {
        f"{layer.name}.{TORCH_NAMES[variable.name]}": (variable, _keras_axes(layer, variable))
        for layer in model.layers
        for variable in layer.weights
    }


def _assign(path: Path, expected: dict, arrays: dict[str, np.ndarray]) -> None:
    """Assign `arrays` to `expected`, {name: (variable, axes)}, after checking all names and shapes."""
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


def _keras_axes(layer: "keras.layers.Layer", variable: "keras.Variable") -> tuple[int, ...]:
    import keras

    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) and variable.name == "kernel"
    return DEPTHWISE_AXES if depthwise else KERAS_AXES[len(variable.shape)]


def _surplus(name: str) -> bool:
    """Whether a torch tensor has no counterpart in a Keras backbone: counters and the ImageNet classifier."""
    return name.endswith(".num_batches_tracked") or name.startswith(("fc.", "classifier."))


def _repository(name: str) -> str:
    if name not in REPOSITORIES:
        allowed = "none, a file or a run; a backbone with ImageNet weights"
        raise WeightsError(f"there are no ImageNet weights of {name}; allowed: {allowed} ({', '.join(REPOSITORIES)})")
    return REPOSITORIES[name]


def _absent(name: str, reason: str) -> WeightsError:
    return WeightsError(
        f"ImageNet weights of {name} {reason}; on a machine with a network, run: "
        f"python -m common.data prepare --weights {name}; or give a .safetensors file: --weights FILE"
    )
