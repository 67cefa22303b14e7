"""Names in a task's report.py and reference.csv that no run can have: they would select nothing, in silence."""

import difflib
import re
from collections.abc import Collection, Iterator

from common.config import flat
from common.measured import METRICS, SPEED, Metric, declared
from common.published import References, stated
from common.report import Pair, Part, Report, Table
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
    fields = {"preset", *(key for preset in report.presets.values() for key in flat(preset.identity()))}
    fields = {whichever(key) for key in fields}
    known = [metric.name for metric in (*METRICS.values(), SPEED, *report.metrics)]
    mistakes = [
        f"{place}: unknown field {key!r}{near(key, fields)}"
        for place, selection in selections(report)
        for key in flat(selection)
        if whichever(key) not in fields
    ]
    for place, metric in (*metrics(report), *(("reference.csv", metric) for _, _, metric in references)):
        if metric not in known and declared(metric, (*report.metrics, *OF_PHASES)) is None:
            mistakes.append(f"{place}: unknown metric {metric!r}{near(metric, known)}")
    for preset, setting, _ in references:
        if preset not in report.presets:
            mistakes.append(f"reference.csv: unknown preset {preset!r}{near(preset, report.presets)}")
        for key, text in stated(setting).items():
            if whichever(key) not in fields:
                mistakes.append(f"reference.csv: unknown field {key!r}{near(key, fields)}")
            elif str(value_of(text)) != text:
                mistakes.append(f"reference.csv: {key}={text} is written {key}={value_of(text)} by a run")
    return [f"misnamed: {name}: {mistake}" for mistake in dict.fromkeys(mistakes)]


def whichever(key: str) -> str:
    """A field of any entry of a list, which may be longer than a preset's: phases.N.rate."""
    return re.sub(r"\.\d+\.", ".N.", key)


def near(name: str, known: Collection[str]) -> str:
    """What may have been meant."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def selections(report: Report) -> Iterator[tuple[str, Fields]]:
    """Every selection of a report, with the place where it stands."""
    for table in report.tables:
        for fields in (table.of, *(own for part in parts_of(table) for own in (part.fields, part.over))):
            yield f"table {table.caption!r}", fields
    for rule in (*report.pairs, *([report.headline.of] if report.headline else [])):
        if isinstance(rule, Pair):
            yield "a pair", rule.one
            yield "a pair", rule.other
        else:
            yield "headline", rule
    if report.pictures:
        yield "pictures", report.pictures.of


def metrics(report: Report) -> Iterator[tuple[str, str]]:
    """Every metric that a report names, with the place where it stands."""
    for table in report.tables:
        for part in parts_of(table):
            if part.metric and part.shows != "setting":
                yield f"table {table.caption!r}", part.metric
    if report.headline:
        yield "headline", report.headline.metric


def parts_of(table: Table) -> tuple[Part, ...]:
    """What a table's rows and columns ask for."""
    return (*table.rows.values(), *table.columns.values())
