"""Damage every file that the tools read, in many ways: none of them may end in a traceback, or because of one file.

    python tests/mutations.py --count 10000 --seed 0    # a quarter of an hour; failures are printed, their files kept

Each mutation changes one file of a small repository: a value is replaced, removed, or stands there twice; a cell, a row
or a column of a table; some bytes. Then the tools that read this file are called in this process, and the file is put
back. A tool may refuse (exit code 1 or 2) or leave out what is damaged; it must still tell of everything else.
"""

import argparse
import contextlib
import copy
import csv
import io
import json
import random
import shutil
import sys
import tarfile
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import pytest
import run_of_record
import yaml
from matplotlib.figure import Figure
from PIL import Image
from tensorflow_datasets.core.download.extractor import iter_archive
from tensorflow_datasets.core.download.resource import ExtractMethod

from common import checkpoints, environment, model_card, weights
from common.data import archives
from common.errors import ConfigError
from common.files import CheckpointError, Damaged
from common.plots import base
from common.run_folder import RunFolder
from results import collect, compare, page, pictures, records, replay
from results.task import Task
from slurm import __main__ as launcher
from slurm import cluster, commands, plan, squeue, submissions, sweeps
from slurm.plan import Planned

ONE_PIXEL = base.png(Figure((0.01, 0.01)))  # in place of figures, as drawing takes most of the time
VALUES = (
    *(None, True, False, 0, -1, 1, 2**63, 10**400, -0.5, 1e30, 1e308, float("nan"), float("inf")),
    *("", "0.5", "no", "..", "/", "[/red]", "[bold", "a\nb", "\x1b[31m", "\0", "\udce9", "ä" * 300, "x" * 5000),
    *([], [[]], {}, {"a": {}}, [None], [-1], "2026-01-31", "1234_5"),
)
PIECES = (b"", b"\0", b"\0" * 64, b"\xff\xfe", b"\xe9", b"{", b"]", b'"', b",", b"\n", b"<<<<<<< HEAD\n", b"[" * 3000)
CELLS = ("", "nan", "inf", "-1", "1e400", "9" * 500, "text", "1,5", '"', "\0", "é", "x" * 200_000, "[/b]")
TWICE = "a key of this name is renamed when all is written"
OTHER = "toy-20260131-130000"
ENDS = (0, 1, 2)
DRAWN = 40  # of so many records that pass all checks one is drawn too


@dataclass(frozen=True)
class Target:
    """A file, and the tools that read it."""

    path: Path
    tools: tuple[Callable[[], None], ...]


# What a mutation does to a file


def damaged(content: bytes, suffix: str, rng: random.Random) -> bytes:
    """The content of a file with one mutation."""
    kinds = {".json": in_json, ".yaml": in_yaml, ".csv": in_csv}
    if suffix not in kinds or rng.random() < 0.2:
        return in_bytes(content, rng)
    return kinds[suffix](content, rng)


