"""The launcher against a real SLURM: `make test-slurm` starts one (see cluster.py), with MaxArraySize 3.

The launcher runs from a copy of the source tree, in a folder with a space in its name, as a user calls it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kill_and_resume
import pytest

pytestmark = pytest.mark.skipif(
    "PRIVATE_CLUSTER" not in os.environ, reason="needs a SLURM cluster: `make test-slurm` starts one"
)

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds for anything that should come by itself, on a busy machine
# A quarter of a minute on two cores; checkpoints far more often than any user wants, so that a stop finds a new one.
DEMO = {"preset": "demo", "limit_train": 200, "limit_test": 100, "batch_size": 32, "checkpoint_minutes": 0.005}
SHORT = DEMO | {"phases.0.epochs": 1, "phases.1.epochs": 1, "phases.2.epochs": 2}
# Seconds, of another task: for tests in which it does not matter what is trained.
SHORTEST = {"preset": "demo", "limit_train": 100, "limit_test": 50, "epochs": 1}
SECOND_NODE = "127.0.0.2"  # --constraint node2 of the launcher leads to it
SIZE = ["--cpus", "1", "--memory", "1G", "--gpus", "0"]


@dataclass(frozen=True)
class Tree:
    """A copy of the source tree, and its launcher."""

    folder: Path

    def launch(self, *arguments: str, **variables: str) -> str:
        """What `python -m slurm` prints; it must succeed."""
        command = [sys.executable, "-m", "slurm", *arguments]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow"} | variables
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, out: str, values: dict, *arguments: str, task: str = "cifar_phased", **variables: str) -> str:
        """Submit runs of a task into a folder below the tree; returns the submission's id."""
        chosen = ["--set", *(f"{key}={value}" for key, value in values.items()), f"out={self.folder / out}"]
        return submission_in(self.launch("submit", task, *chosen, *SIZE, *arguments, **variables))

    def status(self, submission: str) -> list[dict]:
        """The submission's rows of `status --json`."""
        return json.loads(self.launch("status", submission, "--json"))

    def run(self, submission: str) -> dict:
        """The row of a submission's only run."""
        (row,) = self.status(submission)
        return row

    def wait_for(self, submission: str, *states: str) -> list[dict]:
        """Wait until all runs of a submission are in one of these states."""
        rows = []

        def there() -> bool:
            rows[:] = self.status(submission)
            return all(row["state"] in states for row in rows)

        try:
            wait_until(there, pause=2)
        except TimeoutError:
            told = self.told(submission)[-5000:]
            raise AssertionError(f"not all {states}: {json.dumps(rows, indent=1)}\n{told}") from None
        return rows

    def submission(self, submission: str) -> Path:
        """A submission's folder."""
        return self.folder / "results" / "submissions" / submission

    def told(self, submission: str) -> str:
        """What submitit and SLURM wrote of a submission's jobs."""
        logs = sorted(self.submission(submission).glob("submitit/*_log.*"))
        return "".join(path.read_text() for path in logs)

    def log(self, submission: str, run: str) -> str:
        """What a run printed."""
        return (self.submission(submission) / "logs" / f"{run}.log").read_text()


@pytest.fixture
def outside_slurm():
    """Here the variables of the cluster must stay."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "a tree"
    kept = shutil.ignore_patterns("__pycache__", "runs", "submissions", "records", "figures", "tables")
    for name in ("common", "tasks", "slurm", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=kept)
    return Tree(folder)


@pytest.fixture(scope="module")
def array(tree):
    """Two good runs beside two whose weights file is none; the submission and its rows at the end."""
    broken = tree.folder / "broken.safetensors"
    broken.write_text("no weights")
    submission = tree.submit(
        "array", SHORT, "--grid", f"weights=none,{broken}", "--seeds", "0:2", "--constraint", "node1"
    )
    return submission, tree.wait_for(submission, "completed", "failed")


@pytest.fixture(scope="module")
def undisturbed(tree, array):
    """Everything that the first run of the array left, to compare with."""
    _, rows = array
    return contents(tree.folder / "array", good(rows)[0]["run"])


@pytest.fixture(scope="module")
def limited(tree, array):
    """A run of more epochs than any machine does in its time limit; it goes on while other tests run.

    Two minutes: SLURM counts in whole ones and looks twice in one, and a busy machine wants time to save.
    """
    submission = tree.submit("limited", SHORT | {"phases.2.epochs": 100_000}, "--time", "2", "--constraint", "node1")
    yield submission
    tree.launch("cancel", submission)


def good(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["state"] == "completed"]


def submission_in(printed: str) -> str:
    return re.search(r"^submission (\S+)$", printed, re.MULTILINE)[1]


def contents(out: Path, run: str) -> dict:
    """kill_and_resume.contents of one run of several."""
    (found,) = out.glob(f"*/{run}")
    return kill_and_resume.contents_of(found)


def wait_until(there: Callable[[], bool], pause: float = 0.2) -> None:
    """Wait until `there()`; raises TimeoutError."""
    end = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(pause)


def slurm(*command: str) -> str:
    """What one of SLURM's commands prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def queue_state(job: str) -> str:
    """State of a job as squeue has it."""
    return slurm("squeue", "--noheader", "--states=all", "--array", f"--jobs={job}", "--format=%T").strip()


