"""What every task must do. The tasks are found by their train.py: a new folder is checked without being listed."""

import csv
import dataclasses
import gzip
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import defaults
import in_process
import kill_and_resume
import numpy as np
import pytest
import yaml
from in_process import folder_in, short
from PIL import Image

from common import checkpoints, predict, trained
from common.command_line import parse_strictly
from common.config import flat
from common.data import pipeline, sources
from common.errors import ConfigError
from common.fine_tuning import FineTuning
from common.loop import Loop
from common.measured import METRICS, by_name, declared
from common.outcomes import unpacked
from common.published import read_references
from common.report import Pair
from common.seeds import parse_seeds
from common.selection import fits
from results import records
from results.collect import load_report
from results.misnamed import misnamed
from slurm import plan, sweeps

REPOSITORY = Path(__file__).resolve().parents[2]
TASKS = sorted(path.parent.name for path in REPOSITORY.glob("tasks/*/train.py"))
READMES = ["README.md", "common/README.md", *(f"tasks/{task}/README.md" for task in TASKS)]
COMMAND = re.compile(r"python tasks/(\w+)/train\.py([^\n`#]*)")
NEEDS_FILES = re.compile(r"--[\w.-]+[ =](image_folder:\S+|\S*/\S*)")

every_task = pytest.mark.parametrize("task", TASKS)


def call(task, *flags, **more):
    """Exit code of a task's command, by its name."""
    return in_process.call(plan.load_task(task), *flags, **more)


