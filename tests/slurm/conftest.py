"""What the launcher's tests share: a tree with a stand-in task, SLURM's programs as fakes, and runs made by hand.

The stand-in, `toy`, is a task as the launcher knows one (a train.py with PRESETS, a sweeps.yaml) that needs no Keras.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm import __main__ as cli
from slurm import plan, status, submissions, sweeps
from slurm.plan import Planned

ROOT = Path(__file__).resolve().parents[2]
TREE = "it's a tree"  # a place that a shell would trip over

TOY = '''
"""A stand-in for a task: it does what --does says, in Python, and is finished."""

import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import files
from common.command_line import parse
from common.config import Config
from common.errors import ConfigError, choice
from common.phase import Phase


@dataclass(frozen=True)
class ToyConfig(Config):
    """What a run of it depends on."""

    dataset: str = "digits"
    out: Path = Path(__file__).resolve().parents[2] / "results" / "runs"
    colour: str = "red"
    width: int = 3
    rate: float = 0.5
    depth: int | None = 2
    fancy: bool = False
    sizes: tuple[int, ...] = (8,)
    optimizer: Literal["sgd", "adam"] = "adam"
    momentum: float = 0.0
    phases: tuple[Phase, ...] = (Phase("one", 1, "adam", 0.1), Phase("two", 2, "adam", 0.2))
    does: str = "pass"

    def check(self):
        super().check()
        choice("colour", self.colour, ("red", "green", "blue"))
        if self.width < 1:
            raise ConfigError(f"width is {self.width}; it must be above zero")
        if self.momentum and self.optimizer != "sgd":
            raise ConfigError(f"momentum is for sgd; the optimizer is {self.optimizer}")


PRESETS = {"small": ToyConfig(preset="small"), "large": ToyConfig(preset="large", width=30)}

if __name__ == "__main__":
    config = parse(PRESETS, __doc__)
    folder = config.out / "toy" / config.name()
    folder.mkdir(parents=True, exist_ok=True)
    exec(config.does)
    files.write_json(folder / "metrics.json", {"status": "completed"})  # whole, as others look at it meanwhile
    print("finished", config.name())
'''
SWEEPS = """
colours:
  about: "Which colour?"
  preset: large
  grid:
    colour: [red, green]
    width: [1, 2]
  seeds: "0:2"
single: {}
"""


def copy_tree(folder: Path) -> Path:
    """A copy of the launcher and what it needs, with the stand-in for its only task."""
    for name in ("common", "slurm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    source = (folder / "slurm" / "status.py").read_text()
    assert "REFRESH = 2.0 " in source
    assert "REFRESH_SLURM = 15.0 " in source
    hurried = source.replace("REFRESH = 2.0 ", "REFRESH = 0.1 ").replace(
        "REFRESH_SLURM = 15.0 ", "REFRESH_SLURM = 0.1 "
    )
    (folder / "slurm" / "status.py").write_text(hurried)  # tests do not wait
    task = folder / "tasks" / "toy"
    task.mkdir(parents=True)
    (task / "train.py").write_text(TOY)
    (task / "sweeps.yaml").write_text(SWEEPS)
    return folder


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    """No variable of a job, or of a choice of GPUs, of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_", "CUDA_VISIBLE_DEVICES")):
            monkeypatch.delenv(name)


@pytest.fixture
def tree(tmp_path):
    """A source tree of its own."""
    return copy_tree(tmp_path / TREE)


