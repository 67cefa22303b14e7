"""Keras 3.15.1 has a grouped convolution compiled by XLA, whose gradient is unusable on a CPU.

One step of one layer (batch 8, 56x56x128, 32 groups) took 12 s on 2 cores. `tests/benchmarks/grouped_convolution.py`
compares what is left.
"""

import functools
from typing import TypeAlias

import keras
from keras import layers, ops

Tensor: TypeAlias = keras.KerasTensor


@keras.saving.register_keras_serializable(package="keras_studies")
class GroupedConv2D(layers.Conv2D):
    """A grouped `Conv2D` that also trains on a CPU.

    On TensorFlow 2.21 oneDNN's kernels do it, which Keras does not call. JAX is XLA too: there, and without oneDNN, the
    kernel is expanded to a dense one, with zeros between the groups: the same function and gradient, at the cost of a
    layer without groups.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Convolve `inputs` (batch, rows, columns, channels) with `kernel` (h, w, channels / groups, filters)."""
        if has_accelerator():
            return super().convolution_op(inputs, kernel)
        if keras.backend.backend() == "tensorflow" and has_grouped_kernels():
            import tensorflow as tf

            return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper())
        return super().convolution_op(inputs, dense_kernel(kernel, self.groups))


@functools.cache
def has_grouped_kernels() -> bool:
    """Whether TensorFlow computes the gradient of a grouped convolution on this CPU, as it does by oneDNN."""
    import tensorflow as tf

    with tf.init_scope(), tf.device("CPU"):  # which stops every tape, so the kernel is called by its name
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=tf.ones((1, 4, 4, 4)),
                filter_sizes=(3, 3, 2, 4),
                out_backprop=tf.ones((1, 4, 4, 4)),
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
        except tf.errors.OpError:
            return False
        return True


def dense_kernel(kernel: Tensor, groups: int) -> Tensor:
    """Return the ungrouped kernel (h, w, groups * i, o) of the same function as `kernel` (h, w, i, o)."""
    _, _, inputs, outputs = kernel.shape
    group_of_input = ops.arange(groups * inputs) // inputs
    group_of_output = ops.arange(outputs) // (outputs // groups)
    same_group = ops.equal(group_of_input[:, None], group_of_output[None, :])
    spread = ops.tile(kernel, (1, 1, groups, 1))
    return spread * ops.cast(same_group, spread.dtype)


@functools.cache
def has_accelerator() -> bool:
    """Whether Keras's backend computes on anything else than a CPU."""
    return any(not device.startswith("cpu") for device in keras.distribution.list_devices())


def is_tensorflow_on_cpu() -> bool:
    """Whether TensorFlow computes, on a CPU."""
    return keras.backend.backend() == "tensorflow" and not has_accelerator()
