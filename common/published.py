"""Published numbers of a task, from its reference.csv."""

import csv
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

from common.errors import ConfigError

COLUMNS = ("preset", "setting", "metric", "published", "margin", "source", "note")

References = dict[tuple[str, str, str], Mapping[str, str]]
"""Rows by preset, setting and metric."""


def read_references(path: Path) -> References:
    """Every published number; none if there is no file. Raises ConfigError for a file that cannot be used."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ConfigError(f"{path}: its columns must be {','.join(COLUMNS)}")
    for line, row in enumerate(rows, start=2):
        try:
            usable = all(Decimal(value).is_finite() for value in (row["published"], row["margin"] or 0))
        except (InvalidOperation, TypeError):
            usable = False
        if not usable:
            raise ConfigError(f"{path}, row {line}: published and margin must be numbers")
    return {(row["preset"], row["setting"], row["metric"]): row for row in rows}
