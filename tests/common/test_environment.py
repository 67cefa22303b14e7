"""Where and with what a run happens: commit, processor, backend."""

import platform
import re
import subprocess
from pathlib import Path

import pytest
from toy_command import code_of, complete

from common import environment


def test_an_unknown_or_missing_backend_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    assert code_of(tmp_path, complete) == 2
    assert capsys.readouterr().err == "error: unknown KERAS_BACKEND 'theano'; allowed: tensorflow, jax\n"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    assert code_of(tmp_path, complete) == 2
    assert capsys.readouterr().err.startswith("error: KERAS_BACKEND is jax, which is not installed")


def test_processor_names_the_instruction_sets_that_the_kernel_does():
    found = environment.processor()
    if Path("/proc/cpuinfo").is_file() and platform.machine() == "x86_64":
        flags = set(re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
        assert set(found["instruction_sets"]) == set(environment.INSTRUCTION_SETS) & flags
        assert found["name"]


def test_git_state_knows_commit_and_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "REPOSITORY", tmp_path)
    assert environment.git_state("toy") == {"commit": None, "dirty": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment.git_state("toy") == {"commit": head, "dirty": False}
    (tmp_path / "results.csv").write_text("")  # a table is no code
    assert environment.git_state("toy") == {"commit": head, "dirty": False}
    for task, dirty in (("other", False), ("toy", True)):  # a new task that is under way changes no other
        (tmp_path / "tasks" / task).mkdir(parents=True)
        (tmp_path / "tasks" / task / "train.py").write_text("")
        assert environment.git_state("toy") == {"commit": head, "dirty": dirty}
    subprocess.run([*git, "add", "tasks"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "tasks"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment.git_state("toy") == {"commit": head, "dirty": False}
    (tmp_path / "tasks" / "other" / "train.py").write_text("changed")  # which another may import
    assert environment.git_state("toy") == {"commit": head, "dirty": True}
    subprocess.run([*git, "checkout", "-q", "."], check=True)
    (tmp_path / "common" / "data").mkdir(parents=True)
    (tmp_path / "common" / "data" / "new.py").write_text("")
    assert environment.git_state("toy") == {"commit": head, "dirty": True}


def test_an_editors_files_are_no_change(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    (tmp_path / "tasks" / "toy").mkdir(parents=True)
    (tmp_path / "tasks" / "toy" / ".#train.py").symlink_to("me@host.99:170")
    assert environment.git_state("toy", tmp_path)["dirty"] is False


def test_a_checkout_of_another_user_is_told_as_what_it_is(tmp_path, monkeypatch):
    """What git says there; without it, such code looked like code outside of any checkout."""
    said = f"fatal: detected dubious ownership in repository at '{tmp_path}'"
    (tmp_path / "git").write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n')
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment.git_state("toy", tmp_path)
    assert found == {"commit": None, "dirty": None, "git": "detected dubious ownership"}


@pytest.mark.parametrize("content", ["", "[]", '{"commit": 7}', '{"commit": "abc", "commit": "abd"}'])
def test_a_damaged_snapshot_is_no_commit(tmp_path, content):
    (tmp_path / environment.SNAPSHOT).write_text(content)
    found = environment.git_state("toy", tmp_path)
    assert (found["commit"], found["dirty"]) == (None, None)
    assert found["git"].startswith("snapshot.json")
