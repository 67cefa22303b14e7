"""Work-rounds of faults in the libraries, each until it is mended there."""

import functools

import keras


class Unread(keras.callbacks.CallbackList):
    """Hands a step's logs on as they are on the device. Keras would read them, and so wait for each step to end."""

    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class TensorBoard(keras.callbacks.TensorBoard):
    """Writes by the epoch; Keras's own reads the logs of each step as well, and makes nothing of them."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)


@functools.cache
def keep_state_as_it_is() -> None:
    """Let Keras not look for layers in the state that a step on JAX has given.

    Keras 3.15 takes that state for an attribute like any other, and goes through its arrays, some hundreds, after each
    step. A GPU that trains ResNet-18 waits for it (tests/benchmarks/README.md).
    """
    from keras.src.backend.jax.trainer import JAXTrainer

    def set_attribute(self, name, value):
        if name == "_jax_state":
            object.__setattr__(self, name, value)
        else:
            super(JAXTrainer, self).__setattr__(name, value)

    JAXTrainer.__setattr__ = set_attribute
