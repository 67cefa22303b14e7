"""What the tasks that start from a trained backbone have in common on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from common import data
from common.backbones import BACKBONES, MIN_IMAGE_SIZE
from common.config import Config, file_digest, short
from common.errors import ConfigError
from common.files import Damaged
from common.run_folder import RunFolder, find_run, finished_run
from common.words import TRAINED_ON


@dataclass(frozen=True)
class FineTuning(Config):
    """The flags of the tasks that start from a trained backbone."""

    weights: str = "none"
    """Initial weights of the backbone: imagenet, none, a file, or a finished run (folder, or end of its name)."""
    backbone: Annotated[str, arg(help=f"{', '.join(BACKBONES)}.")] = "resnet18"
    image_size: int = 224
    """Side of the square that the backbone sees, in pixels."""
    batch_norm: Literal["layer", "keep", "follow"] = "layer"
    """Statistics while training. keep: the pretrained ones; layer: of the batch in trained layers; follow: in all."""
    cache_features: Literal["auto", "on", "off"] = "auto"
    """Compute frozen layers' outputs once a phase. auto: if cache-gigabytes allow it; on: always, on disk if not."""
    cache_gigabytes: float = 2.0
    """Most to keep, in 1e9 bytes: activations of frozen layers in memory (cache-features), decoded images on disk."""

    OPERATIONAL = (*Config.OPERATIONAL, "cache_features")

    @property
    def architecture(self) -> str:
        """The backbone."""
        return self.backbone

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        BACKBONES.check(self.backbone)
        if self.image_size < MIN_IMAGE_SIZE:
            raise ConfigError(f"image-size is {self.image_size}; the backbones need {MIN_IMAGE_SIZE} or more")
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
        self.identity()  # which reads the file of weights

    def identity(self) -> dict:
        """Everything that the result depends on, as JSON data; of a file or run of `weights` name and content."""
        fields = super().identity()
        # Beside the data set, as in the settings of all records.
        fields = {key: fields[key] for key in ("preset", "dataset", "weights")} | fields
        if self.weights in ("none", "imagenet"):
            return fields
        path = Path(self.weights_source())
        state = path.stat()
        digest = file_digest(path, state.st_size, state.st_mtime_ns)
        return fields | {"weights": f"{weights_label(path)}@sha256:{digest[:16]}"}

    @property
    def folder_side(self) -> int:
        """The largest that the backbone sees."""
        return self.image_size

    def weights_source(self) -> str:
        """none, imagenet, or the path of a file: what `weights` comes down to; of a run, the file with its backbone.

        Raises ConfigError if there is no such file or run, or if it is unfinished or has another backbone.
        """
        if self.weights in ("none", "imagenet") or Path(self.weights).is_file():
            return self.weights
        folder = find_run(self.weights, self.out, "weights", "imagenet, none, a file, or ")
        remedy = "--weights takes a run that is completed"
        finished_run(folder, "run", {"backbone": self.backbone}, remedy)
        if data.images_of(RunFolder(folder).config()["config"]["dataset"]) == data.images_of(self.dataset):
            # With another seed, or other images, it would have been trained on what validates here.
            finished_run(folder, "run", {"seed": self.seed, "limit_train": self.limit_train}, remedy)
        file = RunFolder(folder).backbone_file
        if not file.is_file():
            raise ConfigError(f"run {folder} has no {file.name}: it was made by an older version of the code")
        return str(file)


def weights_label(path: Path) -> str:
    """What a file of weights is called in names and tables: of a run what made it, elsewhere the file's name.

    Of a run from random weights it names the data set too: `common.words` reads there what weights were trained on.
    Raises ConfigError if the run's config.json is damaged.
    """
    files = RunFolder(path.parent)
    if path != files.backbone_file or not files.is_run:
        return path.name
    try:
        run = files.config()["config"]
        made = f"{run['preset']}-{run['backbone']}-s{run['seed']}"
    except (Damaged, KeyError) as error:
        raise ConfigError(f"weights are of a run whose {files.config_file} is damaged: {error}") from error
    return f"{made}{TRAINED_ON}{short(run['dataset'])}" if run.get("weights") == "none" else made
