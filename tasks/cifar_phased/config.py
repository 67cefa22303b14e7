"""What one run depends on."""

from dataclasses import dataclass
from typing import Literal

from common.augment import AUGMENTATIONS
from common.backbones import MIN_IMAGE_SIZE
from common.errors import ConfigError
from common.fine_tuning import FineTuning
from common.phase import Phase


@dataclass(frozen=True, kw_only=True)
class TuningPhase(Phase):
    """A phase, and what of the network it trains."""

    trainable: Literal["head", "last_block", "full"]
    """Head only; head and last block of the backbone; everything."""
    dropout: float = 0.0
    """Dropout rate before the head."""
    image_size: int | None = None
    """Side of the square that the backbone sees in this phase, in pixels. None: --image-size."""

    def remark(self) -> str:
        """The size of the images, if it is the phase's own."""
        return f" at {self.image_size} pixels" if self.image_size else ""

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"phase {self.name!r}: dropout is {self.dropout}; allowed: 0 <= dropout < 1")


@dataclass(frozen=True)
class PhasedConfig(FineTuning):
    """What one run of this task depends on."""

    PROTOCOL = 2
    SMALLER = {"three_phase": "laptop"}  # noqa: RUF012

    augmentation: str = "flip_crop"
    """none, flip_crop (source 000) or affine_colour_blur (source 001)."""
    augment_on: Literal["device", "host"] = "device"
    """In the compiled step, or in tf.data with KerasCV."""
    augment_at: Literal["native", "input"] = "native"
    """native: images of their own size, before they are resized to image-size; input: afterwards."""
    cache_views: int = 0
    """Augmented versions of an image while layers are frozen, one an epoch in turn. 0: a new one in every epoch."""
    head_init: Literal["glorot_uniform", "he_normal", "torch"] = "glorot_uniform"
    """Initial weights of the head: Glorot's, its bias zero; He's (source 001) or torch's uniform ones, in either case
    with torch's bias, uniform within 1/sqrt(inputs)."""
    phases: tuple[TuningPhase, ...] = ()
    """The phases, in order."""

    SHOWN = ("dataset", "backbone", "batch_norm")

    def name_parts(self) -> tuple[str, ...]:
        """Preset, data set and backbone."""
        return (*super().name_parts(), self.backbone)

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        super().check()
        AUGMENTATIONS.check(self.augmentation)
        self.check_cache()
        if self.augment_on == "host" and self.augment_at == "input":
            raise ConfigError(
                "augment-on is host, which augments before the resize, and augment-at is input; "
                "allowed: --augment-at native, or --augment-on device"
            )
        for phase in self.phases:
            phase.check()
        self.check_sizes()
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ConfigError(f"phases need different names; these are {', '.join(names)}")

    def side(self, phase: TuningPhase) -> int:
        """Side of the square that the backbone sees in a phase, in pixels."""
        return self.image_size if phase.image_size is None else phase.image_size

    def check_sizes(self) -> None:
        """Raise ConfigError for an image size of a phase that cannot be trained at."""
        for phase in self.phases:
            if not MIN_IMAGE_SIZE <= self.side(phase) <= self.image_size:
                raise ConfigError(
                    f"phase {phase.name!r}: image_size is {phase.image_size}; allowed: {MIN_IMAGE_SIZE} to "
                    f"--image-size, {self.image_size}, or None for that"
                )
        if self.phases and self.side(self.phases[-1]) < self.image_size:
            raise ConfigError(
                f"phase {self.phases[-1].name!r}: image_size is {self.phases[-1].image_size}; the last phase trains at "
                f"--image-size, {self.image_size}, as the run is measured there"
            )

    def check_cache(self) -> None:
        """Raise ConfigError where there is nothing that could be cached, or no way to."""
        frozen = [phase.epochs for phase in self.phases if phase.trainable != "full"]
        most = max(min(frozen, default=0) - 1, 0)  # with as many as there are epochs nothing would be saved
        most = min(most, 255)  # as many as common/features.py keeps random numbers apart for
        if not 0 <= self.cache_views <= most:
            raise ConfigError(f"cache-views is {self.cache_views}; allowed with these phases: 0 to {most}")
        if self.cache_features == "on" and self.augmentation != "none" and not self.cache_views:
            raise ConfigError(
                f"cache-features is on, and augmentation {self.augmentation} changes every image in every epoch; "
                "allowed: --augmentation none, or --cache-views with how many versions an image has"
            )
        if self.cache_views and (self.augmentation == "none" or self.augment_on == "host"):
            raise ConfigError("cache-views is for an augmentation on the device; allowed without one: 0")
        if self.cache_views and any(phase.image_size for phase in self.phases):
            raise ConfigError("cache-views is for phases of one image size; allowed with several: 0")
        if self.cache_views and self.batch_norm == "follow":
            raise ConfigError(
                "cache-views is for frozen layers whose outputs do not change; allowed with batch-norm follow: 0"
            )
        if self.cache_views and (self.cache_features == "off" or self.devices * self.nodes > 1):
            raise ConfigError("cache-views needs one device, and cache-features auto or on")
