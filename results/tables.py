"""Tables over seeds, with the published numbers beside them: rows, and the texts that are made of them."""

import csv
import io
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import jinja2

from common.errors import ConfigError
from results.records import Groups, completed, measured, natural

COLUMNS = ("preset", "setting", "metric", "mean", "std", "n", "published", "source", "verdict", "note")
REFERENCE_COLUMNS = ("preset", "setting", "metric", "published", "margin", "source", "note")
VERDICTS = ("reproduced", "better", "worse", "diverged", "not comparable", "not measured")
NOT_COMPARABLE = "not comparable:"
# What a README leaves to the full table, unless a source has published it.
DETAILS = ("F1", "images/s", "points", "validation loss")
MOST_COLUMNS = 9
DIFFERENCE = "difference in"
# Two settings to compare: preset and `key=value ...` of each, beside what they have in common.
Pair = tuple[tuple[str, str], tuple[str, str]]
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def notes(records: Sequence[dict]) -> list[str]:
    """What a reader of a group's metrics should know, each thing once."""
    told = [note for record in completed(records) for note in record["metrics"].get("notes", ())]
    return list(dict.fromkeys(doubts(records) + told))


def doubts(records: Sequence[dict]) -> list[str]:
    """What is left out of a group, and how its runs differ in more than their seeds."""
    lost = len(records) - len(completed(records))
    found = [f"{lost} of {len(records)} runs diverged{' and are left out' * (lost < len(records))}"] if lost else []
    for fact in ("backend", "precision", "commit"):
        values = sorted({str(record["environment"].get(fact)) for record in completed(records)})
        if len(values) > 1:
            found.append(f"runs differ in {fact}: {', '.join(v[:10] if fact == 'commit' else v for v in values)}")
    return found


def decimals(metric: str, each: Sequence[float]) -> int:
    """Digits after the point of a metric; none for counts, which are whole in every run."""
    if "loss" in metric:
        return loss_digits(max(each))
    if not any(unit in metric for unit in ("(%)", "(points)", "images/s")) and all(map(float.is_integer, each)):
        return 0
    return 1 if "images/s" in metric else 2


def loss_digits(loss: float) -> int:
    """Digits after the point that a loss of this size is told with."""
    if 0 < loss < 1e-4:
        return 1 - math.floor(math.log10(loss))
    return 0 if loss >= 1000 else 4 if loss > 0.1 else 5


def ends(records: Sequence[dict]) -> list[str]:
    """How diverged runs ended."""
    return [record["metrics"].get("diverged", {}).get("reason", "") for record in records]