def in_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, or with other bytes somewhere."""
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    if rng.random() < 0.3:
        return content[:start]
    if rng.random() < 0.5:
        end = min(end, start + rng.randrange(20))
    return content[:start] + rng.choice(PIECES) + content[end:]


def in_json(content: bytes, rng: random.Random) -> bytes:
    """With one value changed, of any depth."""
    return twice(json.dumps(changed(json.loads(content), rng), indent=1), json.dumps).encode()


def in_yaml(content: bytes, rng: random.Random) -> bytes:
    """With one value changed, of any depth."""
    try:
        return twice(yaml.safe_dump(changed(yaml.safe_load(content), rng)), str).encode(errors="surrogatepass")
    except (yaml.YAMLError, ValueError):  # what YAML cannot hold
        return in_bytes(content, rng)


def twice(text: str, quoted: Callable[[str], str]) -> str:
    """A text in which the key that stands for another is called like it."""
    place = text.find(TWICE)
    if place < 0:
        return text
    name = text[place + len(TWICE) :].split("|")[1]
    return text.replace(f"{TWICE}|{name}|", name)


def changed(content: object, rng: random.Random) -> object:
    """JSON data with one value replaced, removed, or there twice."""
    top = {"": copy.deepcopy(content)}
    holder, key = rng.choice([*places(top)])
    value = holder[key]
    how = rng.random()
    if how < 0.6:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    elif how < 0.7:
        holder[key] = [value] if rng.random() < 0.5 else {"0": value}
    elif how < 0.85 and holder is not top:
        del holder[key]
    elif isinstance(holder, dict) and isinstance(key, str) and holder is not top:
        holder[f"{TWICE}|{key}|"] = rng.choice(VALUES)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = value + rng.choice((1, -1, 0.1))
    elif isinstance(value, list):
        value += value
    return top[""]


def places(holder: object) -> Iterator[tuple]:
    """Every value in JSON data: what holds it, and its key. Of a long list only some, so that others have a chance."""
    pairs = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))[:4]
    for key, value in pairs:
        yield holder, key
        if isinstance(value, dict | list):
            yield from places(value)


def in_csv(content: bytes, rng: random.Random) -> bytes:
    """With another cell, or a row or column less or twice."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    row = rng.randrange(len(rows))
    column = rng.randrange(len(rows[row]))
    how = rng.random()
    if how < 0.5:
        rows[row][column] = rng.choice(CELLS)
    elif how < 0.7:
        rows = rows[:row] + rows[row + 1 :] if how < 0.6 else [*rows[:row], rows[row], *rows[row:]]
    elif how < 0.85:
        rows = [(r[:column] + r[column + 1 :]) if how < 0.77 else [*r, r[min(column, len(r) - 1)]] for r in rows]
    else:
        rows[row] = rows[row][:column] if how < 0.93 else [*rows[row], "more"]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


# The repository, and what reads it