def read_history(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_there_are_tasks():
    six = {"hinge_svm", "permuted_cnn", "autoencoder_sweep", "rotation_contrastive", "fer_layerwise_lr", "cifar_phased"}
    assert six <= set(TASKS)


# --- the command line


@every_task
def test_help_names_every_field_and_loads_no_framework(task):
    code = (
        "import runpy, sys\nsys.argv = ['train.py', '--help']\n"
        f"try:\n    runpy.run_path('tasks/{task}/train.py', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "slow = {'keras', 'tensorflow', 'sklearn', 'matplotlib', 'jax', 'numpy'}\n"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    named = set(re.findall(r"--[\w.-]+", done.stdout))
    default = next(iter(plan.load_task(task).PRESETS.values()))
    fields = flat(default.identity() | default.operational())
    assert {f"--{key.replace('_', '-')}" for key in fields} <= named


@every_task
def test_presets_are_named_documented_and_right(task):
    module = plan.load_task(task)
    assert "demo" in module.PRESETS
    assert module.PRESETS["demo"].dataset == "digits"
    for name, preset in module.PRESETS.items():
        assert preset.preset == name
        preset.check()
        assert f"--preset {name}" in module.__doc__ or preset == next(iter(module.PRESETS.values()))


@every_task
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--no-such-flag", "1"], "--no-such-flag"),
        (["--preset", "demon"], "unknown preset 'demon'; allowed: "),
        (["--dataset", "digitz"], "did you mean digits?"),
        (["--batch-size", "0"], "batch-size is 0; it must be above zero"),
        (["--batch-size", "many"], "'many'"),
        (["--seed=-1"], "seed is -1; allowed: 0 to "),
        (["--dataset", "image_folder:nowhere"], "nowhere is not there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(task, flags, said, tmp_path, capsys):
    assert call(task, "--out", str(tmp_path), *flags) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert list(tmp_path.iterdir()) == []


@every_task
def test_every_number_of_the_config_that_must_be_positive_is(task, tmp_path, capsys):
    default = plan.load_task(task).PRESETS["demo"]
    wrong = ("epochs", "rate", "limit_train", "limit_test", "checkpoint_minutes")
    for field in {field.name for field in dataclasses.fields(default)} & set(wrong):
        assert call(task, "--out", str(tmp_path), "--preset=demo", f"--{field.replace('_', '-')}=0") == 2, field
        assert capsys.readouterr().err.count("\n") == 1, field


@every_task
def test_weights_are_refused_where_no_backbone_loads_them(task):
    presets = plan.load_task(task).PRESETS
    if isinstance(presets["demo"], FineTuning):
        assert parse_strictly(presets, "", ["--preset", "demo", "--weights", "imagenet"]).weights == "imagenet"
    else:
        with pytest.raises(ConfigError, match=r"^Unrecognized options: --weights, imagenet; ") as error:
            parse_strictly(presets, "", ["--preset", "demo", "--weights", "imagenet"])
        assert "\n" not in str(error.value)


@every_task
def test_a_changed_default_raises_the_protocol(task):
    kept, now = json.loads(defaults.KEPT.read_text()).get(task), json.loads(json.dumps(defaults.of(task)))
    assert kept, "a new task: python tests/tasks/defaults.py"
    assert defaults.changed(kept, now) == [], "these defaults name runs: raise the task's PROTOCOL"
    assert kept == now, "new fields or a new protocol: python tests/tasks/defaults.py"


def test_a_changed_default_is_seen_and_a_new_field_is_none():
    kept = {"protocol": 2, "defaults": {"rate": 0.1, "size": 3}}
    assert defaults.changed(kept, {"protocol": 2, "defaults": {"rate": 0.2, "size": 3, "colour": "red"}}) == ["rate"]
    assert defaults.changed(kept, {"protocol": 3, "defaults": {"rate": 0.2}}) == []


# --- the run directory


@every_task
def test_demo_leaves_a_whole_run_directory(task, demos):
    folder = demos(task)
    config, environment, metrics = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "environment", "metrics")
    )
    assert folder.parent.name == config["task"] == metrics["task"] == task
    assert metrics["status"] == "completed"
    assert metrics["seed"] == config["config"]["seed"] == 0
    assert environment.keys() >= in_process.ENVIRONMENT
    assert metrics["images"] == {"train": 108, "validation": 12, "test": 50}
    assert {metrics[split]["n"] for split in ("validation", "test")} == {12, 50}
    rows = read_history(folder)
    assert list(dict.fromkeys(row["phase"] for row in rows)) == list(metrics["phases"])
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert 1 <= len(list(folder.glob("checkpoints/step-*.safetensors"))) <= 2
    best = checkpoints.latest(folder / "checkpoints").data["best"]
    assert {name: entry["epoch"] for name, entry in best.items()} == {
        name: phase["best_epoch"] for name, phase in metrics["phases"].items()
    }
    assert not list(folder.glob("**/.*.tmp"))


@every_task
def test_predictions_give_the_metrics(task, demos):
    folder = demos(task)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (folder / "predictions.npz").is_file() == ("accuracy" in metrics["test"])
    if "accuracy" not in metrics["test"]:
        return
    with np.load(folder / "predictions.npz", allow_pickle=False) as saved:
        for split in ("validation", "test"):
            right = saved[f"{split}_probabilities"].argmax(axis=1) == saved[f"{split}_labels"]
            assert metrics[split]["accuracy"] == pytest.approx(right.mean())
            np.testing.assert_allclose(saved[f"{split}_probabilities"].sum(axis=1), 1, atol=1e-5)


@every_task
def test_a_record_is_small_and_has_what_comparisons_need(task, demos):
    record = records.read_run(demos(task))
    assert len(gzip.compress(json.dumps(record).encode())) < 40_000
    processor = record["environment"]["processor"]
    assert processor["name"]
    assert isinstance(processor["instruction_sets"], list)
    metrics, last = record["metrics"], None
    assert set(metrics["class_counts"]) == {"train", "validation", "test"}
    for phase in metrics["phases"].values():
        for kind in ("best", "last"):
            assert {"epoch", "running", "validation", "test"} <= phase[kind].keys()
        assert phase["last"]["epoch"] == phase["epochs"]
        last = phase[metrics["reported"]]
    assert metrics["test"]["loss"] == last["test"]["loss"]
    if "accuracy" not in metrics["test"]:
        assert "outcomes" not in record
        return
    labels, predicted, right = unpacked(record["outcomes"])
    assert np.bincount(labels, minlength=2).tolist() == metrics["class_counts"]["test"]
    assert metrics["test"]["accuracy"] == pytest.approx(np.mean(labels == predicted))
    for state, each in right.items():
        name, kind = state.split("/")
        assert metrics["phases"][name][kind]["test"]["accuracy"] == pytest.approx(each.mean())
    assert len(right) == 2 * len(metrics["phases"]) - 1


@every_task
def test_the_kept_network_gives_the_predictions_again(task, demos, tmp_path, capsys):
    """From image files: all of them the same bits, and some of them in another order too."""
    run = demos(task)
    if not (run / "predictions.npz").is_file():
        with pytest.raises(ConfigError, match="is no classifier's run"):
            trained.load(run)
        return
    before = np.load(run / "predictions.npz")
    config = parse_strictly(plan.load_task(task).PRESETS, "", short(task))
    data = sources.load(config)
    if len(before["test_labels"]) != len(data.test):
        return  # the images were changed for the task, as by turning half of them
    paths = [tmp_path / f"{place}.png" for place in range(len(data.test))]
    for path, image in zip(paths, pipeline.pictures(data.test, np.arange(len(data.test))), strict=True):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
    for chosen in (paths, paths[7:2:-1]):
        with pytest.raises(SystemExit) as stop:
            predict.main([str(run), *map(str, chosen), "--json"])
        assert stop.value.code == 0
        found = json.loads(capsys.readouterr().out)
        assert [one["file"] for one in found] == [str(path) for path in chosen]
        expected = before["test_probabilities"][[paths.index(path) for path in chosen]]
        names = before["class_names"].tolist()
        given = np.array([[one["classes"][name] for name in names] for one in found], np.float32)
        np.testing.assert_array_equal(given, expected)


@every_task
def test_figures_are_pictures(task, demos):
    figures = list(demos(task).glob("figures/*.png"))
    assert len(figures) >= 3
    for path in figures:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 1, f"{path.name} is blank"


@every_task
def test_the_page_has_the_metrics_and_every_figure(task, demos):
    folder = demos(task)
    page = (folder / "report.html").read_text()
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert f">{100 * test['accuracy']:.2f}<" in page if "accuracy" in test else 'id="matrix"' not in page
    assert f">{test['loss']:.4g}<" in page
    figures = {path.stem for path in folder.glob("figures/*.png")}
    if "accuracy" in test:
        figures.remove("confusion")  # the page has the matrix itself
    assert set(re.findall(r'href="figures/(\w+)\.png"', page)) == figures


@every_task
def test_the_same_command_again_leaves_it_alone(task, demos, capsys):
    folder = demos(task)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("**/*")}
    assert call(task, "--out", str(folder.parents[1]), *short(task)) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.glob("**/*")} == before


