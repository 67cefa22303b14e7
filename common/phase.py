"""A phase: a part of training with its own optimiser and schedule."""

import re
from dataclasses import dataclass
from typing import Literal

from common.errors import ConfigError, not_negative, positive


@dataclass(frozen=True)
class Phase:
    """A part of training: how long, and how. Tasks add what a phase changes in their model."""

    name: str
    """Name in tables and figures."""
    epochs: int
    """Passes over the training images."""
    optimizer: Literal["sgd", "adam", "adamw", "nadam"]
    """Optimiser (sgd: no momentum unless --phases.N.momentum)."""
    rate: float
    """Learning rate; with warmup_cosine its peak."""
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
    """Epochs from peak to floor; past it the cosine rises again. None: one descent, until the phase ends."""
    final_rate: float = 0.0
    """Floor of the cosine."""
    schedule_by: Literal["step", "epoch"] = "step"
    """The rate changes with every step, or is that of an epoch's first step for all of it, as torch's schedulers do.
    A step whose gradients overflow in float16 does not count: after n of them an epoch's rate comes n steps late."""

    def remark(self) -> str:
        """What the line that announces the phase says of its steps; tasks add to it."""
        return ""

    def check(self) -> None:
        """Raise ConfigError for values that cannot be trained with."""
        prefix = f"phase {self.name!r}: "
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ConfigError(f"{prefix}a name has small letters, digits and _ only")
        positive(prefix + "epochs", self.epochs)
        positive(prefix + "rate", self.rate)
        if self.momentum and self.optimizer != "sgd":
            raise ConfigError(f"{prefix}momentum is for sgd; the optimizer is {self.optimizer}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"{prefix}momentum is {self.momentum}; allowed: 0 <= momentum < 1")
        for field in ("weight_decay", "warmup_epochs", "final_rate"):
            not_negative(prefix + field, getattr(self, field))
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