class Repository:
    """A small repository: tasks, records, runs and submissions, and the tools on it."""

    def __init__(self, root: Path, tasks: tuple[str, ...]):
        self.root, self.tasks = root, tasks
        self.results = root / "results"
        self.before: dict[str, list[dict]] = {}
        self.counts: Counter[str] = Counter()
        for task in tasks:
            shutil.copytree(ROOT / "tasks" / task, root / "tasks" / task, ignore=shutil.ignore_patterns("__pycache__"))
            self.add_runs(task)
        self.add_submissions()
        self.add_others()
        for task in tasks:
            self.before[task] = records.find(task, self.results / "runs", self.results / "records", [])[0]
            assert len(self.before[task]) == 3, task

    def add_runs(self, task: str) -> None:
        """Two records, one with a digest, and a run of the third."""
        paths = sorted((ROOT / "results" / "records" / task).glob("*.json"), key=lambda path: path.stat().st_size)[:3]
        plain, sealed, run = (records.read_record(path) for path in paths)
        folder = self.results / "records" / task
        folder.mkdir(parents=True)
        (folder / f"{plain['run']}.json").write_text(json.dumps(plain, indent=1))
        (folder / f"{sealed['run']}.json").write_text(json.dumps(sealed | {"digest": records.digest(sealed)}, indent=1))
        folder = self.results / "runs" / task / run["run"]
        run_of_record.write(run, folder)
        (folder / "checkpoints").mkdir()

    def add_submissions(self) -> None:
        """One here, one on SLURM, each of a run that has begun, and of one that has not."""
        task = self.tasks[0]
        (known,) = (self.results / "runs" / task).iterdir()
        start = {"time": "2026-01-31T12:00:00+00:00", "job": None, "checkpoint": "", **submissions.this_process()}
        for name, where in ((f"{task}-20260131-120000", "local"), (OTHER, "slurm")):
            runs = [
                Planned(path.name, str(path), "what", 0, ("--seed=0", f"--out={self.results / 'runs'}"))
                for path in (known, known.with_name(f"{where}-aaaa1111-s0"))
            ]
            made = submissions.Submission(
                id=name,
                task=task,
                cluster=where,
                title="a title",
                time=start["time"],
                directory=str(self.root),
                runs=tuple(runs),
                jobs={runs[1].name: "12_1"},
                backend="tensorflow",
                root=str(self.root),
            )
            (made.folder / "runs").mkdir(parents=True)
            (made.folder / "logs").mkdir()
            made.changed(runner=submissions.this_process() if where == "local" else None)
            for run in runs:
                made.record(run.name).write_text(json.dumps({"state": "running", "reason": "", "starts": [start]}))
                made.log(run.name).write_text("a line\n")

    def add_others(self) -> None:
        """Files that only some tools read."""
        (self.results / "tables").mkdir()
        shutil.copy(ROOT / "results" / "tables" / f"{self.tasks[0]}.csv", self.results / "tables")
        (self.results / "figures").mkdir()
        Image.new("RGB", (8, 8)).save(self.results / "figures" / "one.png")
        shutil.copytree(ROOT / "slurm" / "clusters", self.root / "slurm" / "clusters")
        with zipfile.ZipFile(self.root / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("train/happy/0.png", "test/sad/1.png"):
                archive.writestr(name, bytes(range(256)) * 8)
        with tarfile.open(self.root / "letters.tar.gz", "w:gz") as letters:
            letters.add(self.root / "faces.zip", "A/0.png")
            letters.add(self.root / "faces.zip", "B/1.png")
        (self.root / environment.SNAPSHOT).write_text('{"commit": "abc", "dirty": false}')
        for task in self.tasks:
            (run,) = (self.results / "runs" / task).iterdir()
            arrays = {"class_names": np.array(["a", "b"]), "test_labels": np.arange(2)}
            np.savez_compressed(run / "predictions.npz", **arrays)
            best = checkpoints.save(run / "checkpoints", "best-train", {"weights/a": np.ones(4, np.float32)}, {})
            data = {"best": {"train": {"epoch": 1, "file": best.name}}}
            checkpoints.save_step(run / "checkpoints", 1, {"weights/a": np.ones(400_000, np.float32)}, data)

    def targets(self) -> list[Target]:
        """Every file, with the tools that read it."""
        task = self.tasks[0]
        first = self.results / "submissions" / f"{task}-20260131-120000"
        looks = (self.status, self.as_json, self.submit, self.resubmit, self.logs)
        found = [Target(first / "submission.json", looks)] * 3
        found += [Target(path, looks) for path in sorted((first / "runs").glob("*.json"))]
        found += [Target(path, (self.sweep,)) for path in [self.root / "tasks" / task / "sweeps.yaml"] * 2]
        found.append(Target(self.root / "slurm" / "clusters" / "default.toml", (self.profile,)))
        found.append(Target(self.results / "tables" / f"{task}.csv", (self.table,)))
        found.append(Target(self.results / "figures" / "one.png", (self.picture,)))
        found.append(Target(self.root / environment.SNAPSHOT, (self.commit,)))
        found.append(Target(self.root / "faces.zip", (self.members("faces.zip", ExtractMethod.ZIP),)))
        found.append(Target(self.root / "letters.tar.gz", (self.members("letters.tar.gz", ExtractMethod.TAR_GZ),)))
        for name in self.tasks:
            (run,) = (self.results / "runs" / name).iterdir()
            tables_of = self.tabulate(name)
            found += [
                Target(path, (tables_of,)) for path in sorted((self.results / "records" / name).glob("*.json"))
            ] * 2
            names = ("config.json", "environment.json", "metrics.json", "metrics.json", "outcomes.json", "history.csv")
            paths = [run / name for name in names if (run / name).is_file()]
            found += [Target(path, (tables_of, self.status, self.prune)) for path in paths]
            found.append(Target(self.root / "tasks" / name / "reference.csv", (tables_of,)))
            found.append(Target(run / "predictions.npz", (self.class_names(run),)))
            found += [Target(path, (self.states(path), self.prune)) for path in (run / "checkpoints").glob("*")]
        return found

    # The launcher

    def call(self, *words: str) -> str:
        """What `python -m slurm` prints."""
        sys.argv = ["slurm", *words]
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        code: object = "none"
        with contextlib.redirect_stdout(out):
            try:
                launcher.main()
            except SystemExit as end:
                code = end.code or 0
        assert code in ENDS, f"exit code {code}"
        out.flush()
        return out.buffer.getvalue().decode()

    def status(self) -> None:
        """What is not damaged is there."""
        assert OTHER in self.call("status")

    def as_json(self) -> None:
        """The same."""
        assert OTHER in [row["submission"] for row in json.loads(self.call("status", "--json"))]

    def submit(self) -> None:
        """Runs that are there are left out; others are not."""
        printed = self.call("submit", self.tasks[0], "--set", "preset=demo", "--cluster", "local", "--dry-run")
        assert "1 of 1 runs to do" in printed

    def resubmit(self) -> None:
        """It may be refused."""
        self.call("resubmit", f"{self.tasks[0]}-20260131-120000", "--dry-run")
        assert "to do" in self.call("resubmit", OTHER, "--dry-run", "--cluster", "local")

    def logs(self) -> None:
        """Those of the other submission are there."""
        self.call("logs", "local-aaaa1111-s0")
        self.call("logs", "slurm-aaaa1111-s0")

    def sweep(self) -> None:
        """It may be refused."""
        for name in yaml.safe_load((ROOT / "tasks" / self.tasks[0] / "sweeps.yaml").read_text()):
            self.call("submit", self.tasks[0], "--sweep", name, "--seeds", "0", "--cluster", "local", "--dry-run")

    def profile(self) -> None:
        """It may be refused."""
        self.call("submit", self.tasks[0], "--set", "preset=demo", "--dry-run")

    def prune(self) -> None:
        """Two of three runs can be shown, whatever the third is."""
        printed = self.call("prune")
        assert sum(line.count("s0  ") + line.count("-s") > 0 for line in printed.splitlines()) >= len(self.tasks) - 1

    # Results

    def tabulate(self, task: str) -> Callable[[], None]:
        """What collect, compare and replay make of the runs and records of a task."""
        return lambda: self.tables_of(task)

    def tables_of(self, task: str) -> None:
        """Records that were not changed are there; a record with a digest is as it was, or left out."""
        complaints: list[str] = []
        found, _ = records.find(task, self.results / "runs", self.results / "records", complaints)
        known = {record["run"]: record for record in self.before[task]}
        same = [record for record in found if record == known.get(record["run"])]
        assert len(same) >= len(known) - 1
        assert len(found) == len(known) or complaints
        for path in (self.results / "records" / task).glob("*.json"):
            if b'"digest"' in path.read_bytes():
                with contextlib.suppress(records.Unusable):
                    assert records.read_record(path) == known[path.stem], "a change was not seen"
        if found == self.before[task] and not complaints and self.reference_is_whole(task):
            return
        self.counts["passed all checks"] += len(same) < len(found)
        failed: dict[str, str] = {}
        with collect.apart(task, failed):
            loaded = collect.load(task, self.results / "runs", self.root, False, complaints)
            self.show(loaded, found)
        for reason in failed.values():
            self.counts["a report failed" if "report fails" in reason else "a reference.csv was refused"] += 1
        for name in (name for name in self.tasks if name != task):
            collect.load(name, self.results / "runs", self.root, False, complaints)

    def reference_is_whole(self, task: str) -> bool:
        """Whether nothing has changed in it."""
        places = (root / "tasks" / task / "reference.csv" for root in (self.root, ROOT))
        return len({path.read_bytes() for path in places}) == 1

    def show(self, loaded: Task, found: list[dict]) -> None:
        """The page, the comparison, and sometimes the figures."""
        page.html([loaded], self.root, [])
        with contextlib.redirect_stdout(io.StringIO()):
            compare.show(found)
        for record in found:
            with contextlib.suppress(replay.NotReplayed, ConfigError):
                replay.check(record, any_versions=False)
                replay.weights_file(record, [])
        self.counts["shown"] += 1
        if self.counts["shown"] % DRAWN == 0:
            collect.draw(loaded, self.results / "figures", [])

    def table(self) -> None:
        """A model's card has what it says, or a note."""
        task = self.tasks[0]
        with (ROOT / "results" / "tables" / f"{task}.csv").open(newline="") as file:
            row = next(csv.DictReader(file))
        with patch.object(model_card, "REPOSITORY", self.root), contextlib.redirect_stdout(io.StringIO()):
            model_card.verdicts(task, row["preset"], row["setting"])

    def picture(self) -> None:
        """It is shown, or a complaint."""
        complaints: list[str] = []
        assert pictures.there(self.results / "figures", {"one.png": "one"}, complaints) or complaints

    def commit(self) -> None:
        """It is read, or there is none."""
        assert environment.git_state("hinge_svm", self.root).keys() >= {"commit", "dirty"}

    def members(self, name: str, kind: ExtractMethod) -> Callable[[], None]:
        """The files of an archive are read, as TFDS gives them, or it is refused."""

        def read() -> None:
            with contextlib.suppress(ConfigError):
                for _ in archives.members(iter_archive(self.root / name, kind), name):
                    pass

        return read

    def class_names(self, run: Path) -> Callable[[], None]:
        """They are read, or Damaged."""

        def read() -> None:
            with contextlib.suppress(Damaged):
                RunFolder(run).class_names()

        return read

    def states(self, path: Path) -> Callable[[], None]:
        """A checkpoint, and weights to start from: read, or refused."""

        def read() -> None:
            checkpoints.named_by(path)
            with contextlib.suppress(CheckpointError), contextlib.redirect_stdout(io.StringIO()):
                checkpoints.latest(path.parent)
            with contextlib.suppress(ConfigError):
                weights.read(path)

        return read


@contextlib.contextmanager
def at(root: Path) -> Iterator[None]:
    """Let the launcher take this folder for the repository, and the queue for empty; figures are of one pixel."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (plan, sweeps, submissions, commands):
            patch.setattr(module, "REPOSITORY", root)
        patch.setattr(submissions, "FOLDER", root / "results" / "submissions")
        patch.setattr(cluster, "PROFILES", root / "slurm/clusters")
        patch.setattr(squeue, "ask", lambda users: squeue.Entries())
        patch.setattr(base, "png", lambda _: ONE_PIXEL)
        patch.setattr(sys, "argv", sys.argv)
        yield


def run(count: int, seed: int, tasks: tuple[str, ...], told: Callable[[str], None]) -> list[str]:
    """Make so many mutations; returns what failed, a text each."""
    failures = []
    with tempfile.TemporaryDirectory() as folder, at(Path(folder)):
        repository = Repository(Path(folder), tasks)
        targets = repository.targets()
        for number in range(count):
            rng = random.Random(seed * 1_000_003 + number)  # so that each can be repeated alone
            target = targets[number % len(targets)]
            before = target.path.read_bytes()
            target.path.write_bytes(damaged(before, target.path.suffix, rng))
            tool = ""
            said = io.StringIO()
            try:
                for call in target.tools:
                    tool = getattr(call, "__name__", "")
                    with contextlib.redirect_stderr(said):
                        call()
                assert "Traceback" not in said.getvalue()
            except Exception:
                place = target.path.relative_to(folder)
                kept = Path(tempfile.gettempdir()) / f"mutation-{number}{target.path.suffix}"
                shutil.copy(target.path, kept)
                failures.append(f"mutation {number} of {place} ({kept}), {tool}:\n{traceback.format_exc()}")
                told(failures[-1])
            finally:
                target.path.write_bytes(before)
            if number % 100 == 99:
                counts = ", ".join(f"{n} {name}" for name, n in repository.counts.items())
                told(f"{number + 1} of {count} mutations, {len(failures)} failures; {counts}")
    return failures


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tasks = ("autoencoder_sweep", "permuted_cnn", "rotation_contrastive")
    failures = run(arguments.count, arguments.seed, tasks, lambda line: print(line, flush=True))
    print(f"{len(failures)} of {arguments.count} mutations failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
