"""How well a trained classifier does on labelled images that it has not seen: a folder for each class.

    python -m common.evaluate RUN photos                  # accuracy, and precision, recall and F1 by class
    python -m common.evaluate RUN photos --csv each.csv   # also every image, with its class and what it is taken for
    python -m common.evaluate RUN photos --json           # all of it as JSON

RUN is the folder of a finished run, or the end of its name in results/runs. The folders in `photos` have the names of
the run's classes; a class may be missing. Images are prepared as in `common.predict`. Exit codes: 0; 1 if an image
could not be read, which is named and left out; 2 for bad input.
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from common.command_line import Parser
from common.data.listing import SPLIT_OF, Listing, class_folders, few, images_below, printable
from common.errors import ConfigError, command, fail
from common.predict import RUNS, classify, leave, loading
from common.run_folder import RunFolder, find_classifier
from common.words import count

if TYPE_CHECKING:  # `--help` does without
    import numpy as np


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="python -m common.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("run", metavar="RUN", help="folder of a finished run, or the end of its name")
    top.add_argument("images", type=Path, metavar="DIR", help="a folder with a folder of images for each class")
    top.add_argument("--phase", help="the network as it was at the end of this phase (default: the last one)")
    top.add_argument("--csv", type=Path, metavar="FILE", help="write a CSV file too, a row an image")
    top.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.csv and not arguments.csv.absolute().parent.is_dir():
            raise ConfigError(f"--csv {arguments.csv}: there is no folder {arguments.csv.parent}")
        folder = find_classifier(arguments.run, RUNS)
        class_of, notes = labelled(arguments.images, RunFolder(folder).class_names())
        unreadable = evaluate(folder, class_of, arguments)
    except ConfigError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or arguments.csv}: {error.strerror}", 1)
    for note in notes:
        print(note, file=sys.stderr)
    leave(unreadable)


def labelled(root: Path, class_names: Sequence[str]) -> tuple[dict[Path, int], list[str]]:
    """The class of each image below a folder, as its place among the names, and what else the folder holds.

    Raises ConfigError for a folder that has no class folders, others than these, or no images.
    """
    if not root.is_dir():
        raise ConfigError(f"{printable(str(root))} is no folder; allowed: a folder with a folder for each class")
    listing = Listing(str(root))
    folders = class_folders(listing, listing.root)
    if unknown := [name for name in folders if name not in class_names]:
        remedy = f"name one of them, as {root / unknown[0]}" if unknown[0].lower() in SPLIT_OF else few(class_names, 20)
        raise ConfigError(
            f"{printable(str(root))} has folders that are no class of the run: {few(unknown)}; allowed: {remedy}"
        )
    found = {
        Path(path): place
        for place, name in enumerate(class_names)
        if name in folders
        for path in images_below(listing, folders[name], (listing.root,))
    }
    if not found:
        raise ConfigError(f"{printable(str(root))} has no images in class folders; allowed: a folder for each class")
    return found, [f"{root}: {note}" for note in listing.notes()]


def evaluate(folder: Path, class_of: Mapping[Path, int], arguments: argparse.Namespace) -> dict[Path, str]:
    """Say how often a run's network is right; returns the images that could not be read, and why."""
    loading(folder)
    import numpy as np

    from common import metrics, trained

    classifier = trained.load(folder, arguments.phase)
    found, unreadable = classify(classifier, list(class_of))
    if not found:
        raise ConfigError(f"none of the {count(len(class_of), 'image')} can be read")
    labels, probabilities = np.array([class_of[path] for path in found]), np.stack(list(found.values()))
    scores = metrics.evaluate(labels, probabilities, classifier.class_names)
    if arguments.csv:
        write(arguments.csv, list(found), labels, probabilities, classifier.class_names)
    if arguments.json:
        print(json.dumps(scores | {"accuracy_interval": interval(scores)}, indent=1, ensure_ascii=False))
    else:
        show(scores, classifier.class_names)
    return unreadable


def interval(scores: Mapping) -> tuple[float, float]:
    """The 95 % interval of an accuracy, as a fraction (Wilson 1927): the chance of which images were taken."""
    from scipy.stats import binomtest

    right = round(scores["accuracy"] * scores["n"])
    found = binomtest(right, scores["n"]).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def show(scores: Mapping, class_names: Sequence[str]) -> None:
    """Print a line on all images and a table by class."""
    low, high = interval(scores)
    there = [(place, own) for place, own in enumerate(scores["per_class"]) if own["support"]]
    macro = statistics.fmean(own["f1"] for _, own in there)
    said = f"accuracy {scores['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), macro F1 {macro:.4f}"
    print(f"{count(scores['n'], 'image')} of {len(there)} {'class' if len(there) == 1 else 'classes'}: {said}\n")
    numbers = (Column(head, justify="right") for head in ("images", "precision", "recall", "F1"))
    table = Table("class", *numbers, "most often taken for", box=None)
    for place, own in there:
        shares = (f"{own[key]:.1%}" for key in ("precision", "recall", "f1"))
        table.add_row(
            own["class"], f"{own['support']:,}", *shares, mistaken(scores["confusion"][place], place, class_names)
        )
    Console(markup=False, highlight=False).print(table)
    if missing := [own["class"] for own in scores["per_class"] if not own["support"]]:
        print(f"\nclasses without an image, left out above: {few(missing)}")


def mistaken(row: Sequence[int], place: int, class_names: Sequence[str]) -> str:
    """The other class that most images of a class are taken for, and how many."""
    images, other = max((images, -other) for other, images in enumerate(row) if other != place)
    return f"{class_names[-other]} ({images:,})" if images else ""


def write(
    path: Path, files: Sequence[Path], labels: "np.ndarray", probabilities: "np.ndarray", class_names: Sequence[str]
) -> None:
    """Write a row for each image: its class, what it is taken for, and how probable both are."""
    heads = ["file", "class", "probability", "predicted", "probability of predicted"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        for name, label, own in zip(files, labels, probabilities, strict=True):
            guess = int(own.argmax())
            row = [printable(str(name)), class_names[label], float(own[label]), class_names[guess], float(own[guess])]
            writer.writerow(row)


if __name__ == "__main__":
    command(main)
