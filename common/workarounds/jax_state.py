"""Keras 3.15.1 on JAX looks for layers in the state that a step has returned."""

import functools
from typing import Any


@functools.cache
def keep_state_as_it_is() -> None:
    """Set that state without looking for layers in it.

    Keras takes it for an attribute like any other, and goes through its arrays, some hundreds, after each step. A GPU
    that trains ResNet-18 waits for it (tests/benchmarks/README.md, "On a GPU").
    """
    from keras.src.backend.jax.trainer import JAXTrainer

    def set_attribute(self: Any, name: str, value: Any) -> None:
        if name == "_jax_state":
            object.__setattr__(self, name, value)
        else:
            super(JAXTrainer, self).__setattr__(name, value)

    JAXTrainer.__setattr__ = set_attribute
