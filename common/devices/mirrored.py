"""Several devices of one machine with TensorFlow: MirroredStrategy.

The parts of a last, smaller batch differ by an image at most, and weigh in the gradient by their size. If a batch has
fewer images than there are devices, each device computes all of them, and the reported training loss counts them as
often. Keras 3.15.1 lacks some of this: `weighted`, `prepare` and `seed_replicas` say what they mend.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from common.devices import Devices, check_count

if TYPE_CHECKING:
    import keras  # not before `join`

DRAWS_APART = 1_000_003  # between the seeds of two replicas


class Mirrored(Devices):
    """`count` replicas: GPUs, or parts of the CPU if there is no GPU."""

    def __init__(self, count: int):
        self.count = count

    def join(self) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            check_count(self.count, len(gpus))
            return
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * self.count)

    def activate(self) -> None:
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        strategy = tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(self.count)])
        tf.distribute.experimental_set_strategy(strategy)

    def names(self) -> list[str]:
        return [name.rpartition("device:")[2].lower() for name in tf.distribute.get_strategy().extended.worker_devices]

    def shard(self, batches: tf.data.Dataset) -> Any:
        def parts(*batch: tf.Tensor) -> tf.data.Dataset:
            n = tf.shape(batch[0])[0]
            sizes = n // self.count + tf.cast(tf.range(self.count) < n % self.count, tf.int32)
            ends = tf.cumsum(sizes)
            few = n < self.count  # no replica computes with no image: Keras would fail
            starts, ends = tf.where(few, 0, ends - sizes), tf.where(few, n, ends)
            return tf.data.Dataset.from_tensor_slices((starts, ends)).map(lambda a, b: tuple(t[a:b] for t in batch))

        cut = batches.flat_map(parts).prefetch(2 * self.count)
        return tf.distribute.get_strategy().distribute_datasets_from_function(lambda context: cut)

    def steps(self, number: int) -> int | None:
        return number

    def evaluation_batch(self, images: int, batch_size: int) -> int:
        for size in range(batch_size, self.count, -1):
            if images % size == 0 or images % size >= self.count:
                return size
        return batch_size

    def weighted(self, loss: "keras.losses.Loss") -> "keras.losses.Loss":
        """Keras sums the gradients of the replicas' means divided by the number of replicas.

        That is the gradient of the mean over the batch if the parts are equal. The value stays the mean of the part,
        from which Keras gets the right mean over the epoch.
        """
        import keras

        count = self.count

        class Weighted(keras.losses.Loss):
            def __call__(self, y_true, y_pred, sample_weight=None):
                value = loss(y_true, y_pred, sample_weight)
                context = tf.distribute.get_replica_context()
                if context is None:
                    return value
                n = tf.cast(tf.shape(y_true)[0], value.dtype)
                in_gradient = value * (n * count / context.all_reduce("SUM", n))
                return in_gradient + tf.stop_gradient(value - in_gradient)

        return Weighted(name=loss.name)

    def prepare(self, model: "keras.Model", batches: tf.data.Dataset) -> None:
        """Keras clips each replica's gradient, and looks for overflow in the first's alone, before it sums them.

        Here they are summed first. It makes the variables of the metrics from the mean of the parts of a first batch,
        which must be equal for that.
        """
        whole, single = model.optimizer, getattr(model.optimizer, "inner_optimizer", model.optimizer)
        apply = whole.apply

        def apply_sum(grads, trainable_variables=None):
            grads = tf.distribute.get_replica_context().all_reduce("SUM", list(grads))
            return apply(grads, trainable_variables)

        whole.apply = apply_sum
        single._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
        model._symbolic_build(data_batch=next(iter(batches)))
        model._maybe_symbolic_build = lambda **_: None

    def seed_replicas(self, model: "keras.Model") -> None:
        """From the same state they would draw the same; the first replica's, which checkpoints hold, decides."""
        for variable in model.variables:
            if variable.name == "seed_generator_state":
                seed, count = variable.numpy()
                for number, state in enumerate(variable.value.values):
                    state.assign([seed + number * DRAWS_APART, count])

    def replica_values(self, variables: Sequence["keras.Variable"]) -> list[list]:
        return [[variable.value.values[number] for variable in variables] for number in range(self.count)]
