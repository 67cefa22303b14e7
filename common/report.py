"""What a task's `report.py` is made of: `REPORT = Report(...)`, from which `results/collect.py` makes its pages.

REPORT = Report(
    tables=(                                                      # for the README and the page
        Table(
            "The best setting",
            of={"preset": "best", "dataset": "cifar10"},
            rows={"test": Part(metric="test accuracy (%)")},
            columns={"source": Part({"loss": "sum"}, shows="published"), "ours": Part({"loss": "sum"})},
        ),
    ),
    pairs=(Pair({"network": "cnn"}, {"network": "mlp"}, words=("convolutions", "perceptron")),),  # seed by seed
    claims=(Claim("004", "Larger batches are steadier", positive(steadier)),),  # statements without a number
    figures=(curves,),                                            # curves(runs: Runs, path: Path) -> None
    pictures=Pictures({"preset": "best"}, {"confusion": "Confusion matrix"}),  # of one run, for git to keep
    headline=Headline({"preset": "permuted", "network": "cnn"}),  # what the overview says of the task
    metrics=(percent("top-3 accuracy (%)"),),                     # of its own, which runs leave in `by_name`
    words={"norm": "{} norm"},                                    # what its config fields say in words
    presets=PRESETS,                                              # of train.py
)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.claims import Claim
from common.config import Config, flat, label, with_defaults
from common.measured import Metric
from common.selection import Fields, Group, Runs, differing, protocol, within
from common.words import Word


@dataclass(frozen=True)
class Pair:
    """Two selections, one minus the other: runs of one seed that agree in every config field that not both name.

    The preset may differ, and so may the fields that `ignoring` names (`rates` names `rates.head` too), if they are as
    the presets have them. If one record is older than a field, the two still agree in it, unless the other's label
    names the field: then its value is not the preset's.
    """

    one: Fields
    other: Fields
    ignoring: tuple[str, ...] = ()
    words: tuple[str, str] = ("", "")
    """What the two are for a reader; what their runs have in common is said beside it."""

    def matches(self, runs: Runs) -> list[tuple[Group, Group]]:
        """Every two groups that this rule puts side by side."""
        others = runs.where(self.other).groups
        return [(a, b) for a in runs.where(self.one).groups for b in others if a is not b and self.agree(a, b)]

    def agree(self, a: Group, b: Group) -> bool:
        """Whether two groups differ in nothing but what the rule is about."""
        free = {"preset"} | (flat(self.one).keys() & flat(self.other).keys())
        alike = all(key in free or within(key, self.ignoring) for key in differing(a, b))
        return alike and self.set_by_hand(a, self.one) == self.set_by_hand(b, self.other)

    def set_by_hand(self, group: Group, selection: Fields) -> set[str]:
        """Parts of a label with ignored fields that its selection does not name."""
        chosen = flat(selection)
        return {part for key, part in group.parts.items() if within(key, self.ignoring) and key not in chosen}


def title(one: Group, other: Group) -> str:
    """The label of a row of differences: what both have in common, and what each has of its own."""
    shared = [part for part in one.parts.values() if part in other.parts.values()]
    names = []
    for group in (one, other):
        own = [part for part in group.parts.values() if part not in shared]
        names.append(" ".join([group.preset, *own] if one.preset != other.preset else own) or "as the preset")
    return f"{' '.join(shared)}: {names[0]} minus {names[1]}"


@dataclass(frozen=True)
class Part:
    """What the cells of a row of a table have in common, or those of a column; the other says the rest."""

    fields: Fields = field(default_factory=dict)
    metric: str = ""
    """Its name in the full table; of what shows a setting the config field."""
    shows: Literal["measured", "published", "setting"] = "measured"
    over: Fields = field(default_factory=dict)
    """Of a column: its cells show how far the metric is above that of the runs that these fields select instead."""
    change: Literal["points", "%"] = "points"
    """Of a row: cells with `over` show it in the metric's own unit, or in percent of the other runs' metric."""


@dataclass(frozen=True)
class Table:
    """A table as a person would lay it out. Runs of a cell are as their preset says in all fields that no one names."""

    caption: str
    rows: Mapping[str, Part]
    columns: Mapping[str, Part]
    of: Fields = field(default_factory=dict)
    """What all cells have in common; `...` allows any value of a field."""
    corner: str = ""
    """The heading above the names of the rows."""
    best: str = ""
    """The column whose best value is set in bold, if there is one."""

    def __post_init__(self) -> None:
        """Raise ValueError for a row that has what is of columns alone."""
        if named := [name for name, row in self.rows.items() if row.over]:
            raise ValueError(f"table {self.caption!r}, row {named[0]!r}: `over` is of a column")


@dataclass(frozen=True)
class Pictures:
    """Figures of one run: that of the lowest seed of a selection that is as its preset says in all other fields.

    `results/collect.py --keep` copies them from the run's folder, since a record has no figures.
    """

    of: Fields
    shown: Mapping[str, str]
    """What each shows, by its name in the run's `figures/` without the ending."""


@dataclass(frozen=True)
class Headline:
    """The row that says what a task is about: of the newest protocol, and of several the one nearest to its preset."""

    of: Fields | Pair
    metric: str = "test accuracy (%)"
    """Its name in the tables. A pair compares what it compares, whatever stands here."""

    def places(self, runs: Runs) -> list[tuple[str, str]]:
        """Preset and label of the rows that it may be, the best first."""
        if isinstance(self.of, Pair):
            found = [(one, title(one, other)) for one, other in self.of.matches(runs)]
        else:
            found = [(group, group.setting) for group in runs.where(self.of).groups]
        found.sort(key=lambda pair: (-pair[0].protocol, len(pair[0].parts)))
        return [(group.preset, label) for group, label in found]


Figure = Callable[[Runs, Path], None]
"""Draws runs, if there is anything to draw. The first line of its docstring is "Draw " and the caption."""


@dataclass(frozen=True)
class Report:
    """What a reader gets of a task beside the table of all metrics; a task without a report has this empty one."""

    tables: tuple[Table, ...] = ()
    """For the README and the page, in the source's order; without any, all metrics by setting."""
    pairs: tuple[Pair, ...] = ()
    """Settings to compare seed by seed."""
    claims: tuple[Claim, ...] = ()
    """Statements of the source without a number of their own, in its order."""
    figures: tuple[Figure, ...] = ()
    """Figures across runs: `<task>_<name of the function>.png`, from the newest protocol that has what it shows."""
    pictures: Pictures | None = None
    """Figures of one representative run, if there are any worth seeing."""
    headline: Headline | None = None
    """None, or not measured: a test metric stands for the task, if there is one that is published and measured."""
    metrics: tuple[Metric, ...] = ()
    """What the task measures beside the metrics of every task: what its runs leave in `by_name`."""
    words: Mapping[str, Word] = field(default_factory=dict)
    """What config fields say in plain words, beside those of `common.words`."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Config fields by the name that old records have for them, with today's."""
    presets: Mapping[str, Config] = field(default_factory=dict)
    """Those of the task. Records of today's protocol go by them: by today's labels, and with the fields they lack."""

    def renew(self, record: Mapping) -> dict:
        """A record with today's names of its config's fields, today's label, and the fields that its code had not."""
        config = {self.renamed.get(key, key): value for key, value in record["config"].items()}
        preset = self.presets.get(config["preset"])
        if preset is None or protocol(record) != preset.PROTOCOL:
            return {**record, "config": config}
        there = {key: value for key, value in config.items() if hasattr(preset, key)}  # one may have been deleted
        today = label(flat(there), preset, preset.shown())
        return {**record, "config": with_defaults(config, preset), "setting": today}
