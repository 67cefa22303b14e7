"""Where ImageNet weights come from, and loading them into a backbone with every tensor accounted for.

The ResNets take torchvision's weights, those of the published runs, from the Hugging Face hub
(`timm/<name>.tv_in1k`, one safetensors file each). MobileNetV2 takes those of `keras.applications`.
A file that does not fit is one line that names the first wrong tensor, and nothing has been assigned by then.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import checkpoints, files
from common.config import BACKBONES, ConfigError

if TYPE_CHECKING:
    import keras  # `locate` does without

MOBILENET = "mobilenet_v2"
MOBILENET_SIZES = (96, 128, 160, 192, 224)
MOBILENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2"
SUFFIX = {name: ".h5" if name == MOBILENET else ".safetensors" for name in BACKBONES}

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


class WeightsError(ConfigError):
    """Weights that are absent, unreadable, or do not fit the model. The message is one line."""


def locate(name: str, weights: str, offline: bool, image_size: int = 224) -> Path | None:
    """Return the file that holds `weights` for the backbone `name`, fetching it where that is allowed.

    Args:
        name: a backbone, one of `common.config.BACKBONES`.
        weights: "imagenet", "none" or the path of a file.
        offline: never reach for the network.
        image_size: side of the model's input in pixels. MobileNetV2 has weights for several (see `is_present`).

    Returns:
        A file that exists, or None for "none". What is already on this machine is found without a network.

    Raises:
        WeightsError: no such file; or ImageNet weights are absent and `offline` is set or no host answers.

    """
    if weights == "none":
        return None
    if weights == "imagenet":
        found = is_present(name, image_size)
        if found is None and offline:
            raise _absent(name, "are not on this machine")
        return found or fetch(name, image_size)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(f"no weights file {path}: give 'imagenet', 'none' or the path of a {_suffix(name)} file")
    return path


def is_present(name: str, image_size: int = 224) -> Path | None:
    """Return the local copy of the ImageNet weights of `name`, or None. Needs no network and no Keras.

    MobileNetV2's weights are chosen as `keras.applications` chooses them: those trained at `image_size` where
    it is one of `MOBILENET_SIZES`, else those trained at 224.
    """
    if _suffix(name) == ".h5":
        path = _mobilenet_path(image_size)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(_repository(name), "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def fetch(name: str, image_size: int | None = None) -> Path:
    """Download the ImageNet weights of `name` unless they are here, showing progress, and return their path.

    MobileNetV2 has a file for each of `MOBILENET_SIZES`: the one for `image_size`, or all (50 MB) where it is
    None, so that one call prepares a machine for any image size; the path is then that of the 224 file.

    Raises:
        WeightsError: no host answers, or it does not have the file.

    """
    if name == MOBILENET and image_size is None:
        return [fetch(name, size) for size in MOBILENET_SIZES][-1]
    found = is_present(name, image_size or 224)
    if found is not None:
        return found
    try:
        return _fetch_mobilenet(image_size) if name == MOBILENET else _fetch_resnet(name)
    except Exception as error:  # both libraries raise many kinds, get_file a bare Exception
        raise _absent(name, f"cannot be fetched ({_first_line(error)})") from error


def load_safetensors(model, path: str | Path) -> None:
    """Assign every variable of a Keras `model` from a safetensors file with torch's names and layout.

    A variable "layer1.0.bn1/moving_mean" is the tensor "layer1.0.bn1.running_mean": layers must bear the names
    of torch's modules. Convolution kernels are turned from OIHW to HWIO, linear ones from (out, in) to
    (in, out). `num_batches_tracked`, and a classifier `fc` that the model does not have, are passed over.

    Raises:
        WeightsError: the file is missing, unreadable, of another format, or a tensor is missing, unexpected or
            of another shape. The model is then as it was.

    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = _readable(path, ".safetensors")
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


def load_h5(model, path: str | Path) -> None:
    """Assign every variable of a Keras `model` from an HDF5 file that Keras wrote.

    Reads both of Keras' layouts: `.weights.h5` (Keras 3, layers found by name) and the older one, which
    `keras.applications` publishes (layers taken in order, as Keras does: their names there may differ).

    Raises:
        WeightsError: the file is missing, truncated, not HDF5, or a variable is missing, unexpected or of
            another shape. The model is then as it was.

    """
    import h5py

    path = _readable(path, ".h5")
    layers = [layer for layer in model.layers if layer.weights]
    try:
        with h5py.File(path, "r") as file:
            legacy = "layer_names" in file.attrs or "layer_names0" in file.attrs
            arrays = dict(_legacy_arrays(file, layers) if legacy else _keras3_arrays(file, layers))
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable HDF5 weights file ({_first_line(error)})") from error
    expected = {
        _label(layer, variable): (variable, tuple(range(len(variable.shape))))
        for layer in layers
        for variable in layer.weights
    }
    _assign(path, expected, arrays)