@dataclass(frozen=True)
class Told:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of stderr."""
        (line,) = self.err.splitlines()
        return line

    @property
    def submission(self) -> str:
        """The submission that the command made."""
        (line,) = [line for line in self.out.splitlines() if line.startswith("submission ")]
        return line.split()[1]


@pytest.fixture
def planned(tree, monkeypatch):
    """Runs are planned from the tree, in this process."""
    monkeypatch.setattr(plan, "REPOSITORY", tree)
    monkeypatch.setattr(sweeps, "REPOSITORY", tree)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the stand-in puts its tree there


@pytest.fixture
def launch(tree, planned, monkeypatch, capfd):
    """Calls `python -m slurm` in this process, on the tree."""
    monkeypatch.setattr(submissions, "REPOSITORY", tree)
    monkeypatch.setattr(submissions, "FOLDER", tree / "results" / "submissions")
    monkeypatch.setattr(status, "REFRESH", 0.02)
    monkeypatch.setattr(status, "REFRESH_SLURM", 0.02)
    monkeypatch.chdir(tree)

    def call(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["slurm", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        sys.stdout.flush()
        return Told(end.value.code or 0, *capfd.readouterr())

    return call


class Programs:
    """A folder on PATH with programs that write down how they were called, and do what they are told."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)

    def add(self, name: str, body: str = "") -> None:
        """A program; the body is shell."""
        path = self.bin / name
        note = f"printf '%s\\037' \"$@\" >>'{self.folder}/{name}.calls'; echo >>'{self.folder}/{name}.calls'"
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{note}\ncd '{self.folder}'\n{body}\n")
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call."""
        path = self.folder / f"{name}.calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split("\037")[:-1] for line in lines]


class Slurm(Programs):
    """SLURM's programs: jobs get the numbers 100, 101, ...; their scripts are kept; the queue is what it is told.

    Every keeper is job 9000.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        (folder / "last").write_text("99")
        keeper = (
            "if grep -q 'slurm.again keep' \"$1\"; then cp \"$1\" keeper; echo 'Submitted batch job 9000'; exit; fi"
        )
        self.add(
            "sbatch", keeper + '\nn=$(($(cat last) + 1)); echo $n >last; cp "$1" $n.sh; echo "Submitted batch job $n"'
        )
        self.add("squeue", "cat queue")
        self.add("scancel")
        self.add("scontrol", "cat config")
        self.add("srun")
        self.queue()
        self.limit(1001)

    def queue(self, **jobs: str) -> None:
        """What squeue lists: `_100_0="RUNNING|None"`."""
        lines = [f"{job[1:]}|{entry}\n" for job, entry in jobs.items()]
        (self.folder / "queue").write_text("".join(lines))

    def limit(self, jobs: int) -> None:
        """MaxArraySize of this cluster."""
        (self.folder / "config").write_text(f"MaxArraySize            = {jobs}\nMaxJobCount = 5\n")

    def refuse(self, *, after: int, words: str) -> None:
        """Let sbatch fail once it has taken so many jobs."""
        path = self.bin / "sbatch"
        refusal = f"if [ $(cat last) -ge {99 + after} ]; then echo '{words}' >&2; exit 1; fi\nn=$"
        path.write_text(path.read_text().replace("n=$", refusal, 1))

    @property
    def keeper(self) -> str:
        """The batch script of the last keeper."""
        return (self.folder / "keeper").read_text()

    @property
    def scripts(self) -> list[str]:
        """The batch scripts that were submitted."""
        return [path.read_text() for path in sorted(self.folder.glob("*.sh"))]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """An empty folder as all of PATH."""
    made = Programs(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(made.bin))
    return made


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """SLURM's programs as all of PATH; sacct is missing, as where SLURM keeps no accounts."""
    made = Slurm(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(made.bin))
    return made


def directives(script: str) -> dict[str, str]:
    """The #SBATCH lines of a batch script, without quotes."""
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
    found = dict(line.partition("=")[::2] for line in lines)
    assert len(found) == len(lines), "an option stands there twice"
    return found


@pytest.fixture
def read_directives():
    return directives


@pytest.fixture
def make_run(tmp_path):
    """Makes planned runs."""

    def make(name: str, *flags: str, **fields: object) -> Planned:
        values = {"folder": str(tmp_path / "runs" / name), "label": name, "seed": 0} | fields
        return Planned(name=name, flags=flags, **values)

    return make


@pytest.fixture
def make_submission(tmp_path, monkeypatch):
    """Makes submissions, without the code, of these runs."""
    monkeypatch.setattr(submissions, "FOLDER", tmp_path / TREE / "results" / "submissions")

    def make(*runs: Planned, name: str = "toy-20260131-120000", cluster: str = "slurm", **fields: object):
        defaults = {"jobs": {}, "time": "2026-01-31T12:00:00+00:00", "directory": str(tmp_path), "title": "a grid"}
        defaults |= {"backend": "tensorflow", "root": str(tmp_path / TREE)}
        made = submissions.Submission(id=name, task="toy", cluster=cluster, runs=runs, **defaults | fields)
        for folder in ("runs", "logs"):
            (made.folder / folder).mkdir(parents=True)
        return made.changed()

    return make


def wait_for(condition, seconds: float = 60):
    """Wait for what must come by itself; the bound is for machines that hang."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
    return found


@pytest.fixture(name="wait_for")
def wait_for_fixture():
    return wait_for


def heed_signals():
    """Undo what `nohup` and a shell's `&` do to the tests, and so to what they start."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start_launcher(tree):
    """Starts `python -m slurm` in a process of its own, on the tree; none is left behind."""
    started: list[subprocess.Popen] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "slurm", *arguments],
            cwd=tree,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_signals,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture
def read_json():
    return lambda path: json.loads(Path(path).read_text())
