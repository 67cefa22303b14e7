"""How well a trained classifier does on labelled images that it has not seen: a folder for each class.

    python -m common.evaluate RUN photos                  # accuracy, and precision, recall and F1 by class
    python -m common.evaluate RUN photos --csv each.csv   # also every image, with its class and what it is taken for
    python -m common.evaluate RUN photos --json           # all of it as JSON; null for a class without an image

RUN is the folder of a finished run, or the end of its name in results/runs. The folders in `photos` have the names of
the run's classes; one that is missing is left out of the macro means. Images are prepared as in `common.predict`. Exit
codes: 0; 1 if an image could not be read, which is named and left out; 2 for bad input.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from common import files
from common.command_line import Parser
from common.data.listing import SPLIT_OF, SUFFIXES, Listing, class_folders, few, images_below, printable
from common.errors import ConfigError, command, in_one_line
from common.predict import RUNS, check_csv, classify, leave, loading
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
    top.add_argument("--phase", help="the network in the reported state of this phase (default: the last one)")
    top.add_argument("--csv", type=Path, metavar="FILE", help="write a CSV file too, a row an image")
    top.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = parser().parse_args(argv)
    with in_one_line(arguments.csv):
        check_csv(arguments.csv)
        folder = find_classifier(arguments.run, RUNS, arguments.phase)
        class_of, notes = labelled(arguments.images, RunFolder(folder).class_names())
        unreadable = evaluate(folder, class_of, arguments)
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
        split = next((name for name in unknown if name.lower() in SPLIT_OF), None)
        remedy = f"one of them alone, as {root / split}" if split else few(class_names, 20)
        raise ConfigError(
            f"{printable(str(root))} has folders that are no class of the run: {few(unknown)}; allowed: {remedy}"
        )
    found: dict[Path, int] = {}
    above = [listing.root]
    there = [(place, folders[name]) for place, name in enumerate(class_names) if name in folders]
    for place, path in sorted(there, key=lambda each: os.path.islink(each[1])):  # noqa: PTH114 (it is no Path)
        found |= dict.fromkeys(map(Path, images_below(listing, path, above)), place)
        above.append(path)  # a link to it would count its images again, and of another class
    notes = [f"{root}: {note}" for note in listing.notes()]
    if not found:
        allowed = f"a folder for each class, with images ({', '.join(sorted(SUFFIXES))})"
        raise ConfigError(
            "; ".join([f"{printable(str(root))} has no images in class folders", *notes, f"allowed: {allowed}"])
        )
    return found, notes


def evaluate(folder: Path, class_of: Mapping[Path, int], arguments: argparse.Namespace) -> dict[Path, str]:
    """Say how often a run's network is right; returns the images that could not be read, and why."""
    loading(folder)
    import numpy as np

    from common import metrics, trained

    classifier = trained.load(folder, arguments.phase)
    found, unreadable = classify(classifier, list(class_of))
    if not found:
        return unreadable
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
    said = f"accuracy {scores['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})"
    said += f", macro F1 {scores['macro_f1']:.4f}"
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
        print(f"\nclasses without an image that can be read, left out above: {few(missing)}")


def mistaken(row: Sequence[int], place: int, class_names: Sequence[str]) -> str:
    """The other class that most images of a class are taken for, and how many."""
    images, other = max((images, -other) for other, images in enumerate(row) if other != place)
    return f"{class_names[-other]} ({images:,})" if images else ""


def write(
    path: Path, images: Sequence[Path], labels: "np.ndarray", probabilities: "np.ndarray", class_names: Sequence[str]
) -> None:
    """Write a row for each image: its class, what it is taken for, and how probable both are."""
    rows: list[list] = [["file", "class", "probability", "predicted", "probability of predicted"]]
    for name, label, own in zip(images, labels, probabilities, strict=True):
        guess = int(own.argmax())
        row = [printable(str(name)), class_names[label], float(own[label]), class_names[guess], float(own[guess])]
        rows.append(row)
    files.write_csv(path, rows)


if __name__ == "__main__":
    command(main)
