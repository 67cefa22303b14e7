"""Names of TFDS's data sets, as `--dataset` takes them. Imports neither Keras nor TensorFlow."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.listing import few
from common.errors import ConfigError, first_line, within_reach

TFDS = "tfds:"
FORM = f"{TFDS}NAME[/CONFIG][:VERSION]"
CATALOGUE = "https://www.tensorflow.org/datasets/catalog/overview"
SHOWN = 10  # configs that a message names


@dataclass(frozen=True)
class Name:
    """A data set of TFDS: `mnist`, `imagenette/160px`, `mnist:3.0.1`."""

    name: str
    config: str | None
    version: str | None

    @property
    def folder(self) -> Path:
        """Where its versions lie in the data folder."""
        return Path(self.name, self.config or "")


def parsed(dataset: str) -> Name:
    """The parts of a name, with or without `TFDS` before it. Raises ConfigError for one of another form."""
    form = r"(\w+)(?:/([\w+-][\w.+-]*))?(?::(\d+\.\d+\.\d+))?"
    found = re.fullmatch(form, dataset.removeprefix(TFDS), re.ASCII)
    if found is None:
        raise ConfigError(f"dataset {dataset!r} is no name of TFDS; allowed: {FORM}, such as {TFDS}imagenette/160px")
    return Name(*found.groups())


@within_reach()
def tfds_folder(dataset: str, folder: Path) -> Path | None:
    """Folder of a prepared TFDS data set, in the newest version or in the named one, or None; uses no network."""
    name = parsed(dataset)
    found = [p.parent for p in (folder / name.folder).glob("*/dataset_info.json")]
    # A preparation that was killed leaves folders such as "incomplete.ABC123_3.0.2".
    versions = [p for p in found if re.fullmatch(r"\d+(\.\d+)*", p.name) and name.version in (None, p.name)]
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def check(dataset: str, folder: Path) -> None:
    """Raise ConfigError unless a data set is prepared in the data folder, or TFDS has one of this name and config."""
    name = parsed(dataset)
    if tfds_folder(dataset, folder):
        return
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if name.name in known:
        try:
            builder = tfds.builder_cls(name.name)
        except ModuleNotFoundError as error:  # some sets need more than TFDS
            raise ConfigError(f"dataset {dataset}: {first_line(error)}, which TFDS needs for this set") from error
        configs: Sequence[str] = list(builder.builder_configs)
        own = [builder.VERSION, *builder.SUPPORTED_VERSIONS]
        own += [
            version for each in builder.builder_configs.values() for version in (each.version, *each.supported_versions)
        ]
        versions = sorted({str(version) for version in own if version})
        if name.version and versions and name.version not in versions:
            raise ConfigError(f"dataset {dataset} has no such version; allowed: {', '.join(versions)}")
    elif (folder / name.name).is_dir():
        configs = sorted({p.parents[1].name for p in (folder / name.name).glob("*/*/dataset_info.json")})
    else:
        near = difflib.get_close_matches(name.name.lower(), known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{CATALOGUE} lists them"
        raise ConfigError(f"TFDS has no data set {name.name!r}, and {folder} has none of this name; {hint}")
    if name.config in configs or (not configs and name.config is None):
        return
    choices = [f"{TFDS}{name.name}/{config}" for config in configs] or [f"{TFDS}{name.name}"]
    allowed = f"allowed: {few(choices, SHOWN)}"
    problem = "names no config" if name.config is None else f"has no config {name.config!r}"
    raise ConfigError(f"dataset {dataset} {problem}; {allowed}")
