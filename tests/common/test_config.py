import dataclasses
import importlib.util
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import fine_tuning, words
from common.command_line import parse, parse_strictly
from common.config import Config
from common.errors import ConfigError
from common.phase import Phase

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tasks" / "cifar_phased" / "train.py"


def task():
    """Return the task's module, as its script would be."""
    spec = importlib.util.spec_from_file_location("cifar_phased_train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TASK = task()
PRESETS = TASK.PRESETS


def parsed(*argv):
    return parse(PRESETS, "A task.", argv)


def refused(capsys, *argv):
    """Return the one line that the user reads."""
    with pytest.raises(SystemExit) as stop:
        parsed(*argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


def script(*argv, **environment):
    command = [sys.executable, SCRIPT, *argv]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


def test_help_shows_every_field_with_default_and_text(capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("--help")
    assert stop.value.code == 0
    entries = help_entries(capsys.readouterr().out)
    fields = [f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(TASK.PhasedConfig) if f.name != "phases"]
    phases = [
        f"--phases.{i}.{f.name.replace('_', '-')}" for i in range(3) for f in dataclasses.fields(TASK.TuningPhase)
    ]
    assert set(entries) == {"-h", *fields, *phases}
    for flag in (*fields, *phases):
        text, _, default = entries[flag].rpartition("(default: ")
        assert len(text.split()) >= 1, flag
        assert default.endswith(")"), flag
    assert entries["--batch-size"] == "Images per step, on all devices together. (default: 64)"
    assert entries["--phases.2.rate"].endswith("(default: 1e-05)")


def help_entries(text):
    """Return {flag: its text} of tyro's framed help."""
    entries, flag = {}, None
    for line in text.splitlines():
        inner = line.strip("│ ")
        if set(inner) == {"-"}:
            continue
        if inner.startswith("-"):
            flag = inner.split()[0].rstrip(",")
            entries[flag] = ""
        elif flag and not inner.endswith(("options", "╮", "╯")):
            entries[flag] = f"{entries[flag]} {inner}".strip()
    return entries


def test_command_line_imports_neither_keras_nor_tensorflow():
    code = (
        f"import runpy, sys\n"
        f"sys.argv = ['train.py', '--help']\n"
        f"try:\n    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        f"except SystemExit as stop:\n    assert not stop.code\n"
        f"print(sorted({{'keras', 'tensorflow', 'sklearn', 'matplotlib', 'jax'}} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "--batch-size" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--btach-size", "8"], "--btach-size, 8; did you mean --batch-size?"),
        (["--batch-size", "many"], "'many'"),
        (["--dataset", "image_folder:nowhere"], "nowhere is not there"),
    ],
)
def test_script_answers_a_mistake_with_one_line(argv, said, encoding):
    done = script(*argv, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_script_answers_a_mistake_with_one_plain_line_on_a_terminal():
    here, there = pty.openpty()
    command = [sys.executable, SCRIPT, "--btach-size", "8"]
    with subprocess.Popen(command, stdout=there, stderr=there, env=os.environ | {"TERM": "xterm"}) as process:
        assert process.wait(timeout=120) == 2
    shown = os.read(here, 100_000).decode()
    os.close(there)
    os.close(here)
    assert shown == "error: Unrecognized options: --btach-size, 8; did you mean --batch-size?\r\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--phases.0.epoch 2", "did you mean --phases.0.epochs?"),
        ("--sed 1 --phases.1.weight-decya 0", "did you mean --seed --phases.1.weight-decay?"),
        ("--sede 1 --seeed 2", "--seeed, 2; did you mean --seed?"),
        ("--wholly-unlike-any 1", "--wholly-unlike-any"),
        ("stray", "stray"),
        (
            "--preset three_phases",
            "unknown preset 'three_phases'; allowed: three_phase, laptop, one_phase, two_phase, pretrain, demo; did",
        ),
        ("--preset", "unknown preset ''"),
        (
            "--dataset cifar11",
            "allowed: digits, cifar10, cifar100, mnist, notmnist, fer2013, "
            "tfds:NAME[/CONFIG][:VERSION], image_folder:PATH; did you mean cifar10?",
        ),
        ("--dataset image_folder:", "names no folder"),
        ("--backbone resnet19", "resnet101"),
        ("--augmentation flip", "affine_colour_blur"),
        ("--augment-at middle", "native"),
        (
            "--augment-on host",
            "augment-on is host, which augments before the resize, and augment-at is input; allowed: --augment-at nat",
        ),
        ("--precision float64", "'mixed_bfloat16'"),
        ("--batch-size", "Missing value for argument '--batch-size'"),
        ("--batch-size 2.5", "'2.5'"),
        ("--batch-size 0", "batch-size is 0; it must be above zero"),
        ("--batch-size -4", "batch-size is -4; it must be above zero"),
        ("--image-size 0", "image-size is 0"),
        ("--image-size 31", "32 or more"),
        ("--limit-train 0", "limit-train is 0"),
        ("--limit-test -1", "limit-test is -1"),
        ("--checkpoint-minutes inf", "checkpoint-minutes is inf; it must be finite"),
        ("--seed -1", "seed is -1"),
        ("--seed 4294967296", "seed is 4294967296"),
        ("--weights nowhere.safetensors", "weights 'nowhere.safetensors': not found"),
        ("--phases.0.epochs 0", "phase 'head': epochs is 0; it must be above zero"),
        ("--phases.0.epochs -2", "phase 'head': epochs is -2; it must be above zero"),
        ("--phases.0.rate nan", "rate is nan"),
        ("--phases.0.rate inf", "rate is inf; it must be finite"),
        ("--phases.0.dropout 1", "dropout is 1.0; allowed: 0 <= dropout < 1"),
        ("--phases.0.weight-decay nan", "weight_decay is nan"),
        ("--phases.0.clip-norm 0", "clip_norm is 0.0"),
        ("--phases.0.momentum 0.9", "momentum is for sgd; the optimizer is adam"),
        ("--phases.0.optimizer sgd --phases.0.momentum 1", "momentum is 1.0"),
        ("--phases.0.final-rate 0.01", "final_rate 0.01 is above rate 0.001"),
        ("--phases.0.schedule warmup_cosine --phases.0.warmup-epochs 5", "warmup_epochs is 5 of 5 epochs"),
        ("--phases.0.cosine-epochs 0", "cosine_epochs is 0"),
        (
            "--phases.0.warmup-epochs 1",
            "warmup_epochs shape the rate of schedule warmup_cosine; with constant: warmup-",
        ),
        (
            "--phases.0.warmup-start 0.5 --phases.0.schedule-by epoch",
            "warmup_start and schedule_by shape the rate of schedule warmup_cosine; with constant: ",
        ),
        ("--phases.0.warmup-start 0", "warmup_start is 0.0; allowed: 0 < warmup_start <= 1"),
        ("--phases.0.warmup-start nan", "warmup_start is nan"),
        ("--phases.0.schedule-by batch", "--phases.0.schedule-by"),
        ("--phases.0.convention jax", "--phases.0.convention"),
        ("--phases.1.name head", "phases need different names; these are head, head, full"),
        ("--phases.1.name ../up", "small letters"),
        ("--phases.0.image-size 31", "phase 'head': image_size is 31; allowed: 32 to --image-size, 224, or None"),
        ("--phases.0.image-size 225", "phase 'head': image_size is 225; allowed: 32 to --image-size, 224, or None"),
        ("--phases.2.image-size 64", "phase 'full': image_size is 64; the last phase trains at --image-size, 224"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, argv, said):
    assert said in refused(capsys, *argv.split())


