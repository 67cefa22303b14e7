"""Runs on a private SLURM cluster while everything around them breaks; none may be lost, doubled or end differently.

    python tests/slurm/chaos.py 20 30 --seed 0          # 20 runs of hinge_svm's demo, 30 faults
    python tests/slurm/chaos.py 200 1000 --stand-in     # stand_in/train.py, without Keras: 20 times lighter

Faults, at random moments: jobs are requeued; train.py, what starts it, srun and batch scripts are killed (SIGKILL, as
by the out-of-memory killer); slurmd and slurmctld are killed and come back; the disk fills, submissions and logs
included; the clock jumps, as the processes of the runs see it. A run that was hit is a target again when it has a new
checkpoint, since five starts without one count as its own fault. Nothing is done by hand, but that nodes which SLURM
has drained are put to work again, as a site's health check does. A controller that was killed can list a job that has
ended until its time limit, here 10 minutes.

Each run is then compared with an undisturbed one. Exit code 1 if a run is lost, doubled, unequal, or has redone more
than a checkpoint's interval. As root, on Debian: see cluster.py.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

import cluster  # noqa: E402
import kill_and_resume  # noqa: E402

PATIENCE = 900  # seconds without any change after which whatever is not finished counts as lost
MEGABYTE = 2**20
DEMO = {"preset": "demo", "limit_train": 300, "limit_test": 60, "batch_size": 10, "checkpoint_minutes": 0.02}
EPOCHS = {"hinge_svm": 27, "stand_in": 20}  # steps of an epoch, which ends with a checkpoint
KINDS = {
    "job requeued": 4,
    "train.py killed": 5,
    "what starts train.py killed": 4,
    "srun killed": 2,
    "batch script killed": 3,
    "slurmd killed": 2,
    "slurmctld killed": 2,
    "disk full": 2,
    "clock jumps": 3,
}
# Python imports it at its start if its folder is on PYTHONPATH: time as a file says, for this process and its children.
CLOCK = """
import datetime, os, time

real = time.time

def shift():
    try:
        with open(os.environ["CHAOS_CLOCK"]) as file:
            return float(file.read())
    except (KeyError, OSError, ValueError):
        return 0.0

class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=shift())

time.time = lambda: real() + shift()
time.time_ns = lambda: int(time.time() * 1e9)
datetime.datetime = Shifted
"""
# Added to the copy of common/loop.py, so that steps that are done twice can be counted; stand_in does the same.
TRACE = """

import os

end_step = Loop.on_train_batch_end

def trace(self, batch, logs):
    with open(f"{os.environ['CHAOS_TRACE']}/{self.run.config.seed}", "a") as file:
        file.write(f"{self.progress.epoch * self.steps + self.clock.first_step + batch + 1}\\n")
    end_step(self, batch, logs)

Loop.on_train_batch_end = trace
"""
# Undisturbed runs, one after the other in one process: TensorFlow starts once.
IN_TURN = """
import importlib, sys
from common import command
train = importlib.import_module(sys.argv.pop(1))
out, seeds, flags = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
for seed in range(seeds):
    command.main(train.PRESETS, "", train.provide, train.experiment, [*flags, f"--seed={seed}", f"--out={out}"])
