"""From a sweep to its runs: expand the grid and read every configuration with the task's own parser."""

import dataclasses
import functools
import importlib.util
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from common.command_line import parse_strictly, parse_unchecked
from common.config import REPOSITORY, Config
from common.errors import ConfigError, choice, within_reach
from slurm import mistakes, sweeps
from slurm.mistakes import Mistakes, describe
from slurm.sweeps import Sweep, Values


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


def combinations(sweep: Sweep, fixed: Mapping[str, str]) -> list[Values]:
    """Every combination of the grid with each of `runs`, without the keys that are fixed."""
    products = itertools.product(*sweep.grid.values())
    both = itertools.product((dict(zip(sweep.grid, values, strict=True)) for values in products), sweep.runs or ({},))
    return [{key: value for key, value in (grid | run).items() if key not in fixed} for grid, run in both]


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
    if any({"seed", "seeds"} & {*fixed, *values} for values in grid):
        raise ConfigError("seed and seeds are not set so: --seeds 0:5 makes a run of each seed")
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
        if found := mistakes.find(grid, fixed, parse):
            raise Mistakes(found) from None
        raise
    planned: dict[str, Planned] = {}
    for seed in chosen:
        for values, first in zip(grid, parsed, strict=True):
            config = dataclasses.replace(first, seed=seed)
            config.check()
            run = planned_run(task, describe(values) or config.preset, flags({**preset, **fixed, **values}), config)
            planned.setdefault(run.name, run)
    return list(planned.values())


@within_reach()
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
    if not isinstance(target, tuple) and not hasattr(target, first):  # the parser knows --no-FIELD too
        raise ConfigError(f"{first} is no field; write {first.removeprefix('no_')}=false")
    if isinstance(target, tuple):
        place = int(first)
        return (*target[:place], put(target[place], source[place], rest), *target[place + 1 :])
    return dataclasses.replace(target, **{first: put(getattr(target, first), getattr(source, first), rest)})


def in_waves(
    task: str, sweep: Sweep, fixed: Mapping[str, str], chosen: Sequence[int], later: tuple[str, ...] = ()
) -> list[Planned]:
    """`plan`, preceded by the runs that the sweep needs. `later` are the sweeps that wait for this one.

    `fixed` applies to those runs too, except for the keys of this sweep's own grid.
    """
    before: list[Planned] = []
    wrong: list[mistakes.Found] = []
    if sweep.after in later:
        raise ConfigError(f"the sweeps {', '.join(later)} of {task} wait for each other")
    if sweep.after:
        own = {key for keys in (sweep.grid, *sweep.runs) for key in keys}
        theirs = {key: value for key, value in fixed.items() if key not in own}
        try:
            before = in_waves(task, sweeps.load(task, sweep.after), theirs, chosen, (*later, sweep.after))
        except Mistakes as error:
            wrong += error.found
    try:
        runs = plan(task, sweep, fixed, chosen)
    except Mistakes as error:
        wrong += [mistake for mistake in error.found if mistake not in wrong]
    if wrong:
        raise Mistakes(wrong)
    wave = 1 + max((run.wave for run in before), default=-1)
    needed = {run.name for run in before}
    return [*before, *(dataclasses.replace(run, wave=wave) for run in runs if run.name not in needed)]


def renamed(task: str, runs: Sequence[Planned]) -> list[Planned]:
    """Those of these runs to which the task's code now gives another name; all seeds of a setting share it."""
    presets = load_task(task).PRESETS
    first = {run.run_of_seeds: run for run in runs}
    others = {key for key, run in first.items() if parse_strictly(presets, "", run.flags).name() != run.name}
    return [run for run in runs if run.run_of_seeds in others]


def planned_run(task: str, label: str, words: Sequence[str], config: Config) -> Planned:
    """The run of a configuration."""
    name = config.name()
    folder = (config.out / task / name).absolute()
    # Jobs run a copy of the code; without --out they would write inside that copy.
    complete = (*words, f"--seed={config.seed}", f"--out={config.out.absolute()}")
    return Planned(name, str(folder), label, config.seed, complete, config.devices, config.nodes)