def test_missing_data_folder_says_where_it_looked_and_what_fetches_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "--dataset", "cifar100", "--data-dir", "sets")
    assert f"data folder {tmp_path / 'sets'} is not there" in line
    assert "`python -m common.data prepare cifar100 --data-dir sets`" in line


def test_missing_image_folder_says_where_it_looked(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"image folder {tmp_path / 'frogs'} is not there" in refused(capsys, "--dataset", "image_folder:frogs")
    (tmp_path / "frog.jpg").touch()
    assert f"image folder {tmp_path / 'frog.jpg'} is no folder" in refused(capsys, "--dataset", "image_folder:frog.jpg")
    (tmp_path / "frogs").mkdir()
    said = "dataset './frogs' is a folder; did you mean image_folder:./frogs?"
    assert said in refused(capsys, "--dataset", "./frogs")
    assert parsed("--dataset", "image_folder:frogs").dataset == "image_folder:frogs"


def test_a_folder_has_one_name_however_it_is_written(tmp_path, monkeypatch):
    """A run is found again by its name."""
    (tmp_path / "frogs").mkdir()
    (tmp_path / "pond").symlink_to("frogs")
    monkeypatch.chdir(tmp_path / "frogs")
    ways = (".", "../frogs", "../pond", tmp_path / "frogs", f"{tmp_path}/frogs/")
    (name,) = {parsed("--dataset", f"image_folder:{way}").name() for way in ways}
    assert "-frogs-" in name


def test_strict_parsing_raises_for_the_launcher():
    with pytest.raises(ConfigError, match="batch-size is 0"):
        parse_strictly(PRESETS, "A task.", ["--batch-size", "0"])


def test_flags_change_single_values_of_a_preset():
    config = parsed("--preset", "two_phase", "--phases.1.epochs", "50", "--batch-size", "8")
    preset = PRESETS["two_phase"]
    phases = (preset.phases[0], dataclasses.replace(preset.phases[1], epochs=50))
    assert config == dataclasses.replace(preset, batch_size=8, phases=phases)
    assert parsed() == PRESETS["three_phase"]
    assert parsed("--preset=demo") == PRESETS["demo"]


def test_name_is_slug_hash_and_seed():
    names = [parsed("--seed", str(seed)).name() for seed in (0, 7)]
    slug, digest, seed = names[1].rsplit("-", 2)
    assert (slug, seed) == ("three_phase-cifar10-resnet18", "s7")
    assert len(digest) == 8
    assert names[0] == names[1].removesuffix("7") + "0"
    assert digest == parsed().name().split("-")[-2]  # and the same in another parse


@dataclass(frozen=True)
class Rates:
    head: float


@dataclass(frozen=True)
class Toy(Config):
    phases: tuple[Phase, ...] = ()
    rates: Rates = Rates(0.5)


@dataclass(frozen=True)
class GrownPhase(Phase):
    colour: str = "red"


@dataclass(frozen=True)
class GrownRates(Rates):
    top: float = 1.0


@dataclass(frozen=True)
class Grown(Toy):
    """The same some time later: a new field in the config, in its phases and in its rates."""

    size: int = 3
    rates: Rates = GrownRates(0.5)


PHASE = ("train", 2, "sgd", 0.1)


def test_a_new_field_leaves_the_names_of_older_runs_as_they_are():
    then = Toy(seed=5, batch_size=32, phases=(Phase(*PHASE, momentum=0.5),), rates=Rates(0.25))
    now = Grown(seed=5, batch_size=32, phases=(GrownPhase(*PHASE, momentum=0.5),), rates=GrownRates(0.25))
    assert now.name() == then.name()
    names = {then.name(), Toy().name()}
    names |= {dataclasses.replace(now, size=4).name(), dataclasses.replace(now, rates=GrownRates(0.25, 2.0)).name()}
    names.add(dataclasses.replace(now, phases=(GrownPhase(*PHASE, momentum=0.5, colour="blue"),)).name())
    assert len(names) == 5


def test_another_protocol_is_another_run():
    class Later(Toy):
        PROTOCOL = Toy.PROTOCOL + 1

    assert Later().name() != Toy().name()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--weights", "none", "--batch-norm", "keep"],
            "batch-norm is keep, and random weights have no statistics to keep",
        ),
        (["--batch-norm", "follow", "--cache-features", "on"], "cache-features is on, and with batch-norm follow"),
        (
            ["--batch-norm", "follow", "--cache-views", "2"],
            "cache-views is for frozen layers whose outputs do not change",
        ),
    ],
)
def test_regimes_of_batch_norm_that_cannot_be_are_one_line(capsys, flags, said):
    assert said in refused(capsys, *flags)


