"""Names in a task's report.py and reference.csv that no run can have: they would select nothing, in silence."""

import difflib
import re
from collections.abc import Iterator

from common.config import flat
from common.measured import METRICS, SPEED, Metric, declared
from common.published import References, stated
from common.report import Pair, Report
from common.selection import Fields, value_of

# What is measured after each of several phases, whatever they are called.
OF_PHASES = tuple(
    Metric(f"* {name}")
    for name in ("validation accuracy (%)", "test accuracy (%)", "validation loss", "test loss", SPEED.name)
)


def misnamed(name: str, report: Report, references: References) -> list[str]:
    """A complaint for each unknown preset, field and metric; none of a report without its task's presets."""
    if not report.presets:
        return []
    metrics = (*METRICS.values(), SPEED, *report.metrics, *OF_PHASES)
    known = {
        "preset": set(report.presets),
        "field": {"preset", *(whichever(key) for one in report.presets.values() for key in flat(one.identity()))},
        "metric": {metric.name for metric in metrics},
    }
    mistakes = [
        f"{place}: unknown {kind} {called!r}{near(called, known[kind])}"
        for place, kind, called in (*in_report(report), *in_references(references))
        if whichever(called) not in known[kind] and not (kind == "metric" and declared(called, metrics))
    ]
    return [f"misnamed: {name}: {mistake}" for mistake in dict.fromkeys([*mistakes, *misspelt(references)])]


def whichever(key: str) -> str:
    """A field of any entry of a list, which may be longer than a preset's: phases.N.rate."""
    return re.sub(r"\.\d+\.", ".N.", key)


def near(name: str, known: set[str]) -> str:
    """What may have been meant."""
    found = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def in_report(report: Report) -> Iterator[tuple[str, str, str]]:
    """Every name in a report: where it stands, what it is of, and the name."""
    for table in report.tables:
        place = f"table {table.caption!r}"
        yield from fields(place, table.of)
        for part in (*table.rows.values(), *table.columns.values()):
            yield from fields(place, part.fields)
            yield from fields(place, part.over)
            if part.metric:
                yield place, "field" if part.shows == "setting" else "metric", part.metric
    for rule in (*report.pairs, *([report.headline.of] if report.headline else [])):
        for selection in (rule.one, rule.other) if isinstance(rule, Pair) else (rule,):
            yield from fields("a pair" if isinstance(rule, Pair) else "headline", selection)
    if report.headline:
        yield "headline", "metric", report.headline.metric
    if report.pictures:
        yield from fields("pictures", report.pictures.of)


def fields(place: str, selection: Fields) -> Iterator[tuple[str, str, str]]:
    """The fields of a selection, and its preset."""
    for key, value in flat(selection).items():
        yield place, "field", key
        if key == "preset" and isinstance(value, str):
            yield place, "preset", value


def in_references(references: References) -> Iterator[tuple[str, str, str]]:
    """Every name in reference.csv, likewise."""
    for preset, setting, metric in references:
        yield "reference.csv", "preset", preset
        yield "reference.csv", "metric", metric
        for key in stated(setting):
            yield "reference.csv", "field", key


def misspelt(references: References) -> Iterator[str]:
    """Values in reference.csv that a run writes otherwise."""
    for _, setting, _ in references:
        for key, text in stated(setting).items():
            if str(value_of(text)) != text:
                yield f"reference.csv: {key}={text} is written {key}={value_of(text)} by a run"
