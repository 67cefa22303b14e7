"""Fetch data sets and weights before they are needed, check which are present, or look at what is in a data set.

python -m common.data prepare cifar10 cifar100 --weights resnet18 mobilenet_v2   # on a machine with a network
python -m common.data prepare tfds:imagenette/160px                              # any image classification set of TFDS
python -m common.data prepare cifar10 --weights resnet18 --check                 # no network; exit code 1: missing
python -m common.data inspect cifar10                     # classes, counts, unused files, copies across splits
python -m common.data inspect image_folder:PATH --json > found.json
"""

import argparse
import contextlib
import re
import sys
from pathlib import Path

from common.backbones import BACKBONES
from common.command_line import Parser, at_home
from common.config import Config
from common.data import DATASETS, FOLDER, NAMES, tfds_names
from common.data.listing import printable
from common.errors import ConfigError, choice, command, fail, in_one_line

ALLOWED = ", ".join([*DATASETS, tfds_names.FORM])
DATA_DIR = "folder of data sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)"
WIDE = 120  # columns of a table that goes to a file


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="python -m common.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="fetch data sets and weights, or --check them")
    prepare.add_argument("names", nargs="*", metavar="NAME", help=f"data sets: {ALLOWED}")
    prepare.add_argument("--weights", nargs="+", default=[], metavar="NAME", help=f"backbones: {', '.join(BACKBONES)}")
    prepare.add_argument("--data-dir", type=Path, help=DATA_DIR)
    prepare.add_argument("--check", action="store_true", help="fetch nothing; exit code 1 if something is missing")
    inspect = commands.add_parser("inspect", help="tell what is in a data set, and draw a contact sheet of it")
    inspect.add_argument("dataset", metavar="DATASET", help=f"as a run's --dataset: {NAMES}")
    inspect.add_argument("--data-dir", type=Path, help=DATA_DIR)
    inspect.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the validation split and the images shown"
    )
    inspect.add_argument("--out", type=Path, metavar="DIR", help="folder for the figures (default: inspection/DATASET)")
    inspect.add_argument("--json", action="store_true", help="print JSON, with every class, file and pair")
    return top


def main() -> None:
    """Run the command; exit code 1 if something is missing or cannot be written, 2 for bad input."""
    arguments = parser().parse_args()
    with in_one_line():
        {"prepare": prepare, "inspect": inspect}[arguments.command](arguments)


def inspect(arguments: argparse.Namespace) -> None:
    """Tell what is in a data set: on standard output, and as figures."""
    import json

    from rich.console import Console

    name = arguments.dataset
    folder = arguments.out or Path("inspection") / called(name)
    config = at_home(Config(dataset=name, data_dir=arguments.data_dir, seed=arguments.seed))
    config.check()
    from common.data import inspection, inspection_report  # now, as they take a second

    with in_one_line(written=folder):
        with contextlib.redirect_stdout(sys.stderr):  # notes of what loads the data
            found = inspection.inspect(config)
        said = inspection_report.facts(found)
        drawn = inspection_report.draw(found, folder, arguments.seed)
    if arguments.json:
        print(json.dumps(said | {"figures": list(map(str, drawn))}, indent=2))
        return
    inspection_report.show(found, said, Console() if sys.stdout.isatty() else Console(width=WIDE))
    for path in drawn:
        print(f"figure: {printable(str(path))}")


def called(name: str) -> str:
    """A name for the folder of a data set's figures."""
    if name.startswith(FOLDER):
        return Path(name.removeprefix(FOLDER)).resolve().name or "root"
    return re.sub(r"[^\w.]+", "_", name)


def prepare(arguments: argparse.Namespace) -> None:
    """Fetch or check each name; exit code 1 if one is missing."""
    folder = at_home(Config(data_dir=arguments.data_dir)).data_folder
    for name in arguments.names:
        if name.startswith(tfds_names.TFDS):
            tfds_names.check(name, folder)
        else:
            choice("data set", name, tuple(DATASETS), also=tfds_names.FORM)
    for name in arguments.weights:
        BACKBONES.check(name)
    if not arguments.names and not arguments.weights:
        fail(f"nothing to prepare; name data sets ({ALLOWED}) or --weights")
    done = [dataset(name, folder, arguments.check) for name in arguments.names]
    done += [weights(name, arguments.check) for name in arguments.weights]
    sys.exit(0 if all(done) else 1)


def report(kind: str, name: str, found: Path | None, missing: str = "missing") -> bool:
    """Print one line, and return whether the item was found."""
    print(f"{kind:<8} {name:<16} {found or missing}")
    return found is not None


def dataset(name: str, folder: Path, check: bool) -> bool:
    """Fetch or check one data set; return whether it is present."""
    from common.data import tfds_sets

    if name == "digits":
        print(f"{'data':<8} {name:<16} embedded in scikit-learn")
        return True
    found = tfds_names.tfds_folder(name, folder)
    if found or check:
        return report("data", name, found, f"missing from {folder}")
    try:
        return report("data", name, tfds_sets.fetch_tfds(name, folder))
    except ConfigError as error:
        return report("data", name, None, str(error))


def weights(name: str, check: bool) -> bool:
    """Fetch or check the ImageNet weights of one backbone; return whether they are present."""
    from common import weights

    found = weights.is_present(name)
    if found or check:
        return report("weights", name, found)
    try:
        return report("weights", name, weights.fetch(name))
    except ConfigError as error:
        return report("weights", name, None, str(error))


if __name__ == "__main__":
    command(main)
