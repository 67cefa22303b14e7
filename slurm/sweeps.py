"""What a sweep is, and how one is read: from a task's sweeps.yaml, and from the words of a command line."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import yaml

from common.config import REPOSITORY
from common.errors import ConfigError, choice
from common.files import Damaged, read_text

Values = Mapping[str, object]
LOOKS = (3, 5, 10)  # numbers of seeds at which --until-decided judges


@dataclass(frozen=True)
class Sweep:
    """One entry of a task's sweeps.yaml: `preset` with every combination of the values in `grid`, for each seed.

    `runs` is a list of settings that belong together; each is combined with every combination of the grid. `after`
    names a sweep of the same task that must be finished first, because this one reads its runs.
    """

    about: str = ""
    preset: str | None = None
    grid: Mapping[str, Sequence] = field(default_factory=dict)
    runs: Sequence[Values] = ()
    seeds: str = "0"
    after: str | None = None


class Loader(yaml.SafeLoader):
    """YAML in which a word is what is written, as on the command line, but for true, false and null.

    YAML 1.1 reads `no` as false, `010` as 8 and `1:30` as 90. A key that is there twice is an error.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}  # type: ignore[misc] # which the library changes in the class

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """As the library does."""
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            keys = [str(key.value) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return found


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?:true|True|false|False)$"), list("tTfF"))
Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(?:null|~|)$"), ["n", "~", ""])


def load(task: str, name: str) -> Sweep:
    """A sweep by its name. Raises ConfigError if sweeps.yaml does not have it or cannot be read."""
    path = REPOSITORY / "tasks" / task / "sweeps.yaml"
    if not path.is_file():
        raise ConfigError(f"{task} names no sweeps: {path} does not exist")
    try:
        sweeps = yaml.load(read_text(path), Loader) or {}
    except (Damaged, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(sweeps, dict) or not all(map(is_text, sweeps)):
        raise ConfigError(f"{path}: it must name sweeps, each with its keys")
    choice("sweep", name, sorted(sweeps))
    return read(sweeps[name], f"{path}, sweep {name}")


def read(entry: object, where: str) -> Sweep:
    """A sweep from parsed YAML. Raises ConfigError if it is not a valid one."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: it must have keys: {', '.join(f.name for f in dataclasses.fields(Sweep))}")
    for key, value in entry.items():
        choice(f"key in {where}", str(key), [f.name for f in dataclasses.fields(Sweep)])
        if key not in ("grid", "runs") and not isinstance(value, str):
            raise ConfigError(f'{where}: {key} must be a text; seeds in quotes, such as "0:5"')
    grid, runs = entry.get("grid", {}), entry.get("runs", [])
    if not isinstance(runs, list):
        raise ConfigError(f"{where}: runs must be a list of settings")
    grid, *runs = (settings(part, where) for part in (grid, *runs))
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: {key} needs a list of values")
    for key in [key for run in runs for key in run if key in grid]:
        raise ConfigError(f"{where}: {key} is in grid and in runs; leave it out of one of them")
    if "preset" in entry and any("preset" in part for part in (grid, *runs)):
        raise ConfigError(f"{where}: preset is there beside grid and runs, and within them; leave out one of them")
    return Sweep(**entry | {"grid": grid, "runs": tuple(runs)})


def settings(entry: object, where: str) -> dict:
    """Keys of train.py's config with what stands there. Raises ConfigError, also for a key in two spellings."""
    if not isinstance(entry, dict) or not all(map(is_text, entry)):
        raise ConfigError(f"{where}: grid and each of runs must have keys of train.py's config")
    found = {key.replace("-", "_"): value for key, value in entry.items()}
    if len(found) < len(entry):
        raise ConfigError(f"{where}: a key is there twice, with - and with _")
    for key, value in found.items():
        if any(isinstance(one, dict | set) for one in (value if isinstance(value, list) else [value])):
            raise ConfigError(f"{where}: {key} must have values of train.py's flags")
    return found


def is_text(value: object) -> bool:
    """Whether YAML read a string here, not a number or anything else."""
    return isinstance(value, str)


def pairs(items: Sequence[str], flag: str) -> dict[str, str]:
    """`KEY=VALUE` texts as a dict. Raises ConfigError for a text without `=`, and for a key given twice."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise ConfigError(f"{flag} {item!r}; allowed: KEY=VALUE, KEY as in config.json or as a flag of train.py")
        key = key.removeprefix("--").replace("-", "_")
        if key in found:
            raise ConfigError(f"{flag} names {key} twice")
        found[key] = value
    return found


def listed(text: str) -> list[str]:
    """The values of a grid's key on the command line: separated by commas; one within a value is written `\\,`."""
    return [value.replace("\\,", ",") for value in re.split(r"(?<!\\),", text)]
