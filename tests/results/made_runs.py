"""Run directories as train.py leaves them, made by hand."""

import csv
import json
import re

from results.collect import main

TASK = "cifar_phased"
PHASES = ("head", "last_block", "full")
# Validation accuracy after each phase, by seed.
ACCURACIES = {0: (0.50, 0.60, 0.70), 1: (0.52, 0.61, 0.74), 2: (0.47, 0.62, 0.69)}
SETTING = "dataset=cifar10 backbone=resnet18"
REFERENCE = "preset,setting,metric,published,margin,source,note\n"
REPORT = """
from common.claims import Claim, always, greater, rising
from common.measured import loss, percent
from common.plots import across
from common.report import Headline, Pair, Part, Pictures, Report, Table

def losses(runs, path):
    '''Draw what a test asks for.'''
    if runs.where(draw=True):
        across.curves(runs, path)

REPORT = Report({})
"""


def write_report(root, content):
    """Give the task a report with this content: arguments of `Report`."""
    (root / "tasks" / TASK / "report.py").write_text(REPORT.replace("{}", content))


def config_of(seed, **changes):
    phases = [{"name": name, "epochs": 1} for name in PHASES]
    return {"preset": "three_phase", "dataset": "cifar10", "backbone": "resnet18", "seed": seed} | {
        "batch_size": 64,
        "phases": phases,
        **changes,
    }


def metrics_of(seed, accuracies, notes):
    def scores(accuracy):
        return {"n": 100, "accuracy": accuracy, "loss": 2 - accuracy, "macro_f1": accuracy / 2}

    phases = {
        name: {
            "images_per_second": 100.0 * (1 + seed),
            "validation": scores(accuracy),
            "test": scores(accuracy - 0.1),
        }
        for name, accuracy in zip(PHASES, accuracies, strict=True)
    }
    last = phases[PHASES[-1]]
    return {"status": "completed", "task": TASK, "seed": seed, "phases": phases, "notes": list(notes)} | {
        split: last[split] | {"weighted_f1": last[split]["accuracy"] / 4} for split in ("validation", "test")
    }


def make_run(root, seed, *, accuracies=None, slug="three_phase-cifar10-aaaa1111", setting=SETTING, notes=(), **changes):
    folder = root / "results" / "runs" / TASK / f"{slug}-s{seed}"
    folder.mkdir(parents=True)
    environment = {
        "platform": "Linux",
        "backend": "tensorflow",
        "precision": "float32",
        "commit": "abc",
        "dirty": False,
    }
    environment["starts"] = [{"time": "now", "host": "secret-host", "commit": "abc", "dirty": False}]
    config = {"task": TASK, "setting": setting, "config": config_of(seed, **changes), "options": {"out": "/home/me"}}
    history = [{"phase": name, "epoch": 1, "rate": 0.001, "loss": 1.5, "val_accuracy": 0.5} for name in PHASES]
    for name, content in (
        ("config", config),
        ("environment", environment),
        ("metrics", metrics_of(seed, accuracies or ACCURACIES[seed], notes)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
    return folder


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def collect(root, *arguments):
    main([*arguments], root)


def table(root):
    """Its rows, but for the differences between phases."""
    return [row for row in every_row(root) if not re.search(": .* minus (head|last_block)$", row["setting"])]


def every_row(root):
    with (root / "results" / "tables" / f"{TASK}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rows(root, **wanted):
    return [row for row in table(root) if wanted.items() <= row.items()]
