"""One device that trains several seeds at once, as one program of JAX over the stacked variables of their models.

A small network leaves most of a GPU idle. Each seed keeps its own data, order, random numbers, loss, optimiser, history
and checkpoints; what its network holds as constants (a permutation, a mean image) is stacked too.
"""

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import jax
import keras
import numpy as np
import tensorflow as tf

from common.devices import Devices
from common.progress import Diverged
from common.turns import Turn
from common.workarounds.autotuner import untuned
from common.workarounds.executions import program
from common.workarounds.step_logs import Unread

# The parts of a state of Keras's JAX trainer, in their order.
PARTS = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


class Together(Devices):
    """The device as one seed of several sees it: a call of `fit` waits for the other seeds."""

    def __init__(self, seeds: int):
        self.seeds = seeds

    def fit(
        self,
        model: keras.Model,
        batches: tf.data.Dataset,
        *,
        validation_steps: int | None = None,
        shuffle: bool = False,
        **arguments: Any,
    ) -> None:
        turn = threading.current_thread()
        assert isinstance(turn, Turn)
        turn.ask(Fit(turn.out, model, batches, **arguments))


@dataclass
class Fit:
    """A call of Keras's `fit` that a seed waits for; `error` is what its callbacks raised. They print to `out`."""

    out: TextIO
    model: keras.Model
    batches: tf.data.Dataset
    callbacks: Unread
    validation_data: tf.data.Dataset
    initial_epoch: int
    epochs: int
    steps_per_epoch: int
    error: BaseException | None = field(default=None, init=False)

    def tell(self, event: str, *arguments: Any) -> None:
        """Let the callbacks know of an event, unless one has raised an error before."""
        if self.error is None:
            try:
                with contextlib.redirect_stdout(self.out):
                    getattr(self.callbacks, event)(*arguments)
            except Diverged as error:
                self.error = error.with_traceback(None)  # which would keep the arrays of all seeds
            except BaseException as error:  # a request to stop is none of Exception's
                self.error = error

    def state(self, purge: bool = False) -> tuple[list, ...]:
        """The state of the model; `purge` takes it out of the variables, until Keras syncs them, as its fit does."""
        return self.model._get_jax_state(**dict.fromkeys(PARTS, True), purge_model_variables=purge)

    def key(self) -> tuple:
        """What the fits that can be trained as one have in common."""
        batch = next(self.batches.take(1).as_numpy_iterator())
        self.model._symbolic_build(data_batch=batch)  # makes the variables of metrics, as Keras's fit does
        computed = text(self.model.train_step, self.state(), batch)
        return self.initial_epoch, self.epochs, self.steps_per_epoch, self.callbacks.execution_steps, computed


def text(step: Callable, state: Any, batch: Any) -> str:
    """What a step computes, but for the values of its constants; those of functions within it count."""
    traced = jax.make_jaxpr(step)(state, batch)
    constants = [f"{each.dtype}{each.shape}" for each in map(np.asarray, traced.consts)]
    constants += [np.asarray(each).tobytes().hex() for each in inner_constants(traced.jaxpr)]
    return re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)) + " ".join(constants)


def inner_constants(jaxpr: Any) -> Iterator[Any]:
    """The constants of the functions within a computation."""
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda each: hasattr(each, "eqns")):
            if hasattr(value, "consts"):
                yield from value.consts
            if hasattr(value, "eqns"):
                yield from inner_constants(getattr(value, "jaxpr", value))


