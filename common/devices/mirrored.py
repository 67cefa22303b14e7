"""Several devices of one machine with TensorFlow: MirroredStrategy.

The parts of a last, smaller batch differ by an image at most, and weigh in the gradient by their size. If a batch has
fewer images than there are devices, each device computes all of them, and the reported training loss counts them as
often.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from common.devices import Devices, check_count
from common.workarounds import mirrored

if TYPE_CHECKING:
    import keras  # not before `join`


class Mirrored(Devices):
    """`count` replicas: GPUs, or parts of the CPU if there is no GPU."""

    def __init__(self, count: int):
        self.count = count

    def join(self) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            check_count(self.count, len(gpus))
            tf.config.set_visible_devices(gpus[: self.count], "GPU")  # the memory of all others would be reserved too
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
        return mirrored.weighted(loss, self.count)

    def prepare(self, model: "keras.Model", batches: tf.data.Dataset) -> None:
        mirrored.sum_gradients_first(model)
        mirrored.make_metrics(model, batches)

    def seed_replicas(self, model: "keras.Model") -> None:
        mirrored.seed_replicas(model)

    def replica_values(self, variables: Sequence["keras.Variable"]) -> list[list]:
        return [[variable.value.values[number] for variable in variables] for number in range(self.count)]
