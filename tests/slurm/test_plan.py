"""From a sweep to its runs."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.command_line import parse_strictly
from common.errors import ConfigError
from common.seeds import parse_seeds
from slurm import plan, sweeps
from slurm.mistakes import Mistakes
from slurm.sweeps import Sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy(planned):
    """Plans runs of the stand-in."""

    def expand(grid=None, *, preset=None, fixed=None, seeds=(0,)):
        return plan.plan("toy", Sweep(preset=preset, grid=grid or {}), fixed or {}, seeds)

    return expand


@pytest.fixture
def mistakes(toy):
    """The lines that a grid with mistakes gives."""

    def lines(grid, **options):
        with pytest.raises(Mistakes) as caught:
            toy(grid, **options)
        return caught.value.lines()

    return lines


def configs(runs):
    """The configurations of runs, read from their flags by the task's own parser."""
    presets = sys.modules["tasks.toy.train"].PRESETS
    return [parse_strictly(presets, "", run.flags) for run in runs]


def load(task):
    """A task's train.py, loaded by the test itself."""
    path = ROOT / "tasks" / task / "train.py"
    spec = importlib.util.spec_from_file_location(f"test_plan_{task}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def all_sweeps():
    """Every sweep of every task of this repository."""
    for path in sorted(ROOT.glob("tasks/*/sweeps.yaml")):
        for name in yaml.safe_load(path.read_text()):
            yield path.parent.name, name


# The grid


def test_grid_is_every_combination_for_every_seed(toy):
    colours, widths, seeds = ["red", "green", "blue"], [1, 2], (3, 5)
    runs = toy({"colour": colours, "width": widths}, seeds=seeds)
    found = [(config.seed, config.colour, config.width) for config in configs(runs)]
    assert found == list(itertools.product(seeds, colours, widths))
    assert [run.seed for run in runs] == [3] * 6 + [5] * 6
    assert [run.label for run in runs[:2]] == ["colour=red width=1", "colour=red width=2"]


def test_runs_have_different_names(toy):
    runs = toy({"colour": ["red", "green"], "rate": [0.1, 0.2]}, seeds=(0, 1))
    assert len({run.name for run in runs}) == len({run.folder for run in runs}) == 8


def test_no_grid_is_one_run_with_the_preset_as_its_label(toy):
    (run,) = toy(preset="large")
    (config,) = configs([run])
    assert (run.label, config.preset, config.width) == ("large", "large", 30)


def test_fixed_key_leaves_the_grid(toy):
    runs = toy({"colour": ["red", "green"], "width": [1, 2]}, fixed={"colour": "blue"})
    assert [(config.colour, config.width) for config in configs(runs)] == [("blue", 1), ("blue", 2)]


def test_fixed_preset_replaces_that_of_the_sweep(toy):
    (run,) = toy(preset="large", fixed={"preset": "small"})
    assert configs([run])[0].width == 3


def test_key_of_a_grid_may_be_spelt_as_a_flag(toy):
    grid = sweeps.read({"grid": {"batch-size": ["16", "32"]}}, "sweeps.yaml").grid
    runs = toy(grid, fixed={"batch_size": "64"})
    assert [config.batch_size for config in configs(runs)] == [64]


def test_settings_that_go_together_meet_every_combination(toy):
    sweep = Sweep(grid={"colour": ["red", "blue"]}, runs=[{"width": 1, "rate": 0.1}, {"width": 2, "rate": 0.2}])
    found = [(c.colour, c.width, c.rate) for c in configs(plan.plan("toy", sweep, {}, (0,)))]
    assert found == [("red", 1, 0.1), ("red", 2, 0.2), ("blue", 1, 0.1), ("blue", 2, 0.2)]
    fixed = [(c.colour, c.width, c.rate) for c in configs(plan.plan("toy", sweep, {"width": "7"}, (0,)))]
    assert fixed == [("red", 7, 0.1), ("red", 7, 0.2), ("blue", 7, 0.1), ("blue", 7, 0.2)]


def test_duplicates_are_one_run(toy):
    assert len(toy({"rate": ["0.001", "1e-3", 1.0e-3]}, seeds=(0, 1))) == 2


@pytest.mark.parametrize(
    ("key", "spelt", "value"),
    [
        ("depth", None, None),
        ("depth", "None", None),
        ("depth", 5, 5),
        ("fancy", True, True),
        ("fancy", False, False),
        ("fancy", "true", True),
        ("fancy", "False", False),
        ("rate", -0.25, -0.25),
        ("rate", "-1e-4", -1e-4),
        ("rate", 3e-05, 3e-05),
        ("rate", "3e-5", 3e-5),
        ("deterministic", "yes", "yes"),
        ("sizes", [1, 2, 3], (1, 2, 3)),
        ("sizes", [], ()),
        ("colour", "green", "green"),
        ("does", "x = 'a b=c' # --colour=red", "x = 'a b=c' # --colour=red"),
    ],
)
def test_value_reaches_the_config(toy, key, spelt, value):
    (config,) = configs(toy({key: [spelt]}))
    assert getattr(config, key) == value
    assert type(getattr(config, key)) in (type(value), type(Path()))


def test_the_flag_that_switches_a_field_off_is_no_key():
    sweep = Sweep("switched", preset="transfer", grid={"no_train_encoder": ["true"]})
    with pytest.raises(ConfigError, match=r"^no_train_encoder is no field; write train_encoder=false$"):
        plan.in_waves("autoencoder_sweep", sweep, {}, [0])


def test_nested_key(toy):
    runs = toy({"phases.1.rate": [0.3, 3e-5], "phases.0.weight_decay": [0.01]})
    assert [(c.phases[0].rate, c.phases[1].rate, c.phases[0].weight_decay) for c in configs(runs)] == [
        (0.1, 0.3, 0.01),
        (0.1, 3e-5, 0.01),
    ]


def test_out_is_absolute_and_the_run_lies_in_it(toy, tree, monkeypatch):
    monkeypatch.chdir(tree)
    (run,) = toy(fixed={"out": "some/where"})
    (config,) = configs([run])
    assert config.out == tree / "some" / "where"
    assert run.folder == str(tree / "some" / "where" / "toy" / run.name)


def test_default_out_is_that_of_the_tree_it_is_planned_in(toy, tree):
    (run,) = toy()
    assert f"--out={tree}/results/runs" in run.flags
    assert run.folder == f"{tree}/results/runs/toy/{run.name}"


def test_devices_and_nodes_of_the_config_are_those_of_the_run(toy, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # the one that trains over several nodes
    (run,) = toy({}, fixed={"devices": "2", "nodes": "4", "batch_size": "64"})
    assert (run.nodes, run.devices) == (4, 2)
    (one,) = toy({}, fixed={"batch_size": "64"})
    assert (one.nodes, one.devices) == (1, 1)
    assert one.name == run.name  # it may go on with another number of devices


def test_keys_that_do_not_change_the_result_are_no_keys_of_a_grid(toy):
    """Its runs would have one name, and so be one run."""
    with pytest.raises(ConfigError, match="devices does not change what a run computes"):
        toy({"devices": [1, 2]})


def test_such_keys_of_a_task_of_its_own_are_none_either():
    with pytest.raises(ConfigError, match="cache_features does not change what a run computes"):
        plan.plan("cifar_phased", Sweep(grid={"cache_features": ["on", "off"]}), {}, [0])


# Names


def words(values):
    """Values as a user types them."""
    spelt = {True: "--{}", False: "--no-{}"}
    keys = {key: key.replace("_", "-") for key in values}
    return [
        spelt[value].format(keys[key]) if isinstance(value, bool) else f"--{keys[key]}={value}"
        for key, value in values.items()
    ]


@pytest.mark.parametrize(("task", "sweep"), list(all_sweeps()))
def test_every_sweep_of_the_repository_can_be_planned(task, sweep):
    entry = yaml.safe_load((ROOT / "tasks" / task / "sweeps.yaml").read_text())[sweep]
    seeds = parse_seeds(entry.get("seeds", "0"))
    runs = plan.plan(task, sweeps.load(task, sweep), {}, seeds)
    grid = entry.get("grid", {})
    products = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    combinations = [product | run for product in products for run in entry.get("runs", [{}])]
    assert len(runs) == len(combinations) * len(seeds)
    presets = load(task).PRESETS
    start = {"preset": entry["preset"]} if "preset" in entry else {}
    for run, (seed, values) in zip(runs, itertools.product(seeds, combinations), strict=True):
        config = parse_strictly(presets, "", words(start | values | {"seed": seed}))
        assert run.name == config.name()
        assert parse_strictly(presets, "", run.flags) == config
        assert run.folder == str(ROOT / "results" / "runs" / task / config.name())


def test_train_py_itself_runs_in_the_planned_folder(toy, tree):
    (run,) = toy({"colour": ["blue"]}, fixed={"out": str(tree / "runs")}, seeds=(7,))
    command = [sys.executable, str(tree / "tasks" / "toy" / "train.py"), *run.flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"finished {run.name}\n"
    assert (Path(run.folder) / "metrics.json").exists()


def test_planning_imports_neither_keras_nor_tensorflow():
    code = (
        "import sys; from slurm import plan, sweeps, __main__\n"
        "runs = plan.plan('cifar_phased', sweeps.load('cifar_phased', 'phases'), {}, (0, 1))\n"
        "print(len(runs), {'keras', 'tensorflow', 'jax', 'submitit'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "8 set()\n"


# Mistakes


def test_all_mistakes_are_reported_at_once_and_blamed_on_their_values(mistakes):
    lines = mistakes({"colour": ["red", "pink"], "width": [1, 0, -3], "rate": [0.1, "fast"]})
    assert len(lines) == 4
    assert "error: unknown colour 'pink'; allowed: red, green, blue (colour=pink)" in lines
    assert "error: width is 0; it must be above zero (width=0)" in lines
    assert "error: width is -3; it must be above zero (width=-3)" in lines
    assert any(line.endswith("(rate=fast)") for line in lines)


def test_mistakes_are_reported_if_no_combination_is_right(mistakes):
    lines = mistakes({"colour": ["pink"], "width": [0]})
    assert sorted(line.rpartition(" (")[2] for line in lines) == ["colour=pink)", "width=0)"]


def test_mistake_is_reported_once_for_all_seeds(mistakes):
    assert len(mistakes({"width": [0, 1]}, seeds=(0, 1, 2))) == 1


def test_mistake_in_a_combination_names_the_combination(mistakes):
    (line,) = mistakes({"optimizer": ["sgd", "adam"], "momentum": [0, 0.9]})
    assert line == "error: momentum is for sgd; the optimizer is adam (optimizer=adam momentum=0.9)"


def test_combinations_with_the_same_mistake_are_counted(mistakes):
    (line,) = mistakes({"optimizer": ["sgd", "adam"], "momentum": [0.5, 0.9], "width": [1, 2]})
    assert line.endswith("(optimizer=adam momentum=0.5 width=1 and 3 more)")


def test_value_that_is_right_only_next_to_others_is_no_mistake(toy):
    assert len(toy({"momentum": [0.5, 0.9], "optimizer": ["sgd"]})) == 2


def test_fixed_mistake_does_not_hide_those_of_the_grid(mistakes):
    lines = mistakes({"width": [1, 0]}, fixed={"colour": "pink"})
    assert any("colour 'pink'" in line and "width" not in line for line in lines)
    assert any("width is 0" in line for line in lines)
    assert len(lines) == 2


def test_fixed_value_that_is_right_with_some_of_the_grid_is_not_blamed(mistakes):
    """Momentum is wrong by itself, for the default is adam."""
    lines = mistakes({"optimizer": ["sgd", "sdg"]}, fixed={"momentum": "0.9"})
    assert not [line for line in lines if "momentum" in line]
    (line,) = lines
    assert line.endswith("(optimizer=sdg)")


@pytest.mark.parametrize("where", ["grid", "fixed"])
def test_values_that_are_right_together_are_not_blamed_for_another_mistake(mistakes, where):
    """Momentum is wrong by itself, for the default is adam."""
    values = {"optimizer": "sgd", "momentum": "0.9", "width": "0"}
    grid, fixed = ({key: [value] for key, value in values.items()}, {}) if where == "grid" else ({}, values)
    assert mistakes(grid, fixed=fixed) == ["error: width is 0; it must be above zero (width=0)"]


def test_a_fixed_value_that_the_grid_makes_right_is_not_blamed_for_another_mistake(mistakes):
    lines = mistakes({"optimizer": ["sgd"]}, fixed={"momentum": "0.9", "width": "0"})
    assert lines == ["error: width is 0; it must be above zero (width=0)"]


@pytest.mark.parametrize("grid", [{"rate": ["fast"]}, {"rate": [0.1, "fast"], "width": [1, 2]}])
def test_fixed_values_that_are_wrong_together_are_reported_besides_a_mistake_of_the_grid(mistakes, grid):
    (line,) = mistakes(grid, fixed={"batch_size": "6", "devices": "4"})
    assert "cannot share equally" in line
    assert line.endswith("(batch_size=6 devices=4)")


def test_all_fixed_mistakes_are_reported(mistakes):
    lines = mistakes({}, fixed={"colour": "pink", "width": "0"})
    assert len(lines) == 2


def test_unknown_key_names_the_near_one(mistakes):
    (line,) = mistakes({"colours": ["red", "green"]})
    assert "--colours" in line
    assert "did you mean --colour?" in line


@pytest.mark.parametrize("key", ["seed", "seeds", "overwrite"])
@pytest.mark.parametrize("where", ["grid", "fixed"])
def test_keys_that_are_the_launchers(toy, key, where):
    grid, fixed = ({key: [1]}, {}) if where == "grid" else ({}, {key: "1"})
    with pytest.raises(ConfigError, match=key):
        toy(grid, fixed=fixed)


def test_seed_out_of_range_is_a_mistake_wherever_it_stands(toy):
    for seeds in [(2**32,), (0, 2**32)]:
        with pytest.raises(ConfigError) as caught:
            toy(seeds=seeds)
        text = "\n".join(caught.value.lines()) if isinstance(caught.value, Mistakes) else str(caught.value)
        assert "seed is 4294967296" in text


# A sweep after another


AFTER = """
first: {grid: {width: [1, 2]}, seeds: "0:2"}
second: {grid: {colour: [blue]}, after: first}
third: {grid: {colour: [blue, green]}, after: second, seeds: "4"}
round: {after: trip}
trip: {after: round}
lost: {after: nowhere}
wrong: {grid: {width: [0]}}
more: {grid: {colour: [pink]}, after: wrong}
last: {runs: [{colour: blue}, {colour: green}], after: first}
"""


@pytest.fixture
def after_sweeps(toy, tree):
    """Plans a sweep of AFTER."""
    (tree / "tasks" / "toy" / "sweeps.yaml").write_text(AFTER)

    def expand(sweep, **fixed):
        return plan.in_waves("toy", sweeps.load("toy", sweep), fixed, (4,))

    return expand


def test_sweep_brings_those_that_it_comes_after(after_sweeps):
    runs = after_sweeps("third")
    found = [(run.wave, config.width, config.colour) for run, config in zip(runs, configs(runs), strict=True)]
    assert found == [(0, 1, "red"), (0, 2, "red"), (1, 3, "blue"), (2, 3, "green")]
    assert {run.seed for run in runs} == {4}


def test_fixed_keys_hold_for_the_sweeps_before_too(after_sweeps):
    assert {config.rate for config in configs(after_sweeps("third", rate="0.25"))} == {0.25}


def test_what_a_sweep_is_about_is_not_fixed_for_the_sweeps_before(after_sweeps):
    found = [(config.width, config.colour) for config in configs(after_sweeps("last", colour="green"))]
    assert found == [(1, "red"), (2, "red"), (3, "green")]


@pytest.mark.parametrize("sweep", ["round", "trip", "lost"])
def test_sweeps_that_never_begin_are_one_line(after_sweeps, launch, sweep):
    told = launch("submit", "toy", "--sweep", sweep, "--cluster", "local", "--dry-run")
    assert told.code == 2
    assert told.line.startswith("error: ")


def test_mistakes_of_all_waves_are_reported_at_once(after_sweeps):
    with pytest.raises(Mistakes) as caught:
        after_sweeps("more")
    assert len(caught.value.lines()) == 2
