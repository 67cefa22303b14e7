"""Configurations: what a run depends on, and its name. Imports neither Keras nor TensorFlow.

A task's config is a frozen dataclass that extends `Config`; its presets are instances of it.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import arg

from common import data
from common.errors import ConfigError, positive
from common.seeds import parse_seeds

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

REPOSITORY = Path(__file__).resolve().parents[1]
GIGABYTE = 1e9  # of cache_gigabytes
SLUG_BYTES = 200  # of the 255 that file systems allow


@dataclass(frozen=True)
class Config:
    """The flags that every task has."""

    preset: str = "default"
    """Named configuration to start from; flags change single values of it."""
    dataset: Annotated[str, arg(help=f"{data.NAMES}.")] = "cifar10"
    data_dir: Path | None = None
    """Where data sets are kept (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    out: Path = REPOSITORY / "results" / "runs"
    """Folder of runs."""
    seed: int = 0
    """Seed of splits, initial weights, order, augmentation and dropout."""
    seeds: str = ""
    """Train these as one program on one device, each into its own run directory: FIRST:END, or a list (JAX)."""
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """auto: mixed_float16 on a GPU, float32 on a CPU."""
    batch_size: int = 64
    """Images per step, on all devices together."""
    limit_train: int | None = None
    """Use this many of the training images, each class by its share, drawn by the seed; those held out for validation
    are among them."""
    limit_test: int | None = None
    """Use this many of the test images, each class by its share; the same ones for every seed."""
    overwrite: bool = False
    """Throw away what the run directory holds and start again."""
    offline: bool = False
    """Never use the network; stop where something is missing. Always so inside a SLURM job."""
    deterministic: Literal["auto", "yes", "no"] = "auto"
    """Bit-identical repeats, at a price on GPUs. auto: yes on a CPU, no on a GPU."""
    tensorboard: bool = False
    """Write TensorBoard files into the run directory."""
    checkpoint_minutes: float = 10.0
    """Checkpoint within an epoch when this long has passed; every epoch ends with one in any case."""
    steps_per_execution: int = 1
    """Most steps between two checks of loss, stop requests and clock: the greatest common divisor with an epoch's is
    used. Several devices: 1."""
    devices: int = 1
    """Devices of each machine that share every batch: its GPUs, or parts of its CPU if it has none."""
    nodes: int = 1
    """Machines that share every batch (JAX): start one process on each of them."""
    cache_gigabytes: float = 2.0
    """Most to keep on disk of images decoded from files, in 1e9 bytes; more are decoded again in every epoch."""
    looks: int = 1
    """How often the growing number of seeds is judged; the tables divide their error by it."""

    PROTOCOL: ClassVar[int] = 1
    """Part of every run's name. A task raises it with each change that lets a command compute something else."""
    REPORTED: ClassVar[Literal["best", "last"]] = "best"
    """Which epoch the tables report: best, that of the best validation result, or last. The source's choice."""
    FOLDER_SIDE: ClassVar[int] = 32
    """Side of the square that images of different sizes are resized to, in pixels."""
    SMALLER: ClassVar[Mapping[str, str]] = {}
    """A preset's counterpart for a CPU, suggested if a run would take hours there."""
    SHOWN: ClassVar[tuple[str, ...]] = ("dataset",)
    """Fields that every row label of a table names, even where they are the preset's."""

    # Fields that say where and how a run happens but not what it computes: they do not enter its name.
    OPERATIONAL: ClassVar[tuple[str, ...]] = (
        "data_dir",
        "out",
        "seeds",
        "overwrite",
        "offline",
        "tensorboard",
        "checkpoint_minutes",
        "steps_per_execution",
        "devices",
        "nodes",
        "cache_gigabytes",
        "looks",
    )

    @property
    def architecture(self) -> str:
        """Name of the trained network, for `common/precision.py`; empty if it has none there."""
        return ""

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with. Tasks extend it."""
        data.check(self.dataset, self.data_folder)
        positive("batch-size", self.batch_size)
        positive("checkpoint-minutes", self.checkpoint_minutes)
        positive("steps-per-execution", self.steps_per_execution)
        positive("devices", self.devices)
        positive("nodes", self.nodes)
        positive("cache-gigabytes", self.cache_gigabytes)
        positive("looks", self.looks)
        if self.batch_size % (self.devices * self.nodes):
            raise ConfigError(
                f"batch-size is {self.batch_size}, which {self.nodes} x {self.devices} devices cannot share equally"
            )
        if self.nodes > 1 and os.environ.get("KERAS_BACKEND") != "jax":
            raise ConfigError(
                f"nodes is {self.nodes}, and Keras 3 trains on several machines with JAX alone: "
                "set KERAS_BACKEND=jax, or use --devices on one machine"
            )
        if self.seeds:
            self.check_seeds()
        for field in ("limit_train", "limit_test"):
            if getattr(self, field) is not None:
                positive(field.replace("_", "-"), getattr(self, field))
        if not 0 <= self.seed < 2**32:  # scikit-learn and NumPy take no others
            raise ConfigError(f"seed is {self.seed}; allowed: 0 to {2**32 - 1}")
        if self.data_dir is not None and not self.data_dir.is_dir():
            name = "NAME" if data.folder_of(self.dataset) else self.dataset
            raise ConfigError(
                f"data folder {self.data_dir.absolute()} is not there; where there is a network, "
                f"`python -m common.data prepare {name} --data-dir {self.data_dir}` makes and fills it"
            )

    def check_seeds(self) -> None:
        """Raise ConfigError if several seeds cannot be trained as one program."""
        if max(parse_seeds(self.seeds)) >= 2**32:
            raise ConfigError(f"seeds is {self.seeds}; allowed: 0 to {2**32 - 1}")
        if os.environ.get("KERAS_BACKEND") != "jax":
            raise ConfigError(f"seeds is {self.seeds}, and several are one program with JAX alone: KERAS_BACKEND=jax")
        if self.devices * self.nodes > 1:
            raise ConfigError(
                f"seeds is {self.seeds}, which takes one device; devices x nodes is {self.devices * self.nodes}"
            )
        if self.seed:
            raise ConfigError(f"seeds is {self.seeds} and seed is {self.seed}; allowed: one of them")

    def identity(self) -> dict:
        """Everything that the result depends on, as JSON data."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in self.OPERATIONAL}
        return json.loads(json.dumps(fields | {"dataset": data.identity(self.dataset)}))

    def operational(self) -> dict:
        """The remaining fields as JSON data."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items() if k in self.OPERATIONAL}

    @property
    def data_folder(self) -> Path:
        """Where data sets are kept."""
        return self.data_dir or Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()

    @property
    def is_offline(self) -> bool:
        """Whether the network must not be used: compute nodes often have none, and a hang there costs hours."""
        return self.offline or "SLURM_JOB_ID" in os.environ

    @property
    def folder_side(self) -> int:
        """FOLDER_SIDE, or what a task's fields make of it."""
        return self.FOLDER_SIDE

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
        """The readable part of the name, cut to what leaves room in a file's name for all that is added to it."""
        whole = "-".join(map(short, self.name_parts()))
        return whole.encode()[:SLUG_BYTES].decode(errors="ignore")

    def name_parts(self) -> tuple[str, ...]:
        """What one names a run by; tasks add to it."""
        return (self.preset, data.identity(self.dataset))

    def shown(self) -> tuple[str, ...]:
        """SHOWN, or what a task's fields make of it."""
        return self.SHOWN

    def setting(self, presets: Mapping[str, "Config"]) -> str:
        """`key=value ...`: what is always shown, and every field that differs from the preset; a table's row label."""
        return label(flat(self.identity()), presets[self.preset], self.shown())


def label(fields: Mapping[str, object], preset: Config, shown: Sequence[str]) -> str:
    """`Config.setting`, of the identity's fields on one level."""
    theirs = flat(preset.identity())
    changed = {k: v for k, v in fields.items() if k != "seed" and (k in shown or v != theirs.get(k))}
    return " ".join(f"{key}={value}" for key, value in changed.items())


def short(part: str) -> str:
    """A data set, or another value, within a name: of a folder its last name, with `_` for all but words and dots."""
    name = part if data.is_from_tfds(part) else Path(part.removeprefix(data.FOLDER)).name
    return re.sub(r"[^\w.]+", "_", name)


@functools.cache
def file_digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, in hexadecimal; read again if its size or modification time changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_defaults(values: Mapping, preset: Config) -> dict:
    """The values of a preset's run, JSON data, and the class's defaults of the fields that its code had not."""
    known = preset.identity()
    fields = (field for field in dataclasses.fields(preset) if field.name in known and field.name not in values)
    added = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return {**values, **json.loads(json.dumps(added, default=dataclasses.asdict))}


def without_defaults(config: "DataclassInstance", values: Mapping) -> dict:
    """Those of a dataclass's values, JSON data, that differ from its class's defaults; in nested dataclasses too."""
    kept = {}
    for field in dataclasses.fields(config):
        own = getattr(config, field.name)
        if field.name not in values or values[field.name] == field.default or own == field.default:
            continue
        value = values[field.name]
        if dataclasses.is_dataclass(own) and not isinstance(own, type):
            value = without_defaults(own, value)
        elif isinstance(own, tuple) and all(map(dataclasses.is_dataclass, own)):
            value = [without_defaults(one, part) for one, part in zip(own, value, strict=True)]
        kept[field.name] = value
    return kept


def flat(fields: Mapping, prefix: str = "") -> dict:
    """Nested JSON data as one level with dotted keys, in the spelling of the command line."""
    pairs: dict[str, object] = {}
    for key, value in fields.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[f"{prefix}{key}"] = value
    return pairs
