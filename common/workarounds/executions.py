"""Keras 3.15.1 with several steps in one execution."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras


def steps_per_execution(most: int, devices: int, steps: int, done: int) -> int:
    """How many steps Keras runs in one go: a divisor of an epoch's steps, and of those that are left of a begun one.

    Keras would run past the end of an epoch otherwise. On several devices it fails: there it is one.
    """
    return 1 if devices > 1 else math.gcd(most, steps, done)


def in_one_program(model: keras.Model, execution_steps: int) -> None:
    """Let a compiled model train so many steps of JAX at each call of its train function, as one program.

    Keras calls a program for each step, and a GPU waits for the host between them.
    """
    model.train_function = program(model.train_step, execution_steps)


def program(train_step: Callable, execution_steps: int) -> Callable[[Any, Iterator], tuple[Any, Any]]:
    """So many steps of JAX as one program: of a state and an iterator of batches, to the last logs and the next state.

    Executions with a smaller batch are made step by step.
    """
    import jax

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        logs, state = train_step(state, batch)
        return state, logs

    def all_of_them(state: Any, batches: Any) -> tuple[Any, Any]:
        state, logs = jax.lax.scan(step, state, batches)
        return jax.tree.map(lambda each: each[-1], logs), state

    one, several = (jax.jit(function, donate_argnums=0) for function in (train_step, all_of_them))

    def execute(state: Any, iterator: Iterator) -> tuple[Any, Any]:
        batches = list(itertools.islice(iterator, execution_steps))
        if execution_steps > 1 and len({jax.tree.leaves(batch)[-1].shape for batch in batches}) == 1:
            return several(state, jax.tree.map(lambda *each: jax.numpy.stack(each), *batches))
        for batch in batches:
            logs, state = one(state, batch)
        return logs, state

    return execute


@contextmanager
def one_at_a_time(model: keras.Model) -> Iterator[None]:
    """Predict with one step an execution: for several, Keras puts a copy of the network for each into one graph."""
    execution_steps, model.steps_per_execution = model.steps_per_execution, 1
    try:
        yield
    finally:
        model.steps_per_execution = execution_steps
