"""Names that no run can have are complaints; those that runs have are none."""

from dataclasses import dataclass

import pytest

from common.config import Config
from common.measured import percent
from common.report import Headline, Pair, Part, Pictures, Report, Table
from results.misnamed import misnamed


@dataclass(frozen=True)
class Phase:
    rate: float = 0.1


@dataclass(frozen=True)
class Smoothing(Config):
    smoothing: float = 0.0
    phases: tuple[Phase, ...] = (Phase(),)


PRESETS = {"p": Smoothing(preset="p", dataset="digits")}
TEST = "test accuracy (%)"


def said(references=(), **parts):
    report = Report(presets=PRESETS, metrics=(percent("top-* accuracy (%)"), percent("F1 of * (%)")), **parts)
    return [line.removeprefix("misnamed: t: ") for line in misnamed("t", report, {key: {} for key in references})]


def table(of=None, row=None, column=None):
    return {"tables": (Table("A table", {"r": row or Part()}, {"c": column or Part()}, of or {}),)}


@pytest.mark.parametrize(
    ("parts", "mistake"),
    [
        (table(of={"smooting": 0.1}), "table 'A table': unknown field 'smooting'; did you mean smoothing?"),
        (
            table(row=Part({"phases.0.rte": 1})),
            "table 'A table': unknown field 'phases.0.rte'; did you mean phases.N.rate?",
        ),
        (table(column=Part(over={"xyz": 1})), "table 'A table': unknown field 'xyz'"),
        (
            table(row=Part(metric="test acuracy (%)")),
            f"table 'A table': unknown metric 'test acuracy (%)'; did you mean {TEST}?",
        ),
        (table(row=Part(metric="smoothing")), "table 'A table': unknown metric 'smoothing'"),
        (
            {"pairs": (Pair({"smothing": 1}, {"smoothing": 0}),)},
            "a pair: unknown field 'smothing'; did you mean smoothing?",
        ),
        ({"headline": Headline({"presett": "p"})}, "headline: unknown field 'presett'; did you mean preset?"),
        ({"headline": Headline({}, "tst loss")}, "headline: unknown metric 'tst loss'; did you mean test loss?"),
        (table(of={"preset": "q"}), "table 'A table': unknown preset 'q'"),
        ({"pictures": Pictures({"data": "digits"}, {})}, "pictures: unknown field 'data'; did you mean dataset?"),
        ({"references": [("q", "dataset=digits", TEST)]}, "reference.csv: unknown preset 'q'"),
        (
            {"references": [("p", "dataset=digits smooth=0.1", TEST)]},
            "reference.csv: unknown field 'smooth'; did you mean smoothing?",
        ),
        (
            {"references": [("p", "smoothing=0.10", TEST)]},
            "reference.csv: smoothing=0.10 is written smoothing=0.1 by a run",
        ),
        (
            {"references": [("p", "dataset=digits", "test acc (%)")]},
            f"reference.csv: unknown metric 'test acc (%)'; did you mean {TEST}?",
        ),
    ],
)
def test_a_name_that_no_run_has_is_said_once(parts, mistake):
    assert said(**parts) == [mistake]


def test_names_that_runs_have_are_none():
    metrics = (
        TEST,
        "top-3 accuracy (%)",
        "F1 of a cat (%)",
        "head validation accuracy (%)",
        "full images/s",
        "images/s",
    )
    rows = {metric: Part(metric=metric) for metric in metrics} | {"set": Part(metric="phases.1.rate", shows="setting")}
    fields = {"preset": "p", "smoothing": ..., "phases": {"7": {"rate": 1}}}
    references = [("p", "dataset=digits smoothing=1e-07 phases.1.rate=0.5", "test loss")]
    assert said(references, tables=(Table("A table", rows, {"c": Part()}, fields),), headline=Headline({})) == []
    assert misnamed("t", Report(headline=Headline({"x": 1})), {("q", "", "m"): {}}) == []  # whose presets are not known
