import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from common import checkpoints, files
from common.checkpoints import CheckpointError

ROOT = Path(__file__).parents[2]

# Keras 3.15 reads a variable with np.array, which NumPy 2 warns of: not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# --- files that are whole or not there


def test_write_takes_the_place_of_the_old_content(tmp_path):
    path = tmp_path / "metrics.json"
    files.write(path, b"old")
    files.write(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_keeps_the_old_content(tmp_path):
    path = tmp_path / "metrics.json"
    files.write(path, b"old")
    with path.open("rb") as reader:
        files.write(path, b"new")
        assert reader.read() == b"old"


def test_write_json_refuses_what_json_does_not_know(tmp_path):
    files.write_json(tmp_path / "a.json", {"loss": 1.5})
    assert (tmp_path / "a.json").read_text() == '{\n  "loss": 1.5\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n  "loss": 1.5\n}\n'


# In a process of its own, whose limit on the size of files makes the kernel refuse in the middle of a write.
FULL = """
import resource, signal, sys
from pathlib import Path
from common import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
path = Path(sys.argv[1])
files.write(path, b"x" * 10_000)
try:
    files.write(path, b"y" * 10_001)
except files.StorageError as error:
    print(error)
"""


def test_a_write_that_the_kernel_cuts_off_leaves_the_old_content(tmp_path):
    path = tmp_path / "step.safetensors"
    done = subprocess.run([sys.executable, "-c", FULL, path], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"cannot write {path}: File too large\n", "")
    assert path.read_bytes() == b"x" * 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder_is_one_line(unwritable_folder):
    with unwritable_folder(metrics=b"old") as folder:
        path = folder / "metrics.json"
        with pytest.raises(files.StorageError) as error:
            files.write(path, b"new")
        assert str(error.value) == f"cannot write {path}: Permission denied"
        assert path.read_bytes() == b"old"
        assert list(folder.iterdir()) == [path]


def test_missing_folder_is_one_line(tmp_path):
    path = tmp_path / "gone" / "metrics.json"
    with pytest.raises(files.StorageError, match="No such file or directory"):
        files.write(path, b"new")


# --- checkpoints

DTYPES = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
]


def test_round_trip_keeps_every_bit(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, (3, 4)).astype(name) for name in DTYPES}
    arrays |= {
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "transposed": rng.normal(size=(4, 3)).astype(np.float32).T,
        "strided": np.arange(20, dtype=np.int32)[::3],
        "not_finite": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
    }
    data = {"phase": 1, "rows": [{"loss": 0.1 + 0.2}], "best": {}, "name": "π"}
    loaded = checkpoints.load(checkpoints.save(tmp_path, "step-000000001", arrays, data))
    assert loaded.data == data
    assert set(loaded.arrays) == set(arrays)
    for name, array in arrays.items():
        assert loaded.arrays[name].dtype == array.dtype, name
        assert loaded.arrays[name].shape == array.shape, name
        assert loaded.arrays[name].tobytes() == array.tobytes(), name


def test_name_carries_the_digest_of_the_content(tmp_path):
    path = checkpoints.save(tmp_path, "best-head", {"a": np.ones(3)}, {})
    assert path.name == f"best-head-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.safetensors"


def flip(path):
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


DAMAGES = [flip, truncate, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(tmp_path, damage):
    path = checkpoints.save(tmp_path, "best-head", {"a": np.ones(1000)}, {})
    damage(path)
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        checkpoints.load(path)


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_nothing_is_unpickled(tmp_path):
    content = pickle.dumps(Bomb())
    digest = hashlib.sha256(content).hexdigest()[:16]
    for name in (f"step-000000001-{digest}", "step-000000001-0123456789abcdef"):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            checkpoints.load(path)
        assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact"):
        checkpoints.latest(tmp_path)


def save_best(folder, value):
    return checkpoints.save(folder, "best-head", {"w": np.full(100, value)}, {}).name


def save_step(folder, step, best=None, value=None):
    data = {"step": step, "best": {} if best is None else {"head": {"file": best, "epoch": 1}}}
    arrays = {"w": np.full(100, step if value is None else value, np.float32)}
    return checkpoints.save_step(folder, step, arrays, data)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_newest_two_are_kept(tmp_path):
    paths = [save_step(tmp_path, step) for step in (5, 90, 1000, 20_000)]
    assert names(tmp_path) == {path.name for path in paths[2:]}
    assert checkpoints.steps(tmp_path) == paths[:1:-1]
    assert checkpoints.latest(tmp_path).data["step"] == 20_000


def test_without_checkpoints_there_is_no_latest(tmp_path, capsys):
    assert checkpoints.latest(tmp_path) is None
    assert capsys.readouterr().out == ""


def test_best_states_live_as_long_as_a_kept_checkpoint_names_them(tmp_path):
    bests = [save_best(tmp_path, value) for value in range(4)]
    save_step(tmp_path, 1, bests[0])
    assert {n for n in names(tmp_path) if n.startswith("best")} == {bests[0]}
    bests[1] = save_best(tmp_path, 1)
    save_step(tmp_path, 2, bests[1])
    assert {n for n in names(tmp_path) if n.startswith("best")} == {bests[0], bests[1]}
    save_step(tmp_path, 3, bests[1])
    assert {n for n in names(tmp_path) if n.startswith("best")} == {bests[1]}


@pytest.mark.parametrize("damage", DAMAGES)
def test_latest_falls_back_to_the_one_before_and_says_so(tmp_path, capsys, damage):
    save_step(tmp_path, 1)
    newest = save_step(tmp_path, 2)
    damage(newest)
    assert checkpoints.latest(tmp_path).data["step"] == 1
    said = capsys.readouterr().out
    assert said.startswith("warning: ")
    assert newest.name in said
    assert "falling back" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink])
