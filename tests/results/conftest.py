"""Fixtures of the tests of results."""

import pytest
from made_runs import TASK, write_report


@pytest.fixture
def root(tmp_path):
    """A repository with one task, whose report has one figure, and nothing else."""
    (tmp_path / "tasks" / TASK).mkdir(parents=True)
    (tmp_path / "tasks" / TASK / "train.py").touch()
    write_report(tmp_path, "figures=(across.curves,)")
    return tmp_path
