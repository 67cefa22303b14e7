"""From a sweep to its runs: expand the grid and read every configuration with the task's own parser."""

import dataclasses
import functools
import importlib.util
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import yaml

from common.command_line import parse_strictly, parse_unchecked
from common.config import REPOSITORY, Config
from common.data.listing import few
from common.errors import ConfigError, choice
from common.files import Damaged, read_text

Values = Mapping[str, object]
MOST_SEEDS = 10_000
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


@dataclass(frozen=True)
class Planned:
    """One run to be made: the flags of train.py, and the resulting run directory."""

    name: str
    """Name of the run directory."""
    folder: str
    """The run directory."""
    label: str
    """What distinguishes it from the other runs of its grid."""
    seed: int
    flags: tuple[str, ...]
    devices: int = 1
    nodes: int = 1
    wave: int = 0
    """It starts when all runs of earlier waves have ended."""

    @property
    def run_of_seeds(self) -> str:
        """Its name without the seed."""
        return self.name.removesuffix(f"-s{self.seed}")


def tasks() -> list[str]:
    """Names of all tasks."""
    return sorted(path.parent.name for path in REPOSITORY.glob("tasks/*/train.py"))


def load_task(task: str) -> ModuleType:
    """A task's train.py as a module; importing it loads neither Keras nor TensorFlow."""
    choice("task", task, tasks())
    path = REPOSITORY / "tasks" / task / "train.py"
    spec = importlib.util.spec_from_file_location(f"tasks.{task}.train", path)
    assert spec is not None  # it would be for a path that does not end in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module here
    spec.loader.exec_module(module)
    return module


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


def load_sweep(task: str, name: str) -> Sweep:
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
    return read_sweep(sweeps[name], f"{path}, sweep {name}")


def read_sweep(entry: object, where: str) -> Sweep:
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


def seeds(text: str) -> tuple[int, ...]:
    """Seeds from text: `0:5` is 0 to 4; `0,3` and `7` list them. Raises ConfigError for anything else."""
    span = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)
    if span and 0 < int(span[2]) - int(span[1]) <= MOST_SEEDS:
        return tuple(range(int(span[1]), int(span[2])))
    if re.fullmatch(r"\d{1,10}(,\d{1,10})*", text):
        return tuple(dict.fromkeys(map(int, text.split(","))))
    raise ConfigError(
        f"seeds {text!r}; allowed: FIRST:END (0:5 is 0 to 4), or a list such as 0,3,7; {MOST_SEEDS:,} at most"
    )


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


def combinations(sweep: Sweep, fixed: Mapping[str, str]) -> list[Values]:
    """Every combination of the grid with each of `runs`, without the keys that are fixed."""
    products = itertools.product(*sweep.grid.values())
    both = itertools.product((dict(zip(sweep.grid, values, strict=True)) for values in products), sweep.runs or ({},))
    found = [{key.replace("-", "_"): value for key, value in (grid | run).items()} for grid, run in both]
    return [{key: value for key, value in values.items() if key not in fixed} for values in found]


def listed(text: str) -> list[str]:
    """The values of a grid's key on the command line: separated by commas; one within a value is written `\\,`."""
    return [value.replace("\\,", ",") for value in re.split(r"(?<!\\),", text)]


def flags(values: Values) -> list[str]:
    """Config keys and values as flags of train.py; booleans become `--key` and `--no-key`."""
    words = []
    for key, value in values.items():
        flag = key.replace("_", "-")
        if isinstance(value, list):
            words += [f"--{flag}", *map(str, value)]
        elif str(value) in ("True", "true", "False", "false"):
            words.append(f"--{flag}" if str(value).lower() == "true" else f"--no-{flag}")
        else:
            # --key=value, since a value may begin with a dash.
            words.append(f"--{flag}={value}")
    return words


def plan(task: str, sweep: Sweep, fixed: Mapping[str, str], chosen: Sequence[int]) -> list[Planned]:
    """Every run of a sweep, checked; all settings of the first seed come first, so that every table row fills early.

    `fixed` applies to every run, and its keys are removed from the grid. Raises Mistakes.
    """
    presets = load_task(task).PRESETS
    grid = combinations(sweep, fixed)
    if any("seed" in {**fixed, **values} for values in grid):
        raise ConfigError("seed is no key of a grid; --seeds 0:5 names the seeds")
    operational = next(iter(presets.values())).OPERATIONAL
    for key in sorted({key for values in grid for key in values} & set(operational) - {"overwrite"}):
        raise ConfigError(f"{key} does not change what a run computes, so it is no key of a grid; --set {key}=... is")
    if any("overwrite" in {**fixed, **values} for values in grid):
        raise ConfigError(
            "overwrite would restart a run from scratch whenever it is requeued; delete its folder instead"
        )
    preset = {"preset": sweep.preset} if sweep.preset else {}

    def parse(values: Values) -> Config:
        return parse_strictly(presets, "", [*flags({**preset, **values}), f"--seed={chosen[0]}"])

    try:
        parsed = configurations(presets, [{**preset, **fixed, **values} for values in grid], chosen[0])
    except ConfigError:
        raise Mistakes(look_closer(grid, fixed, parse)) from None
    planned: dict[str, Planned] = {}
    for seed in chosen:
        for values, first in zip(grid, parsed, strict=True):
            config = dataclasses.replace(first, seed=seed)
            config.check()
            run = planned_run(task, describe(values) or config.preset, flags({**preset, **fixed, **values}), config)
            planned.setdefault(run.name, run)
    return list(planned.values())


