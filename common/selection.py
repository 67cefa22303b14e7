"""Runs in groups of seeds, and how a task's report selects among them.

A selection is a mapping of config fields to values, with dotted names for nested ones (`phases.0.rate`) or nested
mappings; a tuple allows any of its values, `...` any value, a function those of which it is true. A field that a record
of an older protocol lacks, as its code had not got it, is None there.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from common.config import flat
from common.measured import by_name
from common.words import Word, in_words

Fields = Mapping[str, object]
"""A selection."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone: those of a row of the table."""

    preset: str
    setting: str
    """The row's label: `key=value ...`, what the task shows of each run and what is not as the preset has it."""
    records: tuple[Mapping, ...]
    words: Mapping[str, Word] = field(default_factory=dict)
    """What the fields of its task say in plain words."""

    @cached_property
    def config(self) -> dict[str, object]:
        """Config fields on one level, but for the seed; of a field that was added later, what the newer runs have."""
        fields = {key: value for record in self.records for key, value in record["config"].items()}
        return flat({key: value for key, value in fields.items() if key != "seed"})

    @cached_property
    def parts(self) -> dict[str, str]:
        """The parts of the label by their keys."""
        return parts_of(self.setting)

    def said(self, keys: Iterable[str] | None = None) -> list[str]:
        """The label, or some parts of it, in plain words."""
        said = (self.said_of(key) for key in (self.parts if keys is None else keys))
        return [word for word in said if word]

    def said_of(self, key: str) -> str:
        """One part of the label in plain words."""
        _, is_named, text = self.parts[key].partition("=")
        return in_words(key, self.config.get(key, value_of(text)), self.words) if is_named else key

    def marks(self) -> dict[str, str]:
        """The parts of the label that are about no config field: protocol, code and images, if they are named."""
        return {key: part for key, part in self.parts.items() if key not in self.config}

    @property
    def is_committed(self) -> bool:
        """Whether the code of these runs is in a commit."""
        return "code" not in self.parts

    @property
    def completed(self) -> tuple[Mapping, ...]:
        """Those that did not diverge."""
        return tuple(record for record in self.records if record["metrics"]["status"] == "completed")

    @property
    def is_current(self) -> bool:
        """Whether these runs followed today's protocol."""
        return "protocol" not in self.parts

    @property
    def protocol(self) -> int:
        """The protocol of its task that these runs followed."""
        return protocol(self.records[0])


def parts_of(label: str) -> dict[str, str]:
    """The parts of a label by their keys: `key=value`, or the key alone."""
    parts = re.split(r" (?=[\w.]+=)", label) if label else []
    return {part.partition("=")[0]: part for part in parts}


def protocol(record: Mapping) -> int:
    """The protocol of its task that a run followed; records from before there were numbers have the first."""
    return record.get("protocol") or 1


def value_of(text: str) -> object:
    """A value as a label has it."""
    named = {"True": True, "False": False, "None": None}
    if text in named:
        return named[text]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


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
        return Runs(tuple(g for g in self.groups if all(within(key, but) for key in g.parts)))

    def chosen(self, fields: Fields) -> "Runs":
        """Those whose config has these values, and is as its preset says in all other fields."""
        return self.where(fields).as_preset(*flat(fields))

    def values(self, metric: str) -> list[float]:
        """A metric of each run, by its name in the tables. Raises KeyError if one has not measured it."""
        return [by_name(record["metrics"])[metric] for record in self]


def fits(config: Fields, wanted: Fields) -> bool:
    """Whether a config on one level has these values."""

    def allows(value: object, found: object) -> bool:
        if callable(value):
            return bool(value(found))
        return value is ... or (found in value if isinstance(value, tuple) else found == value)

    return all(allows(value, config.get(key)) for key, value in wanted.items())


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a field is one of these, or lies within one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def differing(one: Group, other: Group) -> set[str]:
    """Config fields in which two groups differ, and what else their labels say of one alone: protocol, code, images.

    A field that one of them lacks, as its code was older, counts within a preset if the other's label names it.
    """
    fields = {key for key in one.config.keys() & other.config.keys() if one.config[key] != other.config[key]}
    marks = dict(one.marks().items() ^ other.marks().items())
    if one.preset == other.preset:
        fields |= (one.parts.keys() & one.config.keys()) - other.config.keys()
        fields |= (other.parts.keys() & other.config.keys()) - one.config.keys()
    return fields | marks.keys()
