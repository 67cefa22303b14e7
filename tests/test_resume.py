"""A run that is stopped and resumed ends as one that was never stopped: the short version of kill_and_resume.py."""

import signal

import kill_and_resume
import pytest

FLAGS = ["--preset", "demo", "--limit-train", "200", "--batch-size", "32", "--augmentation", "affine_colour_blur"]
FLAGS += ["--phases.0.epochs", "1", "--phases.1.epochs", "1", "--phases.2.epochs", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    kill_and_resume.undisturbed(out, FLAGS)
    return kill_and_resume.contents(out)


def test_end_is_equal_bit_for_bit(whole, tmp_path):
    """After a SIGTERM, which leaves a checkpoint, and a SIGKILL, which does not: both while the last phase compiles."""
    signals = [(0.5, signal.SIGTERM), (1.0, signal.SIGKILL)]
    assert kill_and_resume.disturbed(tmp_path / "run", FLAGS, signals, "phase full: 2 epochs") == 2
    log = (tmp_path / "run.log").read_text()
    assert log.count("SIGTERM: saving at the end of this step") == 1
    assert log.count("stopped by SIGTERM; the same command goes on") == 1
    assert log.count("resuming: phase full, epoch 1, step 1") == 2
    assert kill_and_resume.differences(whole, kill_and_resume.contents(tmp_path / "run")) == []


def test_the_comparison_sees_one_bit(whole):
    name = next(name for name, item in whole.items() if name.startswith("variable") and item.dtype == "float32")
    changed = whole[name].copy()
    changed.reshape(-1).view("uint32")[:1] ^= 1
    assert kill_and_resume.differences(whole, whole | {name: changed}) == [name]