"""


@dataclass
class Watched:
    """What is seen of one run from outside."""

    folder: Path
    hit_at: str | None = None
    """The newest checkpoint when the run was hit last."""

    @property
    def is_finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    def newest(self) -> Path | None:
        """The newest checkpoint."""
        return max(self.folder.glob("checkpoints/step-*.safetensors"), key=lambda path: path.name, default=None)


@dataclass
class Chaos:
    """The runs, the cluster, and what is done to them."""

    runs: int
    faults: int
    draw: random.Random
    gap: float
    folder: Path
    machine: cluster.Cluster
    parallel: int
    task: str
    values: dict
    """Of each run's configuration."""
    done: Counter = field(default_factory=Counter)
    doubled: set[str] = field(default_factory=set)
    seconds_of_status: list[float] = field(default_factory=list)
    watched: dict[int, Watched] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    """Faults that take a while and have not ended."""
    repairs: list[threading.Thread] = field(default_factory=list)
    submission: str = ""

    @property
    def tree(self) -> Path:
        return self.folder / "a tree"

    @property
    def results(self) -> Path:
        """A small disk of its own."""
        return self.tree / "results"

    def launch(self, *arguments: str) -> str:
        """What `python -m slurm` prints."""
        command = [sys.executable, "-m", "slurm", *arguments]
        done = subprocess.run(
            command, cwd=self.tree, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """The environment of the launcher; that of the jobs follows from it."""
        return (
            os.environ
            | self.machine.environment
            | {
                "KERAS_BACKEND": "tensorflow",
                "PYTHONPATH": str(self.folder / "clock"),
                "CHAOS_CLOCK": str(self.folder / "shift"),
                "CHAOS_TRACE": str(self.folder / "trace"),
                "CHAOS_PAUSE": "0.05",
            }
        )

    def prepare(self) -> None:
        """Lay out the tree, and the clock that can be shifted."""
        for name in ("common", "tasks", "slurm"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests" / "slurm" / "stand_in", self.tree / "tasks" / "stand_in")
        with (self.tree / "common" / "loop.py").open("a") as loop:
            loop.write(TRACE)
        for name in ("clock", "trace", "trace of the undisturbed"):
            (self.folder / name).mkdir()
        (self.folder / "clock" / "sitecustomize.py").write_text(CLOCK)
        self.results.mkdir()

    def make_undisturbed(self) -> None:
        """Make each run once without any fault."""
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in self.values.items()]
        module = f"tasks.{self.task}.train"
        command = [sys.executable, "-c", IN_TURN, module, str(self.folder / "undisturbed"), str(self.runs), *flags]
        own = {"KERAS_BACKEND": "tensorflow", "CHAOS_TRACE": str(self.folder / "trace of the undisturbed")}
        environment = os.environ | own
        done = subprocess.run(command, cwd=self.tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the undisturbed runs failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def submit(self) -> None:
        """Submit the runs."""
        chosen = [f"{key}={value}" for key, value in self.values.items()]
        size = ["--cpus", "1", "--memory", "1G", "--gpus", "0", "--time", "10", "--max-parallel", str(self.parallel)]
        told = self.launch("submit", self.task, "--set", *chosen, "--seeds", f"0:{self.runs}", *size)
        self.submission = re.search(r"^submission (\S+)$", told, re.MULTILINE)[1]
        content = json.loads((self.results / "submissions" / self.submission / "submission.json").read_text())
        for run in content["runs"]:
            self.watched[run["seed"]] = Watched(Path(run["folder"]))

    # What is there

    def processes(self) -> Iterator[tuple[str, int, psutil.Process]]:
        """The processes of the runs' jobs: which part of a job it is, the run's seed, the process."""
        elements = self.elements()
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            part = part_of(words)
            if part is None:
                continue
            with contextlib.suppress(psutil.Error, KeyError):
                variables = process.environ()
                if variables.get("SLURM_CONF") == self.machine.environment["SLURM_CONF"]:
                    array, element = (variables.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
                    yield part, elements[f"{array}_{element}" if array else variables["SLURM_JOB_ID"]], process

    def elements(self) -> dict[str, int]:
        """The seed of each job of the submission."""
        path = self.results / "submissions" / self.submission / "submission.json"
        content = json.loads(path.read_text())
        seeds = {run["name"]: run["seed"] for run in content["runs"]}
        return {job: seeds[name] for name, job in content["jobs"].items()}

    def watch(self, stop: threading.Event) -> None:
        """Look every now and then who trains what."""
        while not stop.wait(0.3):
            training = Counter()
            parts = {process.pid: (seed, process) for part, seed, process in self.processes() if part == "train.py"}
            for pid, (seed, process) in parts.items():
                with contextlib.suppress(psutil.Error):
                    # One that another is about to start has its command line and open files until then.
                    training[seed] += process.ppid() not in parts and holds_lock(pid, self.watched[seed].folder)
            self.doubled |= {self.watched[seed].folder.name for seed, number in training.items() if number > 1}

    # What is done to it

    def kill(self, part: str) -> bool:
        """Kill a part of a job of some run."""
        found: dict[int, list[psutil.Process]] = {}
        for name, seed, process in self.processes():
            if name == part and self.may_hit(seed):
                found.setdefault(seed, []).append(process)
        if not found:
            return False
        seed = self.draw.choice(sorted(found))
        self.hit(seed)
        for process in found[seed]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return True

    def may_hit(self, seed: int) -> bool:
        """Whether a run has got further since it was hit."""
        run = self.watched[seed]
        newest = run.newest()
        return not run.is_finished and run.hit_at != (newest.name if newest else "")

    def hit(self, seed: int) -> None:
        """Note that a run is hit now."""
        newest = self.watched[seed].newest()
        self.watched[seed].hit_at = newest.name if newest else ""

    def requeue(self) -> bool:
        """Requeue a job that runs."""
        jobs = {seed: job for job, seed in self.elements().items()}
        seeds = sorted({seed for part, seed, _ in self.processes() if part == "train.py" and self.may_hit(seed)})
        if not seeds or "slurmctld killed" in self.under_way:
            return False
        seed = self.draw.choice(seeds)
        self.hit(seed)
        self.machine.ask("scontrol", "requeue", jobs[seed])
        return True

    def for_a_while(self, kind: str, seconds: float, repair: Callable[[], None]) -> bool:
        """Let a fault end after some time."""

        def end() -> None:
            time.sleep(seconds)
            repair()
            self.under_way.discard(kind)

        self.under_way.add(kind)
        self.repairs.append(threading.Thread(target=end))
        self.repairs[-1].start()
        return True

    def kill_daemon(self, kind: str, *command: str) -> bool:
        """Kill a daemon of SLURM, which comes back."""
        (found,) = [daemon for daemon in self.machine.daemons if tuple(daemon.args) == command]
        self.machine.daemons.remove(found)
        found.kill()
        found.wait()
        if command[0] == "slurmctld":
            threading.Thread(target=self.time_status, daemon=True).start()
        return self.for_a_while(kind, self.draw.uniform(1, 15), lambda: self.machine.daemon(*command))

    def time_status(self) -> None:
        """Take the time of `status`."""
        began = time.monotonic()
        self.launch("status")
        self.seconds_of_status.append(time.monotonic() - began)

    def fill_disk(self) -> bool:
        """Take all the space that is left on the disk of the results."""
        filler = self.results / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\1" * MEGABYTE)
        return self.for_a_while("disk full", self.draw.uniform(1, 15), filler.unlink)

    def shift_clock(self) -> bool:
        """Let the clock of the runs' processes jump, by up to two days."""
        (self.folder / "shift").write_text(str(self.draw.uniform(-172800, 172800)))
        return True

    def one_fault(self) -> None:
        """Do one fault, if there is something that it can hit."""
        (kind,) = self.draw.choices(list(KINDS), list(KINDS.values()))
        if kind in self.under_way:
            return
        actions = {
            "job requeued": self.requeue,
            "slurmd killed": lambda: self.kill_daemon(
                kind, "slurmd", "-D", "-N", self.draw.choice(self.machine.node_names())
            ),
            "slurmctld killed": lambda: self.kill_daemon(kind, "slurmctld", "-D"),
            "disk full": self.fill_disk,
            "clock jumps": self.shift_clock,
        }
        if actions.get(kind, lambda: self.kill(kind.removesuffix(" killed")))():
            self.done[kind] += 1
            print(f"{time.strftime('%X')}  {kind}", flush=True)

    def resume_nodes(self) -> None:
        """Put nodes to work again that SLURM has drained, as it does if a job that it has forgotten still runs."""
        for node in self.machine.ask("sinfo", "--noheader", "--Node", "--states=drain", "--format=%N").split():
            self.machine.ask("scontrol", "update", f"nodename={node}", "state=resume")

    def redone_steps(self) -> list[int]:
        """Of the stand-in: the steps that each start did again."""
        redone = []
        for path in (self.folder / "trace").iterdir():
            steps = [int(line) for line in path.read_text().split()]
            redone += [last - first + 1 for last, first in itertools.pairwise(steps) if first <= last]
        return redone

    # From beginning to end

    def unfinished(self) -> list[Watched]:
        return [run for run in self.watched.values() if not run.is_finished]

    def go(self) -> None:
        """Do the faults, and then nothing until all runs have ended or nothing changes any more."""
        stop = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(stop,))
        watcher.start()
        try:
            while self.done.total() < self.faults and self.unfinished():
                time.sleep(self.draw.expovariate(1 / self.gap))
                self.resume_nodes()
                self.one_fault()
            for repair in self.repairs:
                repair.join()
            print(f"{time.strftime('%X')}  no more faults; {len(self.unfinished())} runs are left", flush=True)
            self.wait()
        finally:
            stop.set()
            watcher.join()

    def wait(self) -> None:
        """Until the queue is empty, or nothing has changed for long."""
        before: object = None
        since = time.monotonic()
        while time.monotonic() - since < PATIENCE:
            queue = self.machine.ask("squeue", "--noheader", "--array", "--format=%i %T")
            now = (queue, [run.newest() for run in self.unfinished()])
            self.resume_nodes()
            if not queue.strip() and not self.machine.ask("scontrol", "ping").count("DOWN"):
                return
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(1)

    def report(self, seconds: float) -> int:
        """Print what came of it; exit code 1 if it is not as it must be."""
        rows = {row["run"]: row for row in json.loads(self.launch("status", "--json"))}
        lost = {run.folder.name for run in self.unfinished()}
        unequal = {}
        for run in self.watched.values():
            if run.is_finished:
                twin = self.folder / "undisturbed" / self.task / run.folder.name
                names = kill_and_resume.differences(
                    kill_and_resume.contents_of(twin), kill_and_resume.contents_of(run.folder)
                )
                if names:
                    unequal[run.folder.name] = names
        told = "".join(
            path.read_text() for path in (self.results / "submissions" / self.submission).glob("submitit/*_log.*")
        )
        print(f"\n{self.runs} runs, {self.done.total()} faults in {seconds:.0f} s, {self.parallel} runs at once")
        for kind in KINDS:
            print(f"  {kind:<30}{self.done[kind]:>5}")
        starts = sum(
            len(json.loads((r.folder / "environment.json").read_text())["starts"])
            for r in self.watched.values()
            if r.is_finished
        )
        figures = {
            "ended by themselves": self.runs - len(lost),
            "lost": len(lost),
            "doubled": len(self.doubled),
            "unequal": len(unequal),
            "starts that trained": starts,
            "requeued by the batch script": told.count("was killed: requeueing"),
            "submitted again by the keeper": told.count("its job was killed; submitting it again"),
            "keepers that SLURM forgot": told.count("the keeper, is unknown to SLURM"),
        }
        for name, number in figures.items():
            print(f"  {name:<30}{number:>5}")
        steps = self.redone_steps()
        if steps:
            found = f"{len(steps)} starts redid steps: median {statistics.median(steps):g}, at most {max(steps)}"
            print(f"  {found}; a checkpoint comes after {EPOCHS[self.task]} at most")
        if self.seconds_of_status:
            print(f"  status while slurmctld is away: median {statistics.median(self.seconds_of_status):.1f} s")
        for name in sorted(lost):
            print(f"LOST {name}: {rows[name]['state']}: {rows[name]['reason']}")
        for name, parts in sorted(unequal.items()):
            print(f"UNEQUAL {name}: {', '.join(parts)}")
        for name in sorted(self.doubled):
            print(f"DOUBLED {name}")
        # A checkpoint that is being written when its run is killed is not there, and training has gone on meanwhile.
        far = max(steps, default=0) > 2 * EPOCHS[self.task]
        if far:
            print("REDONE: more than a checkpoint's interval")
        return int(bool(lost or unequal or self.doubled or far))


def part_of(words: list[str]) -> str | None:
    """Which part of a run's job a command line is."""
    if not words:
        return None
    if Path(words[0]).name == "srun":
        return "srun"
    if any(word.endswith("/slurm_script") for word in words):
        return "batch script"
    if "submitit.core._submit" in words:
        return "what starts train.py"
    return "train.py" if any(word.endswith("/train.py") for word in words) else None


def holds_lock(pid: int, folder: Path) -> bool:
    """Whether a process holds the lock of a run's folder; one that waits for it does not train."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if str(link.readlink()).startswith(str(folder / ".lock")):
                return "FLOCK" in Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
    return False


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of this size in a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def main() -> None:
    """Read the command line, and let it happen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int)
    parser.add_argument("faults", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of kinds, targets and moments (default 0)")
    parser.add_argument("--gap", type=float, default=2.5, help="mean seconds between two faults (default 2.5)")
    parser.add_argument("--parallel", type=int, default=4, help="runs at once (default 4)")
    parser.add_argument("--epochs", type=int, default=20, help="of a run (default 20)")
    parser.add_argument("--stand-in", action="store_true", help="a task without Keras, in place of hinge_svm")
    parser.add_argument("--keep", type=Path, help="copy the results there at the end")
    arguments = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    signal.signal(signal.SIGTERM, cluster.stop_on_sigterm)
    try:
        cluster.install()
        folder = tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)
        with folder as name, cluster.started(nodes=2) as machine:
            chaos = Chaos(
                runs=arguments.runs,
                faults=arguments.faults,
                draw=random.Random(arguments.seed),
                gap=arguments.gap,
                folder=Path(name),
                machine=machine,
                parallel=arguments.parallel,
                task="stand_in" if arguments.stand_in else "hinge_svm",
                values={"epochs": arguments.epochs} | ({"preset": "demo"} if arguments.stand_in else DEMO),
            )
            chaos.prepare()
            began = time.monotonic()
            chaos.make_undisturbed()
            print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
            with small_disk(chaos.results, 64 + 4 * arguments.runs):
                began = time.monotonic()
                chaos.submit()
                chaos.go()
                code = chaos.report(time.monotonic() - began)
                if arguments.keep:
                    shutil.copytree(chaos.results, arguments.keep, dirs_exist_ok=True)
                    shutil.copytree(
                        machine.folder,
                        arguments.keep / "slurm-logs",
                        dirs_exist_ok=True,
                        ignore=lambda at, names: [n for n in names if not n.endswith((".log", ".out"))],
                    )
        raise SystemExit(code)
    except cluster.Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