def has_processes(job: str) -> bool:
    """Whether any step of a job is still there, on either node."""
    commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    return any(command.startswith(f"slurmstepd: [{job}.".encode()) for command in commands)


class Progress:
    """The starts and checkpoints of one run, from its directory."""

    def __init__(self, out: Path):
        self.out = out

    def starts(self) -> int:
        files = list(self.out.glob("*/*/environment.json"))
        return len(json.loads(files[0].read_text())["starts"]) if files else 0

    def steps(self) -> int:
        """Steps done at the newest checkpoint."""
        paths = self.out.glob("*/*/checkpoints/step-*.safetensors")
        return max((int(path.name.split("-")[1]) for path in paths), default=0)

    def wait_for_more(self, starts: int, than: int = 0) -> int:
        """Wait until this many starts have happened and the last has got further; how far."""
        wait_until(lambda: self.starts() >= starts and self.steps() > than)
        return self.steps()


def test_array_runs_to_completion(tree, array):
    submission, rows = array
    done = good(rows)
    assert [row["run"].rpartition("-s")[2] for row in done] == ["0", "1"]
    for row in done:
        (folder,) = tree.folder.glob(f"array/cifar_phased/{row['run']}")
        assert json.loads((folder / "metrics.json").read_text())["status"] == "completed"
        assert (row["epoch"], row["epochs"], row["restarts"]) == (4, 4, 0)
        assert row["val_accuracy"] > 0
        assert row["images_per_second"] > 0
        assert row["submission"] == submission
    assert "test        accuracy" in tree.launch("logs", done[0]["run"])


def test_arrays_are_split_at_the_sites_limit(array):
    _, rows = array
    assert "MaxArraySize            = 3\n" in slurm("scontrol", "show", "config")
    sizes = Counter(row["job"].split("_")[0] for row in rows)
    assert sorted(sizes.values()) == [1, 3]


def test_failing_run_says_why_and_is_not_retried(tree, array):
    submission, rows = array
    failed = [row for row in rows if row["state"] == "failed"]
    assert len(failed) == 2
    for row in failed:
        assert "broken.safetensors: not a readable safetensors file" in row["reason"]
        assert row["restarts"] == 0
        wait_until(lambda job=row["job"]: queue_state(job) == "FAILED")  # its batch script ends a little later
        assert tree.log(submission, row["run"]).count("not a readable safetensors file") == 1


