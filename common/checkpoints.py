"""Checkpoints: all variables and the position in training, in safetensors files named after their digest.

`.keras` and `.weights.h5` omit the state of the random generators, so a run resumed from them would draw other dropout
masks. Here every variable of the model and of the optimiser is saved.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from common import files
from common.files import CheckpointError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

KEPT = 2
# NumPy's dtypes, in the files' byte order, and their names in safetensors.
DTYPES = {"|b1": "BOOL", "|i1": "I8", "|u1": "U8"}
DTYPES |= {f"<{kind}{size}": f"{kind.upper()}{8 * size}" for kind in "fiu" for size in (2, 4, 8)}


@dataclass(frozen=True)
class Checkpoint:
    """Content of one file: arrays by name, and JSON data."""

    path: Path
    arrays: dict[str, np.ndarray]
    data: dict


def gather(group: str, variables: Sequence) -> dict[str, np.ndarray]:
    """Arrays of Keras variables by name; they do not change when the variables do."""
    return dict(zip(names(group, variables), map(snapshot, variables), strict=True))


def snapshot(variable: "keras.Variable | tf.Variable") -> np.ndarray:
    """The current value of a variable, as an array that later steps do not change."""
    held = getattr(variable, "value", None)  # a method of TensorFlow's own variables
    read = getattr(held, "read_value", None)
    if read:
        # On a CPU this shares the variable's memory. TensorFlow gives the variable new memory before it changes the
        # value while such a tensor exists.
        return np.asarray(read())
    # With JAX this may be a view of memory that the next step overwrites.
    array = np.asarray(variable)
    return array if array.flags.owndata else array.copy()


def assign(group: str, variables: Sequence, arrays: Mapping[str, np.ndarray]) -> None:
    """The reverse of `gather`. Raises CheckpointError, before anything is changed, if names or shapes differ."""
    saved = {name: array for name, array in arrays.items() if name.startswith(f"{group}/")}
    expected = names(group, variables)
    for name in sorted(set(expected) ^ set(saved)):
        raise CheckpointError(
            f"variable {name} is {'not in the checkpoint' if name in expected else 'not in the model'}"
        )
    for name, variable in zip(expected, variables, strict=True):
        if saved[name].shape != tuple(variable.shape):
            raise CheckpointError(
                f"variable {name} is {variable.shape} in the model, {saved[name].shape} in the checkpoint"
            )
    for name, variable in zip(expected, variables, strict=True):
        variable.assign(saved[name])


def names(group: str, variables: Sequence) -> list[str]:
    """`<group>/<index>/<path>` for the variables of a model, `<group>/<index>` for those of optimiser and metrics.

    The latter get no path, since Keras numbers some of them by how many the process has made before.
    """
    paths = [f"/{v.path}" if group in ("model", "weights") else "" for v in variables]
    return [f"{group}/{i:04d}{path}" for i, path in enumerate(paths)]


def save(folder: Path, stem: str, arrays: Mapping[str, np.ndarray], data: Mapping) -> Path:
    """Write `<stem>-<digest>.safetensors` atomically, and return its path."""
    # The widest dtypes first, so that every array is aligned.
    ordered = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    flat = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in ordered.values())
    parts: list[bytes | memoryview[int]] = [header(ordered, data), *(array.data for array in flat)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    path = folder / f"{stem}-{digest.hexdigest()[:16]}.safetensors"
    files.write(path, *parts)
    return path


def header(arrays: Mapping[str, np.ndarray], data: Mapping) -> bytes:
    """The header of a safetensors file, which the arrays follow.

    Built here because the library's `save` copies all arrays and blocks all other threads, so training would stop
    (tests/benchmarks/checkpoints.py). Its `save_file` does not block, but makes files that only their owner may read.
    """
    entries: dict[str, Mapping] = {"__metadata__": {"data": json.dumps(data)}}
    start = 0
    for name, array in arrays.items():
        end = start + array.nbytes
        entries[name] = {"dtype": DTYPES[array.dtype.str], "shape": array.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError if it is not one, or does not match the digest in its name."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:16] != path.stem.rpartition("-")[2]:
        raise CheckpointError(f"checkpoint {path.name} is damaged: its content does not match its digest")
    try:
        return Checkpoint(path, safetensors.numpy.load(content), read_data(path))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path.name} is not a checkpoint: {error}") from error


def read_data(path: Path) -> dict:
    """Only the JSON data of a checkpoint. Raises CheckpointError."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()["data"])
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name} is not a checkpoint: {error}") from error


def save_step(folder: Path, step: int, arrays: Mapping[str, np.ndarray], data: Mapping) -> Path:
    """Save the state of training after `step` steps; keep the newest two checkpoints and the weights they name."""
    path = save(folder, f"step-{step:09d}", arrays, data)
    # Checkpoints of later steps were skipped as damaged when the run resumed, so they do not count among the two.
    behind = [old for old in steps(folder) if step_of(old) < step]
    kept = [path, *behind[: KEPT - 1]]
    for old in set(steps(folder)) - set(kept):
        old.unlink()
    named = {file for checkpoint in kept for file in named_by(checkpoint)}
    for old in (*folder.glob("best-*.safetensors"), *folder.glob("last-*.safetensors")):
        if old.name not in named:
            old.unlink()
    return path


def prune(folder: Path) -> None:
    """Let go of the state that training would go on from; what says which weights are of which epoch stays.

    Raises CheckpointError if no checkpoint is intact.
    """
    newest = latest(folder)
    if newest is not None:
        kept = save(folder, f"step-{step_of(newest.path):09d}", {}, newest.data)
        for old in steps(folder):
            if old != kept:
                old.unlink()


def named_by(path: Path) -> set[str]:
    """Names of the weights files that a checkpoint needs; empty if the checkpoint is damaged."""
    try:
        return weights_files(read_data(path))
    except CheckpointError:
        return set()


def weights_files(data: Mapping) -> set[str]:
    """Names of the files with the weights of each phase's best and last epoch, from a checkpoint's data."""
    try:
        return {Path(entry["file"]).name for kind in ("best", "last") for entry in data.get(kind, {}).values()}
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"a checkpoint names its weights in another way: {error}") from error


def step_of(path: Path) -> int:
    """The step number in a checkpoint's name."""
    return int(path.stem.split("-")[1])


def steps(folder: Path) -> list[Path]:
    """The checkpoints of training, newest first."""
    named = [p for p in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d+-[0-9a-f]{16}", p.stem)]
    found = [p for p in named if p.is_file()]  # a link may lead nowhere
    return sorted(found, key=lambda p: (step_of(p), p.stat().st_mtime_ns), reverse=True)


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is intact, together with the weights it needs; None if there are no checkpoints.

    Prints a warning for each one that is skipped. Raises CheckpointError if there are checkpoints but none is intact.
    """
    found = steps(folder)
    for path in found:
        try:
            checkpoint = load(path)
            for file in weights_files(checkpoint.data):
                load(folder / file)
            return checkpoint
        except (CheckpointError, OSError) as error:
            print(f"warning: {error}; falling back to the previous checkpoint", flush=True)
    if found:
        raise CheckpointError(f"no checkpoint in {folder} is intact; --overwrite starts from scratch")
    return None
