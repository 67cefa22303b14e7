"""The results as one page of HTML beside the figures: how the sources' numbers and claims stand, tasks, and runs."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from markdown_it import MarkdownIt

from common.files import read_text
from common.measured import TEST_ACCURACY, TEST_LOSS, by_name
from common.report import Figure
from common.selection import Group, parts_of, protocol
from results import pictures, scoreboard, tables
from results.judged import WORDS
from results.pairs import for_readers
from results.pictures import Picture
from results.records import unknown_code
from results.rows import VERDICTS, Row, verdicts
from results.task import Task

LIMIT = 2**20  # bytes, as of every file in git
CURVES = ("loss", "val_loss", "accuracy", "val_accuracy")
MOST_RUNS = 400  # with more, the page has no curves and metrics of older protocols, or it would be too large
COLUMNS = (
    "Task",
    "Preset",
    "Setting",
    "Seed",
    "Status",
    "Test accuracy (%)",
    "Test loss",
    "Epochs",
    "Backend",
    "Commit",
)
ANSWER = re.compile(r"^## Answer\n+(?!#{1,6} )(.+?)\n*(?:^#{1,6} |\Z)", re.DOTALL | re.MULTILINE)


def html(tasks: Sequence[Task], root: Path, complaints: list[str]) -> str:
    """The page; of `root`, the repository, the tasks' READMEs and `results/figures` are read. Adds complaints."""
    every = [(task, group, record) for task in tasks for group in task.runs.groups for record in group.records]
    whole = len(every) <= MOST_RUNS
    shown = [shown_of(task, root, whole, complaints) for task in tasks]
    newest = {task.name: max(map(protocol, task.runs), default=0) for task in tasks}
    published = verdicts(row for task in tasks for row in task.rows)
    claimed = Counter[str](one.finding.word for task in tasks for one in task.claims)
    return tables.TEMPLATES.get_template("index.html").render(
        boards=scoreboard.boards(tasks),
        published=published.total(),
        published_told=scoreboard.sentence(published, VERDICTS),
        ticks=scoreboard.ticks(),
        band=scoreboard.band(),
        limit=scoreboard.LIMIT,
        claims=[(task.name, task.claims) for task in tasks if task.claims],
        claimed=claimed.total(),
        claimed_told=scoreboard.sentence(claimed, WORDS),
        tasks=shown,
        runs=[row_of(group, record) for _, group, record in every],
        curves=[
            curves_of(record) if whole or protocol(record) == newest[task.name] else None for task, _, record in every
        ],
        columns=COLUMNS,
        whole=whole,
        most_runs=MOST_RUNS,
        with_spread=tables.with_spread,
    )


def shown_of(task: Task, root: Path, whole: bool, complaints: list[str]) -> dict:
    """What the page says of one task; `whole`: with the metrics of older protocols."""
    figures = root / "results" / "figures"
    readme = root / "tasks" / task.name / "README.md"
    text = read_text(readme) if readme.is_file() else ""
    return {
        "name": task.name,
        "question": question(text),
        "answer": answer(text, task.name),
        "grids": task.grids,
        "differences": for_readers(task.compared),
        "figures": across(task, figures, complaints),
        "pictures": pictures.kept(task, figures, complaints),
        "pictured": pictures.run_of(task, figures),
        "metrics": blocks([row for row in task.rows if not row.paired and (whole or is_current(row))]),
        "runs": len(task.runs),
    }


def is_current(row: Row) -> bool:
    """Whether its runs followed today's protocol."""
    return "protocol" not in parts_of(row.setting)


def question(readme: str) -> str:
    """What a task asks: the title of its README after the name."""
    text = readme.partition("\n")[0].partition(": ")[2]
    return text[:1].upper() + text[1:]


def answer(readme: str, task: str) -> str:
    """What stands below the heading `Answer` of a README as HTML; empty if there is none."""
    found = ANSWER.search(readme)
    return markdown(found[1], f"../tasks/{task}/") if found else ""


def markdown(text: str, folder: str) -> str:
    """Paragraphs of a folder's README as HTML, with links from the page."""

    def link(url: str) -> str:
        if re.match(r"\w+:", url):
            return url
        return f"{folder}README.md{url}" if url.startswith("#") else f"{folder}{url}"

    parser = MarkdownIt("commonmark", {"html": False})
    parser.normalizeLink = link  # type: ignore[method-assign] # how the library lets links be changed
    return parser.render(text)


def across(task: Task, folder: Path, complaints: list[str]) -> list[Picture]:
    """The figures across a task's runs that were drawn."""
    named = {f"{task.name}_{figure.__name__}.png": caption(figure) for figure in task.report.figures}
    return pictures.there(folder, named, complaints)


def caption(figure: Figure) -> str:
    """What a figure shows: the first line of its function's docstring, which begins with `Draw`."""
    shows = (figure.__doc__ or "").partition("\n")[0].removeprefix("Draw ").rstrip(".")
    return shows[:1].upper() + shows[1:]


def blocks(every: Sequence[Row]) -> list[dict]:
    """Rows of the full table, those of one setting together, with the notes that all of them have said once."""
    found = []
    for (preset, setting), own in groupby(every, key=lambda row: (row.preset, row.setting)):
        rows = [(row, row.notes) for row in own]
        shared = [note for note in rows[0][1] if all(note in notes for _, notes in rows)]
        rest = [(row, "; ".join(note for note in notes if note not in shared)) for row, notes in rows]
        found.append({"preset": preset, "setting": setting, "note": "; ".join(shared), "rows": rest})
    return found


def row_of(group: Group, record: Mapping) -> dict:
    """One run for the list of runs, with a cell for each of COLUMNS; `words` are what figures call its setting."""
    metrics = record["metrics"]
    values = by_name(metrics)
    accuracy, loss = values.get(TEST_ACCURACY.name), values.get(TEST_LOSS.name)
    status = f"{metrics['status']}{', code uncommitted' if unknown_code(record) else ''}"
    cells = (
        record["task"],
        group.preset,
        re.sub(r"@sha256:\w+", "", group.setting),
        record["config"]["seed"],
        status,
        "" if accuracy is None else f"{accuracy:.2f}",
        "" if loss is None else f"{loss:.4g}",
        len(record["history"]),
        record["environment"].get("backend", ""),
        str(record["environment"].get("commit"))[:10],
    )
    words = ", ".join(group.said()) if group.is_current else ""
    return {"name": record["run"], "status": status, "cells": cells, "words": words}


def curves_of(record: Mapping) -> list[list[float | None] | None] | None:
    """The curves of a run in the order of CURVES, accuracies in percent; None for fewer than two epochs."""
    history = record["history"]
    if len(history) < 2:
        return None
    scales = [100 if "accuracy" in key else 1 for key in CURVES]
    return [
        [rounded(row.get(key), scale) for row in history] if key in history[0] else None
        for key, scale in zip(CURVES, scales, strict=True)
    ]


def rounded(value: float | None, scale: int) -> float | int | None:
    """A number with three digits, finer than a curve is drawn, and short."""
    if value is None:
        return None
    short = float(f"{scale * value:.3g}")
    return int(short) if short.is_integer() else short
