"""What Keras 3.15.1 gets wrong under TensorFlow's MirroredStrategy. Each function says what it mends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    import keras  # not before the devices are chosen

DRAWS_APART = 1_000_003  # between the seeds of two replicas


def weighted(loss: "keras.losses.Loss", count: int) -> "keras.losses.Loss":
    """A loss that weighs each of `count` replicas by its share of the batch in the gradient.

    Keras sums the gradients of the replicas' means divided by their number, which is the gradient of the mean over the
    batch only if the parts are equal. The value stays the mean of the part, from which Keras gets the right mean over
    the epoch.
    """
    import keras

    class Weighted(keras.losses.Loss):
        def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            value = loss(y_true, y_pred, sample_weight)
            context = tf.distribute.get_replica_context()
            if context is None:
                return value
            n = tf.cast(tf.shape(y_true)[0], value.dtype)
            in_gradient = value * (n * count / context.all_reduce("SUM", n))
            return in_gradient + tf.stop_gradient(value - in_gradient)

    return Weighted(name=loss.name)


def sum_gradients_first(model: "keras.Model") -> None:
    """Sum the replicas' gradients before they are clipped and looked through for overflow.

    Keras clips each replica's gradient, and looks for overflow in the first's alone, before it sums them.
    """
    whole, single = model.optimizer, getattr(model.optimizer, "inner_optimizer", model.optimizer)
    apply = whole.apply

    def apply_sum(grads: Sequence, trainable_variables: Sequence | None = None) -> Any:
        grads = tf.distribute.get_replica_context().all_reduce("SUM", list(grads))
        return apply(grads, trainable_variables)

    whole.apply = apply_sum
    single._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


def make_metrics(model: "keras.Model", batches: tf.data.Dataset) -> None:
    """Make the variables of the metrics from a batch of any pipeline of the model's inputs and labels.

    Keras makes them from the mean of the parts of a first batch, which must be equal for that.
    """
    model._symbolic_build(data_batch=next(iter(batches)))
    model._maybe_symbolic_build = lambda **_: None


def seed_replicas(model: "keras.Model") -> None:
    """Let each replica draw its own random numbers: from the same state they draw the same.

    The first replica's state, which is the one that checkpoints hold, decides the others'.
    """
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            seed, count = variable.numpy()
            for number, state in enumerate(variable.value.values):
                state.assign([seed + number * DRAWS_APART, count])
