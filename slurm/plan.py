"""From a study to its runs: the grid is expanded, and every configuration is read by the task's own parser."""

import dataclasses
import importlib.util
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import yaml

from common.config import REPOSITORY, Config, ConfigError, choice, parse_strictly

Values = Mapping[str, object]


@dataclass(frozen=True)
class Study:
    """One entry of a task's studies.yaml: `preset` with one value of every list in `grid`, over `seeds`.

    `after` names a study of the task whose runs this one's read, and which therefore come first.
    """

    about: str = ""
    preset: str | None = None
    grid: Mapping[str, Sequence] = field(default_factory=dict)
    seeds: str = "0"
    after: str | None = None


@dataclass(frozen=True)
class Planned:
    """One run to be made: the flags of train.py, and where they lead."""

    name: str
    """Of the run directory."""
    folder: str
    """The run directory."""
    label: str
    """What sets it apart from the other runs of its grid."""
    seed: int
    flags: tuple[str, ...]
    devices: int = 1
    nodes: int = 1
    stage: int = 0
    """It starts when all runs of the stages before have ended."""


def tasks() -> list[str]:
    """Names of all tasks."""
    return sorted(path.parent.name for path in REPOSITORY.glob("tasks/*/train.py"))


def load_task(task: str) -> ModuleType:
    """A task's train.py as a module; it imports neither Keras nor TensorFlow before it trains."""
    choice("task", task, tasks())
    path = REPOSITORY / "tasks" / task / "train.py"
    spec = importlib.util.spec_from_file_location(f"tasks.{task}.train", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def load_study(task: str, name: str) -> Study:
    """A study by its name. Raises ConfigError where studies.yaml has none of that name, or cannot be read."""
    path = REPOSITORY / "tasks" / task / "studies.yaml"
    try:
        studies = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        raise ConfigError(f"{task} names no studies: {path} is not there") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    choice("study", name, sorted(studies))
    entry = studies[name] or {}
    for key in entry:
        choice(f"key of study {name} in {path}", key, [f.name for f in dataclasses.fields(Study)])
    study = Study(**entry)
    if not all(isinstance(values, list) and values for values in study.grid.values()):
        raise ConfigError(f"{path}: in the grid of study {name} every key needs a list of values")
    return study


def seeds(text: str) -> tuple[int, ...]:
    """`0:5` is 0 to 4; `0,3` and `7` name seeds one by one. Raises ConfigError for anything else."""
    span = re.fullmatch(r"(\d+):(\d+)", text)
    if span and int(span[1]) < int(span[2]):
        return tuple(range(int(span[1]), int(span[2])))
    if re.fullmatch(r"\d+(,\d+)*", text):
        return tuple(dict.fromkeys(map(int, text.split(","))))
    raise ConfigError(f"seeds {text!r}; allowed: FIRST:END (0:5 is 0 to 4), or a list such as 0,3,7")


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


def combinations(grid: Mapping[str, Sequence]) -> Iterator[Values]:
    """One value of every list, the last key fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def flags(values: Values) -> list[str]:
    """Config keys and values as train.py's command line; booleans as `--key` and `--no-key`, none as None."""
    words = []
    for key, value in values.items():
        flag = key.replace("_", "-")
        if str(value) in ("True", "true", "False", "false"):
            words.append(f"--{flag}" if str(value).lower() == "true" else f"--no-{flag}")
        else:
            # A value may begin with a dash, but not with two: --key=value, which tyro takes apart for both.
            words.append(f"--{flag}={value}")
    return words


def plan(task: str, study: Study, fixed: Mapping[str, str], chosen: Sequence[int]) -> list[Planned]:
    """Every run of a study, all of them checked; seeds outermost, so that the table has each row early.

    `fixed` holds for every run; a key of the grid that it names leaves the grid. Raises Mistakes.
    """
    presets = load_task(task).PRESETS
    grid = {key.replace("-", "_"): values for key, values in study.grid.items()}
    if "seed" in fixed or "seed" in grid:
        raise ConfigError("seed is no key of a grid; --seeds 0:5 names the seeds")
    if "overwrite" in fixed or "overwrite" in grid:
        raise ConfigError("overwrite would start a run anew each time that it is requeued; delete its folder instead")
    for key in grid.keys() & fixed.keys():
        del grid[key]
    always = ({"preset": study.preset} if study.preset else {}) | dict(fixed)

    def parse(values: Values) -> Config:
        return parse_strictly(presets, "", [*flags(always | dict(values)), f"--seed={chosen[0]}"])

    mistakes = Mistakes()
    parsed = []
    for combination in combinations(grid):
        try:
            parsed.append((combination, parse(combination)))
        except ConfigError as error:
            mistakes.add(str(error), combination)
    if mistakes:
        mistakes.look_closer(grid, [combination for combination, _ in parsed], parse)
        raise mistakes
    planned: dict[str, Planned] = {}
    for seed in chosen:
        for combination, first in parsed:
            config = dataclasses.replace(first, seed=seed)  # parsing is most of the time, and seeds are only numbers
            config.check()
            run = planned_run(task, describe(combination) or config.preset, flags(always | dict(combination)), config)
            planned.setdefault(run.name, run)
    return list(planned.values())


def in_stages(task: str, study: Study, fixed: Mapping[str, str], chosen: Sequence[int]) -> list[Planned]:
    """`plan`, with the runs that a study needs before its own."""
    before = in_stages(task, load_study(task, study.after), fixed, chosen) if study.after else []
    stage = 1 + max((run.stage for run in before), default=-1)
    needed = {run.name for run in before}
    own = [run for run in plan(task, study, fixed, chosen) if run.name not in needed]
    return [*before, *(dataclasses.replace(run, stage=stage) for run in own)]


def describe(values: Values) -> str:
    """`key=value ...`."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def planned_run(task: str, label: str, words: Sequence[str], config: Config) -> Planned:
    """The run that a configuration leads to."""
    name = config.name()
    folder = (config.out / task / name).absolute()
    # Jobs run a copy of the code, whose default for --out is inside that copy.
    complete = (*words, f"--seed={config.seed}", f"--out={config.out.absolute()}")
    sizes = {key: getattr(config, key) for key in ("devices", "nodes") if hasattr(config, key)}
    return Planned(name, str(folder), label, config.seed, complete, **sizes)


class Mistakes(ConfigError):
    """What the task's parser refuses in a grid: each different mistake with what leads to it."""

    def __init__(self):
        super().__init__("the grid has mistakes")
        self.found: dict[str, list[Values]] = {}

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, text: str, values: Values) -> None:
        """Note a mistake of these values."""
        self.found.setdefault(text, []).append(values)

    def look_closer(self, grid: Mapping[str, Sequence], right: Sequence[Values], parse: Callable) -> None:
        """Blame single values where no combination with them is right: the parser names only its first mistake."""
        blamed = []
        for key, values in grid.items():
            for value in values:
                if any(combination[key] == value for combination in right):
                    continue
                try:
                    parse({key: value})
                except ConfigError as error:
                    blamed.append((str(error), {key: value}))
        combined = {
            text: [v for v in values if not any(b.items() <= v.items() for _, b in blamed)]
            for text, values in self.found.items()
        }
        self.found = {text: values for text, values in combined.items() if values}
        for text, value in blamed:
            self.add(text, value)

    def lines(self) -> list[str]:
        """What the user reads: a line for each mistake."""
        return [f"error: {text}{self.where(values)}" for text, values in self.found.items()]

    @staticmethod
    def where(values: Sequence[Values]) -> str:
        """The first of the combinations with a mistake, and how many more there are."""
        named = [text for text in map(describe, values) if text]
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        return f" ({named[0]}{more})" if named else ""