def test_latest_falls_back_if_a_best_state_is_damaged(tmp_path, capsys, damage):
    bests = [save_best(tmp_path, 1)]
    save_step(tmp_path, 1, bests[0])
    bests.append(save_best(tmp_path, 2))
    save_step(tmp_path, 2, bests[1])
    damage(tmp_path / bests[1])
    assert checkpoints.latest(tmp_path).data["step"] == 1
    assert bests[1] in capsys.readouterr().out


def test_no_whole_checkpoint_is_an_error(tmp_path):
    for path in (save_step(tmp_path, 1), save_step(tmp_path, 2)):
        flip(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact; --overwrite"):
        checkpoints.latest(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_fell_back_outlives_what_it_passed_over(tmp_path, damage):
    save_step(tmp_path, 10)
    damage(save_step(tmp_path, 20))
    assert checkpoints.latest(tmp_path).data["step"] == 10
    # The damaged one must not count among the two that are kept, neither ahead of the run nor when it gets there.
    save_step(tmp_path, 15)
    assert [checkpoints.load(path).data["step"] for path in checkpoints.steps(tmp_path)] == [15, 10]
    damage(save_step(tmp_path, 20))
    save_step(tmp_path, 20, value=-1)
    assert [checkpoints.load(path).data["step"] for path in checkpoints.steps(tmp_path)] == [20, 15]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_an_older_checkpoint_does_not_stop_a_run(tmp_path, damage):
    best = save_best(tmp_path, 1)
    damage(save_step(tmp_path, 1, best))
    save_step(tmp_path, 2, best)
    assert checkpoints.latest(tmp_path).data["step"] == 2


# --- variables


def variables():
    return [
        keras.Variable(np.arange(6, dtype="float32").reshape(2, 3), name="kernel"),
        keras.Variable(np.array(3, "int32"), dtype="int32", trainable=False, name="step"),
        keras.Variable(np.array([1, 2], "uint32"), dtype="uint32", trainable=False, name="seed"),
    ]


def values(ours):
    return [np.array(v).tolist() for v in ours]


def test_gather_and_assign_are_each_others_reverse(tmp_path):
    saved = variables()
    arrays = checkpoints.gather("model", saved) | checkpoints.gather("optimizer", variables())
    assert sorted(arrays)[:3] == ["model/0000/kernel", "model/0001/step", "model/0002/seed"]
    loaded = checkpoints.load(checkpoints.save(tmp_path, "best-x", arrays, {}))
    others = variables()
    for variable in others:
        variable.assign(variable + 1)
    checkpoints.assign("model", others, loaded.arrays)
    assert values(others) == values(saved)
    assert [v.dtype for v in others] == ["float32", "int32", "uint32"]


def test_a_view_of_the_backends_memory_is_copied():
    """A stand-in for a variable that hands out its own memory, as JAX's do on a CPU."""
    memory = np.arange(3.0)
    arrays = checkpoints.gather("optimizer", [memory[:]])
    memory += 1  # what the next step may do with it
    assert arrays["optimizer/0000"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arrays: arrays.pop("model/0002/seed"), "model/0002/seed is not in the checkpoint"),
        (lambda arrays: arrays.update({"model/0003/more": np.ones(2)}), "model/0003/more is not in the model"),
        (
            lambda arrays: arrays.update({"model/0002/seed": np.ones(3, "uint32")}),
            r"seed is \(2,\) in the model, \(3,\)",
        ),
    ],
)
def test_assign_refuses_what_does_not_fit_before_it_changes_anything(change, says):
    ours = variables()
    arrays = {name: array + 1 for name, array in checkpoints.gather("model", ours).items()}
    change(arrays)
    with pytest.raises(CheckpointError, match=says):
        checkpoints.assign("model", ours, arrays)
    assert values(ours) == values(variables())
