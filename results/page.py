"""The results as one page of HTML that needs nothing beside it: tables, figures, and every run with its curves."""

import base64
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from results import tables
from results.records import measured, unknown_code

CURVES = ("loss", "val_loss", "accuracy", "val_accuracy")
SPARK = (120, 28)  # pixels of a run's small curve


def html(by_task: Mapping[str, str], found: Mapping[str, Sequence[dict]], root: Path, figures: Mapping) -> str:
    """The page.

    Args:
        by_task: CSV tables by task.
        found: records by task.
        root: the repository, whose `tasks` and `results/figures` are read.
        figures: names of the functions of results/drawings.py by task.
    """
    tasks = [
        {
            "name": task,
            "question": question(root / "tasks" / task / "README.md"),
            **split(tables.rows_of(table)),
            "figures": pictures(root / "results" / "figures", task, figures.get(task, ())),
            "runs": len(found[task]),
        }
        for task, table in by_task.items()
    ]
    runs = [row_of(record) for task in by_task for record in found[task]]
    return tables.TEMPLATES.get_template("index.html").render(
        tasks=tasks, runs=runs, curves=[run.pop("curves") for run in runs], spark=SPARK, with_spread=tables.with_spread
    )


def question(readme: Path) -> str:
    """What a preset asks: the title of its README after the name."""
    first = readme.read_text().partition("\n")[0] if readme.is_file() else ""
    text = first.partition(": ")[2]
    return text[:1].upper() + text[1:]


def split(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Rows that have a published number, paired differences, and the rest, each by setting."""
    paired = [row for row in rows if row["metric"].startswith(tables.DIFFERENCE)]
    published = [row for row in rows if row["published"]]
    rest = [row for row in rows if row not in published and row not in paired]
    return {"published": blocks(published), "differences": blocks(paired), "rest": blocks(rest)}


def blocks(rows: Sequence[dict]) -> list[dict]:
    """Rows on end that are of one setting, together."""
    grouped = [(place, list(own)) for place, own in groupby(rows, key=lambda row: (row["preset"], row["setting"]))]
    return [{"preset": preset, "setting": s, "rows": own, "count": len(own)} for (preset, s), own in grouped]


def pictures(folder: Path, task: str, names: Sequence[str]) -> list[dict[str, str]]:
    """The figures across a task's runs, as data that the page itself holds, with what they show."""
    from results import drawings

    found = []
    for name in names:
        path = folder / f"{task}_{name}.png"
        if path.is_file():
            shows = getattr(drawings, name).__doc__.partition("\n")[0].removeprefix("Draw ").rstrip(".")
            found.append({"data": base64.b64encode(path.read_bytes()).decode(), "shows": shows[:1].upper() + shows[1:]})
    return found


def row_of(record: Mapping) -> dict:
    """One run for the list of runs."""
    metrics, history = record["metrics"], record["history"]
    values = measured(metrics)
    judge = "val_accuracy" if history and "val_accuracy" in history[0] else "val_loss"
    return {
        "task": record["task"],
        "preset": record["config"]["preset"],
        "setting": re.sub(r"@sha256:\w+", "", record["setting"]),
        "seed": record["config"]["seed"],
        "status": f"{metrics['status']}{', code uncommitted' if unknown_code(record) else ''}",
        "accuracy": values.get("test accuracy (%)"),
        "loss": values.get("test loss"),
        "epochs": len(history),
        "backend": record["environment"].get("backend", ""),
        "commit": str(record["environment"].get("commit"))[:10],
        "spark": points([row.get(judge) for row in history]),
        "curves": {
            "run": record["run"],
            "columns": {key: [row.get(key) for row in history] for key in CURVES if history and key in history[0]},
        },
    }


def points(values: Sequence[float | None]) -> str:
    """A curve as the points of an SVG polyline within SPARK; nothing for fewer than two values."""
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    if len(known) < 2:
        return ""
    width, height = SPARK
    least, greatest = min(v for _, v in known), max(v for _, v in known)
    span = greatest - least or 1
    return " ".join(
        f"{2 + (width - 4) * i / (len(values) - 1):.1f},{2 + (height - 4) * (greatest - v) / span:.1f}"
        for i, v in known
    )
