"""Fixtures of the tests of results."""

import pytest
from made_runs import TASK


@pytest.fixture
def root(tmp_path):
    """A repository with one task and nothing else."""
    (tmp_path / "tasks" / TASK).mkdir(parents=True)
    (tmp_path / "tasks" / TASK / "train.py").touch()
    return tmp_path
