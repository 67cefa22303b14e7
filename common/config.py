"""Configurations and their command line. Imports neither Keras nor TensorFlow, so that `--help` is quick.

A task's config is a frozen dataclass that extends `Config`; its presets are instances of it. `parse` turns the
command line into one, and any mistake into one line and exit code 2.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import ClassVar, Literal, NoReturn, TypeVar

import tyro

# Names only: what they stand for is in common/data, common/augment.py and common/backbones.py.
DATASETS = ("digits", "cifar10", "cifar100", "mnist", "notmnist", "fer2013")
AUGMENTATIONS = ("none", "flip_crop", "affine_colour_blur")
BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "mobilenet_v2",
)

REPOSITORY = Path(__file__).resolve().parents[1]
BACKBONE_FILE = "backbone.safetensors"  # in the directory of a finished run that has a backbone


class ConfigError(ValueError):
    """A mistake in what the user asked for; its text is the one line that the user reads."""


@dataclass(frozen=True)
class Phase:
    """A part of training: what is trainable, and how."""

    name: str
    """Name in tables and figures."""
    trainable: Literal["head", "last_block", "full"]
    """Head only; head and last block of the backbone; everything."""
    epochs: int
    """Passes over the training images."""
    optimizer: Literal["sgd", "adam", "adamw", "nadam"]
    """Optimiser (sgd: no momentum unless --phases.N.momentum)."""
    rate: float
    """Learning rate; with warmup_cosine its peak."""
    dropout: float = 0.0
    """Dropout rate before the head."""
    momentum: float = 0.0
    """Momentum, sgd only."""
    weight_decay: float = 0.0
    """Weight decay: decoupled (Loshchilov and Hutter 2019); with convention torch for adamw alone, else added to the
    gradient."""
    clip_norm: float | None = None
    """Largest global L2 norm of the gradient, before weight decay."""
    convention: Literal["keras", "torch"] = "keras"
    """Whose formulas the optimiser follows if the two differ: torch adds weight decay to the gradient (adamw:
    decoupled), has epsilon 1e-8, a slower momentum schedule (nadam) and momentum that gathers gradients (sgd)."""
    schedule: Literal["constant", "warmup_cosine"] = "constant"
    """Shape of the learning rate over the phase."""
    warmup_epochs: int = 0
    """Epochs of linear rise to the peak."""
    warmup_start: float = 0.01
    """Share of the peak at which the rise begins (torch's LinearLR: 1/3)."""
    cosine_epochs: int | None = None
    """Epochs from peak to floor; past it the cosine rises again. None: one descent over the whole phase."""
    final_rate: float = 0.0
    """Floor of the cosine."""
    schedule_by: Literal["step", "epoch"] = "step"
    """The rate changes with every step, or is that of an epoch's first step for all of it, as torch's schedulers do."""
    image_size: int | None = None
    """Side of the square that the backbone sees in this phase, in pixels. None: --image-size."""

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        prefix = f"phase {self.name!r}: "
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ConfigError(f"{prefix}a name has small letters, digits and _ only")
        positive(prefix + "epochs", self.epochs)
        positive(prefix + "rate", self.rate)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"{prefix}dropout is {self.dropout}; allowed: 0 <= dropout < 1")
        if self.momentum and self.optimizer != "sgd":
            raise ConfigError(f"{prefix}momentum is for sgd; the optimizer is {self.optimizer}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"{prefix}momentum is {self.momentum}; allowed: 0 <= momentum < 1")
        for field in ("weight_decay", "warmup_epochs", "final_rate"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ConfigError(f"{prefix}{field} is {getattr(self, field)}; allowed: zero and above")
        if not 0 < self.warmup_start <= 1:
            raise ConfigError(f"{prefix}warmup_start is {self.warmup_start}; allowed: 0 < warmup_start <= 1")
        if self.clip_norm is not None:
            positive(prefix + "clip_norm", self.clip_norm)
        if self.cosine_epochs is not None:
            positive(prefix + "cosine_epochs", self.cosine_epochs)
        if self.schedule == "warmup_cosine" and self.warmup_epochs >= self.epochs:
            raise ConfigError(f"{prefix}warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; leave some")
        if self.final_rate > self.rate:
            raise ConfigError(f"{prefix}final_rate {self.final_rate} is above rate {self.rate}")
        shapes = ("warmup_epochs", "warmup_start", "cosine_epochs", "final_rate", "schedule_by")
        shaped = [name for name in shapes if getattr(self, name) != getattr(Phase, name)]
        if self.schedule == "constant" and shaped:
            raise ConfigError(
                f"{prefix}{' and '.join(shaped)} shape the rate of schedule warmup_cosine; with constant: "
                "warmup-epochs 0, warmup-start 0.01, cosine-epochs None, final-rate 0, schedule-by step"
            )


@dataclass(frozen=True)
class Config:
    """The flags that every task has."""

    preset: str = "default"
    """Named configuration to start from; flags change single values of it."""
    dataset: str = "cifar10"
    """digits, cifar10, cifar100, mnist, notmnist, fer2013 or image_folder:PATH."""
    data_dir: Path | None = None
    """Where data sets are kept (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    weights: str = "none"
    """Initial weights of the backbone: imagenet, none, a file, or a finished run (folder, or end of its name)."""
    out: Path = REPOSITORY / "results" / "runs"
    """Folder of runs."""
    seed: int = 0
    """Seed of splits, initial weights, order, augmentation and dropout."""
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """auto: mixed_float16 on a GPU, float32 on a CPU."""
    batch_size: int = 64
    """Images per step, on all devices together."""
    limit_train: int | None = None
    """Use this many of the training images, each class by its share, drawn by the seed; validation ones included."""
    limit_test: int | None = None
    """Use this many of the test images, each class by its share; the same ones for every seed."""
    overwrite: bool = False
    """Throw away what the run directory holds and start anew."""
    offline: bool = False
    """Never use the network; stop where something is missing. Always so inside a SLURM job."""
    deterministic: Literal["auto", "yes", "no"] = "auto"
    """Bit-identical repeats, at a price on GPUs. auto: yes on a CPU, no on a GPU."""
    tensorboard: bool = False
    """Write TensorBoard files into the run directory."""
    checkpoint_minutes: float = 10.0
    """Checkpoint within an epoch when this long has passed; every epoch ends with one in any case."""
    steps_per_execution: int = 1
    """Most steps between looks at loss, stop requests and clock: the greatest common divisor with an epoch's is used.
    JAX or several devices: 1."""
    devices: int = 1
    """Devices of each machine that share every batch: its GPUs, or without one so many parts of its CPU."""
    nodes: int = 1
    """Machines that share every batch (JAX): start one process on each of them."""

    PROTOCOL = 1
    """Part of every run's name. A task raises it with each change that lets a command compute something else."""
    REPORTED = "best"
    """Which epoch the tables report: best, that of the best validation result, or last. The source's choice."""
    SMALLER: ClassVar[Mapping[str, str]] = {}
    """For a preset the one that asks the same on a CPU, named if a run would take hours there."""

    # Fields that say where and how a run happens but not what it computes: they do not enter its name.
    OPERATIONAL = (
        "data_dir",
        "out",
        "overwrite",
        "offline",
        "tensorboard",
        "checkpoint_minutes",
        "steps_per_execution",
        "devices",
        "nodes",
    )

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with. Tasks extend it."""
        if self.dataset.startswith("image_folder:"):
            check_image_folder(self.dataset.removeprefix("image_folder:"))
        else:
            choice("dataset", self.dataset, DATASETS, also="image_folder:PATH")
        positive("batch-size", self.batch_size)
        positive("checkpoint-minutes", self.checkpoint_minutes)
        positive("steps-per-execution", self.steps_per_execution)
        positive("devices", self.devices)
        positive("nodes", self.nodes)
        if self.batch_size % (self.devices * self.nodes):
            raise ConfigError(
                f"batch-size is {self.batch_size}, which {self.nodes} x {self.devices} devices cannot share equally"
            )
        if self.nodes > 1 and os.environ.get("KERAS_BACKEND") != "jax":
            raise ConfigError(
                f"nodes is {self.nodes}, and Keras 3 trains on several machines with JAX alone: "
                "set KERAS_BACKEND=jax, or use --devices on one machine"
            )
        for field in ("limit_train", "limit_test"):
            if getattr(self, field) is not None:
                positive(field.replace("_", "-"), getattr(self, field))
        if not 0 <= self.seed < 2**32:  # scikit-learn and NumPy take no others
            raise ConfigError(f"seed is {self.seed}; allowed: 0 to {2**32 - 1}")
        if self.data_dir is not None and not self.data_dir.is_dir():
            name = self.dataset if self.dataset in DATASETS else "NAME"
            raise ConfigError(
                f"data folder {self.data_dir.absolute()} is not there; where there is a network, "
                f"`python -m common.data prepare {name} --data-dir {self.data_dir}` makes and fills it"
            )
        if self.weights != "none" and not isinstance(self, FineTuning):
            raise ConfigError(f"weights is {self.weights}; this task has no backbone that could load any")

    def identity(self) -> dict:
        """Everything that the result depends on, as JSON data; of a file or run of `weights` name and content."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in self.OPERATIONAL}
        if self.weights not in ("none", "imagenet"):
            path = Path(self.weights_source())
            state = path.stat()
            digest = file_digest(path, state.st_size, state.st_mtime_ns)
            fields["weights"] = f"{weights_label(path)}@sha256:{digest[:16]}"
        if self.dataset.startswith("image_folder:"):
            fields["dataset"] = f"image_folder:{Path(self.dataset.removeprefix('image_folder:')).resolve()}"
        return json.loads(json.dumps(fields))

    def side(self, phase: Phase) -> int | None:
        """Side of the square that the network sees in a phase, in pixels; None: that of the data set's images."""
        return phase.image_size

    def weights_source(self) -> str:
        """none, imagenet, or the path of a file: what `weights` comes down to."""
        return self.weights

    def operational(self) -> dict:
        """The remaining fields as JSON data."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items() if k in self.OPERATIONAL}

    def digest(self) -> str:
        """SHA-256 of the protocol and of all that differs from the class's defaults, but for the seed.

        A field that is added later, with today's behaviour as its default, so leaves the names of older runs as they
        are.
        """
        chosen = without_defaults(self, self.identity())
        chosen.pop("seed", None)
        return hashlib.sha256(json.dumps([self.PROTOCOL, chosen], sort_keys=True).encode()).hexdigest()

    def name(self) -> str:
        """Run directory's name: `<slug>-<digest>-s<seed>`."""
        return f"{self.slug()}-{self.digest()[:8]}-s{self.seed}"

    def slug(self) -> str:
        """The readable part of the name."""
        return "-".join(
            re.sub(r"[^\w.]+", "_", Path(part.removeprefix("image_folder:")).name) for part in self.headline()
        )

    def headline(self) -> tuple[str, ...]:
        """What one names a run by; tasks add to it."""
        return (self.preset, self.dataset)

    def setting(self, presets: Mapping[str, "Config"]) -> str:
        """`key=value ...`: the data set and every field that differs from the preset; a table's row label."""
        ours, theirs = flat(self.identity()), flat(presets[self.preset].identity())
        changed = {k: v for k, v in ours.items() if k != "seed" and (k in self.SHOWN or v != theirs.get(k))}
        return " ".join(f"{key}={value}" for key, value in changed.items())

    SHOWN = ("dataset",)


@dataclass(frozen=True)
class FineTuning(Config):
    """The flags of the tasks that start from a trained backbone."""

    backbone: str = "resnet18"
    """resnet18, resnet34, resnet50, resnet101, resnext50_32x4d, wide_resnet50_2 or mobilenet_v2."""
    image_size: int = 224
    """Side of the square that the backbone sees, in pixels."""
    batch_norm: Literal["layer", "keep", "follow"] = "layer"
    """Statistics while training. keep: the pretrained ones; layer: of the batch in trained layers; follow: in all."""
    cache_features: Literal["auto", "on", "off"] = "auto"
    """Compute once in a phase what frozen layers make of an image. auto: up to cache-gigabytes; on: beyond, on disk."""
    cache_gigabytes: float = 2.0
    """Memory for these activations of a phase, in 1e9 bytes."""

    OPERATIONAL = (*Config.OPERATIONAL, "cache_features", "cache_gigabytes")

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        choice("backbone", self.backbone, BACKBONES)
        positive("image-size", self.image_size)
        if self.image_size < 32:
            raise ConfigError(f"image-size is {self.image_size}; the backbones need 32 or more")
        positive("cache-gigabytes", self.cache_gigabytes)
        if self.batch_norm == "keep" and self.weights == "none":
            raise ConfigError(
                "batch-norm is keep, and random weights have no statistics to keep: nothing would be normalised; "
                "allowed with --weights none: layer, follow"
            )
        if self.batch_norm == "follow" and self.cache_features == "on":
            raise ConfigError(
                "cache-features is on, and with batch-norm follow the frozen layers give other outputs in every batch; "
                "allowed with it: auto, off"
            )
        if self.cache_features == "on" and self.devices * self.nodes > 1:
            raise ConfigError("cache-features is on, which several devices cannot share; allowed there: auto, off")
        self.weights_source()

    def side(self, phase: Phase) -> int:
        """Side of the square that the backbone sees in a phase, in pixels."""
        return self.image_size if phase.image_size is None else phase.image_size

    def check_sizes(self, phases: Sequence[Phase]) -> None:
        """Raise ConfigError for an image size of a phase that cannot be trained at."""
        for phase in phases:
            if not 32 <= self.side(phase) <= self.image_size:
                raise ConfigError(
                    f"phase {phase.name!r}: image_size is {phase.image_size}; allowed: 32 to --image-size, "
                    f"{self.image_size}, or None for that"
                )
        if phases and self.side(phases[-1]) < self.image_size:
            raise ConfigError(
                f"phase {phases[-1].name!r}: image_size is {phases[-1].image_size}; the last phase trains at "
                f"--image-size, {self.image_size}, as the run is measured there"
            )

    def weights_source(self) -> str:
        """As every config's; of a finished run, the file with its backbone.

        Raises ConfigError if there is no such file or run, or if it is unfinished or has another backbone.
        """
        if self.weights in ("none", "imagenet") or Path(self.weights).is_file():
            return self.weights
        from common.runs import finished_run  # which imports this module

        folder = find_run(self.weights, self.out)
        finished_run(folder, "run", {"backbone": self.backbone}, "--weights takes a run that is completed")
        if not (folder / BACKBONE_FILE).is_file():
            raise ConfigError(f"run {folder} has no {BACKBONE_FILE}: it was made by an older version of the code")
        return str(folder / BACKBONE_FILE)


def find_run(name: str, out: Path) -> Path:
    """The directory of the run that goes by this name: its folder, or its name below `out`, or the end of that.

    Raises ConfigError if there is none, or more than one.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    runs = sorted(path.parent for path in out.glob("*/*/config.json"))
    found = [run for run in runs if run.name == name] or [run for run in runs if name and str(run).endswith(name)]
    if len(found) > 1:
        raise ConfigError(f"weights {name!r} fits {len(found)} runs in {out}: {found[0].name}, {found[1].name} ...")
    if not found:
        raise ConfigError(
            f"weights {name!r}: no such file or run; allowed: imagenet, none, a file, or a finished run: its folder, "
            f"or the end of its name in {out}"
        )
    return found[0]


def weights_label(path: Path) -> str:
    """What a file of weights is called in names and tables: of a run what made it, elsewhere the file's name."""
    beside = path.with_name("config.json")
    if path.name != BACKBONE_FILE or not beside.is_file():
        return path.name
    run = json.loads(beside.read_text())["config"]
    return f"{run['preset']}-{run['backbone']}-s{run['seed']}"


@functools.cache
def file_digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, in hexadecimal; read again if its size or the time of its last change is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_defaults(config: object, values: Mapping) -> dict:
    """Those of a dataclass's values, JSON data, that differ from its class's defaults; in nested dataclasses too."""
    kept = {}
    for field in dataclasses.fields(config):
        own = getattr(config, field.name)
        if field.name not in values or values[field.name] == field.default or own == field.default:
            continue
        value = values[field.name]
        if dataclasses.is_dataclass(own):
            value = without_defaults(own, value)
        elif isinstance(own, tuple) and all(map(dataclasses.is_dataclass, own)):
            value = [without_defaults(one, part) for one, part in zip(own, value, strict=True)]
        kept[field.name] = value
    return kept


def flat(fields: Mapping, prefix: str = "") -> dict:
    """Nested JSON data as one level with dotted keys, in the spelling of the command line."""
    pairs = {}
    for key, value in fields.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[f"{prefix}{key}"] = value
    return pairs


def positive(name: str, value: float) -> None:
    """Raise ConfigError unless value is above zero, and finite."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}; it must be {'finite' if value > 0 else 'above zero'}")


def choice(name: str, value: str, allowed: Sequence[str], also: str = "") -> None:
    """Raise ConfigError unless value is one of the allowed."""
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"unknown {name} {value!r}; allowed: {', '.join([*allowed, *([also] if also else [])])}{hint}"
        )


def check_image_folder(path: str) -> None:
    """Raise ConfigError unless there is such a folder."""
    if not path:
        raise ConfigError("dataset image_folder: names no folder; allowed: image_folder:PATH")
    if not Path(path).is_dir():
        raise ConfigError(f"image folder {Path(path).absolute()} is not there")


class Parser(argparse.ArgumentParser):
    """A parser, and by inheritance those of its commands, that answers a mistake with one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        fail(f"{message}; see {self.prog} --help")


def fail(message: str, code: int = 2) -> NoReturn:
    """End the process with one line on stderr."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


C = TypeVar("C", bound=Config)


def parse(presets: Mapping[str, C], description: str, argv: Sequence[str] | None = None) -> C:
    """Read the command line into a checked config.

    The first preset is the default one. Exits with code 2 and one line on stderr when something is wrong.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        config = parse_strictly(presets, description, argv)
    except ConfigError as error:
        fail(str(error))
    return config


def parse_strictly(presets: Mapping[str, C], description: str, argv: Sequence[str]) -> C:
    """As `parse`, with ConfigError for every mistake (the launcher collects them)."""
    config = parse_unchecked(presets, description, argv)
    config.check()
    return config


def parse_unchecked(presets: Mapping[str, C], description: str, argv: Sequence[str]) -> C:
    """As `parse_strictly`, before the config checks that its values go together."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--preset", default=next(iter(presets)), nargs="?")
    name = finder.parse_known_args(argv)[0].preset
    choice("preset", name or "", tuple(presets))
    default = presets[name]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(type(default), default=default, description=description, args=argv, prog="train.py")
    except SystemExit as stop:
        if not stop.code:
            raise
        flags = [f"--{key.replace('_', '-')}" for key in flat(default.identity() | default.operational())]
        raise ConfigError(one_line(errors.getvalue(), flags)) from None


def one_line(text: str, flags: Sequence[str]) -> str:
    """The message in tyro's framed text, on one line: the title above it and the help below it left out."""

    def is_rule(line: str) -> bool:
        return set(line) <= set("─-╰╯")  # tyro draws the frame in ASCII where the terminal is not UTF-8

    plain = re.sub(r"\x1b\[[\d;]*m", "", text)  # it colours what it writes where stdout is a terminal
    lines = [line.strip("│ ") for line in plain.splitlines()]
    message = " ".join(takewhile(lambda line: not is_rule(line), dropwhile(is_rule, lines[1:])))
    unknown = re.findall(r"--[\w.-]+", message) if message.startswith("Unrecognized") else []
    near = [match for flag in unknown for match in difflib.get_close_matches(flag, flags, n=1)]
    return message + (f"; did you mean {' '.join(near)}?" if near else "; see --help")


def data_dir(config: Config) -> Path:
    """Where data sets are kept."""
    return config.data_dir or Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def offline(config: Config) -> bool:
    """Whether the network must not be used: compute nodes often have none, and a hang there costs hours."""
    return config.offline or "SLURM_JOB_ID" in os.environ
