"""The texts that are made of a table's rows: Markdown, LaTeX, the part for a README, and the overview."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from common.config import REPOSITORY
from common.measured import TEST_ACCURACY, TEST_LOSS
from common.report import Headline
from common.selection import Group, Runs
from common.words import Word, counts
from results.judged import Judged, counted
from results.pairs import MINUS, Compared
from results.rows import VERDICTS, Row, verdicts

MOST_COLUMNS = 9
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader([Path(__file__).parent / "templates", REPOSITORY / "common" / "run_page"]),
    autoescape=jinja2.select_autoescape(),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown: one table a preset, the setting in the first of its rows."""
    lines = ["Mean ± standard deviation (n - 1) over n seeds. Made by `python results/collect.py`.", ""]
    preset = setting = None
    for row in rows:
        if row.preset != preset:
            preset, setting = row.preset, None
            heads = ("setting", "metric", "mean ± std", "published (source)", "verdict", "note")
            lines += [*([""] if lines[-1] else []), f"### `{preset}`", "", joined(heads), joined(["---"] * len(heads))]
        theirs = f"{row.published} ({row.source})" if row.published else ""
        first = "" if row.setting == setting else f"`{row.setting}`"
        setting = row.setting
        cells = (first, row.metric, with_spread(row), theirs, row.verdict, row.note)
        lines.append(joined([cell.replace("|", r"\|") for cell in cells]))
    return "\n".join(lines) + "\n"


def compact(rows: Sequence[Row]) -> str:
    """The table as Markdown for a README, without its details: one table a preset.

    A row is a setting, or, if that would be too wide, a metric.
    """
    lines = ["Mean ± standard deviation (n seeds), and the published number. Made by `python results/collect.py`."]
    lines += ["Every metric, with verdicts and notes, is in `results/tables/`."]
    published = {row.metric for row in rows if row.published}
    kept = [row for row in rows if not row.paired and (row.metric in published or not row.detail)]
    for preset in dict.fromkeys(row.preset for row in kept):
        ours = [row for row in kept if row.preset == preset]
        cells = {(f"`{row.setting}`", row.metric): cell(row) for row in ours}
        settings, metrics = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
        wide = len(metrics) > MOST_COLUMNS
        heads = ["metric", *settings] if wide else ["setting", *metrics]
        lines += ["", f"### `{preset}`", "", joined(heads), joined(["---"] * len(heads))]
        if wide:
            lines += [joined([m, *(cells.get((s, m), "") for s in settings)]) for m in metrics]
        else:
            lines += [joined([s, *(cells.get((s, m), "") for m in metrics)]) for s in settings]
        paired = [row for row in rows if row.paired and row.preset == preset]
        differences = [f"- `{row.setting}`: {row.metric} {cell(row)}, {row.note}" for row in paired]
        for listed in (listed_notes(ours), differences):
            lines += ["", *listed] if listed else []
    return "\n".join(lines) + "\n"


def listed_notes(rows: Sequence[Row]) -> list[str]:
    """A preset's notes as a list, each thing once; one that holds for some settings alone, with how many or which."""
    settings = {row.setting for row in rows}
    places: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        for note in row.notes:
            places[note][row.setting] = None
    lines = []
    for note, named in places.items():
        which = " and ".join(f"`{setting}`" for setting in named) if len(named) < 3 else f"{len(named)} settings"
        lines.append(f"- {note}" if len(named) == len(settings) else f"- {which}: {note}")
    return lines


def cell(row: Row) -> str:
    """A metric with its spread and n, then the published number with the verdict."""
    theirs = f"published {row.published}: {row.verdict}" if row.published else ""
    return "; ".join(filter(None, [with_spread(row), theirs])).replace("|", r"\|")


