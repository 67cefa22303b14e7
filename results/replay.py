"""Records run once more, by the code that made them, to see whether the same numbers come out.

    python results/replay.py best-cifar10-crammer_singer-021200c2-s0   # its name, the end of it, or its file
    python results/replay.py RECORD --data-dir FOLDER --weights FILE   # where data sets and initial weights lie
    python results/replay.py AUTOENCODER CLASSIFIER                    # a run that starts from another one, after it
    python results/replay.py RECORD --weights RUN/backbone.safetensors # a run with the weights of another one

For each record its commit is written into a temporary folder, its task's train.py runs there with the record's
config and backend, and its metrics and history are compared with the recorded ones, without times and speeds: bit for
bit where processor, number of cores, devices, backend, precision and versions are the same, else within --tolerance.
Nothing is installed or downloaded, and nothing is left behind.

Exit codes: 0 the same; 1 not the same, or it could not be run; 2 bad input; 129, 130 and
143 stopped by SIGHUP, Ctrl-C and SIGTERM.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, for `common`

from common.command_line import Parser
from common.config import REPOSITORY, flat
from common.environment import installed, other_versions
from common.errors import ConfigError, command, fail
from common.run_folder import meant
from results import records
from results.sameness import TOLERANCE, compare, differing, show, went_on_with_other_versions

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Prints the presets of a train.py, the code of any commit, as JSON data.
PRESETS = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("replayed", sys.argv[1])
module = sys.modules["replayed"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps({name: preset.identity() for name, preset in module.PRESETS.items()}))
"""


class NotReplayed(Exception):
    """A record that cannot be run again here; its text says why, on one line."""