def read_references(path: Path) -> dict[tuple[str, str, str], dict]:
    """Published numbers by (preset, setting, metric). Raises ConfigError for a file that cannot be used."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != REFERENCE_COLUMNS:
        raise ConfigError(f"{path}: its columns must be {','.join(REFERENCE_COLUMNS)}")
    for line, row in enumerate(rows, start=2):
        try:
            usable = all(Decimal(value).is_finite() for value in (row["published"], row["margin"] or 0))
        except (InvalidOperation, TypeError):
            usable = False
        if not usable:
            raise ConfigError(f"{path}, row {line}: published and margin must be numbers")
    return {(row["preset"], row["setting"], row["metric"]): row for row in rows}


def tabulate(
    groups: Groups, references: Mapping[tuple[str, str, str], Mapping], pairs: Sequence[Pair] = ()
) -> list[dict[str, str]]:
    """Rows of the table, with COLUMNS as keys: a row a metric, measured, published or both.

    `std` is the sample standard deviation over seeds (n - 1), empty for one seed.
    """
    rows, missing = [], dict(references)
    for (preset, setting), records in groups.items():
        if not completed(records):
            published = [key for key in missing if key[:2] == (preset, setting)] or [(preset, setting, "status")]
            nothing = {"mean": "", "std": "", "n": "0"}
            remarks = [*notes(records), *ends(records)]
            rows += [beside(key, nothing, missing.pop(key, None), remarks) for key in published]
        values = defaultdict(list)
        for record in completed(records):
            for metric, value in measured(record["metrics"]).items():
                values[metric].append(value)
        for metric, each in values.items():
            if "(points)" in metric and len(each) < 2:
                continue
            digits = decimals(metric, each)
            summary = {
                "mean": f"{statistics.fmean(each):z.{digits}f}",
                "std": f"{statistics.stdev(each):.{digits}f}" if len(each) > 1 else "",
                "n": str(len(each)),
            }
            key = (preset, setting, metric)
            rows.append(beside(key, summary, missing.pop(key, None), notes(records)))
    rows += [beside(key, {"mean": "", "std": "", "n": ""}, reference, []) for key, reference in missing.items()]
    rows += differences(groups, pairs)
    return sorted(rows, key=lambda row: (row["preset"], natural(row["setting"])))


def differences(groups: Groups, pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """Rows of paired differences, of every two settings that a rule of `pairs` puts side by side.

    Both must have been run on two seeds at least that they share: a difference is taken seed by seed, of the test
    accuracy (points) or, where neither has one, of the test loss. The note has the 95 % interval of the mean
    difference (Student's t, n - 1).
    """
    by_words = {(preset, frozenset(setting.split())): (preset, setting) for preset, setting in groups}
    rows = []
    for (preset, words), minus in pairs:
        for ours, place in by_words.items():
            if ours[0] != preset or not ours[1] >= set(words.split()):
                continue
            common = ours[1] - set(words.split())
            other = by_words.get((minus[0], common | set(minus[1].split())))
            if other and other != place:
                title = [word for word in place[1].split() if word in common]
                both = ((preset, words), minus)
                across = preset != minus[0]
                names = [f"{side if across else ''} {own}".strip() for side, own in both]
                rows += difference(groups, place, other, f"{' '.join(title)}: {names[0]} minus {names[1] or 'without'}")
    return rows


def difference(groups: Groups, one: tuple[str, str], other: tuple[str, str], title: str) -> list[dict[str, str]]:
    """The row of `one` minus `other`, if they share two seeds."""
    ours, theirs = ({r["config"]["seed"]: measured(r["metrics"]) for r in completed(groups[p])} for p in (one, other))
    seeds = sorted(ours.keys() & theirs.keys())
    with_accuracy = {"test accuracy (%)" in values[seed] for values in (ours, theirs) for seed in seeds}
    if len(seeds) < 2 or len(with_accuracy) > 1:
        return []
    metric, name = ("test accuracy (%)", "test accuracy (points)") if True in with_accuracy else ("test loss",) * 2
    each = [ours[seed][metric] - theirs[seed][metric] for seed in seeds]
    digits = 2 if "points" in name else loss_digits(max(map(abs, each)))
    low, high = interval(each)
    remarks = doubts([*groups[one], *groups[other]])
    row = {
        "preset": one[0],
        "setting": title,
        "metric": f"{DIFFERENCE} {name}",
        "mean": f"{statistics.fmean(each):z.{digits}f}",
        "std": f"{statistics.stdev(each):.{digits}f}",
        "n": str(len(each)),
        "note": "; ".join([f"95 % interval {low:z.{digits}f} to {high:z.{digits}f}, paired by seed", *remarks]),
    }
    return [dict.fromkeys(COLUMNS, "") | row]


def interval(each: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of so many differences, by Student's t."""
    from scipy.stats import t as student  # here, as it takes a second

    reach = float(student.ppf(0.975, len(each) - 1)) * statistics.stdev(each) / len(each) ** 0.5
    return statistics.fmean(each) - reach, statistics.fmean(each) + reach


def beside(
    key: tuple[str, str, str], summary: Mapping[str, str], reference: Mapping[str, str] | None, remarks: Sequence[str]
) -> dict[str, str]:
    """One row: a measured metric beside the published number; `remarks` are notes of the runs."""
    published = reference or {}
    return {
        **dict(zip(("preset", "setting", "metric"), key, strict=True)),
        **summary,
        "published": published.get("published", ""),
        "source": published.get("source", ""),
        "verdict": verdict(key[2], summary, reference) if reference else "",
        "note": "; ".join(filter(None, [published.get("note", ""), *remarks])),
    }


def verdict(metric: str, summary: Mapping[str, str], reference: Mapping[str, str]) -> str:
    """How a measured metric stands to the published number, from the digits that the table shows."""
    if not summary["mean"]:
        return "diverged" if summary["n"] == "0" else "not measured"
    if reference["note"].startswith(NOT_COMPARABLE):
        return "not comparable"
    above = Decimal(summary["mean"]) - Decimal(reference["published"])
    if abs(above) <= max(Decimal(reference["margin"] or 0), Decimal(summary["std"] or 0)):
        return "reproduced"
    return "better" if (above < 0) == ("loss" in metric) else "worse"


def csv_text(rows: Sequence[Mapping[str, str]]) -> str:
    """The table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(table: str) -> str:
    """The CSV table as Markdown: one table a preset, the setting in the first of its rows."""
    lines = ["Mean ± standard deviation (n - 1) over n seeds. Made by `python results/collect.py`.", ""]
    preset = setting = None
    for cells in rows_of(table):
        cells = {key: cell.replace("|", r"\|") for key, cell in cells.items()}
        if cells["preset"] != preset:
            preset, setting = cells["preset"], None
            heads = ("setting", "metric", "mean ± std", "published (source)", "verdict", "note")
            lines += [*([""] if lines[-1] else []), f"### `{preset}`", "", joined(heads), joined(["---"] * len(heads))]
        ours = with_spread(cells)
        theirs = f"{cells['published']} ({cells['source']})" if cells["published"] else ""
        first = "" if cells["setting"] == setting else f"`{cells['setting']}`"
        setting = cells["setting"]
        lines.append(joined([first, cells["metric"], ours, theirs, cells["verdict"], cells["note"]]))
    return "\n".join(lines) + "\n"


def compact(table: str) -> str:
    """The CSV table as Markdown for a README, the headline metrics alone: one table a preset.

    A row is a setting, or, where that would be too wide, a metric.
    """
    lines = ["Mean ± standard deviation (n seeds), and the published number. Made by `python results/collect.py`."]
    lines += ["Every metric, with verdicts and notes, is in `results/tables/`."]
    rows = rows_of(table)
    paired = [row for row in rows if row["metric"].startswith(DIFFERENCE)]
    rows = [row for row in rows if row not in paired]
    published = {row["metric"] for row in rows if row["published"]}
    rows = [row for row in rows if row["metric"] in published or not any(part in row["metric"] for part in DETAILS)]
    for preset in dict.fromkeys(row["preset"] for row in rows):
        ours = [row for row in rows if row["preset"] == preset]
        cells = {(f"`{row['setting']}`", row["metric"]): cell(row) for row in ours}
        settings, metrics = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
        wide = len(metrics) > MOST_COLUMNS
        heads = ["metric", *settings] if wide else ["setting", *metrics]
        lines += ["", f"### `{preset}`", "", joined(heads), joined(["---"] * len(heads))]
        if wide:
            lines += [joined([m, *(cells.get((s, m), "") for s in settings)]) for m in metrics]
        else:
            lines += [joined([s, *(cells.get((s, m), "") for m in metrics)]) for s in settings]
        listed = listed_notes(ours)
        lines += ["", *listed] if listed else []
        listed = [
            f"- `{row['setting']}`: {row['metric']} {cell(row)}, {row['note']}"
            for row in paired
            if row["preset"] == preset
        ]
        lines += ["", *listed] if listed else []
    return "\n".join(lines) + "\n"


def listed_notes(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A preset's notes as a list, each thing once; one that holds for some settings alone, with how many or which."""
    settings = {row["setting"] for row in rows}
    places = defaultdict(dict)
    for row in rows:
        for note in filter(None, row["note"].split("; ")):
            places[note][row["setting"]] = None
    lines = []
    for note, named in places.items():
        which = " and ".join(f"`{setting}`" for setting in named) if len(named) < 3 else f"{len(named)} settings"
        lines.append(f"- {note}" if len(named) == len(settings) else f"- {which}: {note}")
    return lines


def cell(row: Mapping[str, str]) -> str:
    """A metric with its spread and n, then the published number with the verdict."""
    theirs = f"published {row['published']}: {row['verdict']}" if row["published"] else ""
    return "; ".join(filter(None, [with_spread(row), theirs])).replace("|", r"\|")


def joined(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def with_spread(row: Mapping[str, str]) -> str:
    """A measured metric with its spread and n; nothing where it is not measured."""
    if not row["mean"]:
        return "diverged" if row["n"] == "0" else ""
    return f"{row['mean']}{' ± ' + row['std'] if row['std'] else ''} (n={row['n']})"


def latex(table: str) -> str:
    """The CSV table for LaTeX: a longtable a preset, with the rules of booktabs, and its notes below."""
    rows, setting = rows_of(table), None
    presets = {preset: {"rows": [], "notes": []} for preset in dict.fromkeys(row["preset"] for row in rows)}
    for row in rows:
        place = (row["preset"], row["setting"])
        cells = {key: for_latex(row[key]) for key in ("metric", "published", "verdict")}
        cells["ours"] = for_latex(with_spread(row))
        cells["setting"] = "" if place == setting else for_latex(row["setting"])
        cells["note"] = for_latex(row["note"]) if row["metric"].startswith(DIFFERENCE) else ""
        presets[row["preset"]]["rows"].append(cells)
        setting = place
    for preset, parts in presets.items():
        ours = [row for row in rows if row["preset"] == preset and not row["metric"].startswith(DIFFERENCE)]
        parts["notes"] = [for_latex(line.removeprefix("- ").replace("`", "")) for line in listed_notes(ours)]
    by_name = {for_latex(preset): parts for preset, parts in presets.items()}
    return TEMPLATES.get_template("table.tex").render(presets=by_name)


def for_latex(text: str) -> str:
    """A text with LaTeX's own characters escaped; a name may break at its joints."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {"−": "$-$", "_": r"\_\allowbreak{}"} | {c: rf"{c}\allowbreak{{}}" for c in "=@.:"}
    special |= {character: f"\\{character}" for character in "&%$#{}"}
    return "".join(special.get(character, character) for character in text)


def shortened(setting: str) -> str:
    """A setting for a title or a legend: of the digest of a weights file the first digits, which tell it as well."""
    return re.sub(r"@sha256:(\w{6})\w+", r"@\1", setting)


def overview(tables: Mapping[str, str], headlines: Mapping[str, tuple[str, str, str]]) -> str:
    """One Markdown table of all tasks, from their CSV tables: a headline each, and how the published numbers stand.

    `headlines` has preset, setting and metric of the row that stands for a task; where it has none, or that is not
    measured, it is a test metric, if there is one that is published and measured.
    """
    heads = ("task", "headline", "measured", "published", "verdicts on the published numbers")
    lines = [joined(heads), joined(["---"] * len(heads))]
    for task, table in tables.items():
        every = rows_of(table)
        rows = [row for row in every if not row["metric"].startswith(DIFFERENCE)]
        counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "none published"
        link = f"[`{task}`](../tasks/{task}/README.md)"
        chosen = [row for row in every if (row["preset"], row["setting"], row["metric"]) == headlines.get(task)]
        best = next((row for row in chosen if row["mean"]), None) or representative(rows)
        named = f"`{best['preset']}`, `{shortened(best['setting'])}`: {best['metric']}"
        lines.append(joined([link, named, with_spread(best), best["published"], told]))
    return "\n".join(lines) + "\n"


def representative(rows: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """The row that stands for a task: a test metric that is published and measured, if there is one."""

    def rank(row: Mapping[str, str]) -> tuple:
        kind = ("test accuracy (%)", "test loss")
        place = kind.index(row["metric"]) if row["metric"] in kind else len(kind)
        return (not row["mean"], place == len(kind), not row["published"], -int(row["n"] or 0), place)

    return min(rows, key=rank)


def rows_of(table: str) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    return list(csv.DictReader(io.StringIO(table)))