def end_of(folder):
    """What a run has computed: everything but times, hosts and paths."""
    return {
        "metrics": kill_and_resume.without_times(json.loads((folder / "metrics.json").read_text())),
        "history": kill_and_resume.without_times(read_history(folder)),
        "best": checkpoints.latest(folder / "checkpoints").data["best"],  # the names of files hold their digests
        "figures": {path.name: path.read_bytes() for path in folder.glob("figures/*.png")},
        "page": kill_and_resume.page_without_times((folder / "report.html").read_text()),
    }


# cifar_phased's own: tests/test_resume.py, with real signals.
@pytest.mark.parametrize("task", [task for task in TASKS if task != "cifar_phased"])
def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_was_not(task, demos, tmp_path, monkeypatch, capfd):
    def signalled(loop, batch, logs=None, whole=Loop.on_train_batch_end):
        if len(loop.progress.rows) == 1 and batch == 0:  # the first step of the second epoch
            signal.raise_signal(signal.SIGTERM)
        whole(loop, batch, logs)

    one_by_one = ["--steps-per-execution", "1"]  # to be stopped within an epoch
    command = ["--out", str(tmp_path), *short(task), *one_by_one]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "on_train_batch_end", signalled)
        assert call(task, *command) == 128 + signal.SIGTERM
    printed = capfd.readouterr()
    assert "SIGTERM: saving at the end of this step" in printed.out
    assert "the same command goes on" in printed.err
    assert not (folder_in(tmp_path) / "metrics.json").exists()
    assert call(task, *command, drawn=True) == 0
    assert re.search(r"resuming: phase \w+, epoch [12], step 1\n", capfd.readouterr().out)
    resumed, expected = end_of(folder_in(tmp_path)), end_of(demos(task))
    for part in expected:
        assert resumed[part] == expected[part], part
    starts = json.loads((folder_in(tmp_path) / "environment.json").read_text())["starts"]
    assert len(starts) == 2


# --- what is written about it


def parsed(task, flags):
    """The config that the task's own parser makes of the flags, less those that name files."""
    words = [word for word in shlex.split(NEEDS_FILES.sub("", flags)) if word != "--help"]
    return parse_strictly(plan.load_task(task).PRESETS, "", words)


@every_task
def test_commands_of_the_docstring_parse(task):
    commands = COMMAND.findall(plan.load_task(task).__doc__)
    assert {name for name, _ in commands} == {task}
    configs = [parsed(name, flags) for name, flags in commands]
    assert "demo" in {config.preset for config in configs}
    assert len({config.name() for config in configs}) == len(configs), "two commands are one and the same run"


