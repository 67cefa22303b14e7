"""The results as one page of HTML that needs nothing beside it: tables, figures, and every run with its curves."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from common.measured import TEST_ACCURACY, TEST_LOSS, by_name
from common.report import Figure, Report
from common.selection import Runs
from results import tables
from results.records import unknown_code
from results.rows import Row

CURVES = ("loss", "val_loss", "accuracy", "val_accuracy")
SPARK = (120, 28)  # pixels of a run's small curve


@dataclass(frozen=True)
class Section:
    """What the page says of one task."""

    task: str
    rows: Sequence[Row]
    report: Report
    runs: Runs


def html(sections: Sequence[Section], root: Path) -> str:
    """The page; of `root`, the repository, the tasks' READMEs and `results/figures` are read."""
    tasks = [
        {
            "name": section.task,
            "question": question(root / "tasks" / section.task / "README.md"),
            **split(section.rows),
            "figures": pictures(root / "results" / "figures", section.task, section.report.figures),
            "runs": len(section.runs),
        }
        for section in sections
    ]
    runs = [row_of(record) for section in sections for record in sorted(section.runs, key=lambda r: r["run"])]
    return tables.TEMPLATES.get_template("index.html").render(
        tasks=tasks, runs=runs, curves=[run.pop("curves") for run in runs], spark=SPARK, with_spread=tables.with_spread
    )


def question(readme: Path) -> str:
    """What a preset asks: the title of its README after the name."""
    first = readme.read_text().partition("\n")[0] if readme.is_file() else ""
    text = first.partition(": ")[2]
    return text[:1].upper() + text[1:]


def split(rows: Sequence[Row]) -> dict[str, list[dict]]:
    """Rows that have a published number, paired differences, and the rest, each by setting."""
    paired = [row for row in rows if row.paired]
    published = [row for row in rows if row.published]
    rest = [row for row in rows if not row.published and not row.paired]
    return {"published": blocks(published), "differences": blocks(paired), "rest": blocks(rest)}


def blocks(rows: Sequence[Row]) -> list[dict]:
    """Rows on end that are of one setting, together."""
    grouped = [(place, list(own)) for place, own in groupby(rows, key=lambda row: (row.preset, row.setting))]
    return [{"preset": preset, "setting": s, "rows": own, "count": len(own)} for (preset, s), own in grouped]


def pictures(folder: Path, task: str, figures: Sequence[Figure]) -> list[dict[str, str]]:
    """The figures across a task's runs, as data that the page itself holds, with what they show."""
    found = []
    for figure in figures:
        path = folder / f"{task}_{figure.__name__}.png"
        if path.is_file():
            found.append({"data": base64.b64encode(path.read_bytes()).decode(), "shows": caption(figure)})
    return found


def caption(figure: Figure) -> str:
    """What a figure shows: the first line of its function's docstring, which begins with `Draw`."""
    shows = (figure.__doc__ or "").partition("\n")[0].removeprefix("Draw ").rstrip(".")
    return shows[:1].upper() + shows[1:]


def row_of(record: Mapping) -> dict:
    """One run for the list of runs."""
    metrics, history = record["metrics"], record["history"]
    values = by_name(metrics)
    judge = "val_accuracy" if history and "val_accuracy" in history[0] else "val_loss"
    return {
        "task": record["task"],
        "preset": record["config"]["preset"],
        "setting": re.sub(r"@sha256:\w+", "", record["setting"]),
        "seed": record["config"]["seed"],
        "status": f"{metrics['status']}{', code uncommitted' if unknown_code(record) else ''}",
        "accuracy": values.get(TEST_ACCURACY.name),
        "loss": values.get(TEST_LOSS.name),
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
