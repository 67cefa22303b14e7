"""What the benchmarks have in common: images, medians, and a JSON file of all readings with the machine's facts."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import environment

PACKAGES = ("keras", "tensorflow", "jax", "torch", "keras-cv")


def processor() -> str:
    """The processor's name, its number of cores, and its instruction sets."""
    facts = environment.processor()
    return f"{facts['name']}, {os.cpu_count()} cores, {' '.join(facts['instruction_sets'])}"


def versions() -> dict[str, str]:
    """Versions of the packages that are measured, where they are installed."""
    installed = importlib.metadata.distributions()
    found = {distribution.name.lower().replace("_", "-"): distribution.version for distribution in installed}
    found |= {"tensorflow": found.get("tensorflow") or found.get("tensorflow-cpu")}
    return {name: found[name] for name in PACKAGES if found.get(name)}


def machine() -> dict:
    """What the readings depend on beside the code."""
    facts = {"processor": processor(), "platform": platform.platform(), "python": platform.python_version()}
    return facts | {"backend": os.environ.get("KERAS_BACKEND", "tensorflow"), "versions": versions()}


def make_files(folder: Path, count: int, classes: int) -> None:
    """So many PNG files of random pixels, in so many class folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % classes}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each quantity over rounds in which all were measured."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def parser(description: str) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write every reading")
    return made


def add_cases(made: argparse.ArgumentParser, cases: Mapping[str, object], metavar: str = "CASE") -> None:
    """Let the command line name some of these cases; none: all of them."""

    def known(name: str) -> str:
        if name not in cases:
            raise argparse.ArgumentTypeError(f"unknown {name}; allowed: {', '.join(cases)}")
        return name

    told = f"any of {', '.join(cases)} (default: all)"
    made.add_argument("cases", nargs="*", metavar=metavar, type=known, help=told)


def write(path: Path | None, **readings) -> None:
    """Write readings with the machine's facts as JSON, where a file is asked for."""
    if path:
        path.write_text(json.dumps(machine() | readings, indent=1) + "\n")
