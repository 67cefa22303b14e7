"""Runs side by side in the terminal: differences in config and environment, and every metric."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.config import flat
from common.errors import ConfigError
from common.measured import by_name
from common.run_folder import RunFolder, meant
from results.records import Unusable, find, read_run


def chosen(names: Sequence[str], runs: Path, kept: Path) -> list[dict]:
    """Records of the runs with these names or folders. Raises ConfigError for a missing or unfinished one."""
    if len(names) < 2:
        raise ConfigError("--compare needs two runs or more")
    return [one(name, runs, kept) for name in names]


def one(name: str, runs: Path, kept: Path) -> dict:
    """The record of a run by its folder, its name, or the end of its name."""
    try:
        if RunFolder(Path(name)).is_run:
            return read_run(Path(name).resolve())
        paths = (*runs.glob("*/*"), *kept.glob("*/*.json"))
        places = {f"{path.parent.name}/{path.name.removesuffix('.json')}" for path in paths}
        allowed = f"a finished run or a record: its folder, or the end of its name in {runs} or {kept}"
        task, _, run = meant(name, places, allowed).partition("/")
        complaints: list[str] = []
        finished = {record["run"]: record for record in find(task, runs, kept, complaints)[0]}
        if run not in finished:
            raise ConfigError(next((line for line in complaints if run in line), f"{task}/{run} is no run"))
        return finished[run]
    except Unusable as reason:
        raise ConfigError(f"run {name!r} is {reason}") from None


def show(found: Sequence[Mapping]) -> None:
    """Print the differences and the metrics, one column per run."""
    console = Console(markup=False)  # names may contain what looks like markup
    names = [record["run"] for record in found]
    columns = [f"run {number}" for number in range(1, len(names) + 1)]
    for column, record in zip(columns, found, strict=True):
        console.print(f"{column}: {record['task']}/{record['run']}", highlight=False, soft_wrap=True)
    for title, rows in (
        ("config, where it differs", differing([flat(record["config"]) for record in found])),
        ("environment, where it differs", differing([surroundings(record["environment"]) for record in found])),
        ("metrics", metrics(found)),
    ):
        table = Table("", *columns, title=title, title_justify="left")
        for key, values in rows.items():
            table.add_row(key, *values)
        if rows:
            console.print(table)
        else:
            console.print(f"{title}: nothing", highlight=False)


def differing(columns: Sequence[Mapping]) -> dict[str, list[str]]:
    """Keys whose values differ, with the values; a missing value is a dash."""
    rows = {key: [str(c[key]) if key in c else "–" for c in columns] for c in columns for key in c}
    return {key: values for key, values in sorted(rows.items()) if len(set(values)) > 1}


def surroundings(environment: Mapping) -> dict:
    """An environment as a flat dict, without the list of starts."""
    return flat({key: value for key, value in environment.items() if key != "starts"})


def metrics(found: Sequence[Mapping]) -> dict[str, list[str]]:
    """Status and every metric of the runs, one row each; a missing value is a dash."""
    each = [by_name(record["metrics"]) for record in found]
    names = dict.fromkeys(name for values in each for name in values)
    status = {"status": [record["metrics"]["status"] for record in found]}
    return status | {name: [f"{v[name]:.6g}" if name in v else "–" for v in each] for name in names}
