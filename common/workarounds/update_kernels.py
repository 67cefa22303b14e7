"""TensorFlow 2.21's update kernels, which pass over each variable's memory once.

Keras 3.15.1 writes an update as a dozen operations of the same formula; in a step that XLA does not compile, each of
them passes over memory. The autoencoder trains 1.2 to 1.3 times as fast with them (tests/benchmarks/README.md). JAX
compiles its step. For dense gradients only, without Nesterov momentum and AMSGrad.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

Kernel = Callable[[Any, Any, Any, Any], None]  # optimiser, gradient, variable, learning rate


def sgd(optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """Keras's SGD: momentum gathers rate times gradient."""
    descend(tf.raw_ops.ResourceApplyKerasMomentum, optimizer, gradient, variable, learning_rate)


def torch_sgd(optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """Torch's SGD: momentum gathers gradients."""
    descend(tf.raw_ops.ResourceApplyMomentum, optimizer, gradient, variable, learning_rate)


def descend(with_momentum: Callable, optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """Gradient descent, by this operation if the optimiser has momentum."""
    if not optimizer.momentum:
        tf.raw_ops.ResourceApplyGradientDescent(var=handle(variable), alpha=learning_rate, delta=gradient)
        return
    with_momentum(
        var=handle(variable),
        accum=handle(optimizer.momentums[optimizer._get_variable_index(variable)]),
        lr=learning_rate,
        grad=gradient,
        momentum=optimizer.momentum,
    )


def adam(optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """Adam, and AdamW whose weight decay Keras has applied before."""
    index = optimizer._get_variable_index(variable)
    step = ops.cast(optimizer.iterations + 1, variable.dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=handle(variable),
        m=handle(optimizer._momentums[index]),
        v=handle(optimizer._velocities[index]),
        beta1_power=ops.power(optimizer.beta_1, step),
        beta2_power=ops.power(optimizer.beta_2, step),
        lr=learning_rate,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        grad=gradient,
    )


def handle(variable: Any) -> Any:
    """TensorFlow's own handle of a variable."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def by_kernel(maker: type[keras.optimizers.Optimizer], kernel: Kernel) -> type[keras.optimizers.Optimizer]:
    """The optimiser, updating by a kernel."""

    class ByKernel(maker):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            kernel(self, ops.cast(gradient, variable.dtype), variable, ops.cast(learning_rate, variable.dtype))

    return ByKernel
