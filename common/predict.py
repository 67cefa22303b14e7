"""What a trained classifier says of images.

    python -m common.predict RUN photo.jpg more/*.png      # a table in the terminal
    python -m common.predict RUN photos --csv classes.csv  # every image below a folder
    find photos -name '*.jpg' | python -m common.predict RUN - --json > classes.json

RUN is the folder of a finished run, or the end of its name in results/runs. An image is cropped to its centred square
and resized to the size of the run's data, as images of a folder are in training. Exit codes: 0; 1 if an image could not
be read, which is named and left out; 2 for bad input.
"""

import argparse
import glob
import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.table import Column, Table

from common import files
from common.command_line import Parser
from common.config import REPOSITORY
from common.data.listing import SPECIAL, SUFFIXES, Listing, images_below, printable
from common.environment import backend
from common.errors import ConfigError, command, in_one_line
from common.run_folder import find_classifier
from common.words import count

if TYPE_CHECKING:  # `--help` does without
    import numpy as np
    import tensorflow as tf

    from common.trained import Trained

RUNS = REPOSITORY / "results" / "runs"
MANY = 1000  # images; a progress bar from here on
CHUNK = 1024  # images in memory at once


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="python -m common.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("run", metavar="RUN", help="folder of a finished run, or the end of its name")
    top.add_argument("paths", nargs="+", metavar="PATH", help="images, folders, patterns; -: a list on standard input")
    top.add_argument("--phase", help="the network in the reported state of this phase (default: the last one)")
    top.add_argument("--batch-size", type=int, metavar="N", help="images at once (default: the run's)")
    top.add_argument("--top", type=int, default=3, metavar="N", help="most probable classes to name (default: 3)")
    written = top.add_mutually_exclusive_group()
    written.add_argument("--csv", type=Path, metavar="FILE", help="write a CSV file, a row an image")
    written.add_argument("--json", action="store_true", help="print JSON, with the probability of every class")
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = parser().parse_args(argv)
    with in_one_line(arguments.csv):
        if arguments.top < 1:
            raise ConfigError(f"--top is {arguments.top}; allowed: 1 and above")
        if arguments.batch_size is not None and not 1 <= arguments.batch_size <= CHUNK:
            raise ConfigError(f"--batch-size is {arguments.batch_size}; allowed: 1 to {CHUNK:,}")
        check_csv(arguments.csv)
        folder = find_classifier(arguments.run, RUNS, arguments.phase)
        paths, notes = listed(arguments.paths)
        unreadable = predict(folder, paths, arguments)
    for note in notes:
        print(note, file=sys.stderr)
    leave(unreadable)


def check_csv(path: Path | None) -> None:
    """Raise ConfigError for another kind of file, or a folder that is not there, before anything is computed."""
    if path and not path.absolute().parent.is_dir():
        raise ConfigError(f"--csv {path}: there is no folder {path.parent}")
    is_device = path and path.exists() and not path.is_file()  # such as /dev/stdout
    if path and path.suffix.lower() != ".csv" and not is_device:
        raise ConfigError(f"--csv {path}: allowed: a name that ends in .csv")


def leave(unreadable: Mapping[Path, str]) -> NoReturn:
    """End the process, after naming the images that could not be read."""
    for path, reason in unreadable.items():
        print(f"not read, left out: {printable(str(path))}: {reason}", file=sys.stderr)
    sys.exit(1 if unreadable else 0)


def listed(names: Iterable[str]) -> tuple[list[Path], list[str]]:
    """The files that these names stand for: images, what lies below folders, patterns; and what else folders hold.

    Raises ConfigError for a name that stands for none.
    """
    paths: list[Path] = []
    notes: list[str] = []
    for name in names:
        if name == "-":
            given = sys.stdin.buffer.read()
            lines = given.split(b"\0") if b"\0" in given else given.splitlines()  # of `find -print0`
            paths += [Path(os.fsdecode(line)) for line in lines if line]
        elif Path(name).is_dir():
            paths += below(Path(name), notes)
        elif Path(name).exists():
            paths.append(Path(name))
        else:
            matched = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207 (any root)
            if not matched:
                raise ConfigError(f"{name}: no such file, folder or pattern of files")
            for match in matched:
                paths += [match] if not match.is_dir() else [] if "**" in name else below(match, notes)
    if not paths:
        raise ConfigError("no images were named")
    return paths, notes


def below(folder: Path, notes: list[str]) -> list[Path]:
    """The images in a folder and in those within; `notes` gets what else it holds. Raises ConfigError if none."""
    listing = Listing(str(folder))
    inside = images_below(listing, str(folder), above=())
    notes += (f"{folder}: {note}" for note in listing.unused_notes())
    if not inside:
        raise ConfigError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))})")
    return [Path(path) for path in inside]


