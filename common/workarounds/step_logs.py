"""Keras 3.15.1 reads the logs of every step, and so waits for each step to end."""

from collections.abc import Mapping
from typing import Any

import keras


class Unread(keras.callbacks.CallbackList):
    """Hands a step's logs on as they are on the device; whoever needs a number reads it.

    A GPU then has the next step to do meanwhile (tests/benchmarks/README.md, "On a GPU"). With `execution_steps` above
    1 Keras counts executions of so many steps, and the callbacks hear of steps.
    """

    def __init__(self, *arguments: Any, execution_steps: int = 1, **more: Any):
        super().__init__(*arguments, **more)
        self.execution_steps = execution_steps

    def on_train_batch_begin(self, batch: int, logs: Mapping | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_begin(batch * self.execution_steps, logs)

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end((batch + 1) * self.execution_steps - 1, logs)


class TensorBoard(keras.callbacks.TensorBoard):
    """Writes by the epoch; Keras's own reads the logs of each step as well, and makes nothing of them."""

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        super().on_train_batch_end(batch)
