"""The optimiser of a phase: its schedule, rates by variable, and updates that pass over memory once."""

import math
from collections.abc import Callable

import keras
from keras import ops

from common.config import Phase

WARMUP_START = 0.01  # share of the peak rate at which a warm-up begins

# Of a variable: what its learning rate is a multiple of the phase's by.
Factor = Callable[[keras.Variable], float]

MAKERS = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "nadam": keras.optimizers.Nadam,
}


def make(phase: Phase, steps: int, factor: Factor | None = None) -> keras.optimizers.Optimizer:
    """A new optimiser for a phase of so many steps an epoch; with `factor`, each variable's rate is so many times its.

    On TensorFlow, SGD, Adam and AdamW update by its own kernels.
    """
    maker = MAKERS[phase.optimizer]
    if keras.backend.backend() == "tensorflow":
        maker = by_kernel(maker)
    if factor:
        maker = by_variable(maker, factor)
    more = {"momentum": phase.momentum} if phase.optimizer == "sgd" else {}
    optimizer = maker(learning_rate(phase, steps), global_clipnorm=phase.clip_norm, **more)
    # None, where Keras would go over all weights to take nothing away; AdamW refuses it as an argument.
    optimizer.weight_decay = phase.weight_decay or None
    return optimizer


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then a cosine between peak and floor that goes on rising and falling.

    The cosine is that of SGDR (Loshchilov and Hutter 2017, equation 5) without restarts: after `half_period` steps
    it has come down to the floor, after two of them up to the peak again, as PyTorch's CosineAnnealingLR does past
    its T_max.
    """

    def __init__(self, peak: float, floor: float, warmup: int, half_period: int):
        self.peak = peak
        self.floor = floor
        self.warmup = warmup
        self.half_period = half_period

    def __call__(self, step):
        """The rate at a step (from 0), as a float32 scalar."""
        step = ops.cast(step, "float32")
        rising = self.peak * (WARMUP_START + (1 - WARMUP_START) * step / max(self.warmup, 1))
        angle = math.pi * (step - self.warmup) / self.half_period
        waving = self.floor + (self.peak - self.floor) * (1 + ops.cos(angle)) / 2
        return ops.where(step < self.warmup, rising, waving)

    def get_config(self):
        return {"peak": self.peak, "floor": self.floor, "warmup": self.warmup, "half_period": self.half_period}


def learning_rate(phase: Phase, steps: int) -> float | WarmupCosine:
    """The rate of a phase with so many steps an epoch: a number or a schedule."""
    if phase.schedule == "constant":
        return phase.rate
    descent = phase.cosine_epochs or phase.epochs - phase.warmup_epochs
    return WarmupCosine(phase.rate, phase.final_rate, phase.warmup_epochs * steps, descent * steps)


def by_variable(maker: type[keras.optimizers.Optimizer], factor: Factor) -> type[keras.optimizers.Optimizer]:
    """The optimiser with a learning rate for each variable: `factor` times that of the optimiser.

    It scales the rate, not the gradient, which Adam's step does not depend on. All else is that of one optimiser: one
    state to keep, one count of steps, one scale of the loss under mixed precision, one norm to clip by. Keras 3.15's
    MultiOptimizer has one for each of its parts, and hides its rates from callbacks under mixed_float16. Decoupled
    weight decay, which Keras applies elsewhere, goes by the optimiser's own rate.
    """

    class ByVariable(maker):
        def build(self, variables):
            super().build(variables)
            self.factors = [factor(variable) for variable in variables]

        def update_step(self, gradient, variable, learning_rate):
            # By its index, as Keras finds its moments: what comes here is TensorFlow's own variable, without a path.
            own = learning_rate * self.factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, own)

    return ByVariable


def by_kernel(maker: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """The optimiser with its update as one of TensorFlow's kernels, if it has one: a pass over each variable's memory.

    Keras's own update, the same formula, is a dozen operations, and in a step that XLA does not compile each of them
    passes over memory by itself. JAX compiles its step. Dense gradients; without Nesterov's momentum and AMSGrad, which
    `make` does not ask for.
    """
    import tensorflow as tf

    def sgd(self, gradient, variable, learning_rate):
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=handle(variable), alpha=learning_rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=handle(variable),
            accum=handle(self.momentums[self._get_variable_index(variable)]),
            lr=learning_rate,
            grad=gradient,
            momentum=self.momentum,
        )

    def adam(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=handle(variable),
            m=handle(self._momentums[index]),
            v=handle(self._velocities[index]),
            beta1_power=ops.power(self.beta_1, step),
            beta2_power=ops.power(self.beta_2, step),
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def handle(variable):
        return (variable.value if isinstance(variable, keras.Variable) else variable).handle

    kernels = {keras.optimizers.SGD: sgd, keras.optimizers.Adam: adam, keras.optimizers.AdamW: adam}
    if maker not in kernels:
        return maker

    class ByKernel(maker):
        def update_step(self, gradient, variable, learning_rate):
            kernels[maker](self, ops.cast(gradient, variable.dtype), variable, ops.cast(learning_rate, variable.dtype))

    return ByKernel
