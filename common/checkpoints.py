"""Checkpoints: all variables and the position in training, in safetensors files that carry their digest.

`.keras` and `.weights.h5` leave out the state of the random generators, so a run resumed from them draws other
dropout masks; here every variable of the model and of the optimiser is kept.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from common import files
from common.files import CheckpointError

KEPT = 2
# NumPy's types, in the byte order that files have, and their names in safetensors.
DTYPES = {"|b1": "BOOL", "|i1": "I8", "|u1": "U8"}
DTYPES |= {f"<{kind}{size}": f"{kind.upper()}{8 * size}" for kind in "fiu" for size in (2, 4, 8)}


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds: arrays by name, and JSON data beside them."""

    path: Path
    arrays: dict[str, np.ndarray]
    data: dict


def gather(group: str, variables: Sequence) -> dict[str, np.ndarray]:
    """Keras variables as arrays by name, which stay as they are when the variables change."""
    return dict(zip(names(group, variables), map(snapshot, variables), strict=True))


def snapshot(variable) -> np.ndarray:
    """A variable's array as it is now."""
    held = getattr(variable, "value", None)  # a method, in TensorFlow's own variables
    if hasattr(held, "read_value"):
        # On a CPU TensorFlow's tensor is the variable's own memory, without a copy: whoever changes the variable while
        # there is such a tensor gives it other memory first.
        return np.asarray(held.read_value())
    # A copy, or with JAX a view of memory that the next step may write to.
    array = np.asarray(variable)
    return array if array.flags.owndata else array.copy()


def assign(group: str, variables: Sequence, arrays: Mapping[str, np.ndarray]) -> None:
    """The reverse of `gather`. Raises CheckpointError, before it changes anything, where the two do not fit."""
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
    """`<group>/<index>/<path>` for the variables of a model, `<group>/<index>` for those of its optimiser and metrics.

    Keras numbers some of the latter by how many there were before in the process.
    """
    paths = [f"/{v.path}" if group in ("model", "weights") else "" for v in variables]
    return [f"{group}/{i:04d}{path}" for i, path in enumerate(paths)]


def save(folder: Path, stem: str, arrays: Mapping[str, np.ndarray], data: Mapping) -> Path:
    """Write `<stem>-<digest>.safetensors` whole or not at all, and return its path."""
    # The widest numbers first, so that each lies at a multiple of its size.
    ordered = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    flat = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in ordered.values())
    parts = [header(ordered, data), *map(memoryview, flat)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    path = folder / f"{stem}-{digest.hexdigest()[:16]}.safetensors"
    files.write(path, *parts)
    return path


def header(arrays: Mapping[str, np.ndarray], data: Mapping) -> bytes:
    """What a safetensors file begins with, before the arrays one after the other.

    By hand, since the library's `save` copies all arrays and lets no other thread run meanwhile, so that training
    stands still (tests/benchmarks/checkpoints.py). Its `save_file` lets them run, but makes files that only their owner
    may read.
    """
    entries, start = {"__metadata__": {"data": json.dumps(data)}}, 0
    for name, array in arrays.items():
        end = start + array.nbytes
        entries[name] = {"dtype": DTYPES[array.dtype.str], "shape": array.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError when it is no checkpoint, or does not fit the digest in its name."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:16] != path.stem.rpartition("-")[2]:
        raise CheckpointError(f"checkpoint {path.name} is damaged: its content does not fit its digest")
    try:
        return Checkpoint(path, safetensors.numpy.load(content), read_data(path))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path.name} is no checkpoint: {error}") from error


def read_data(path: Path) -> dict:
    """The JSON data of a checkpoint alone."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["data"])


def save_step(folder: Path, step: int, arrays: Mapping[str, np.ndarray], data: Mapping) -> Path:
    """Save the state of training after so many steps; keep the newest two, and the weights that they name."""
    path = save(folder, f"step-{step:09d}", arrays, data)
    # What lies ahead of this one was passed over when the run resumed: damaged, and never to be counted among the two.
    behind = [old for old in steps(folder) if step_of(old) < step]
    kept = [path, *behind[: KEPT - 1]]
    for old in set(steps(folder)) - set(kept):
        old.unlink()
    named = {file for checkpoint in kept for file in named_by(checkpoint)}
    for old in (*folder.glob("best-*.safetensors"), *folder.glob("last-*.safetensors")):
        if old.name not in named:
            old.unlink()
    return path


def named_by(path: Path) -> set[str]:
    """Names of the files of weights that a checkpoint needs; none if it has been damaged since it was written."""
    try:
        return weights_files(read_data(path))
    except safetensors.SafetensorError:
        return set()


def weights_files(data: Mapping) -> set[str]:
    """Names of the files with the weights of each phase's best and last epoch, in a checkpoint's data."""
    return {entry["file"] for kind in ("best", "last") for entry in data.get(kind, {}).values()}


def step_of(path: Path) -> int:
    """The number of steps in a checkpoint's name."""
    return int(path.stem.split("-")[1])


def steps(folder: Path) -> list[Path]:
    """The checkpoints of training, newest first."""
    found = [p for p in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d+-[0-9a-f]{16}", p.stem)]
    return sorted(found, key=lambda p: (step_of(p), p.stat().st_mtime_ns), reverse=True)


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, with the weights that it needs whole too; None without any.

    Says which ones it passed over. Raises CheckpointError when there are checkpoints and none is whole.
    """
    found = steps(folder)
    for path in found:
        try:
            checkpoint = load(path)
            for file in weights_files(checkpoint.data):
                load(folder / file)
            return checkpoint
        except (CheckpointError, OSError) as error:
            print(f"warning: {error}; falling back to the checkpoint before it", flush=True)
    if found:
        raise CheckpointError(f"no checkpoint in {folder} is whole; --overwrite starts anew")
    return None