def loading(folder: Path) -> None:
    """Say in a terminal that a run's network is being loaded, which takes a while. Ends for an unknown backend."""
    backend()
    if sys.stderr.isatty():
        print(f"loading {folder.name} ...", file=sys.stderr, flush=True)


def predict(folder: Path, paths: Sequence[Path], arguments: argparse.Namespace) -> dict[Path, str]:
    """Say what a run's network takes images for; returns those that could not be read, and why."""
    loading(folder)
    from common import trained

    classifier = trained.load(folder, arguments.phase, arguments.batch_size)
    found, unreadable = classify(classifier, paths)
    report([of(path, found[path], classifier.class_names) for path in paths if path in found], arguments)
    return unreadable


def classify(classifier: "Trained", paths: Sequence[Path]) -> tuple[dict[Path, "np.ndarray"], dict[Path, str]]:
    """The probabilities of each image's classes, float32 (classes,), and why others could not be read, by path."""
    import numpy as np
    from tqdm import tqdm

    from common.data.splits import whole

    at_once = classifier.batch_size * max(1, CHUNK // classifier.batch_size)
    found: dict[Path, np.ndarray] = {}
    unreadable: dict[Path, str] = {}
    with tqdm(total=len(paths), unit=" images", disable=None if len(paths) >= MANY else True) as bar:
        for start in range(0, len(paths), at_once):
            chunk = paths[start : start + at_once]
            images = read(chunk, classifier, unreadable)
            if images:
                split = whole(np.stack(list(images.values())), np.zeros(len(images)), classifier.side)
                found |= zip(images, classifier.probabilities(split), strict=True)
            bar.update(len(chunk))
    return found, unreadable


def read(paths: Sequence[Path], classifier: "Trained", unreadable: dict[Path, str]) -> dict[Path, "np.ndarray"]:
    """Images as a classifier's data has them, uint8 (h, w, c), by path; `unreadable` gets the reasons of others."""
    import tensorflow as tf

    from common.data.decoded import decode_all

    found = {}
    endless = {path for path in paths if is_special(path)}
    unreadable |= dict.fromkeys(endless, SPECIAL)
    others = [path for path in paths if path not in endless]
    images = decode_all([str(path) for path in others], (classifier.side, classifier.side, 3))
    for path, image in zip(others, images, strict=True):
        if isinstance(image, str):
            unreadable[path] = image
        else:
            found[path] = image if classifier.channels == 3 else grey(tf.constant(image)).numpy()
    return found


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a device or a socket, whose end may never come."""
    try:
        kind = path.stat().st_mode
    except OSError:  # whoever opens it says why
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def grey(image: "tf.Tensor") -> "tf.Tensor":
    """A colour image as a grey one, by the usual weights; one that is grey already keeps its values."""
    import tensorflow as tf

    weighted = tf.tensordot(tf.cast(image, tf.float64), tf.constant((0.299, 0.587, 0.114), tf.float64), 1)
    return tf.cast(tf.round(weighted), tf.uint8)[..., None]


def of(path: Path, probabilities: "np.ndarray", class_names: Sequence[str]) -> dict:
    """What is said of one image: its path, and the classes with their probabilities, the most probable first."""
    order = probabilities.argsort(kind="stable")[::-1]
    classes = {class_names[place]: float(probabilities[place]) for place in order}
    return {"file": printable(str(path)), "classes": classes}


def report(found: Sequence[dict], arguments: argparse.Namespace) -> None:
    """Print or write what is said of the images."""
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    top = min(arguments.top, max((len(one["classes"]) for one in found), default=1))
    heads = ["file", *(head for n in range(1, top + 1) for head in (f"class {n}", f"probability {n}"))]
    rows = [[one["file"], *chain(*list(one["classes"].items())[:top])] for one in found]
    if arguments.csv:
        files.write_csv(arguments.csv, [heads, *rows])
        print(f"{count(len(rows), 'image')}: {arguments.csv}", file=sys.stderr)  # the file may be /dev/stdout
    elif found:
        show(found, top)


def show(found: Sequence[dict], top: int) -> None:
    """Print a table: file, class and probability, and the next classes."""
    table = Table(Column("file", overflow="fold"), "class", Column("probability", justify="right"), box=None)
    if top > 1:
        table.add_column("next")
    for one in found:
        (name, probability), *others = list(one["classes"].items())[:top]
        told = [", ".join(f"{other} {share:.1%}" for other, share in others)] if top > 1 else []
        table.add_row(one["file"], name, f"{probability:.1%}", *told)
    Console(markup=False, highlight=False).print(table)


if __name__ == "__main__":
    command(main)
