"""What a task's `report.py` is made of: `REPORT = Report(...)`, from which `results/collect.py` makes its pages.

    REPORT = Report(
        pairs=(Pair({"network": "cnn"}, {"network": "mlp"}),),        # compared seed by seed
        figures=(curves,),                                            # curves(runs: Runs, path: Path) -> None
        headline=Headline({"preset": "permuted", "network": "cnn"}),  # what the overview says of the task
        metrics=(percent("top-3 accuracy (%)"),),                     # of its own, which runs leave in `by_name`
    )

A selection is a mapping of config fields to values, with dotted names for nested ones (`phases.0.rate`) or nested
mappings; a tuple allows any of its values. A field that a record lacks, as its code was older, is None there.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from common.config import flat
from common.measured import Metric, by_name

Fields = Mapping[str, object]  # a selection


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone: those of a row of the table."""

    preset: str
    setting: str
    """The row's label: `key=value ...`, what the task shows of each run and what is not as the preset has it."""
    records: tuple[Mapping, ...]

    @cached_property
    def config(self) -> dict[str, object]:
        """Config fields on one level, but for the seed; of a field that was added later, what the newer runs have."""
        fields = {key: value for record in self.records for key, value in record["config"].items()}
        return flat({key: value for key, value in fields.items() if key != "seed"})

    @cached_property
    def words(self) -> dict[str, str]:
        """The parts of the label by their keys."""
        parts = re.split(r" (?=[\w.]+=)", self.setting) if self.setting else []
        return {part.partition("=")[0]: part for part in parts}

    def marks(self) -> dict[str, str]:
        """The parts of the label that are about no config field: protocol, code and images, if they are named."""
        return {key: part for key, part in self.words.items() if key not in self.config}

    @property
    def completed(self) -> tuple[Mapping, ...]:
        """Those that did not diverge."""
        return tuple(record for record in self.records if record["metrics"]["status"] == "completed")

    @property
    def protocol(self) -> int:
        """The protocol of its task that these runs followed."""
        return protocol(self.records[0])


def protocol(record: Mapping) -> int:
    """The protocol of its task that a run followed; records from before there were numbers have the first."""
    return record.get("protocol") or 1


@dataclass(frozen=True)
class Runs:
    """Finished runs of a task, in the order of its table. A figure gets those that completed, of one protocol."""

    groups: tuple[Group, ...] = ()

    def __iter__(self) -> Iterator[Mapping]:
        """The records."""
        return (record for group in self.groups for record in group.records)

    def __len__(self) -> int:
        """How many runs."""
        return sum(len(group.records) for group in self.groups)

    @property
    def completed(self) -> "Runs":
        """Those that did not diverge."""
        return Runs(tuple(replace(group, records=group.completed) for group in self.groups if group.completed))

    def where(self, fields: Fields | None = None, /, **more: object) -> "Runs":
        """Those whose config has these values."""
        wanted = flat({**(fields or {}), **more})
        return Runs(tuple(group for group in self.groups if fits(group.config, wanted)))

    def by(self, name: str) -> dict[Any, "Runs"]:
        """Runs by the value of one config field, in the order of the table."""
        values = dict.fromkeys(group.config.get(name) for group in self.groups)
        return {value: self.where({name: value}) for value in values}

    def alike(self, *but: str) -> list["Runs"]:
        """Runs that differ in these fields alone, together."""
        together: list[list[Group]] = []
        for group in self.groups:
            near = (own for own in together if all(within(key, but) for key in differing(own[0], group)))
            own = next(near, None)
            if own is None:
                together.append([group])
            else:
                own.append(group)
        return [Runs(tuple(groups)) for groups in together]

    def as_preset(self, *but: str) -> "Runs":
        """Those that are as their preset says in all but these fields; of committed code, on all images of a data set.

        A figure of one setting so leaves out a trial with another batch, say.
        """
        return Runs(tuple(g for g in self.groups if all(within(key, but) for key in g.words)))

    def values(self, metric: str) -> list[float]:
        """A metric of each run, by its name in the tables. Raises KeyError if one has not measured it."""
        return [by_name(record["metrics"])[metric] for record in self]


def fits(config: Fields, wanted: Fields) -> bool:
    """Whether a config on one level has these values."""
    return all(
        config.get(key) in value if isinstance(value, tuple) else config.get(key) == value
        for key, value in wanted.items()
    )


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a field is one of these, or lies within one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def differing(one: Group, other: Group) -> set[str]:
    """Config fields in which two groups differ, and what else their labels say of one alone: protocol, code, images.

    A field that one of them lacks, as its code was older, does not count.
    """
    fields = {key for key in one.config.keys() & other.config.keys() if one.config[key] != other.config[key]}
    marks = dict(one.marks().items() ^ other.marks().items())
    return fields | marks.keys()


@dataclass(frozen=True)
class Pair:
    """Two selections, one minus the other: runs of one seed that agree in every config field that not both name.

    The preset may differ, and so may the fields that `ignoring` names (`rates` names `rates.head` too), if they are as
    the presets have them. A field that one of the two lacks, as its code was older, does not part them.
    """

    one: Fields
    other: Fields
    ignoring: tuple[str, ...] = ()

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
        return {part for key, part in group.words.items() if within(key, self.ignoring) and key not in chosen}


def title(one: Group, other: Group) -> str:
    """The label of a row of differences: what both have in common, and what each has of its own."""
    shared = [part for part in one.words.values() if part in other.words.values()]
    names = []
    for group in (one, other):
        own = [part for part in group.words.values() if part not in shared]
        names.append(" ".join([group.preset, *own] if one.preset != other.preset else own))
    return f"{' '.join(shared)}: {names[0]} minus {names[1] or 'without'}"


def shortened(setting: str) -> str:
    """A label for a title or a legend: of the digest of a weights file the first digits, which say as much."""
    return re.sub(r"@sha256:(\w{6})\w+", r"@\1", setting)


@dataclass(frozen=True)
class Headline:
    """The row that says what a task is about: of several the one nearest to its preset, of the newest protocol."""

    of: Fields | Pair
    metric: str = "test accuracy (%)"
    """Its name in the tables. A pair compares what it compares, whatever stands here."""

    def places(self, runs: Runs) -> list[tuple[str, str]]:
        """Preset and label of the rows that it may be, the best first."""
        if isinstance(self.of, Pair):
            found = [(one, title(one, other)) for one, other in self.of.matches(runs)]
        else:
            found = [(group, group.setting) for group in runs.where(self.of).groups]
        found.sort(key=lambda pair: (len(pair[0].words.keys() - {"protocol"}), -pair[0].protocol))
        return [(group.preset, label) for group, label in found]


Figure = Callable[[Runs, Path], None]
"""Draws runs, if there is anything to draw. The first sentence of its docstring is the caption."""


@dataclass(frozen=True)
class Report:
    """What a reader gets of a task beside the table of all metrics; a task without a report has this empty one."""

    pairs: tuple[Pair, ...] = ()
    """Settings to compare seed by seed."""
    figures: tuple[Figure, ...] = ()
    """Figures across runs: `<task>_<name of the function>.png`, from the newest protocol that has what it shows."""
    headline: Headline | None = None
    """None, or not measured: a test metric stands for the task, if there is one that is published and measured."""
    metrics: tuple[Metric, ...] = ()
    """What the task measures beside the metrics of every task: what its runs leave in `by_name`."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Config fields by the name that old records have for them, with today's."""

    def renew(self, record: Mapping) -> dict:
        """A record with today's names of its config's fields."""
        config = {self.renamed.get(key, key): value for key, value in record["config"].items()}
        return {**record, "config": config}
