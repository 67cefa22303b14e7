"""Several devices with JAX: keras.distribution, one process a machine.

The processes find each other by SLURM's environment under srun, elsewhere by Keras's variables
(KERAS_DISTRIBUTION_JOB_ADDRESSES, ...). Parts are equal by construction, so each device computes all of a batch that
the number of devices does not divide. With several processes each reads its own images, and the labels of all, which
are small and show how large the whole batch is.
"""

import os
import resource
import sys
import traceback

import jax
import tensorflow as tf

from common.devices import Devices, check_count
from common.errors import ConfigError
from common.workarounds.jax_batches import lay_out_each_batch

KERAS = "KERAS_DISTRIBUTION_"  # of its variables
NAMES = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # set by srun
# Seconds without a sign of life after which JAX ends the processes that are left; and for all to come to the end.
HEARTBEAT, SHUTDOWN = 60, 60
WAIT = 1800  # seconds to wait for the primary process, which may have a folder to empty or a lock to wait for


class Mesh(Devices):
    """`count` devices of each of `nodes` processes."""

    def __init__(self, count: int, nodes: int):
        self.count = count
        self.nodes = nodes
        self.process, self.processes = 0, 1  # this one among those of the run
        self.broadcasts = 0

    @property
    def is_primary(self) -> bool:
        return self.process == 0

    @property
    def reads_all(self) -> bool:
        return self.processes == 1

    def join(self) -> None:
        jax.config.update("jax_num_cpu_devices", self.count)
        if self.nodes > 1:
            self.connect()
        if jax.default_backend() != "cpu":
            check_count(self.count, jax.local_device_count())

    def connect(self) -> None:
        """Connect this process to the others, through the primary one."""
        address, count, number = surroundings()
        if count != self.nodes:
            raise ConfigError(
                f"nodes is {self.nodes}, and the number of processes that were started is {count}; "
                f"start one on each machine: srun --nodes {self.nodes} --ntasks-per-node 1 ..."
            )
        # When one of them dies, JAX aborts the others; that should leave no core files of gigabytes.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself
        jax.distributed.initialize(
            address,
            count,
            number,
            local_device_ids=[],  # all that are visible; under SLURM JAX would take one a process
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
        self.process, self.processes = jax.process_index(), jax.process_count()

    def activate(self) -> None:
        import keras

        by_process = [[d for d in jax.devices() if d.process_index == i] for i in range(jax.process_count())]
        names = [f"{d.platform}:{d.id}" for local in by_process for d in local[: self.count]]
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names, auto_shard_dataset=False))
        lay_out_each_batch()

    def names(self) -> list[str]:
        import keras

        return list(keras.distribution.distribution().device_mesh.devices.ravel())

    def broadcast(self, text: str) -> str:
        if self.processes == 1:
            return text
        from jax._src import distributed  # its store has no public name, and a collective would time out in long waits

        client = distributed.global_state.client
        assert client is not None  # `connect` has made it
        self.broadcasts += 1
        key = f"broadcast/{self.broadcasts}"
        if self.is_primary:
            client.key_value_set(key, f"={text}")  # never empty
            return text
        return client.blocking_key_value_get(key, WAIT * 1000)[1:]

    def is_peer_lost(self, error: Exception) -> bool:
        """JAX has no type for it."""
        signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service")
        return self.processes > 1 and any(sign in str(error) for sign in signs)

    def leave(self, error: BaseException) -> None:
        """At once, if there are other processes: JAX would first wait for them."""
        if self.processes == 1:
            return
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code if isinstance(code, int) else int(code is not None))

    def local(self, indices: tf.Tensor) -> tf.Tensor:
        import keras

        n = tf.shape(indices)[0]
        part = n // self.processes
        size = keras.distribution.distribution().device_mesh.devices.size
        own = slice(self.process * part, (self.process + 1) * part)
        return tf.cond(n % size == 0, lambda: indices[own], lambda: indices)

    def local_step(self, step: tf.Tensor, read: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
        if self.processes == 1:
            return step
        part = tf.cast(tf.shape(read)[0] < tf.shape(whole)[0], tf.int64)
        return step * self.processes + part * self.process


def surroundings() -> tuple[str | None, int, int | None]:
    """Address of the primary process, number of processes, and which one this is. None: JAX finds it in SLURM's."""
    if f"{KERAS}NUM_PROCESSES" in os.environ:
        address, *numbers = (os.environ.get(KERAS + name, "") for name in NAMES)
        if not address or not all(number.isdecimal() for number in numbers):
            set_to = ", ".join(f"{KERAS}{name}={os.environ.get(KERAS + name, '')}" for name in NAMES)
            raise ConfigError(f"{set_to}; allowed: HOST:PORT, the number of processes, and that of this one from 0")
        count, number = map(int, numbers)
        return address.split(",")[0], count, number
    if all(name in os.environ for name in SLURM):
        return None, int(os.environ["SLURM_NTASKS"]), None
    return None, 1, None
