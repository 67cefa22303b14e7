"""What a sweep is, as sweeps.yaml and the command line say it."""

import pytest
import yaml

from common.errors import ConfigError
from common.seeds import parse_seeds
from slurm import commands, sweeps
from slurm.sweeps import Sweep

# Spellings


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0:5", (0, 1, 2, 3, 4)), ("3:4", (3,)), ("7", (7,)), ("0,3,7", (0, 3, 7)), ("3,0", (3, 0)), ("1,2,1", (1, 2))],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "5:5", "5:3", ":3", "3:", "0:4:2", "-1", "1,", "1;2", "1.5", " 1", "0:2,5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="seeds"):
        parse_seeds(text)


def test_pairs():
    assert sweeps.pairs(["a=1", "--b-c=2", "phases.1.rate=3e-5", "d=", "e=f=g"], "--set") == {
        "a": "1",
        "b_c": "2",
        "phases.1.rate": "3e-5",
        "d": "",
        "e": "f=g",
    }


@pytest.mark.parametrize("items", [["a"], ["=1"], [""], ["a=1", "a=2"], ["a-b=1", "--a_b=1"]])
def test_other_pairs_are_refused(items):
    with pytest.raises(ConfigError, match="--grid"):
        sweeps.pairs(items, "--grid")


# sweeps.yaml


def test_sweep_is_read(planned):
    sweep = sweeps.load("toy", "colours")
    assert (sweep.preset, sweep.grid, sweep.seeds) == (
        "large",
        {"colour": ["red", "green"], "width": ["1", "2"]},
        "0:2",
    )


def test_empty_sweep_is_the_default_preset(planned):
    assert sweeps.load("toy", "single") == Sweep()


@pytest.mark.parametrize(
    ("seeds", "count"), [("'0:2'", 2), ("0:2", 2), ("'3'", 1), ("3", 1), ("1:5", 4), ("'0,4,9'", 3)]
)
def test_seeds_of_a_sweep(tree, launch, seeds, count):
    (tree / "tasks" / "toy" / "sweeps.yaml").write_text(f"s:\n  seeds: {seeds}\n")
    told = launch("submit", "toy", "--sweep", "s", "--cluster", "local", "--dry-run")
    assert told.out.splitlines()[-1] == f"{count} of {count} runs to do"
    told = launch("submit", "toy", "--sweep", "s", "--cluster", "local", "--dry-run", "--seeds", "0:7")
    assert told.out.splitlines()[-1] == "7 of 7 runs to do"


@pytest.mark.parametrize(
    "text",
    [
        "s: [",
        "s:\n  grid: {colour: red}",
        "s:\n  grid: {colour: []}",
        "s:\n  grid: {colour: }",
        "s:\n  grid: [colour]",
        "s:\n  grid: {1: [2]}",
        "s:\n  gird: {colour: [red]}",
        "s:\n  seeds: many",
        "s:\n  grid: {width: [1], width: [2]}",
        "s:\n  grid: {batch-size: [1], batch_size: [2]}",
        "s:\n  grid: {width: [1]}\n  runs: [{width: 2}]",
        "s:\n  grid: {preset: [small]}\n  preset: large",
        "s: {}\ns: {}",
        "s:\n  grid: {fancy: [no]}",
        "s:\n  grid: {width: [!!python/name:os.system ]}",
        "s:\n  grid: {width: [!!timestamp 2001-99-99]}",
        "s: &s\n  grid: {width: [*s]}",
        "[" * 5000,
        "s:\n  seeds: [0, 4]",
        "s:\n  runs: {colour: red}",
        "s:\n  runs: [red]",
        "s:\n  runs: [{1: red}]",
        "s:\n  preset: medium",
        "s:\n  preset: [small]",
        "s: text",
        "s: [1, 2]",
        "- s",
        "s",
        "t:\n",
        "",
        "s:\n  grid:\n    colour: [{a: b}]",
        "1: {}\nt: {}\n",
    ],
)
def test_malformed_sweeps_are_one_line(tree, launch, text):
    (tree / "tasks" / "toy" / "sweeps.yaml").write_text(text)
    told = launch("submit", "toy", "--sweep", "s", "--cluster", "local", "--dry-run")
    assert told.code == 2
    assert told.line.startswith("error: ")


def test_yaml_is_what_is_written(tree):
    """YAML 1.1 takes `no` for false, `010` for 8 and `1_0` for 10."""
    (tree / "tasks" / "toy" / "sweeps.yaml").write_text("s: {grid: {colour: [no, on, 010, 1_0, 1:30, 1.0e-4, =]}}")
    text = (tree / "tasks" / "toy" / "sweeps.yaml").read_text()
    assert yaml.load(text, sweeps.Loader)["s"]["grid"]["colour"] == ["no", "on", "010", "1_0", "1:30", "1.0e-4", "="]
    assert yaml.load("[true, False, null, ~, '', ]", sweeps.Loader) == [True, False, None, None, ""]
    assert yaml.load("[~/x, nullable, truecolor, false_start]", sweeps.Loader) == [
        "~/x",
        "nullable",
        "truecolor",
        "false_start",
    ]
    assert yaml.load("{empty: }", sweeps.Loader) == {"empty": None}


@pytest.mark.parametrize("where", ["--grid", "--set"])
def test_a_switch_that_is_no_says_how_to_write_it(launch, where):
    told = launch("submit", "toy", where, "fancy=no", "--cluster", "local", "--dry-run")
    assert told.code == 2
    assert "fancy is 'no'; write --fancy or --no-fancy; true or false in a sweep" in told.line
    assert launch("submit", "toy", where, "fancy=false", "--cluster", "local", "--dry-run").code == 0


def test_a_key_in_set_and_in_grid_is_one_line(launch):
    told = launch("submit", "toy", "--grid", "width=1,2", "--set", "width=3", "--cluster", "local", "--dry-run")
    assert told.line == "error: width is in --set and in --grid; leave it out of one of them"


def test_a_comma_within_a_value_of_a_grid(launch, tree, monkeypatch):
    monkeypatch.setattr(commands, "REPOSITORY", tree)
    folder = tree / "a,b[1]~"
    folder.mkdir()
    command = ["submit", "toy", "--cluster", "local", "--dry-run", "--grid"]
    for also in ([], ["--until-decided"]):
        told = launch(*command, f"dataset=image_folder:{folder},digits", *also)
        assert told.code == 2
        assert told.err.splitlines()[-1].startswith(r"error: a comma within a value is written \,")
    told = launch(*command, f"dataset=image_folder:{folder},digits".replace("a,b", r"a\,b"))
    assert told.out.splitlines()[-1] == "2 of 2 runs to do"
    assert f"dataset=image_folder:{folder}" in told.out


def test_a_tilde_is_the_home_folder_and_other_bytes_than_utf_8_are_refused(launch, tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    (tree / "photos").mkdir()
    command = ["submit", "toy", "--cluster", "local", "--dry-run", "--set"]
    assert launch(*command, "dataset=image_folder:~/photos", "out=~/runs").code == 0
    told = launch(*command, "dataset=image_folder:~nobody-of-this-name/x")
    assert "a path begins with ~" in told.line
    told = launch(*command, "dataset=image_folder:caf\udce9")
    assert "is not UTF-8" in told.line


def test_task_without_sweeps_is_one_line(tree, launch):
    (tree / "tasks" / "toy" / "sweeps.yaml").unlink()
    assert "names no sweeps" in launch("submit", "toy", "--sweep", "s").line
