"""A run's own page, report.html: what was run, its metrics, curves, mistakes, calibration and figures.

It is one file that needs nothing beside it, below MOST_BYTES. The trainer gives it to the run, which writes it when the
task finishes it (`runs.Run.finish`).
"""

import base64
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import jinja2
import numpy as np

from common import calibration, files
from common.data.splits import SPLITS, Dataset
from common.metrics import cross_entropy
from common.result import Predictions, Result, is_right
from common.run_page import confusions
from common.runs import Run

MOST_BYTES = 5_000_000
CURVES = "learning_curves"
MATRIX = "confusion"  # the figure that the page's own matrix takes the place of
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write(run: Run, data: Dataset, result: Result, metrics: Mapping) -> None:
    """Write report.html from what the run directory holds and from `metrics`, as metrics.json will have them.

    Raises StorageError if it cannot be written.
    """
    files.write(run.files.report_file, html(run, data, result, metrics).encode())


def html(run: Run, data: Dataset, result: Result, metrics: Mapping) -> str:
    """The page. Figures, but for the curves, become links if it would be larger than MOST_BYTES with them."""
    grid = mistakes = wrong = calibrated = None
    names = data.names(data.test)
    if test := result.predictions.get("test"):
        grid = confusions.grid(data.test, test, result.confusion["test"], names)
        mistakes = confusions.mistakes(data.test, test, data.class_names, names)
        wrong = int(np.count_nonzero(~is_right(test)))
        calibrated = calibrate(test, result.predictions["validation"])
    paths = sorted(run.figures.glob("*.png"))
    shown = {CURVES, MATRIX} if grid else {CURVES}
    parts = {
        "run": run,
        "facts": facts(run, data),
        "notes": data.notes,
        "metrics": metrics,
        "curves": [picture(path) for path in paths if path.stem == CURVES],
        "class_names": data.class_names,
        "grid": grid,
        "has_names": bool(names),
        "most_classes": confusions.MOST_CLASSES,
        "most_in_cell": confusions.PER_CELL[0],
        "megabytes": MOST_BYTES // 10**6,
        "mistakes": mistakes,
        "wrong": wrong,
        "calibration": calibrated,
        "are_probabilities": result.are_probabilities,
        "figures": [picture(path) for path in paths if path.stem not in shown],
    }
    template = TEMPLATES.get_template("report.html")
    page = template.render(parts, embedded=True)
    return page if len(page.encode()) <= MOST_BYTES else template.render(parts, embedded=False)


def facts(run: Run, data: Dataset) -> dict[str, str]:
    """What was run, where and with what, by name."""
    config, environment = run.files.config(), run.files.environment()
    backend, precision = environment["backend"], environment["precision"]
    commit = environment["commit"] or "unknown"
    counts = dict(zip(SPLITS, map(len, data.splits), strict=True))
    processor = f"{environment['processor']['name']} ({environment['cpus']} cores)"
    versions = [f"{name} {version}" for name, version in environment["versions"].items()]
    return {
        "Task": config["task"],
        "Preset": run.config.preset,
        "Setting": config["setting"],
        "Seed": str(run.config.seed),
        "Protocol": str(config["protocol"]),
        "Command": command(config["task"], backend),
        "Commit": commit + " with uncommitted changes" * bool(environment["dirty"]),
        "Data": f"{data.name}, {len(data.class_names)} classes",
        "Images": ", ".join(f"{count:,} {name}" for name, count in counts.items()),
        "Begun": environment["starts"][0]["time"],
        "Hardware": ", ".join([*environment["gpus"], processor]),
        "Software": ", ".join([f"Python {environment['python']}", *versions, f"backend {backend}", precision]),
    }


def command(task: str, backend: str) -> str:
    """The command of this process, as one would type it in the repository."""
    prefix = "" if backend == "tensorflow" else f"KERAS_BACKEND={backend} "
    return f"{prefix}python tasks/{task}/train.py {shlex.join(sys.argv[1:])}".rstrip()


def picture(path: Path) -> dict[str, str]:
    """A figure: its data, its address from the page, and what it is called."""
    return {
        "data": base64.b64encode(path.read_bytes()).decode(),
        "address": f"{path.parent.name}/{path.name}",
        "name": path.stem.replace("_", " ").capitalize(),
    }


def calibrate(test: Predictions, validation: Predictions) -> dict:
    """The temperature that fits the validation images, and the reliability of the test images without and with it."""
    temperature = calibration.temperature(validation.probabilities, validation.labels)
    low, high = calibration.TEMPERATURES
    return {
        "temperature": temperature,
        "has_best": 1.01 * low < temperature < high / 1.01 and not is_right(validation).all(),
        "validation": len(validation.labels),
        "states": [
            reliable("as trained", test.probabilities, test.labels),
            reliable("after temperature scaling", calibration.scaled(test.probabilities, temperature), test.labels),
        ],
    }


def reliable(name: str, probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """The reliability of predictions, under a name."""
    bins = calibration.reliability(probabilities, labels)
    return {
        "name": name,
        "bins": bins,
        "error": calibration.calibration_error(bins),
        "cross_entropy": cross_entropy(labels, calibration.logarithms(probabilities)),
    }