def configurations(presets: Mapping[str, Config], settings: Sequence[Values], seed: int) -> list[Config]:
    """The configuration of each setting, as the task's parser reads it. Raises ConfigError at the first mistake.

    The parser takes about 10 ms, so it reads each value once on its own, not in every combination that contains it.
    """

    @functools.cache
    def read(words: tuple[str, ...]) -> Config:
        return parse_unchecked(presets, "", [*words, f"--seed={seed}"])

    found = []
    for setting in settings:
        preset = tuple(flags({"preset": setting["preset"]} if "preset" in setting else {}))
        config = read(preset)
        for key, value in setting.items():
            if key != "preset":
                config = put(config, read((*preset, *flags({key: value}))), key.split("."))
        config.check()
        found.append(config)
    return found


def put(target: Any, source: Any, path: Sequence[str]) -> Any:
    """A copy of `target` with the value of `source` at a path of field names and tuple indices."""
    if not path:
        return source
    first, *rest = path
    if isinstance(target, tuple):
        place = int(first)
        return (*target[:place], put(target[place], source[place], rest), *target[place + 1 :])
    return dataclasses.replace(target, **{first: put(getattr(target, first), getattr(source, first), rest)})


def look_closer(
    grid: Sequence[Values], fixed: Mapping[str, str], parse: Callable[[Values], Config]
) -> list[tuple[str, Values]]:
    """Every mistake with the values that cause it. A parser reports only its first, so values are tried one by one.

    A value is to blame if it is wrong on its own, next to any one other value, and in every combination. The other
    values are then judged without it.
    """
    singles: list[Values] = []
    for pair in ({key: value} for values in (fixed, *grid) for key, value in values.items()):
        if pair not in singles:
            singles.append(pair)

    def mistake(values: Values) -> str | None:
        try:
            parse(values)
        except ConfigError as error:
            return re.sub(r"(--[\w.-]+)=[^\s;]+", r"\1", str(error))  # an unknown key is one mistake for all its values
        return None

    def fault(single: Values, beside: Values) -> str | None:
        text = mistake({**beside, **single})
        together = [v for v in ({**fixed, **values} for values in grid) if text and single.items() <= v.items()]
        others = [other for other in singles if any(other.items() <= values.items() for values in together)]
        helped = any(mistake({**beside, **other, **single}) is None for other in others)
        return None if helped else text

    found: list[tuple[str, Values]] = []
    kept: dict[str, object] = dict(fixed)
    hopeless = not any(mistake({**fixed, **values}) is None for values in grid)
    for key, value in fixed.items():
        if hopeless and mistake(kept) and (text := fault({key: value}, {})):
            found.append((text, {key: value}))
            del kept[key]
    if hopeless and (text := mistake(kept)) and all(mistake({**kept, **single}) for single in singles):
        return [*found, (text, kept)]
    wrong = [(values, text) for values in grid if (text := mistake({**kept, **values}))]
    right = [values for values in grid if values not in [w for w, _ in wrong]]
    blamed: list[Values] = []
    for single in singles:
        if single.items() <= fixed.items() or any(single.items() <= values.items() for values in right):
            continue
        if text := fault(single, kept):
            blamed.append(single)
            found.append((text, single))
    found += [(text, values) for values, text in wrong if not any(b.items() <= values.items() for b in blamed)]
    return found


def in_waves(
    task: str, sweep: Sweep, fixed: Mapping[str, str], chosen: Sequence[int], later: tuple[str, ...] = ()
) -> list[Planned]:
    """`plan`, preceded by the runs that the sweep needs. `later` are the sweeps that wait for this one.

    `fixed` applies to those runs too, except for the keys of this sweep's own grid.
    """
    before: list[Planned] = []
    mistakes: list[tuple[str, Values]] = []
    if sweep.after in later:
        raise ConfigError(f"the sweeps {', '.join(later)} of {task} wait for each other")
    if sweep.after:
        own = {key.replace("-", "_") for keys in (sweep.grid, *sweep.runs) for key in keys}
        theirs = {key: value for key, value in fixed.items() if key not in own}
        try:
            before = in_waves(task, load_sweep(task, sweep.after), theirs, chosen, (*later, sweep.after))
        except Mistakes as error:
            mistakes += error.found
    try:
        runs = plan(task, sweep, fixed, chosen)
    except Mistakes as error:
        mistakes += [mistake for mistake in error.found if mistake not in mistakes]
    if mistakes:
        raise Mistakes(mistakes)
    wave = 1 + max((run.wave for run in before), default=-1)
    needed = {run.name for run in before}
    return [*before, *(dataclasses.replace(run, wave=wave) for run in runs if run.name not in needed)]


def describe(values: Values) -> str:
    """Values as text: `key=value ...`."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def planned_run(task: str, label: str, words: Sequence[str], config: Config) -> Planned:
    """The run of a configuration."""
    name = config.name()
    folder = (config.out / task / name).absolute()
    # Jobs run a copy of the code; without --out they would write inside that copy.
    complete = (*words, f"--seed={config.seed}", f"--out={config.out.absolute()}")
    return Planned(name, str(folder), label, config.seed, complete, config.devices, config.nodes)


class Mistakes(ConfigError):
    """What the task's parser rejects in a grid: each mistake with the values that cause it."""

    def __init__(self, found: Sequence[tuple[str, Values]]):
        super().__init__("the grid has mistakes")
        self.found = found

    def lines(self) -> list[str]:
        """One line for the user per mistake, with the first values that cause it."""
        by_text: dict[str, list[str]] = {}
        for text, values in self.found:
            by_text.setdefault(text, []).append(describe(values))
        return [f"error: {text}" + (f" ({few(named, 1)})" if named[0] else "") for text, named in by_text.items()]
