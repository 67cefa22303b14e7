"""Random command lines: exit code 0, 1 or 2, one line for a mistake, no traceback, under two seconds.

    python tests/fuzz.py --count 1000    # about a minute; what fails is made as short as it can be

hypothesis makes the command lines of every task (as far as a run is named, so nothing is trained), of the launcher
(with --dry-run), and of prepare (with --check), collect, replay, predict, evaluate, explain and export. None of them
loads Keras.
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import evaluate, explain, export, predict
from common.command_line import parse
from common.config import flat
from common.data import __main__ as prepare
from results import collect, replay
from slurm import __main__ as launcher
from slurm import commands, plan, submissions

SECONDS = 2.0  # of this process's own time
WORDS = (
    *(
        "",
        "-",
        "--",
        "0",
        "-1",
        "3",
        "1e400",
        "nan",
        "9" * 400,
        "None",
        "null",
        "true",
        "no",
        "0:3",
        "3:0",
        "0:99999999",
    ),
    *("demo", "digits", "mnist", "cifar10", "image_folder:", "image_folder:~", "image_folder:.", "~", "~nobody/x", "."),
    *(
        "/",
        "..",
        "/dev/null",
        "a/../b",
        "x" * 300,
        "[v1]",
        "[/red]",
        "*",
        "**",
        "a,b",
        "a=b",
        "a=",
        "=b",
        "\udce9",
        "ä",
    ),
    *(
        "{}",
        "%s",
        "$HOME",
        "`id`",
        "'",
        '"',
        "\n",
        "a\\,b",
        "\u202e",
        "--help",
        "-h",
        "seed=1",
        "out=x",
        "overwrite=true",
    ),
)
FLAGS = {
    "slurm": "--sweep --grid --seeds --set --jobs --cluster --profile --time --cpus --memory --gpus --max-parallel "
    "--partition --watch --json --follow --failed --snapshot --yes --most",
    "collect": "--keep --strict --runs --compare",
    "replay": "--data-dir --weights --tolerance --any-versions",
    "predict": "--phase --top --batch-size --csv --json",
    "evaluate": "--phase --csv --json",
    "explain": "--class --phase --out",
    "export": "--to --phase --out --publish --private keras onnx savedmodel litert",
    "prepare": "--weights --data-dir resnet18 mobilenet_v2 notmnist fer2013",
}


KEYS = ("preset", "dataset", "data_dir", "out", "loss", "rate", "epochs", "batch-size", "batch_size", "seed", "devices")
KEYS += ("nodes", "overwrite", "limit_train", "validate_every", "phases.0.rate", "no.such", "looks", "precision")


@dataclass(frozen=True)
class Tool:
    """A command in this process: words that it knows, and how it is called."""

    name: str
    known: tuple[str, ...]
    call: Callable[[Sequence[str]], object]


def with_argv(function: Callable[[], object], first: Sequence[str] = (), last: Sequence[str] = ()) -> Callable:
    """A command that reads sys.argv."""

    def call(words: Sequence[str]) -> object:
        sys.argv = ["command", *first, *words, *last]
        return function()

    return call


def task(name: str) -> Tool:
    """A task's train.py, up to the name of its run."""
    presets = plan.load_task(name).PRESETS
    default = next(iter(presets.values()))
    keys = [key.replace("_", "-") for key in flat(default.identity() | default.operational())]

    def call(words: Sequence[str]) -> None:
        config = parse(presets, "", words)
        config.name(), config.setting(presets)

    return Tool(name, tuple(f"--{key}" for key in keys if key != "overwrite"), call)