# Another valid value of every field; a field that is missing here fails the test below.
OTHERS = {
    "preset": "demo",
    "dataset": "mnist",
    "data_dir": Path("elsewhere"),
    "weights": "none",
    "out": Path("elsewhere"),
    "seed": 1,
    "seeds": "0:3",
    "precision": "float32",
    "batch_size": 65,
    "limit_train": 100,
    "limit_test": 100,
    "overwrite": True,
    "offline": True,
    "deterministic": "yes",
    "tensorboard": True,
    "checkpoint_minutes": 1.0,
    "steps_per_execution": 4,
    "devices": 2,
    "nodes": 2,
    "looks": 3,
    "backbone": "resnet34",
    "image_size": 96,
    "batch_norm": "layer",
    "cache_features": "off",
    "cache_gigabytes": 1.0,
    "cache_views": 2,
    "augmentation": "none",
    "augment_on": "host",
    "augment_at": "native",
    "head_init": "he_normal",
    "phases": PRESETS["demo"].phases,
}
SAME_HASH = {"seed", "data_dir", "out", "overwrite", "offline", "tensorboard", "checkpoint_minutes", "devices", "nodes"}
SAME_HASH |= {"seeds", "steps_per_execution", "cache_features", "cache_gigabytes", "looks"}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(TASK.PhasedConfig)])
def test_hash_depends_on_what_the_result_depends_on(field):
    config = PRESETS["three_phase"]
    other = dataclasses.replace(config, **{field: OTHERS[field]})
    assert other != config
    same = other.name().split("-")[-2] == config.name().split("-")[-2]
    assert same == (field in SAME_HASH)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(TASK.TuningPhase)])
