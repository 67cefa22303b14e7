"""The optimiser of a phase: schedule, a rate per variable, and updates that pass over memory once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

import keras
from keras import ops

from common.phase import Phase

if TYPE_CHECKING:
    import tensorflow as tf  # JAX does without it

EPSILON = 1e-8  # of torch's Adam, AdamW and NAdam
MOMENTUM_DECAY = 0.004  # of torch's NAdam

Tensor: TypeAlias = keras.KerasTensor
# What an update changes: on TensorFlow its own variable.
Updated: TypeAlias = "keras.Variable | tf.Variable"
# Ratio of a variable's learning rate to the phase's.
Factor = Callable[[keras.Variable], float]


def make(phase: Phase, steps: int, factor: Factor | None = None) -> keras.optimizers.Optimizer:
    """A new optimiser for a phase; `steps` is the number per epoch, `factor` scales the rate of each variable.

    On TensorFlow, SGD, Adam and AdamW use its own update kernels.
    """
    maker = MAKERS[phase.convention][phase.optimizer]
    if keras.backend.backend() == "tensorflow":
        maker = on_tensorflow(maker)
    if phase.convention == "torch" and phase.weight_decay:
        maker = with_decay(maker, phase.weight_decay, decoupled=phase.optimizer == "adamw")
    if factor:
        maker = by_variable(maker, factor)
    more = {"momentum": phase.momentum} if phase.optimizer == "sgd" else {}
    optimizer = maker(learning_rate(phase, steps), global_clipnorm=phase.clip_norm, **more)
    # None instead of 0: with 0, Keras would pass over all weights. AdamW does not accept None as an argument.
    optimizer.weight_decay = phase.weight_decay if phase.convention == "keras" and phase.weight_decay else None
    return optimizer


@dataclass(eq=False)
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from the fraction `start` of the peak, then a cosine that falls to the floor and rises again.

    The cosine is that of SGDR (Loshchilov and Hutter 2017, equation 5) without restarts: it reaches the floor after
    `half_period` steps and the peak again after twice as many, like PyTorch's CosineAnnealingLR beyond T_max. `warmup`
    and `half_period` are in steps. The rate is computed at every `hold`th step and kept constant in between.
    """

    peak: float
    floor: float
    start: float
    warmup: int
    half_period: int
    hold: int = 1

    def __call__(self, step: Tensor) -> Tensor:
        """The rate at a step (from 0), as a float32 scalar."""
        step = ops.cast(step - step % self.hold, "float32")
        rising = self.peak * (self.start + (1 - self.start) * step / max(self.warmup, 1))
        angle = math.pi * (step - self.warmup) / self.half_period
        waving = self.floor + (self.peak - self.floor) * (1 + ops.cos(angle)) / 2
        return ops.where(step < self.warmup, rising, waving)

    get_config = asdict


def learning_rate(phase: Phase, steps: int) -> float | WarmupCosine:
    """The learning rate of a phase with `steps` steps per epoch: a number or a schedule."""
    if phase.schedule == "constant":
        return phase.rate
    descent = phase.cosine_epochs or phase.epochs - phase.warmup_epochs
    return WarmupCosine(
        phase.rate,
        phase.final_rate,
        phase.warmup_start,
        phase.warmup_epochs * steps,
        descent * steps,
        hold=steps if phase.schedule_by == "epoch" else 1,
    )


class TorchSGD(keras.optimizers.SGD):
    """SGD whose momentum accumulates gradients, as in torch: a new rate applies to all of them.

    Keras accumulates steps, each scaled by the rate at its time.
    """

    def update_step(self, gradient: Tensor, variable: Updated, learning_rate: Tensor) -> None:
        if self.momentum:
            momentum = self.momentums[self._get_variable_index(variable)]
            self.assign(momentum, momentum * self.momentum + ops.cast(gradient, variable.dtype))
            gradient = momentum
        self.assign_sub(variable, gradient * ops.cast(learning_rate, variable.dtype))


