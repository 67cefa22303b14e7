"""What several tests of tasks need."""

import contextlib
import io

import in_process
import pytest

from slurm import plan


@pytest.fixture(scope="session")
def demos(tmp_path_factory):
    """A function from a task, and more flags, to the folder of its shortened demo, which is run once; only read it."""
    finished = {}

    def demo(task, *flags):
        if (task, *flags) not in finished:
            out = tmp_path_factory.mktemp(task)
            command = ["--out", str(out), *in_process.short(task), *flags]
            with contextlib.redirect_stdout(io.StringIO()):  # a test reads what its own commands print
                assert in_process.call(plan.load_task(task), *command, drawn=True) == 0
            finished[task, *flags] = in_process.folder_in(out)
        return finished[task, *flags]

    return demo


@pytest.fixture
def run(demos):
    """A finished run, of a network that is quick to load."""
    return demos("hinge_svm")


@pytest.fixture
def phased(demos):
    """A finished run of three phases."""
    return demos("cifar_phased")