def test_hash_depends_on_every_field_of_a_phase(field):
    first, *rest = PRESETS["three_phase"].phases
    value = getattr(first, field)
    other = dataclasses.replace(first, **{field: f"{value}x" if isinstance(value, str) else (value or 0) + 1})
    changed = dataclasses.replace(PRESETS["three_phase"], phases=(other, *rest))
    assert changed.name() != PRESETS["three_phase"].name()


def test_weights_file_counts_by_name_and_content_not_by_folder(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    paths = [tmp_path / "first.safetensors", tmp_path / "a" / "first.safetensors", tmp_path / "b" / "first.safetensors"]
    paths[0].write_bytes(b"weights")
    shutil.copy(paths[0], paths[1])
    paths[2].write_bytes(b"weightS")
    names = [parsed("--weights", str(path)).name() for path in paths]
    assert names[0] == names[1]
    assert names[0] != names[2]
    config = parsed("--weights", str(paths[0]))
    # echo -n weights | sha256sum
    assert config.identity()["weights"] == "first.safetensors@sha256:9a129038d9a00aed"
    assert str(tmp_path) not in str(config.identity())


def write_run(folder, backbone="resnet18", status="completed", content=b"weights", **more):
    folder.mkdir(parents=True)
    config = {"preset": "pretrain", "backbone": backbone, "seed": 0, "weights": "none", "dataset": "cifar100"} | more
    (folder / "config.json").write_text(json.dumps({"config": config}))
    if status:
        (folder / "metrics.json").write_text(json.dumps({"status": status}))
    if content:
        (folder / "backbone.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("dataset", "started_from", "said"),
    [
        ("image_folder:/data/tiny-imagenet", "none", "Tiny-ImageNet weights"),
        ("image_folder:/data/tiny-imagenet-200", "none", "Tiny-ImageNet weights"),
        ("cifar100", "none", "CIFAR-100 weights"),
        ("image_folder:/data/my photos=2@home", "none", "my_photos_2_home weights"),
        # Trained on two data sets, one after the other.
        ("image_folder:/data/tiny-imagenet", "imagenet", "weights pretrain-resnet18-s0"),
    ],
)
def test_weights_of_a_run_are_named_by_the_data_they_were_trained_on(tmp_path, dataset, started_from, said):
    write_run(tmp_path / "task" / "run", dataset=dataset, weights=started_from)
    label = parsed("--weights", str(tmp_path / "task" / "run")).identity()["weights"]
    assert words.weights(label) == said


@pytest.mark.parametrize("content", ["{", "{}", '{"config": {"preset": "pretrain"}}'])
def test_weights_beside_a_damaged_config_are_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"^weights are of a run whose .*config\.json is damaged: "):
        fine_tuning.weights_label(tmp_path / "backbone.safetensors")


def test_weights_of_older_names_are_said_as_before():
    assert words.weights("pretrain-mobilenet_v2-s0@sha256:00") == "weights pretrain-mobilenet_v2-s0"
    assert words.weights("resnet18_tiny_imagenet.safetensors@sha256:00") == "Tiny-ImageNet weights"
    assert (
        words.weights("mobilenet_v2_imagenet_from_int8.weights.h5@sha256:00") == "ImageNet weights from an int8 model"
    )


