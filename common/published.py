"""Published numbers of a task, from its reference.csv."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal

from common.errors import ConfigError
from common.files import LARGEST, Damaged, read_csv
from common.selection import Fields, parts_of

COLUMNS = ("preset", "setting", "metric", "published", "margin", "source", "note")

References = dict[tuple[str, str, str], Mapping[str, str]]
"""Rows by preset, setting and metric. A further column, `arm`, says that a number is there a second time: for a setting
which tries what the source leaves open."""


def read_references(path: Path) -> References:
    """Every published number; none if there is no file. Raises ConfigError for a file that cannot be used."""
    if not path.is_file():
        return {}
    try:
        rows = read_csv(path, COLUMNS)
    except Damaged as error:
        raise ConfigError(f"{path.parent}/{error}") from error
    found: dict[tuple[str, str, str], Mapping[str, str]] = {}
    for line, row in enumerate(rows, start=2):
        try:
            usable = all(abs(Decimal(value)) <= Decimal(LARGEST) for value in (row["published"], row["margin"] or 0))
        except InvalidOperation:  # of nan too
            usable = False
        if not usable:
            raise ConfigError(f"{path}, row {line}: published and margin must be numbers")
        key = row["preset"], row["setting"], row["metric"]
        if key in found:
            raise ConfigError(f"{path}, row {line}: {' '.join(key)} is there twice")
        found[key] = row
    return found


def reference(references: References, fields: Fields, metric: str) -> Mapping[str, str] | None:
    """The row of a selection, whose label must name exactly the fields that the selection does, and its preset."""
    named = {key: value for key, value in fields.items() if value is not ... and not callable(value)}
    wanted = {key: str(value) for key, value in named.items() if key != "preset"}
    for (preset, label, name), row in references.items():
        if (preset, name) == (fields.get("preset"), metric) and stated(label) == wanted:
            return row
    return None


def printed(
    references: References, fields: Fields, metric: str, column: Literal["published", "margin"] = "published"
) -> float:
    """A number of a selection, or its margin. Raises KeyError for one that no source has printed."""
    row = reference(references, fields, metric)
    if row is None:
        raise KeyError(f"{metric} of {dict(fields)} is not in reference.csv")
    return float(row[column])


def stated(label: str) -> dict[str, str]:
    """The fields and values of a label."""
    return {key: part.removeprefix(f"{key}=") for key, part in parts_of(label).items()}
