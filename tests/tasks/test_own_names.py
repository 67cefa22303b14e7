"""A task brings its own data set, backbone and recipe, and trains with them."""

import json
import subprocess
import sys

import in_process
import numpy as np
import pytest

from common.augment import AUGMENTATIONS
from common.augment.recipes import Recipe
from common.data import DATASETS, splits
from slurm.plan import load_task


def stripes(name, folder):
    """Two classes of images 12 x 12: rows and columns of stripes, with noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 64, (80, 12, 12, 3), dtype=np.uint8)
    labels = np.arange(80) % 2
    images[labels == 0, ::2] += 128
    images[labels == 1, :, ::2] += 128
    return splits.Loaded({"train": splits.whole(images, labels, 12)}, ["rows", "columns"], [f"{name} are made"])


TILT = Recipe(rotation=5.0)
FLAGS = ["--preset", "demo", "--dataset", "stripes", "--backbone", "tiny", "--augmentation", "tilt"]
FLAGS += [f"--phases.{number}.epochs=1" for number in range(3)]


@pytest.fixture
def registered(monkeypatch, tiny_backbone):
    monkeypatch.setitem(DATASETS, "stripes", f"{__name__}:stripes")
    monkeypatch.setitem(AUGMENTATIONS, "tilt", f"{__name__}:TILT")


def test_a_task_trains_with_what_it_has_registered(tmp_path, registered, no_network):
    assert in_process.call(load_task("cifar_phased"), "--out", str(tmp_path), *FLAGS, "--offline") == 0
    (folder,) = tmp_path.glob("cifar_phased/demo-stripes-tiny-*")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert metrics["class_counts"]["test"] == [8, 8]
    assert metrics["notes"][0] == "stripes are made"
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["dataset"], config["backbone"], config["augmentation"]) == ("stripes", "tiny", "tilt")
    assert (folder / "backbone.safetensors").is_file()
    assert no_network == []
    # Another process knows the recipe only if loading the run imports what registers it.
    code = (
        "import sys, types; from common.augment import AUGMENTATIONS; from common.augment.recipes import Recipe\n"
        "class Task:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'tasks.cifar_phased.train': AUGMENTATIONS['tilt'] = 'tilted:TILT'\n"
        "sys.meta_path.insert(0, Task()); sys.modules['tilted'] = types.SimpleNamespace(TILT=Recipe(rotation=5.0))\n"
        "from pathlib import Path; from common import trained\n"
        "print(trained.load(Path(sys.argv[1])).class_names)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert done.stdout == "['rows', 'columns']\n", done.stderr


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--dataset=stripse", "did you mean stripes?"),
        ("--backbone=tinny", "did you mean tiny?"),
        ("--augmentation=tild", "did you mean tilt?"),
    ],
)
def test_a_registered_name_is_suggested(tmp_path, registered, capsys, flag, said):
    assert in_process.call(load_task("cifar_phased"), "--out", str(tmp_path), flag) == 2
    assert said in in_process.one_error(capsys)


def test_a_name_that_is_not_registered_is_refused(tmp_path, capsys):
    assert in_process.call(load_task("cifar_phased"), "--out", str(tmp_path), *FLAGS) == 2
    assert "unknown dataset 'stripes'; allowed: digits, " in in_process.one_error(capsys)