class TorchAdam(keras.optimizers.Adam):
    """Adam with torch's epsilon, which is added to sqrt(v / (1 - beta_2^t)); Keras adds its epsilon to sqrt(v)."""

    @property
    def epsilon(self) -> Tensor:
        """The epsilon (scalar) with which Keras's formula gives torch's result at this step."""
        return EPSILON * ops.sqrt(1 - ops.power(self.beta_2, ops.cast(self.iterations + 1, "float32")))

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        """Ignore the value that Keras's constructor sets."""


class TorchNadam(keras.optimizers.Nadam):
    """NAdam whose momentum grows slowly, as in torch: mu_t = beta_1 (1 - 0.96^(0.004 t) / 2); Keras has 0.96^t.

    Dozat 2016, with the momentum schedule of Sutskever et al. 2013.
    """

    def mu(self, step: Tensor) -> Tensor:
        """The momentum at a step (from 1)."""
        return self.beta_1 * (1 - 0.5 * ops.power(0.96, MOMENTUM_DECAY * ops.cast(step, "float32")))

    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable], learning_rate: Tensor
    ) -> None:
        self.assign(self._u_product, self._u_product * self.mu(self.iterations + 1))
        # Skip Keras's Nadam, which would multiply the product by its own momentum.
        super(keras.optimizers.Nadam, self)._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Tensor, variable: Updated, learning_rate: Tensor) -> None:
        gradient = ops.cast(gradient, variable.dtype)
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        mu, following = self.mu(self.iterations + 1), self.mu(self.iterations + 2)
        product = ops.convert_to_tensor(self._u_product)
        ahead = m * (following / (1 - product * following)) + gradient * ((1 - mu) / (1 - product))
        # expm1, since 1 - beta_2^t loses digits while beta_2^t is close to 1
        v_hat = v / -ops.expm1(math.log(self.beta_2) * ops.cast(self.iterations + 1, "float32"))
        self.assign_sub(variable, ahead * ops.cast(learning_rate, variable.dtype) / (ops.sqrt(v_hat) + EPSILON))


MAKERS = {
    "keras": {
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "nadam": keras.optimizers.Nadam,
    },
    "torch": {"sgd": TorchSGD, "adam": TorchAdam, "adamw": TorchAdam, "nadam": TorchNadam},
}


def on_tensorflow(maker: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """The optimiser with TensorFlow's update kernel, if there is one."""
    from common.workarounds import update_kernels as kernels

    kernel = {
        keras.optimizers.SGD: kernels.sgd,
        keras.optimizers.Adam: kernels.adam,
        keras.optimizers.AdamW: kernels.adam,
        TorchSGD: kernels.torch_sgd,
        TorchAdam: kernels.adam,
    }.get(maker)
    return kernels.by_kernel(maker, kernel) if kernel else maker


def with_decay(
    maker: type[keras.optimizers.Optimizer], decay: float, decoupled: bool
) -> type[keras.optimizers.Optimizer]:
    """The optimiser with torch's weight decay: added to the clipped gradient, or decoupled (at the variable's rate)."""

    class WithDecay(maker):
        def update_step(self, gradient: Tensor, variable: Updated, learning_rate: Tensor) -> None:
            if decoupled:
                self.assign(variable, variable * (1 - decay * ops.cast(learning_rate, variable.dtype)))
            else:
                gradient = ops.cast(gradient, variable.dtype) + decay * variable
            super().update_step(gradient, variable, learning_rate)

    return WithDecay


def by_variable(maker: type[keras.optimizers.Optimizer], factor: Factor) -> type[keras.optimizers.Optimizer]:
    """The optimiser with a learning rate per variable: `factor` times that of the optimiser.

    It scales the rate, because Adam's step does not depend on the scale of the gradient. There is still one state, one
    step count, one loss scale and one norm to clip by. Keras 3.15's MultiOptimizer has one of each per part, and under
    mixed_float16 callbacks cannot find its rates. Keras's weight decay uses the optimiser's rate, torch's that of the
    variable.
    """

    class ByVariable(maker):
        def build(self, variables: Sequence[keras.Variable]) -> None:
            super().build(variables)
            self.factors = [factor(variable) for variable in variables]

        def update_step(self, gradient: Tensor, variable: Updated, learning_rate: Tensor) -> None:
            # By index, as Keras finds its moments: here a variable is TensorFlow's, without a path.
            own = learning_rate * self.factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, own)

    return ByVariable
