"""Fetch data sets and weights before they are needed, or check which are present.

python -m common.data prepare cifar10 cifar100 --weights resnet18 mobilenet_v2   # on a machine with a network
python -m common.data prepare tfds:imagenette/160px                              # any image classification set of TFDS
python -m common.data prepare cifar10 --weights resnet18 --check                 # no network; exit code 1: missing
"""

import argparse
import sys
from pathlib import Path

from common.backbones import BACKBONES
from common.command_line import Parser
from common.config import Config
from common.data import DATASETS, tfds_names
from common.errors import ConfigError, choice, fail

ALLOWED = ", ".join([*DATASETS, tfds_names.FORM])


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="python -m common.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="fetch data sets and weights, or --check them")
    prepare.add_argument("names", nargs="*", metavar="NAME", help=f"data sets: {ALLOWED}")
    prepare.add_argument("--weights", nargs="+", default=[], metavar="NAME", help=f"backbones: {', '.join(BACKBONES)}")
    prepare.add_argument("--data-dir", type=Path, help="folder of data sets (default: $TFDS_DATA_DIR, else TFDS's)")
    prepare.add_argument("--check", action="store_true", help="fetch nothing; exit code 1 if something is missing")
    return top


def main() -> None:
    """Fetch or check each name; exit code 1 if one is missing, 2 for bad input."""
    arguments = parser().parse_args()
    folder = Config(data_dir=arguments.data_dir).data_folder
    try:
        for name in arguments.names:
            if name.startswith(tfds_names.TFDS):
                tfds_names.check(name, folder)
            else:
                choice("data set", name, tuple(DATASETS), also=tfds_names.FORM)
        for name in arguments.weights:
            BACKBONES.check(name)
    except ConfigError as error:
        fail(str(error))
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
    main()