def test_run_of_weights_counts_by_content_however_it_is_named(tmp_path, monkeypatch):
    name = "pretrain-photos-resnet18-12345678-s0"
    write_run(tmp_path / "out" / "task" / name)
    write_run(tmp_path / "out" / "task" / name.replace("s0", "s1"), content=b"weightS")
    shutil.copytree(tmp_path / "out" / "task" / name, tmp_path / "elsewhere" / "copy")
    monkeypatch.chdir(tmp_path / "out")
    ways = [f"task/{name}", str(tmp_path / "out" / "task" / name), name, "12345678-s0", "8-s0", f"ask/{name}"]
    configs = [parsed("--out", str(tmp_path / "out"), "--weights", way) for way in ways]
    configs.append(parsed("--weights", str(tmp_path / "elsewhere" / "copy")))
    for config in configs:
        assert Path(config.weights_source()).read_bytes() == b"weights"
        assert config.identity()["weights"] == "pretrain-resnet18-s0-on-cifar100@sha256:9a129038d9a00aed"
    assert len({config.name() for config in configs}) == 1
    other = parsed("--out", str(tmp_path / "out"), "--weights", "12345678-s1")
    assert other.name() != configs[0].name()


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"status": None}, "no finished run in "),
        ({"status": "diverged"}, "no finished run in "),
        ({"backbone": "resnet34"}, "has backbone resnet34; this run needs resnet18"),
        ({"backbone": None}, "has backbone None; this run needs resnet18"),
        ({"content": None}, "has no backbone.safetensors"),
        ({"dataset": "cifar10", "seed": 1}, "has seed 1; this run needs 0"),  # trained on what validates here
        ({"dataset": "tfds:cifar10", "seed": 1}, "has seed 1; this run needs 0"),
        ({"dataset": "tfds:cifar10:3.0.2", "seed": 1}, "has seed 1; this run needs 0"),
        ({"dataset": "cifar10", "limit_train": 9}, "has limit_train 9; this run needs None"),
    ],
)
def test_run_that_weights_cannot_take_is_one_line(tmp_path, capsys, run, said):
    write_run(tmp_path / "task" / "a-run", **run)
    assert said in refused(capsys, "--out", str(tmp_path), "--weights", "a-run")
    assert said in refused(capsys, "--weights", str(tmp_path / "task" / "a-run"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("s0", "weights 's0' fits 2 runs: task/one-s0, task/two-s0"),
        ("s1", "weights 's1': not found; allowed: imagenet, none, a file, or a finished run"),
        ("", "weights '': not found"),
        (".", "weights '.': not found"),
    ],
)
def test_name_of_no_run_or_of_several_is_one_line(tmp_path, capsys, name, said):
    for run in ("one-s0", "two-s0"):
        write_run(tmp_path / "task" / run)
    assert said in refused(capsys, "--out", str(tmp_path), "--weights", name)


