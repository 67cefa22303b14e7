"""Tables over seeds, with the published numbers beside them, from finished runs.

    python results/collect.py                      # every task
    python results/collect.py cifar_phased --keep  # one task; its runs are kept as records, for git
    python results/collect.py --strict             # exit code 1 where anything was left out or is in doubt
    python results/collect.py --compare RUN RUN    # what differs between runs, in the terminal

Reads results/runs/<task>/*/ and results/records/<task>/*.json. Writes results/tables/<task>.csv, .md and .tex,
results/figures/, the table between the marks `<!-- results -->` in tasks/<task>/README.md, the overview in
results/README.md and README.md, and the page results/index.html. The same runs give the same bytes, whether they are
read from run directories or from records. Runs that a table leaves out are named on stderr with the reason.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, for `common`

from common import files
from common.command_line import Parser
from common.config import REPOSITORY, Config
from common.errors import ConfigError, choice, fail
from results import records, tables
from results.records import completed

# On lines of their own: a text may speak of them.
MARKED = re.compile(r"^(<!-- results -->)$.*?^(<!-- /results -->)$", re.DOTALL | re.MULTILINE)
# Functions of results/drawings.py.
FIGURES = {
    "cifar_phased": ("phases", "curves", "batch_norm"),
    "hinge_svm": ("validation_loss",),
    "permuted_cnn": ("curves", "locality"),
    "autoencoder_sweep": ("sweep", "transfer"),
    "rotation_contrastive": ("curves", "transferred_blocks", "contrastive"),
    "fer_layerwise_lr": ("curves", "arms", "batch_norm"),
}
# The row that says what a task is about, in the overview: preset, setting, metric. Elsewhere one is chosen.
HEADLINES = {
    "hinge_svm": ("best", "dataset=cifar10 loss=weston_watkins", "test accuracy (%)"),
    "permuted_cnn": (
        "permuted",
        "dataset=notmnist network=cnn protocol=1: block=1 minus block=None",
        "difference in test accuracy (points)",
    ),
    "rotation_contrastive": (
        "transfer",
        "dataset=cifar10 protocol=1: transfer blocks=2 train_blocks=True minus base",
        "difference in test accuracy (points)",
    ),
}
# Settings to compare, seed by seed (tables.Pair).
PAIRS = {
    "cifar_phased": [
        (("three_phase", "batch_norm=keep"), ("three_phase", "batch_norm=layer")),
        (("three_phase", "batch_norm=keep"), ("three_phase", "batch_norm=follow")),
        (("laptop", ""), ("one_phase", "")),
        (("laptop", ""), ("one_phase", "phases.0.rate=1e-05")),
        (
            ("laptop", ""),
            ("one_phase", "phases.0.trainable=head phases.0.name=head phases.0.rate=0.001 phases.0.dropout=0.5"),
        ),
    ],
    "hinge_svm": [(("best", "loss=weston_watkins"), ("best", "loss=crammer_singer"))],
    "permuted_cnn": [
        (("permuted", "block=1"), ("permuted", "block=None")),
        (("permuted", "network=cnn"), ("permuted", "network=mlp")),
    ],
    "autoencoder_sweep": [
        (("autoencoder", "dropout=0.1"), ("autoencoder", "")),
        (("autoencoder", "dropout=0.3"), ("autoencoder", "")),
        (("transfer", "encoder=pretrained"), ("transfer", "encoder=random")),
        (("transfer", "train_encoder=True"), ("transfer", "train_encoder=False")),
    ],
    "rotation_contrastive": [
        (("base", "weight_decay=0.001"), ("base", "")),
        (("base", "batch_size=128"), ("base", "")),
        (("transfer", "train_blocks=True"), ("transfer", "train_blocks=False")),
        (("reverse", "train_blocks=True"), ("reverse", "train_blocks=False")),
        *((("reverse", f"train_blocks={t}"), ("rotation", "")) for t in (True, False)),
        *((("transfer", f"blocks={n} train_blocks={t}"), ("base", "")) for n in (1, 2, 3) for t in (True, False)),
    ],
    "fer_layerwise_lr": [
        (("by_depth", ""), ("one_rate", "")),
        (("by_depth", ""), ("frozen", "")),
        (("one_rate", ""), ("frozen", "")),
        (("by_depth", "batch_norm=keep"), ("by_depth", "batch_norm=layer")),
        (("by_depth", "batch_norm=keep"), ("by_depth", "batch_norm=follow")),
        *((("by_depth", ""), (arm, "")) for arm in ("reversed", "geometric_mean")),
        *((("by_depth", ""), (arm, "rates.head=0.001")) for arm in ("reversed", "geometric_mean")),
    ],
}


def collect(task: str, runs: Path, root: Path, keeping: bool, complaints: list[str]) -> list[dict]:
    """Make everything of one task anew, and print it. Returns its records, and adds complaints, a line each."""
    results = root / "results"
    found, here = records.find(task, runs, results / "records", complaints)
    if keeping:
        records.keep(here, results / "records", complaints)
    current = protocol(root / "tasks" / task / "train.py")
    groups = records.group(found, complaints, current)
    rows = tables.tabulate(groups, tables.read_references(root / "tasks" / task / "reference.csv"), PAIRS.get(task, ()))
    if not rows:
        complaints.append(f"nothing to tabulate: {task}: no finished runs, no records, no reference.csv")
        return []
    table = tables.csv_text(rows)
    text = tables.markdown(table)
    (results / "tables").mkdir(parents=True, exist_ok=True)
    for kind, content in (("csv", table), ("md", text), ("tex", tables.latex(table))):
        files.write(results / "tables" / f"{task}.{kind}", content.encode())
    fill(root / "tasks" / task / "README.md", tables.compact(table))
    draw(task, found, results / "figures")
    print(f"# {task}\n\n{text}", flush=True)
    return found


def draw(task: str, found: Sequence[dict], folder: Path) -> None:
    """Draw every figure of a task from the runs of one protocol, the newest that has what it shows."""
    if not completed(found):
        return
    from results import drawings

    for name in FIGURES.get(task, ()):
        path = folder / f"{task}_{name}.png"
        path.unlink(missing_ok=True)
        for number in sorted({records.protocol(record) for record in found}, reverse=True):
            groups = records.group([r for r in found if records.protocol(r) == number], [], number)
            drawn = {key: members for key, group in groups.items() if (members := completed(group))}
            if drawn and not path.is_file():
                getattr(drawings, name)(drawn, path)


def protocol(path: Path) -> int:
    """The protocol of a task, read in its train.py and not loaded, since a table needs nothing else of it."""
    found = re.search(r"^    PROTOCOL = (\d+)$", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else Config.PROTOCOL


def summarise(known: Sequence[str], found: Mapping[str, Sequence[dict]], runs: Path, root: Path) -> None:
    """Make the overviews and the page anew, from every task's table; `found` has records by task, of some."""
    from results import page

    results = root / "results"
    paths = {task: results / "tables" / f"{task}.csv" for task in known}
    by_task = {task: path.read_text() for task, path in paths.items() if path.is_file()}
    if not by_task:
        return
    overview = tables.overview(by_task, HEADLINES)
    files.write(results / "README.md", tables.TEMPLATES.get_template("README.md").render(overview=overview).encode())
    fill(root / "README.md", overview.replace("](../", "]("))
    every = {task: found.get(task) or records.find(task, runs, results / "records", [])[0] for task in by_task}
    files.write(results / "index.html", page.html(by_task, every, root, FIGURES).encode())


