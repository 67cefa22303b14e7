import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets

from common.data import tfds_sets
from common.files import StorageError

ROOT = Path(__file__).parents[2]

# Python imports this by itself when it starts, before anything else can reach for the network.
TRAP = """
import os, socket
def refuse(*arguments, **_):
    with open(os.environ["ATTEMPTS"], "a") as file:
        print(arguments[0], file=file)
    raise socket.gaierror(-3, "Temporary failure in name resolution")
socket.getaddrinfo = socket.socket.connect = refuse
"""


@pytest.fixture
def prepare(tmp_path):
    """Run the command in a process without data, weights or a network; a function that returns how that ended."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "sitecustomize.py").write_text(TRAP)
    (tmp_path / "attempts").touch()
    clean = {
        k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k not in ("HF_HUB_OFFLINE", "HF_HUB_CACHE")
    }
    environment = clean | {
        "PYTHONPATH": str(tmp_path / "trap"),
        "ATTEMPTS": str(tmp_path / "attempts"),
        "HF_HOME": str(tmp_path / "hub"),
        "TFDS_DATA_DIR": str(tmp_path / "data"),
    }

    def run(*argv):
        command = [sys.executable, "-m", "common.data", *argv]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        done.attempts = (tmp_path / "attempts").read_text().splitlines()
        return done

    return run


def test_help_imports_neither_keras_nor_tensorflow():
    code = (
        "import runpy, sys\nsys.argv = ['data', 'prepare', '--help']\n"
        "try:\n    runpy.run_module('common.data', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "print(sorted({'keras', 'tensorflow', 'sklearn', 'huggingface_hub'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "--check" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            "prepare cifar11",
            "unknown data set 'cifar11'; allowed: digits, cifar10, cifar100, mnist, notmnist, fer2013, "
            "tfds:NAME[/CONFIG][:VERSION]; did you mean cifar10?",
        ),
        ("prepare digits --weights resnet19", "unknown backbone 'resnet19'"),
        ("prepare digits --chekc", "--chekc"),
        ("prepare", "nothing to prepare"),
        ("fetch", "invalid choice: 'fetch'"),
        ("", "required"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(prepare, argv, said):
    done = prepare(*argv.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_check_says_what_is_there_and_asks_no_one(prepare, tmp_path):
    done = prepare("prepare", "digits", "cifar10", "--weights", "resnet18", "mobilenet_v2", "--check")
    assert (done.returncode, done.stderr, done.attempts) == (1, "", [])
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["data", "digits"],
        ["data", "cifar10"],
        ["weights", "resnet18"],
        ["weights", "mobilenet_v2"],
    ]
    assert [" ".join(line.split()[2:]) for line in lines] == [
        "embedded in scikit-learn",
        f"missing from {tmp_path / 'data'}",
        "missing",
        "missing",
    ]

    version = put(tmp_path / "data" / "cifar10" / "3.0.2" / "dataset_info.json").parent
    repository = tmp_path / "hub" / "hub" / "models--timm--mobilenetv2_100.ra_in1k"
    put(repository / "refs" / "main").write_text("abc")
    file = put(repository / "snapshots" / "abc" / "model.safetensors")
    done = prepare("prepare", "cifar10", "--weights", "mobilenet_v2", "--check")
    assert (done.returncode, done.stderr, done.attempts) == (0, "", [])
    assert [line.split()[2:] for line in done.stdout.splitlines()] == [[str(version)], [str(file)]]


def test_a_disk_that_fills_up_while_a_set_is_made_is_no_missing_archive(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensorflow_datasets, "builder", full)
    with pytest.raises(StorageError, match=f"^cannot write {tmp_path}: no space left$"):
        tfds_sets.fetch_tfds("cifar10", tmp_path)


def test_digits_need_nothing(prepare):
    done = prepare("prepare", "digits")
    assert (done.returncode, done.stdout.split()[:2], done.attempts) == (0, ["data", "digits"], [])


def test_data_dir_flag_goes_before_the_environment(prepare, tmp_path):
    put(tmp_path / "other" / "mnist" / "3.0.1" / "dataset_info.json")
    assert prepare("prepare", "mnist", "--check").returncode == 1
    assert prepare("prepare", "mnist", "--check", "--data-dir", str(tmp_path / "other")).returncode == 0


def test_no_host_answering_is_one_line_a_name(prepare):
    done = prepare("prepare", "mnist", "--weights", "resnet18", "mobilenet_v2")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    results = [line for line in done.stdout.splitlines() if line.startswith(("data ", "weights "))]
    assert [line.split()[1] for line in results] == ["mnist", "resnet18", "mobilenet_v2"]
    assert "storage.googleapis.com does not answer" in results[0]
    assert all("python -m common.data prepare" in line for line in results)
    assert len(done.attempts) >= 3