def main(argv: Sequence[str] | None = None, root: Path = REPOSITORY) -> None:
    """The command; `root` is the repository."""
    parser = Parser(prog="results/replay.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", metavar="RECORD", help="its file, or the end of its name")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of data sets, as train.py takes it")
    parser.add_argument(
        "--weights", type=Path, action="append", default=[], metavar="FILE", help="initial weights; may be repeated"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="where bits may differ: how far a loss may be off, as a share of it, and an accuracy, where 1 is 100 %% "
        f"(default {TOLERANCE})",
    )
    parser.add_argument("--any-versions", action="store_true", help="replay with other versions than the recorded ones")
    arguments = parser.parse_args(argv)
    try:
        if not 0 <= arguments.tolerance < 1:
            raise ConfigError(f"tolerance is {arguments.tolerance}; allowed: 0 <= tolerance < 1")
        if arguments.data_dir and not arguments.data_dir.is_dir():
            raise ConfigError(f"data folder {arguments.data_dir} is not there")
        chosen = [named(name, root / "results" / "records") for name in arguments.records]
        names = [f"{record['task']}/{record['run']}" for record in chosen]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"record {twice[0]} is named twice")
        weights = [weights_file(record, arguments.weights) for record in chosen]
        with stoppable(), tempfile.TemporaryDirectory(prefix="replay-") as folder:
            asked = zip(chosen, weights, strict=True)
            same = [one(record, file, arguments, root, Path(folder)) for record, file in asked]
    except ConfigError as error:
        fail(str(error))
    except OSError as error:
        fail(str(error), 1)
    if not all(same):
        raise SystemExit(1)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the signals that stop a program end it in the way that cleans up, once."""

    def stop(number: int, frame: object) -> NoReturn:
        for each in STOPS:
            signal.signal(each, signal.SIG_IGN)  # what is under way is the end
        print(f"stopped by {signal.Signals(number).name}; nothing is kept", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    heard = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def named(name: str, kept: Path) -> dict:
    """A record by its file, its name, or the end of its name. Raises ConfigError for no such."""
    path = Path(name)
    if not path.is_file():
        places = {f"{file.parent.name}/{file.stem}": file for file in kept.glob("*/*.json")}
        allowed = f"a record: its file, or the end of its name in {kept} (collect.py --keep makes them of runs)"
        path = places[meant(name, places, allowed, "record")]
    try:
        return records.read_record(path.resolve())
    except records.Unusable as reason:
        raise ConfigError(f"record {path.name} is {reason}") from None


def weights_file(record: Mapping, given: Sequence[Path]) -> Path | None:
    """The file with a record's initial weights, found by its digest; None if it has no file.

    Raises ConfigError if it is not among those given.
    """
    label, at, recorded = record["config"].get("weights", "none").partition("@sha256:")
    if not at:
        return None
    wanted = f"record {record['run']} starts from {label} with the SHA-256 {recorded}..."
    if not given:
        raise ConfigError(f"{wanted}: --weights FILE says where it lies")
    for path in given:
        if not path.is_file():
            raise ConfigError(f"no weights file {path}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest().startswith(recorded):
                return path.resolve()
    raise ConfigError(f"{wanted}, which is none of {', '.join(map(str, given))}")


def one(record: Mapping, weights: Path | None, arguments: argparse.Namespace, root: Path, folder: Path) -> bool:
    """Replay a record, and print what came out; whether it is the same. `folder` is for code and runs."""
    try:
        commit = check(record, arguments.any_versions)
        code = folder / commit
        if not code.is_dir():
            check_out(root, commit, code)
        seconds = sum(phase["seconds"] for phase in record["metrics"].get("phases", {}).values())
        print(f"{record['run']}: code of commit {commit[:8]}; recorded: {seconds:,.0f} s of training", flush=True)
        again = run(record, weights, arguments.data_dir, code, folder / "runs")
    except NotReplayed as reason:
        print(f"error: {record['run']}: {' '.join(str(reason).split())}", file=sys.stderr, flush=True)
        return False
    comparison = compare(record, again, arguments.tolerance)
    show(record["run"], comparison, arguments.tolerance)
    return comparison.is_same


def check(record: Mapping, any_versions: bool) -> str:
    """The commit that a record is to be run from. Raises NotReplayed if nothing comparable can be run here."""
    if reason := records.unknown_code(record):
        raise NotReplayed(reason)
    environment = record["environment"]
    commits = list(dict.fromkeys(state["commit"] for state in (*environment["starts"], environment)))
    if len(commits) > 1:
        raise NotReplayed(f"more than one commit made it: {', '.join(commit[:8] for commit in commits)}")
    if not re.fullmatch(r"[0-9a-f]{40,64}", commits[0]):
        raise NotReplayed(f"its commit is {commits[0]!r}, which is not the name of one")
    if record["config"]["dataset"].startswith("image_folder:"):
        raise NotReplayed("it was trained on a folder of images, and a record does not say where they lie")
    others = other_versions(environment, installed())
    went_on = went_on_with_other_versions(environment)
    if (others or went_on) and not any_versions:
        reason = f"other versions are installed: {', '.join(others)}" if others else "its starts had different versions"
        raise NotReplayed(f"{reason}; --any-versions replays it all the same")
    return commits[0]


def check_out(root: Path, commit: str, code: Path) -> None:
    """Write the files of a commit into a new folder. Raises NotReplayed if the repository does not have it."""
    archive = code.with_suffix(".zip")
    git = ["git", "-C", str(root)]
    try:
        words = [*git, "cat-file", "-e", f"{commit}^{{commit}}"]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        if found.returncode:
            advice = "a shallow clone gets it by `git fetch --unshallow`"
            raise NotReplayed(f"commit {commit[:8]} is not in {root}; {advice} ({found.stderr.strip()})")
        subprocess.run([*git, "archive", "--format=zip", f"--output={archive}", commit], check=True)
    except FileNotFoundError:
        raise NotReplayed("git is not installed, which has its commit") from None
    except subprocess.CalledProcessError as error:
        raise NotReplayed(f"git archive ended with exit code {error.returncode}") from None
    with zipfile.ZipFile(archive) as file:
        file.extractall(code)


def run(record: Mapping, weights: Path | None, data_dir: Path | None, code: Path, out: Path) -> dict:
    """Train what a record says, with the code in a folder; the run as a record. Raises NotReplayed."""
    scripts = list(code.glob(f"*/{record['task']}/train.py"))
    if len(scripts) != 1:
        raise NotReplayed(f"its commit has no train.py of {record['task']}")
    (script,) = scripts
    environment = surroundings(record["environment"])
    wanted = record["config"] | ({"weights": str(weights)} if weights else {})
    words = [*flags(wanted, presets(script, code, environment)), f"--out={out}", "--offline"]
    words += [f"--data-dir={data_dir.absolute()}"] if data_dir else []
    before = set(out.glob("*/*"))
    train([str(script.relative_to(code)), *words], code, environment)
    try:
        (folder,) = set(out.glob("*/*")) - before
        again = records.read_run(folder)
    except ValueError:
        raise NotReplayed("its command leads to a run that was replayed before it") from None
    except records.Unusable as reason:
        raise NotReplayed(f"what it left is {reason}") from None
    if unlike := differing(*map(with_digests_alone, (record["config"], again["config"]))):
        raise NotReplayed(f"its command leads to another config; differing in {', '.join(unlike)}")
    return again


def surroundings(recorded: Mapping) -> dict[str, str]:
    """The environment variables of a replay: this process's, but for what a run's environment.json says."""
    theirs = dict(os.environ) | {"KERAS_BACKEND": recorded["backend"]}
    # Importing `common` sets the first; the others may be the user's.
    for name in ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        theirs.pop(name, None)
    if recorded.get("onednn") is not None:
        theirs["TF_ENABLE_ONEDNN_OPTS"] = str(int(recorded["onednn"]))
    if most := recorded.get("onednn_max_cpu_isa"):
        theirs["ONEDNN_MAX_CPU_ISA"] = str(most)
    return theirs


def presets(script: Path, code: Path, environment: Mapping[str, str]) -> dict[str, dict]:
    """The presets of a train.py by name, as JSON data, told by its own code. Raises NotReplayed if it fails."""
    command = [sys.executable, "-c", PRESETS, str(script)]
    done = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReplayed(f"its train.py cannot be loaded: {(done.stderr.splitlines() or ['no reason given'])[-1]}")
    return json.loads(done.stdout)


def flags(config: Mapping, presets: Mapping[str, Mapping]) -> list[str]:
    """The flags that lead from a config's preset to it. Raises NotReplayed if there is no such preset."""
    if config["preset"] not in presets:
        raise NotReplayed(f"its commit has no preset {config['preset']}")
    start, words = flat(presets[config["preset"]]), [f"--preset={config['preset']}"]
    for key, value in flat(config).items():
        flag = key.replace("_", "-")
        if key in start and start[key] == value:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag}={value}")
    return words


def train(words: Sequence[str], code: Path, environment: Mapping[str, str]) -> None:
    """Run train.py to its end, its output passed through. Raises NotReplayed, with its last line, if it fails."""
    print(f"KERAS_BACKEND={environment['KERAS_BACKEND']} python {' '.join(words)}", flush=True)
    command = [sys.executable, *words]
    process = subprocess.Popen(command, cwd=code, env=environment, stderr=subprocess.PIPE, text=True, errors="replace")
    last = ""
    try:
        for line in process.stderr or ():
            last = line.strip() or last
            if not line.startswith("error: "):  # which is said at the end, with the record's name
                print(line, end="", file=sys.stderr, flush=True)
        process.wait()
    finally:
        process.kill()  # does nothing where it has ended
        process.communicate()
    if process.returncode:
        reason = last.removeprefix("error: ") or "it gave no reason"
        raise NotReplayed(f"train.py ended with exit code {process.returncode}: {reason}")


def with_digests_alone(config: Mapping) -> dict:
    """A config with its file of weights named by content only: copies have other names."""
    label, at, digest = config.get("weights", "none").partition("@")
    return flat({**config, "weights": digest if at else label})


if __name__ == "__main__":
    command(main)