def fill(path: Path, text: str) -> None:
    """Put a text between the marks of a README, if it has both."""
    before = path.read_text() if path.is_file() else ""
    after = MARKED.sub(lambda marks: f"{marks[1]}\n\n{text}\n{marks[2]}", before)
    if after != before:
        files.write(path, after.encode())


def main(argv: Sequence[str] | None = None, root: Path = REPOSITORY) -> None:
    """The command; `root` is the repository.

    Exit codes: 0; 2 for bad input; 1 for what cannot be read or written, and with --strict for any complaint.
    """
    known = sorted(path.parent.name for path in root.glob("tasks/*/train.py"))
    parser = Parser(
        prog="results/collect.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"any of {', '.join(known)} (default: all)")
    parser.add_argument("--keep", action="store_true", help="copy finished runs into results/records")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if there is anything to complain of")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of runs (default: results/runs)")
    parser.add_argument(
        "--compare", nargs="+", metavar="RUN", help="names or folders of two runs or more; writes nothing"
    )
    arguments = parser.parse_args(argv)
    runs = arguments.runs or root / "results" / "runs"
    complaints = []
    try:
        for task in arguments.tasks:
            choice("task", task, known)
        if arguments.runs and not runs.is_dir():
            raise ConfigError(f"folder of runs {runs} is not there")
        if arguments.compare:
            from results import compare

            compare.show(compare.chosen(arguments.compare, runs, root / "results" / "records"))
            return
        asked = dict.fromkeys(arguments.tasks or known)
        found = {task: collect(task, runs, root, arguments.keep, complaints) for task in asked}
        summarise(known, found, runs, root)
    except ConfigError as error:
        fail(str(error))
    except OSError as error:
        fail(str(error), 1)
    for complaint in complaints:
        print(complaint, file=sys.stderr, flush=True)
    if arguments.strict and complaints:
        fail(f"{len(complaints)} complaints, and --strict", 1)


if __name__ == "__main__":
    main()