def joined(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def with_spread(row: Row) -> str:
    """A measured metric with its spread and n; nothing if it is not measured."""
    if not row.mean:
        return "diverged" if row.n == 0 else ""
    return f"{row.mean.replace('-', MINUS)}{' ± ' + row.std if row.std else ''} (n={row.n})"


def latex(rows: Sequence[Row]) -> str:
    """The table for LaTeX: a longtable a preset, with the rules of booktabs, and its notes below."""
    setting = None
    presets: dict[str, dict[str, list]] = {
        preset: {"rows": [], "notes": []} for preset in dict.fromkeys(row.preset for row in rows)
    }
    for row in rows:
        place = (row.preset, row.setting)
        cells = {key: for_latex(getattr(row, key)) for key in ("metric", "published", "verdict")}
        cells["ours"] = for_latex(with_spread(row))
        cells["setting"] = "" if place == setting else for_latex(row.setting)
        cells["note"] = for_latex(row.note) if row.paired else ""
        presets[row.preset]["rows"].append(cells)
        setting = place
    for preset, parts in presets.items():
        ours = [row for row in rows if row.preset == preset and not row.paired]
        parts["notes"] = [for_latex(line.removeprefix("- ").replace("`", "")) for line in listed_notes(ours)]
    by_name = {for_latex(preset): parts for preset, parts in presets.items()}
    return TEMPLATES.get_template("table.tex").render(presets=by_name)


def for_latex(text: str) -> str:
    """A text with LaTeX's own characters escaped; a name may break at its joints."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {"−": "$-$", "_": r"\_\allowbreak{}"} | {c: rf"{c}\allowbreak{{}}" for c in "=@.:"}
    special |= {character: f"\\{character}" for character in "&%$#{}"}
    return "".join(special.get(character, character) for character in text)


@dataclass(frozen=True)
class Summary:
    """What the overview says of a task."""

    rows: Sequence[Row]
    headline: Row
    words: str
    """What the headline is about."""
    claims: Sequence[Judged]


def overview(by_task: Mapping[str, Summary]) -> str:
    """One Markdown table of all tasks: a headline each, and how the published numbers and the claims stand."""
    heads = ("task", "headline", "measured", "published", "published numbers", "claims")
    lines = [joined(heads), joined(["---"] * len(heads))]
    for task, summary in by_task.items():
        rows, best = summary.rows, summary.headline
        found = verdicts(rows)
        told = counts({word: found[word] for word in VERDICTS}) or "none published"
        link = f"[`{task}`](../tasks/{task}/README.md)"
        named = f"{summary.words}: {best.metric}"
        lines.append(joined([link, named, with_spread(best), best.published, told, counted(summary.claims)]))
    return "\n".join(lines) + "\n"


def about(row: Row, compared: Sequence[Compared], words: Mapping[str, Word]) -> str:
    """What a row is about, for a reader."""
    pair = next((one for one in compared if (one.one.preset, one.label) == (row.preset, row.setting)), None)
    if pair:
        return pair.words if pair.is_current else f"{pair.words}, protocol {pair.one.protocol}"
    return ", ".join([row.preset, *Group(row.preset, row.setting, (), words).said()])


def headline(rows: Sequence[Row], wanted: Headline | None, runs: Runs) -> Row:
    """The row that stands for a task: what its report wants, if that is measured; else a test metric."""
    if wanted is not None:
        measured = [row for row in rows if row.mean and (row.paired or row.metric == wanted.metric)]
        by_place = {(row.preset, row.setting): row for row in measured}
        for place in wanted.places(runs):
            if place in by_place:
                return by_place[place]
    return representative(rows)


def representative(rows: Sequence[Row]) -> Row:
    """The row that stands for a task: a test metric that is published and measured, if there is one."""
    kinds = (TEST_ACCURACY.name, TEST_LOSS.name)

    def rank(row: Row) -> tuple[bool, bool, bool, int, int]:
        kind = kinds.index(row.metric) if row.metric in kinds else len(kinds)
        return (not row.mean, kind == len(kinds), not row.published, -(row.n or 0), kind)

    return min((row for row in rows if not row.paired), key=rank)