def _by_torch_name(model) -> dict[str, tuple]:
    """Return each variable of a model with its axes in torch's layout, by its name there."""
    return {
        f"{layer.name}.{TORCH_NAMES[variable.name]}": (variable, KERAS_AXES[len(variable.shape)])
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
        variable.assign(np.transpose(arrays[name], axes))


def _surplus(name: str) -> bool:
    """Tell whether a torch tensor has no place in a Keras backbone: counters, and the ImageNet classifier."""
    return name.endswith(".num_batches_tracked") or name.startswith("fc.")


def _keras3_arrays(file, layers) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (label, array) from a `.weights.h5` file, whose groups carry the layer's name."""
    by_name = {layer.name: layer for layer in layers}
    for key, group in file["layers"].items():
        name = group["vars"].attrs.get("name", key)
        for index, array in group["vars"].items():
            yield _found_label(by_name.get(name), name, int(index)), array[()]


def _legacy_arrays(file, layers) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (label, array) from the layout of Keras 2, the k-th layer of the file for the k-th here."""
    with_weights = [name for name in _texts(file, "layer_names") if _texts(file[name], "weight_names")]
    for position, name in enumerate(with_weights):
        layer = layers[position] if position < len(layers) else None
        for index, weight in enumerate(_texts(file[name], "weight_names")):
            yield _found_label(layer, name, index), file[name][weight][()]


def _found_label(layer, name: str, index: int) -> str:
    """Return the label of a layer's `index`-th variable, or a name for what the model does not have."""
    if layer is None or index >= len(layer.weights):
        return f"{name}/{index}"
    return _label(layer, layer.weights[index])


def _label(layer, variable) -> str:
    """Return "layer/variable". A variable's own path begins with the model's name where that is Sequential."""
    return f"{layer.name}/{variable.name}"


def _texts(group, attribute: str) -> list[str]:
    """Read a list of names, which Keras splits over attributes with numbers where it is long."""
    chunks = [key for key in group.attrs if key == attribute or key.removeprefix(attribute).isdigit()]
    chunks.sort(key=lambda key: int(key.removeprefix(attribute) or 0))
    texts = [text for chunk in chunks for text in group.attrs[chunk]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _fetch_resnet(name: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # hf_hub_download tries an unreachable host for half a minute; this asks once.
    get_hf_file_metadata(hf_hub_url(_repository(name), "model.safetensors"), timeout=10)
    return Path(hf_hub_download(_repository(name), "model.safetensors"))


def _fetch_mobilenet(image_size: int) -> Path:
    from keras.utils import get_file

    path = _mobilenet_path(image_size)
    # Which makes the folder; get_file goes elsewhere where Keras' home does not exist yet.
    with files.alone(path.with_name(f".{path.name}.lock")):
        if path.is_file():  # another process has fetched it meanwhile
            return path
        # A download that is killed must not look like a file that is present, so it is renamed at its end.
        part = get_file(
            f"{path.name}.part",
            f"{MOBILENET_URL}/{path.name}",
            cache_dir=path.parent.parent,
            cache_subdir=path.parent.name,
            force_download=True,
        )
        return Path(part).rename(path)


def _mobilenet_path(image_size: int) -> Path:
    """Return where `keras.applications` keeps MobileNetV2's weights, which follows Keras' rule for its home."""
    writable = os.access(Path("~").expanduser(), os.W_OK)
    home = os.environ.get("KERAS_HOME") or Path("~/.keras" if writable else "/tmp/.keras").expanduser()
    size = image_size if image_size in MOBILENET_SIZES else 224
    return Path(home) / "models" / f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5"


def _repository(name: str) -> str:
    return f"timm/{name}.tv_in1k"


def _suffix(name: str) -> str:
    if name not in SUFFIX:
        raise WeightsError(f"unknown backbone {name!r}: one of {', '.join(SUFFIX)}")
    return SUFFIX[name]


def _readable(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise WeightsError(f"{path}: this backbone loads {suffix} files only")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    return path


def _absent(name: str, reason: str) -> WeightsError:
    return WeightsError(
        f"ImageNet weights of {name} {reason}; where there is a network, run: "
        f"python -m common.data prepare --weights {name}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