def test_status_without_accounts(tree, array):
    """There is no slurmdbd: sacct fails, and what status says comes from squeue and the runs."""
    submission, rows = array
    done = subprocess.run(["sacct"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    table = tree.launch("status", submission)
    for row in rows:
        short = "-".join(row["run"].split("-")[-2:])  # hash and seed
        assert re.search(rf"^{short} .* {row['state']} ", table, re.MULTILINE)
    assert "sacct" not in table


def test_interrupted_run_ends_bit_for_bit(tree, undisturbed, limited):
    """By a signal, by preemption and by a failing node, each after it has got somewhere."""
    submission = tree.submit("interrupted", SHORT, "--constraint", "node2")
    progress = Progress(tree.folder / "interrupted")
    steps = progress.wait_for_more(1)
    job = tree.run(submission)["job"]

    slurm("scancel", "--signal=USR2", job)
    steps = progress.wait_for_more(2, steps)
    slurm("srun", "--partition=preempting", f"--nodelist={SECOND_NODE}", "--exclusive", "true")
    steps = progress.wait_for_more(3, steps)
    slurm("scontrol", "update", f"NodeName={SECOND_NODE}", "State=DOWN", "Reason=test")
    try:
        wait_until(lambda: queue_state(job) == "PENDING")
        assert tree.run(submission)["state"] == "requeued"
        wait_until(lambda: not has_processes(job))  # a node that really fails has none left
    finally:
        slurm("scontrol", "update", f"NodeName={SECOND_NODE}", "State=RESUME")

    (row,) = tree.wait_for(submission, "completed", "failed")
    assert (row["state"], row["reason"], row["restarts"]) == ("completed", "", 3)
    log = tree.log(submission, row["run"])
    assert log.count("resuming: phase") == 3
    assert log.count("stopped by SIGTERM; the same command goes on") == 3
    assert "SIGTERM: saving at the end of this step" in log
    told = tree.told(submission)
    assert all(reason in told for reason in ("this job is preempted", "DUE TO PREEMPTION", "DUE TO NODE FAILURE"))
    assert kill_and_resume.differences(undisturbed, contents(tree.folder / "interrupted", row["run"])) == []


def test_time_limit_requeues(tree, limited):
    """The run goes on from where it was. That one which was requeued ends as others do is shown above."""
    progress = Progress(tree.folder / "limited")
    progress.wait_for_more(2)
    progress.wait_for_more(2, progress.steps())
    row = tree.run(limited)
    tree.launch("cancel", limited)  # its processor is wanted by other tests
    tree.wait_for(limited, "cancelled", "stopped")
    assert row["state"] in ("running", "requeued")
    assert row["restarts"] >= 1
    assert "resuming: phase" in tree.log(limited, row["run"])
    assert "this job is timed-out" in tree.told(limited)


def test_cancel_and_resubmit(tree, undisturbed):
    """Cancelled: one run that has begun, and one that waits for it; submitted again, the first goes on."""
    submission = tree.submit("cancelled", SHORT, "--seeds", "0:2", "--max-parallel", "1")
    progress = Progress(tree.folder / "cancelled")
    progress.wait_for_more(1)
    assert [row["state"] for row in tree.status(submission)] == ["running", "queued"]
    tree.launch("cancel", submission)
    running, waiting = tree.wait_for(submission, "cancelled", "stopped")
    assert (running["state"], waiting["state"]) == ("cancelled", "cancelled")
    keeper = json.loads((tree.submission(submission) / "submission.json").read_text())["keeper"]
    assert queue_state(keeper) == "CANCELLED"
    assert waiting["epoch"] is None
    record = json.loads((tree.submission(submission) / "runs" / f"{running['run']}.json").read_text())
    assert record["why"] == "None"  # by which the keeper knows it when SLURM has forgotten the job
    assert slurm("squeue", "--noheader", "--states=PENDING,RUNNING", f"--name={running['job']}").strip() == ""
    assert "resuming" not in tree.log(submission, running["run"])

    again = submission_in(tree.launch("resubmit", submission, *SIZE))
    first, second = tree.wait_for(again, "completed", "failed")
    assert (first["state"], second["state"]) == ("completed", "completed")
    assert (first["restarts"], second["restarts"]) == (1, 0)
    assert "resuming: phase" in tree.log(again, first["run"])
    assert kill_and_resume.differences(undisturbed, contents(tree.folder / "cancelled", first["run"])) == []


def test_queued_run_uses_the_code_as_submitted(tree):
    """The tree is broken between submission and start."""
    train = tree.folder / "tasks" / "hinge_svm" / "train.py"
    trainer = tree.folder / "common" / "trainer.py"
    before = {path: path.read_text() for path in (train, trainer)}
    slurm("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=test")
    try:
        submission = tree.submit("snapshot", SHORTEST, task="hinge_svm")
        for path, text in before.items():
            path.write_text(f"raise SystemExit('edited')\n{text}")
        row = tree.run(submission)
        assert row["state"] == "queued"
        assert row["reason"]
    finally:
        slurm("scontrol", "update", "NodeName=ALL", "State=RESUME")
    try:
        (row,) = tree.wait_for(submission, "completed", "failed")
    finally:
        for path, text in before.items():
            path.write_text(text)
    assert (row["state"], row["reason"]) == ("completed", "")


def test_run_over_two_hosts(tree):
    submission = tree.submit("two_hosts", SHORTEST | {"nodes": 2}, task="hinge_svm", KERAS_BACKEND="jax")
    (row,) = tree.wait_for(submission, "completed", "failed")
    assert (row["state"], row["reason"]) == ("completed", "")
    (environment,) = tree.folder.glob("two_hosts/*/*/environment.json")
    facts = json.loads(environment.read_text())
    assert facts["backend"] == "jax"
    assert len(facts["devices"]) == 2