def test_folder_whose_name_is_not_utf_8_is_one_line(capsys, tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    assert f"{f'image_folder:{folder}'!a} is not UTF-8; rename the file or folder" in refused(
        capsys, "--dataset", f"image_folder:{folder}"
    )


@pytest.mark.parametrize("folder", ["\u7167" * 80, "x" * 255, "[v1], ~x"])
def test_any_folder_makes_a_name_that_a_file_system_takes(tmp_path, folder):
    (tmp_path / folder).mkdir()
    name = parsed("--dataset", f"image_folder:{tmp_path / folder}").name()
    (tmp_path / f".{name}.json.4194304.tmp").touch()
    assert re.fullmatch(r"\w[\w.-]*-[0-9a-f]{8}-s0", name)


def test_weights_below_the_home_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.safetensors").write_bytes(b"weights")
    assert parsed("--weights=~/own.safetensors").weights == str(tmp_path / "own.safetensors")


def test_image_folders_of_one_name_in_two_places_are_two_runs(tmp_path, monkeypatch):
    names = []
    for place in ("a", "b"):
        (tmp_path / place / "photos").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        names.append(parsed("--dataset", "image_folder:photos").name())
        assert names[-1] == parsed("--dataset", f"image_folder:{tmp_path / place / 'photos'}").name()
        assert names[-1].startswith("three_phase-photos-")
    assert names[0] != names[1]


def test_setting_names_data_and_what_differs_from_the_preset():
    assert parsed("--seed", "5", "--out", "x").setting(PRESETS) == "dataset=cifar10 backbone=resnet18 batch_norm=follow"
    argv = ("--phases.1.rate", "0.01", "--limit-train", "50", "--backbone", "resnet34", "--offline")
    said = "dataset=cifar10 limit_train=50 backbone=resnet34 batch_norm=follow phases.1.rate=0.01"
    assert parsed(*argv).setting(PRESETS) == said


def test_setting_is_in_the_spelling_of_the_command_line():
    config = parsed("--phases.1.rate", "0.01", "--image-size", "96", "--phases.0.clip-norm", "0.5")
    flags = [f"--{pair}" for pair in config.setting(PRESETS).split()]
    assert parsed(*flags) == config


def test_identity_and_operational_hold_every_field_once():
    config = parsed("--data-dir", str(ROOT), "--cache-views", "2", "--batch-norm", "keep")
    identity, operational = config.identity(), config.operational()
    assert set(identity) | set(operational) == {f.name for f in dataclasses.fields(config)}
    assert not set(identity) & set(operational)
    assert operational["data_dir"] == str(ROOT)


def test_presets_pass_their_own_checks_and_carry_their_names():
    for name, preset in PRESETS.items():
        preset.check()
        assert preset.preset == name


def test_data_dir_follows_flag_then_environment_then_home(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "from_environment")
    assert Config(data_dir=Path("from_flag")).data_folder == Path("from_flag")
    assert Config().data_folder == Path("from_environment")
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "home")
    assert Config().data_folder == Path("home/tensorflow_datasets")


def test_slurm_jobs_are_offline(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not Config().is_offline
    assert Config(offline=True).is_offline
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert Config().is_offline


LONG = "x" * 300


@pytest.mark.parametrize(
    "flags",
    [
        ("--dataset", f"image_folder:{LONG}"),
        ("--dataset", LONG),
        ("--dataset", f"tfds:{LONG}", "--data-dir", "."),
        ("--weights", LONG),
        ("--data-dir", LONG),
    ],
)
def test_a_name_that_is_too_long_is_one_line(flags):
    with pytest.raises(ConfigError, match=f"{LONG}: File name too long$"):
        parse_strictly(PRESETS, "", ["--preset=demo", *flags])


def test_a_name_that_is_too_long_for_a_data_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match=f"TFDS has no data set '{LONG}', and .*/absent has none of this name"):
        parse_strictly(PRESETS, "", ["--preset=demo", "--dataset", f"tfds:{LONG}", "--data-dir", f"{tmp_path}/absent"])


@pytest.mark.parametrize(
    "flags",
    [
        ("--dataset", "image_folder:{closed}/a"),
        ("--dataset", "cifar10", "--data-dir", "{closed}/a"),
        ("--weights", "{closed}/a"),
        ("--weights", "{secret}"),
    ],
)
def test_a_path_that_one_may_not_look_at_is_one_line(tmp_path, as_nobody, flags):
    closed, secret = tmp_path / "closed", tmp_path / "w.safetensors"
    closed.mkdir(mode=0o000)
    secret.touch(0o000)
    argv = ["--preset=demo", *(flag.format(closed=closed, secret=secret) for flag in flags)]
    with as_nobody(), pytest.raises(ConfigError, match=f"^{tmp_path}/.*: Permission denied$"):
        parse_strictly(PRESETS, "", argv)


@pytest.mark.parametrize("field", ["weight_decay", "final_rate", "warmup_epochs"])
def test_nothing_of_a_phase_is_below_zero(field):
    phase = Phase("p", 5, "adam", 1e-3, schedule="warmup_cosine", **{field: -1})
    with pytest.raises(ConfigError, match=f"{field} is -1"):
        phase.check()


def test_momentum_is_not_below_zero():
    with pytest.raises(ConfigError, match=r"momentum is -0\.5"):
        Phase("p", 5, "sgd", 1e-3, momentum=-0.5).check()
