"""`python -m slurm prune`: finished runs let go of what training would go on from, and are as useful as before."""

import numpy as np
import pytest

from common import checkpoints, files
from slurm import __main__, commands, prune

FINISHED = '{"status": "completed"}'
ARRAYS = {"weights/a": np.ones(600_000, np.float32)}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A finished run, one that is not finished, and one without checkpoints, of two tasks."""
    monkeypatch.setattr(commands, "REPOSITORY", tmp_path)
    for task, name, is_finished in (
        ("hinge_svm", "done-s0", True),
        ("hinge_svm", "begun-s1", False),
        ("permuted_cnn", "done-s2", True),
    ):
        folder = tmp_path / "results" / "runs" / task / name
        (folder / "checkpoints").mkdir(parents=True)
        entry = {"epoch": 1, "file": checkpoints.save(folder / "checkpoints", "best-train", ARRAYS, {}).name}
        for step in (1, 2):
            arrays = {**ARRAYS, "optimizer/a": np.full(600_000, step, np.float32)}
            checkpoints.save_step(folder / "checkpoints", step, arrays, {"best": {"train": entry}, "step": step})
        if is_finished:
            (folder / "metrics.json").write_text(FINISHED)
    (tmp_path / "results" / "runs" / "hinge_svm" / "old-s3").mkdir()
    (tmp_path / "results" / "runs" / "hinge_svm" / "old-s3" / "metrics.json").write_text(FINISHED)
    return tmp_path / "results" / "runs"


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["slurm", "prune", *arguments])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    return stop.value.code


def sizes(runs):
    return {path.parent.parent.name: prune.size(path.parent.glob("step-*")) for path in runs.glob("*/*/checkpoints/*")}


def test_sizes_come_first_and_nothing_goes_without_yes(runs, monkeypatch, capsys):
    before = sizes(runs)
    assert call(monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "hinge_svm/done-s0" in printed
    assert "permuted_cnn/done-s2" in printed
    assert "begun-s1" not in printed
    assert "MB of 2 runs would be removed; the same command with --yes removes them" in printed
    assert sizes(runs) == before


def test_finished_runs_keep_the_weights_of_their_epochs(runs, monkeypatch, capsys):
    before = sizes(runs)
    assert call(monkeypatch, "--yes") == 0
    after = sizes(runs)
    assert after["begun-s1"] == before["begun-s1"]
    for name, task in (("done-s0", "hinge_svm"), ("done-s2", "permuted_cnn")):
        assert after[name] < 1000
        folder = runs / task / name / "checkpoints"
        newest = checkpoints.latest(folder)
        assert newest.data["step"] == 2
        assert newest.arrays == {}
        np.testing.assert_array_equal(
            checkpoints.load(folder / newest.data["best"]["train"]["file"]).arrays["weights/a"], ARRAYS["weights/a"]
        )
    capsys.readouterr()
    assert call(monkeypatch) == 0
    assert capsys.readouterr().out.startswith("nothing to remove")


def test_a_run_that_was_begun_again_meanwhile_keeps_its_checkpoints(runs, monkeypatch, capsys):
    """Between the look at all of them and its turn."""
    busy, again = runs / "hinge_svm" / "done-s0", runs / "permuted_cnn" / "done-s2"
    before, held = sizes(runs), prune.held

    def look(folders):
        found = held(folders)
        (again / "metrics.json").unlink()
        return found

    monkeypatch.setattr(prune, "held", look)
    with (busy / ".lock").open("a+") as lock:
        files.take(lock)
        assert call(monkeypatch, "--yes") == 1
    told = capsys.readouterr().err
    assert "left as it is: hinge_svm/done-s0: another process has it" in told
    assert "left as it is: permuted_cnn/done-s2: it is not finished any more" in told
    assert sizes(runs) == before


def test_a_run_that_may_not_be_written_is_one_line(runs, monkeypatch, capsys):
    (runs / "hinge_svm" / "done-s0" / ".lock").mkdir()  # as root may write everything else
    assert call(monkeypatch, "--yes") == 1
    assert "left as it is: hinge_svm/done-s0: cannot write " in capsys.readouterr().err


def test_one_task(runs, monkeypatch):
    before = sizes(runs)
    assert call(monkeypatch, "hinge_svm", "--yes") == 0
    after = sizes(runs)
    assert after["done-s0"] < 1000
    assert after["done-s2"] == before["done-s2"]


def test_an_unknown_submission_is_one_line(runs, monkeypatch, capsys):
    assert call(monkeypatch, "nothing") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_without_an_intact_checkpoint_is_one_line(runs, monkeypatch, capsys):
    for path in (runs / "hinge_svm" / "done-s0" / "checkpoints").glob("step-*"):
        path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    assert call(monkeypatch, "--yes") == 1
    said = capsys.readouterr()
    assert said.err.startswith("left as it is: hinge_svm/done-s0: no checkpoint in")
    assert said.out.splitlines()[-1] == "removed, but for 1 of 2 runs"
    assert sizes(runs)["done-s2"] < 1000


@pytest.mark.parametrize("content", ["", "{}", '{"status": "comp', '{"status": 7}'])
def test_a_run_with_damaged_metrics_is_named_and_keeps_its_checkpoints(runs, monkeypatch, capsys, content):
    before = sizes(runs)
    (runs / "hinge_svm" / "done-s0" / "metrics.json").write_text(content)
    assert call(monkeypatch, "--yes") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: hinge_svm/done-s0 is damaged: metrics.json")
    assert sizes(runs)["done-s0"] == before["done-s0"]
    assert sizes(runs)["done-s2"] < 1000