@pytest.mark.parametrize("readme", READMES)
def test_commands_of_the_readme_parse(readme, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # that of the commands with --nodes; the others do not mind
    commands = COMMAND.findall((REPOSITORY / readme).read_text())
    assert commands
    for task, flags in commands:
        parsed(task, flags)


@every_task
def test_readme_has_a_figure_a_table_and_no_dead_link(task):
    folder = REPOSITORY / "tasks" / task
    text = (folder / "README.md").read_text()
    assert text.startswith(f"# {task}")
    assert re.search("<!-- results -->.*<!-- /results -->", text, re.DOTALL)
    if any((REPOSITORY / "results" / "records" / task).glob("*.json")):
        assert re.search(r"!\[[^\]]+\]\([^)]+\.(png|webp)\)", text), "show one of results/figures/"
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []
    if any((REPOSITORY / "results" / "records" / task).glob("*.json")):  # the overview names it
        assert f"tasks/{task}/README.md" in (REPOSITORY / "README.md").read_text()


def references(task):
    with (REPOSITORY / "tasks" / task / "reference.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@every_task
def test_reference_has_the_columns_and_numbers(task):
    header = (REPOSITORY / "tasks" / task / "reference.csv").read_text().partition("\n")[0]
    assert header.removesuffix(",arm") == "preset,setting,metric,published,margin,source,note"
    rows = references(task)
    for row in rows:
        assert None not in row, f"too many values: {row}"
        assert all(value is not None and value == value.strip() for value in row.values()), row
        assert Decimal(row["published"]).is_finite(), row
        assert Decimal(row["margin"] or 0) >= 0, row
        assert re.fullmatch(r"\d{3}", row["source"]), row
        if "(%)" in row["metric"]:
            assert 0 <= Decimal(row["published"]) <= 100, row
    places = [(row["preset"], row["setting"], row["metric"]) for row in rows]
    assert len(set(places)) == len(places), "a metric stands twice"


@every_task
def test_reference_names_settings_as_runs_do(task):
    presets = plan.load_task(task).PRESETS
    for row in references(task):
        assert row["preset"] in presets, row
        values = dict(word.split("=", 1) for word in row["setting"].split(" "))
        config = parse_strictly(presets, "", ["--preset", row["preset"], *plan.flags(values)])
        assert config.setting(presets) == row["setting"], row


@every_task
def test_reference_names_figures_that_are_measured(task, demos):
    record = records.read_run(demos(task))  # which raises where the table could not rest on the run
    known = {metric.name for metric in METRICS.values()} | by_name(record["metrics"]).keys()
    one_class = re.compile(r"(?<=F1 of )\w+")  # whose name is the data set's
    assert {one_class.sub("a class", row["metric"]) for row in references(task)} <= {
        one_class.sub("a class", name) for name in known
    }


def test_a_report_loads_no_framework():
    code = (
        "import sys; from pathlib import Path; from results.collect import load_report\n"
        "for task in sys.argv[1:]:\n"
        "    load_report(Path('tasks', task, 'report.py'))\n"
        "    print(task, *{'keras', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, *TASKS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == TASKS


@every_task
def test_a_report_selects_by_fields_and_values_that_configs_have(task):
    presets, report = plan.load_task(task).PRESETS, load_report(REPOSITORY / "tasks" / task / "report.py")
    rules = [*report.pairs, *([report.headline.of] if report.headline else [])]
    sides = [(rule.one, rule.other) if isinstance(rule, Pair) else (rule,) for rule in rules]
    for selection in itertools.chain.from_iterable(sides):
        values = {key: str(value) for key, value in flat(selection).items() if key != "preset"}
        config = parse_strictly(presets, "", ["--preset", selection["preset"], *plan.flags(values)])
        assert fits(flat(config.identity()), flat(selection)), selection


@pytest.mark.parametrize("task", [task for task in TASKS if (REPOSITORY / "tasks" / task / "report.py").exists()])
def test_a_report_has_its_tasks_presets_and_no_name_that_no_run_has(task):
    report = load_report(REPOSITORY / "tasks" / task / "report.py")
    both = (report.presets, plan.load_task(task).PRESETS)
    there, said = ({name: preset.identity() for name, preset in presets.items()} for presets in both)
    assert there == said
    assert misnamed(task, report, read_references(REPOSITORY / "tasks" / task / "reference.csv")) == []


@every_task
def test_figures_of_a_report_have_captions_and_names_of_their_own(task):
    figures = load_report(REPOSITORY / "tasks" / task / "report.py").figures
    assert len({figure.__name__ for figure in figures}) == len(figures)
    for figure in figures:
        assert figure.__doc__.startswith("Draw "), figure.__name__


@every_task
def test_a_report_declares_what_runs_measure(task, demos):
    own = load_report(REPOSITORY / "tasks" / task / "report.py").metrics
    names = records.read_run(demos(task))["metrics"].get("by_name", {})
    assert [name for name in names if declared(name, own) is None] == []


@every_task
def test_every_sweep_plans_without_mistakes(task):
    path = REPOSITORY / "tasks" / task / "sweeps.yaml"
    names = list(yaml.safe_load(path.read_text()))
    assert names
    for name in names:
        sweep = sweeps.load(task, name)
        assert sweep.about
        seeds = parse_seeds(sweep.seeds)
        planned = plan.in_waves(task, sweep, {}, seeds)
        assert len({run.name for run in planned}) == len(planned) >= len(seeds)
        assert {run.wave for run in planned} == ({0, 1} if sweep.after else {0})