def as_one(steps: Sequence[Callable]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A step of all seeds: of states and batches whose arrays have a first axis of seeds.

    JAX sees the step of each seed, for its constants, and computes the first one's.
    """

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        one = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), (state, batch))
        traced = [jax.make_jaxpr(each, return_shape=True)(*one) for each in steps]
        constants = [np.stack(each) for each in zip(*(closed.consts for closed, _ in traced), strict=True)]
        first, results = traced[0]

        def computed(own: Any, *leaves: Any) -> list:
            return jax.core.eval_jaxpr(first.jaxpr, own, *leaves)

        leaves = jax.vmap(computed)(constants, *jax.tree.leaves((state, batch)))
        return jax.tree.unflatten(jax.tree.structure(results), leaves)

    return step


def stack(trees: Sequence[Any]) -> Any:
    """Trees of arrays, as one with a first axis of seeds."""
    return jax.tree.map(lambda *each: jax.numpy.stack(each), *trees)


def zipped(pipelines: Sequence[tf.data.Dataset]) -> tf.data.Dataset:
    """Pipelines of batches, as one with a first axis of seeds."""
    return untuned(
        tf.data.Dataset.zip(tuple(pipelines))
        .map(lambda *each: tf.nest.map_structure(lambda *arrays: tf.stack(arrays), *each))
        .prefetch(tf.data.AUTOTUNE)
    )


class State:
    """One seed's part of the state, for Keras, which reads it when a callback asks for the model's variables."""

    def __init__(self, whole: Sequence[Any], seed: int):
        self.whole = whole
        self.seed = seed

    def get(self, part: str, default: object = None) -> list:
        """The arrays of a part."""
        return [array[self.seed] for array in self.whole[PARTS.index(part)]]


@dataclass(frozen=True)
class Number:
    """One seed's number of those that `read` gives: float (seeds,)."""

    read: Callable[[], np.ndarray]
    seed: int

    def __float__(self) -> float:
        return float(self.read()[self.seed])


def by_seed(logs: Mapping[str, Any], count: int) -> list[dict[str, Number]]:
    """The logs of each seed; those of all are read from the device when the first of them is needed."""
    read = {name: functools.cache(functools.partial(np.asarray, array)) for name, array in logs.items()}
    return [{name: Number(each, seed) for name, each in read.items()} for seed in range(count)]


def fit(fits: Sequence[Fit], pass_on: Callable[[], None]) -> None:
    """Train all of these as one program, as Keras would each of them; they have the same `key`.

    `pass_on` is called before the callbacks hear of an execution's end. If one of a seed's raises an error (its loss is
    not finite, say), it is kept in the `error` of that seed, and the others go on.
    """
    first = fits[0]
    train = program(as_one([each.model.train_step for each in fits]), first.callbacks.execution_steps)
    test = jax.jit(as_one([each.model.test_step for each in fits]))
    batches = zipped([each.batches for each in fits]).as_numpy_iterator()
    validation = zipped([each.validation_data for each in fits])
    for each in fits:
        each.tell("on_train_begin")
    for epoch in range(first.initial_epoch, first.epochs):
        if all(each.error for each in fits):  # asked to stop, say
            return
        for each in fits:
            each.model.reset_metrics()
            each.tell("on_epoch_begin", epoch)
        state = stack([each.state(purge=True) for each in fits])
        for execution in range(first.steps_per_epoch):
            for each in fits:
                each.tell("on_train_batch_begin", execution)
            logs, state = train(state, batches)
            pass_on()
            for seed, (each, own) in enumerate(zip(fits, by_seed(logs, len(fits)), strict=True)):
                each.model._jax_state, each.model._jax_state_synced = State(state, seed), False
                each.tell("on_train_batch_end", execution, own)
            if all(each.error for each in fits):
                return
        for each in fits:
            each.model.jax_state_sync()
        validation_logs = tested(test, state, validation)
        for each, own, other in zip(fits, by_seed(logs, len(fits)), by_seed(validation_logs, len(fits)), strict=True):
            named = own | {f"val_{name}": number for name, number in other.items()}
            each.tell("on_epoch_end", epoch, {name: float(number) for name, number in named.items()})
    for each in fits:
        each.model._jax_state = None
        each.tell("on_train_end")


def tested(test: Callable, state: Sequence[Any], validation: tf.data.Dataset) -> Mapping[str, Any]:
    """The metrics of each seed on its validation images."""
    trainable, others, _, metrics = state
    state = (trainable, others, [jax.numpy.zeros_like(each) for each in metrics])
    logs: Mapping[str, Any] = {}
    for batch in validation.as_numpy_iterator():
        logs, state = test(state, batch)
    return logs
