"""The devices that a run trains on: one, several of one machine, or several machines.

Every batch is shared among them, and all else stays as on one device: the images of a batch, cut into parts in their
order; batch normalisation, loss and gradient of the whole batch. Every process runs the whole experiment, since each
step needs all of them; only the primary process writes the run directory.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from common.config import Config
from common.errors import ConfigError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Of XLA: kernels that add in a fixed order, and none chosen by its time, which could differ after a resume.
FIXED_ORDER = "--xla_gpu_deterministic_ops=true"


class Devices:
    """One device in one process, and what the others do differently. `join` and `activate` come first, in that order.

    Kinds: this one; `mirrored.Mirrored` (TensorFlow, one machine); `mesh.Mesh` (JAX, one process a machine);
    `together.Together` (JAX, several seeds on one device).
    """

    seeds: int | None = None
    """How many seeds are trained at once, if --seeds names them."""

    @property
    def is_primary(self) -> bool:
        """Whether this process writes the run directory."""
        return True

    @property
    def reads_all(self) -> bool:
        """Whether this process reads the whole of every batch."""
        return True

    def join(self) -> None:
        """Find the devices and the other processes, before anything else touches the backend.

        Raises ConfigError if there are fewer devices, or another number of processes, than the config says.
        """

    def activate(self) -> None:
        """From here on models are built for all devices."""
        import keras
        import tensorflow as tf

        if keras.backend.backend() == "tensorflow":  # which reserves the memory of every GPU that it sees
            tf.config.set_visible_devices(tf.config.list_physical_devices("GPU")[:1], "GPU")

    def names(self) -> list[str]:
        """The devices that this run computes on."""
        import keras

        return keras.distribution.list_devices()[:1]

    def gpus(self) -> list[str]:
        """What the makers call the GPUs that this process sees."""
        import keras

        if keras.backend.backend() == "jax":
            import jax

            return [device.device_kind for device in jax.local_devices() if device.platform == "gpu"]
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in found]

    def broadcast(self, text: str) -> str:
        """The primary process's text, in every process; the others wait for it."""
        return text

    def is_peer_lost(self, error: Exception) -> bool:
        """Whether an error comes from the loss of another process."""
        return False

    def leave(self, error: BaseException) -> None:
        """End this process at once if others wait for it."""

    def local(self, indices: "tf.Tensor") -> "tf.Tensor":
        """The images of a batch that this process reads, given those of the whole batch."""
        return indices

    def local_step(self, step: "tf.Tensor", read: "tf.Tensor", whole: "tf.Tensor") -> "tf.Tensor":
        """A number for the images that this process reads of a batch, for their draws."""
        return step

    def shard(self, batches: "tf.data.Dataset") -> Any:
        """A pipeline of batches, cut into parts for the replicas."""
        return batches

    def fit(self, model: "keras.Model", batches: Any, **arguments: Any) -> None:
        """Train a compiled model on batches that `shard` has made, as its own `fit` does with these arguments."""
        model.fit(batches, **arguments)

    def steps(self, number: int) -> int | None:
        """How many steps Keras has to know that a finite pipeline has; None if it finds out."""
        return None

    def evaluation_batch(self, images: int, batch_size: int) -> int:
        """Size of the batches to evaluate these images in: less than asked for if the last would miss a replica."""
        return batch_size

    def weighted(self, loss: "keras.losses.Loss") -> "keras.losses.Loss":
        """A loss of Keras, made to weigh a replica by its share of the batch in the gradient."""
        return loss

    def prepare(self, model: "keras.Model", batches: "tf.data.Dataset") -> None:
        """Make a compiled model ready to be trained; `batches` is any pipeline of its inputs and labels."""

    def seed_replicas(self, model: "keras.Model") -> None:
        """Let each replica draw its own random numbers."""

    def replica_values(self, variables: Sequence["keras.Variable"]) -> list[list]:
        """The variables of each replica if each has its own, as the sums of metrics are; else none."""
        return []


def choose(config: Config, backend: str) -> Devices:
    """The devices that a config asks for; nothing is touched yet."""
    # XLA reads its flags when it first looks for devices.
    if backend == "jax" and config.deterministic == "yes":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FIXED_ORDER}".strip()
    if config.devices * config.nodes == 1:
        return Devices()
    if backend == "jax":
        from common.devices.mesh import Mesh

        return Mesh(config.devices, config.nodes)
    from common.devices.mirrored import Mirrored

    return Mirrored(config.devices)


def check_count(asked: int, there: int) -> None:
    """Raise ConfigError if there are fewer devices than asked for."""
    if asked > there:
        raise ConfigError(f"devices is {asked}; this machine has {there}")
