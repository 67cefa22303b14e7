"""Settings from outside that changed results or ended in a traceback: each is taken, or refused, in one line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import in_process
import pytest

from slurm.plan import load_task

REPOSITORY = Path(__file__).resolve().parents[1]
ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "true"}  # as some write it
DEMO = ["tasks/hinge_svm/train.py", "--preset=demo", "--epochs=1", "--limit-train=200", "--limit-test=50"]


def run(*arguments, remove=(), **variables):
    """A command in a process of its own, from the repository."""
    environment = {key: value for key, value in os.environ.items() if key not in remove} | variables
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


def demo(out, **variables):
    """Metrics of the demo."""
    done = run(*DEMO, "--out", out, **variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return metrics_in(out)


def metrics_in(out):
    """Metrics of the one run below."""
    (folder,) = out.glob("*/*")
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    metrics = demo(out, TF_ENABLE_ONEDNN_OPTS="1")
    assert onednn(out) is True
    return metrics["test"]


def onednn(out):
    """Whether a run says that it used oneDNN."""
    (folder,) = out.glob("*/*")
    return json.loads((folder / "environment.json").read_text())["onednn"]


def test_a_keras_json_and_matplotlibs_settings_change_nothing(plain, tmp_path):
    settings = {"backend": "torch", "floatx": "float64", "image_data_format": "channels_first", "epsilon": 1e-3}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 7\n")
    outside = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": "module://no_such_module.backend"}
    code = (
        "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "from keras import backend, config\n"
        "print(config.floatx(), config.image_data_format(), config.epsilon(), backend.backend())"
    )
    out = tmp_path / "out"
    done = run("-c", code, *DEMO, "--out", out, KERAS_HOME=tmp_path, KERAS_BACKEND="", **outside, **ONEDNN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "float32 channels_last 1e-07 tensorflow"
    assert metrics_in(out)["test"] == plain
    assert onednn(out) is True


def test_a_notebook_keeps_what_shows_its_figures():
    code = "import os, sys; {}; import common; print(os.environ['MPLBACKEND'])"
    for before, backend in (("sys.modules['ipykernel'] = sys", "module://inline"), ("pass", "agg")):
        assert run("-c", code.format(before), MPLBACKEND="module://inline").stdout == f"{backend}\n"


def test_a_user_without_a_home_folder_has_a_temporary_one():
    code = (
        "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
        "import common; from pathlib import Path; print(Path.home().is_dir())"
    )
    done = run("-c", code, remove=("HOME",))
    assert done.stdout == "True\n"
    assert done.stderr.startswith("note: this user has no home folder and HOME is not set; ")
    assert done.stderr.count("\n") == 1


def test_output_that_nobody_reads_ends_the_run_in_one_line(tmp_path):
    command = f"{sys.executable} {' '.join(DEMO)} --epochs=6 --out {tmp_path} | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: nobody reads the output any more, as behind `| head`; the same command goes on"
    )
    assert in_process.call(load_task("hinge_svm"), *DEMO[1:], "--epochs=6", "--out", str(tmp_path)) == 0


def test_help_that_nobody_reads_to_its_end_is_no_traceback():
    command = f"{sys.executable} {DEMO[0]} --help | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.stdout[:6], done.stderr) == ("usage:", "")


def test_a_python_without_the_packages_says_how_to_get_them():
    done = run("-S", "results/collect.py")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "lacks the packages: `source .venv/bin/activate`" in done.stderr


def test_what_a_terminal_cannot_show_is_shown_otherwise():
    done = run("-c", "import common; print('0.5 \u00b1 0.1')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "0.5 \\xb1 0.1\n")


def test_closed_output_is_no_fault(tmp_path):
    command = f"{sys.executable} {' '.join(DEMO)} --out {tmp_path} >&-"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*/*/metrics.json"))


WAITS = """
import signal, sys
from common.errors import command
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests are started
command(lambda: (print("begun", flush=True), sys.stdin.read()))
"""


def test_ctrl_c_ends_a_command_in_one_line():
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", WAITS], cwd=REPOSITORY, text=True, **pipes)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "error: stopped by Ctrl-C\n")


IGNORES = """
import gc, os, signal, time
from common.errors import command
signal.signal(signal.SIGINT, signal.default_int_handler)

def collected(phase, info):
    gc.callbacks.remove(collected)
    os.kill(os.getpid(), signal.SIGINT)

def work():
    gc.callbacks.append(collected)
    gc.collect()
    time.sleep(3600)

command(work)
"""


def test_ctrl_c_in_a_callback_that_ignores_it_ends_a_command_too():
    done = run("-c", IGNORES)
    assert (done.returncode, done.stderr) == (130, "error: stopped by Ctrl-C\n")


COMMANDS = (
    "common/predict.py",
    "common/explain.py",
    "common/export.py",
    "common/data/__main__.py",
    "results/collect.py",
)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_ends_so(path):
    assert (REPOSITORY / path).read_text().endswith('if __name__ == "__main__":\n    command(main)\n')
