"""Keras 3.15.1 with several steps in one execution."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import keras


def steps_per_execution(most: int, devices: int, steps: int, done: int) -> int:
    """How many steps Keras runs in one go: a divisor of an epoch's steps, and of those that are left of a begun one.

    Keras would run past the end of an epoch otherwise. On JAX it warns at the end of an evaluation, and on several
    devices it fails: there it is one.
    """
    if keras.backend.backend() == "jax" or devices > 1:
        return 1
    return math.gcd(most, steps, done)


@contextmanager
def one_at_a_time(model: keras.Model) -> Iterator[None]:
    """Predict with one step an execution: for several, Keras puts a copy of the network for each into one graph."""
    together, model.steps_per_execution = model.steps_per_execution, 1
    try:
        yield
    finally:
        model.steps_per_execution = together