def tools(root: Path) -> list[Tool]:
    """Every command."""
    found = [task(name) for name in plan.tasks()]
    known = {name: tuple(flags.split()) for name, flags in FLAGS.items()}
    for name in ("submit", "status", "logs", "cancel", "resubmit", "prune"):
        words = [name, *(["hinge_svm"] if name == "submit" else [])]
        last = ["--dry-run"] if name in ("submit", "resubmit") else []
        found.append(Tool(f"slurm {name}", known["slurm"], with_argv(launcher.main, words, last)))
    found.append(Tool("prepare", known["prepare"], with_argv(prepare.main, ["prepare", "--check"])))
    found.append(Tool("collect", known["collect"], lambda words: collect.main(list(words), root)))
    found.append(Tool("replay", known["replay"], lambda words: replay.main(list(words), root)))
    for module in (predict, evaluate, explain, export):
        name = module.__name__.rpartition(".")[2]
        found.append(Tool(name, known[name], lambda words, main=module.main: main(list(words))))
    return found


def command_lines(tool: Tool) -> st.SearchStrategy[list[str]]:
    """Flags that a command knows with any value, or any words in any order."""
    text = st.text(st.characters(exclude_characters="\0"), max_size=8)
    value = st.one_of(st.sampled_from(WORDS), text, st.integers().map(str), st.floats().map(str))
    flag = st.sampled_from(tool.known)
    together = st.builds(lambda name, given: [f"{name}={given}"], flag, value)
    apart = st.builds(lambda name, given: [name, given], flag, value)
    known = [together, apart]
    if tool.name == "slurm submit":
        key = st.sampled_from(KEYS)
        known.append(st.builds(lambda name, given: ["--set", f"{name}={given}"], key, value))
        known.append(st.builds(lambda name, one, other: ["--grid", f"{name}={one},{other}"], key, value, value))
    lines = st.lists(st.one_of(*known), min_size=1, max_size=4).map(lambda parts: [w for part in parts for w in part])
    return st.one_of(lines, lines, st.lists(st.one_of(flag, value), max_size=6))


@contextlib.contextmanager
def elsewhere() -> Iterator[Path]:
    """An empty folder as the repository's results, the home, and the working directory; nothing to read on stdin."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        (root / "run").mkdir()
        (root / "run" / "config.json").write_text('{"config": {}}')  # so RUN may be one, that is no use
        patch.setenv("HOME", folder)
        patch.setenv("TFDS_DATA_DIR", folder)
        patch.setattr(submissions, "FOLDER", root / "s")
        patch.setattr(commands, "REPOSITORY", root)
        for module in (predict, evaluate, explain, export):
            patch.setattr(module, "RUNS", root)
        patch.chdir(root)
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(sys, "stdin", io.StringIO())
        yield root


def check(tool: Tool, words: Sequence[str]) -> None:
    """Call a command, and see what it makes of these words."""
    said, code, begun = io.StringIO(), 0, time.process_time()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            tool.call(words)
        except SystemExit as end:
            code = end.code or 0
    took = time.process_time() - begun
    lines = said.getvalue().splitlines()
    assert code in (0, 1, 2), f"exit code {code!r}"
    assert code != 2 or lines, "a mistake without a word"
    assert code != 2 or all(line.startswith("error: ") for line in lines), lines
    assert code != 2 or len(lines) == 1 or tool.name == "slurm submit", lines  # which lists all mistakes
    assert took < SECONDS, f"{took:.1f} s"


def run(count: int) -> None:
    """Try so many command lines of every tool together. Raises what hypothesis does for one that fails."""
    with elsewhere() as root:
        every = tools(root)
        for tool in every:
            check(tool, ["--no-such-flag"])  # so that what is imported later does not count
            try:
                attempts(tool, max(1, count // len(every)))()
            except BaseException as error:
                error.add_note(f"tool: {tool.name}")
                raise
            shutil.rmtree(root / "results", ignore_errors=True)


def attempts(tool: Tool, count: int) -> Callable[[], None]:
    """A test of so many command lines."""

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(command_lines(tool))
    def attempt(words: list[str]) -> None:
        check(tool, words)

    return attempt


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    run(count)
    loaded = sorted({"keras", "tensorflow", "jax"} & sys.modules.keys())
    print(f"{count} command lines: exit codes, lines and times as they should be; loaded: {loaded or 'no backend'}")
    sys.exit(bool(loaded))


if __name__ == "__main__":
    main()
