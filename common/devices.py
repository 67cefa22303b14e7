"""One training over several devices: every batch is shared among them, and all else stays as on one device.

TensorFlow: MirroredStrategy, the devices of one machine. JAX: keras.distribution, one process a machine, which under
srun find each other by SLURM's environment, elsewhere by Keras's variables (KERAS_DISTRIBUTION_JOB_ADDRESSES, ...).
Every process runs the whole experiment, since each step needs all of them; only the first one writes the run directory.

A batch is the same images as on one device, cut into parts in their order; batch normalisation, loss and gradient are
those of the whole batch. The last batch of an epoch may be smaller. TensorFlow: its parts differ by an image at most,
and weigh in the gradient by their size; with fewer images than devices each device computes all of them (and the
reported training loss counts them as often). JAX: parts are equal by construction, so each device computes all of a
batch that the number of devices does not divide.

Keras 3.15.1 lacks some of this: `_teach_jax`, `prepare` and `own_draws` reach into it, and say what they mend.
"""

import functools
import os
import resource
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from common.config import Config, ConfigError

KERAS = "KERAS_DISTRIBUTION_"  # of its variables
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # set by srun
# Seconds without a sign of life after which JAX ends the processes that are left; and for all to come to the end.
HEARTBEAT, SHUTDOWN = 60, 60
WAIT = 1800  # seconds that the others wait for the first one, which may have a folder to empty or a lock to wait for
DRAWS_APART = 1_000_003  # between the seeds of two replicas

_process, _processes = 0, 1  # this process among those of the run
_replicas = 1  # devices of TensorFlow's strategy
_told = 0  # how many texts so far


def join(config: Config) -> None:
    """Find the devices, and the other processes. Before anything else touches the backend.

    Raises:
        ConfigError: there are fewer devices, or another number of processes, than the config says.
    """
    if config.devices * config.nodes == 1:
        return
    if os.environ.get("KERAS_BACKEND") == "jax":
        _join_jax(config)
    else:
        _join_tensorflow(config.devices)


def _join_tensorflow(count: int) -> None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        _enough(count, len(gpus))
        return
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)


def _join_jax(config: Config) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", config.devices)
    if config.nodes > 1:
        _meet(config.nodes)
    if jax.default_backend() != "cpu":
        _enough(config.devices, jax.local_device_count())


def _enough(asked: int, there: int) -> None:
    if asked > there:
        raise ConfigError(f"devices is {asked}; this machine has {there}")


def _meet(nodes: int) -> None:
    """Connect this process to the others, through the first one."""
    import jax

    global _process, _processes
    address, count, number = _surroundings()
    if count != nodes:
        raise ConfigError(
            f"nodes is {nodes}, and the number of processes that were started is {count}; "
            f"start one on each machine: srun --nodes {nodes} --ntasks-per-node 1 ..."
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
    _process, _processes = jax.process_index(), jax.process_count()


def _surroundings() -> tuple[str | None, int, int | None]:
    """Address of the first process, number of processes, and which one this is. None: JAX finds it in SLURM's."""
    if f"{KERAS}NUM_PROCESSES" in os.environ:
        address, count, number = (os.environ[KERAS + name] for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
        return address.split(",")[0], int(count), int(number)
    if all(name in os.environ for name in SLURM):
        return None, int(os.environ["SLURM_NTASKS"]), None
    return None, 1, None


def share(config: Config) -> None:
    """From here on models are built for all devices. After `join`."""
    global _replicas
    if config.devices * config.nodes == 1:
        return
    import keras

    if keras.backend.backend() == "jax":
        devices = _jax_devices(config.devices)
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
        _teach_jax()
        return
    import tensorflow as tf

    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(config.devices)])
    tf.distribute.experimental_set_strategy(strategy)
    _replicas = config.devices


def _jax_devices(count: int) -> list[str]:
    """The first so many devices of each process, process by process, in Keras's spelling."""
    import jax

    by_process = [[d for d in jax.devices() if d.process_index == i] for i in range(jax.process_count())]
    return [f"{d.platform}:{d.id}" for local in by_process for d in local[:count]]


def in_use() -> list[str]:
    """The devices that this run computes on; without any sharing those that Keras sees."""
    import keras

    if _replicas > 1:
        import tensorflow as tf

        return [name.rpartition("device:")[2].lower() for name in tf.distribute.get_strategy().extended.worker_devices]
    distribution = keras.distribution.distribution()
    return list(distribution.device_mesh.devices.ravel()) if distribution else keras.distribution.list_devices()


def gpus() -> list[str]:
    """What the makers call the GPUs that this process sees."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.local_devices() if device.platform == "gpu"]
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in found]


def is_first() -> bool:
    """Whether this process is the one that writes; always so when it is alone."""
    return _process == 0


def tell(text: str) -> str:
    """The first process's text, once it has come here; the others wait for it."""
    global _told
    if _processes == 1:
        return text
    from jax._src import distributed  # its store has no public name, and a collective would time out in long waits

    client = distributed.global_state.client
    _told += 1
    if is_first():
        client.key_value_set(f"told/{_told}", f"={text}")  # never empty
        return text
    return client.blocking_key_value_get(f"told/{_told}", WAIT * 1000)[1:]


def is_lost(error: Exception) -> bool:
    """Whether an error comes from the loss of another process: JAX has no type for it."""
    signs = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service")
    return _processes > 1 and any(sign in str(error) for sign in signs)


def leave(error: BaseException) -> None:
    """End this process at once, where others wait for it: JAX would first wait for them."""
    if _processes == 1:
        return
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    code = error.code if isinstance(error, SystemExit) else 1
    os._exit(code if isinstance(code, int) else int(code is not None))


# The parts of a batch. JAX with several processes: each reads its own images, and the labels of all, which are small
# and tell how large the whole batch is.


def reads_all() -> bool:
    """Whether this process reads the whole of every batch."""
    return _processes == 1


def own(indices: Any) -> Any:
    """The images of a batch that this process reads, given those of the whole batch (tensor of TensorFlow)."""
    import tensorflow as tf

    n = tf.shape(indices)[0]
    part = n // _processes
    return tf.cond(n % _mesh_size() == 0, lambda: indices[_process * part : (_process + 1) * part], lambda: indices)


def own_step(step: Any, read: Any, whole: Any) -> Any:
    """A number for the images that this process reads of a batch, for their draws; alone, the step itself."""
    if _processes == 1:
        return step
    import tensorflow as tf

    part = tf.cast(tf.shape(read)[0] < tf.shape(whole)[0], tf.int64)
    return step * _processes + part * _process


def _mesh_size() -> int:
    import keras

    return keras.distribution.distribution().device_mesh.devices.size


@functools.cache
def _teach_jax() -> None:
    """Let Keras lay out each batch by its own size, and return predictions whole.

    It lays out all batches of an epoch as the first one, and fails at a last one that the devices do not divide; and
    predictions that lie on other machines cannot be read.
    """
    import jax
    import keras
    from keras.src.backend.jax.trainer import JAXEpochIterator, JAXTrainer

    def laid_out(self, distribution):
        mesh = distribution.device_mesh.backend_mesh
        for batch in self.data_adapter.get_jax_iterator():
            n = len(jax.tree.leaves(batch)[-1])
            layout = jax.NamedSharding(mesh, jax.P() if n % mesh.size else jax.P(mesh.axis_names))
            yield jax.tree.map(
                lambda a, n=n, to=layout: jax.make_array_from_process_local_data(to, a, (n, *a.shape[1:])), batch
            )

    def predict_step(self, state, data):
        outputs, rest = predict_part(self, state, data)
        mesh = keras.distribution.distribution().device_mesh.backend_mesh
        return jax.lax.with_sharding_constraint(outputs, jax.NamedSharding(mesh, jax.P())), rest

    predict_part = JAXTrainer.predict_step
    JAXEpochIterator._get_distributed_iterator = laid_out
    JAXTrainer.predict_step = predict_step


# The same under TensorFlow's strategy.


def spread(batches: Any) -> Any:
    """A tf.data pipeline of batches, cut into parts for the replicas; as it is without a strategy."""
    if _replicas == 1:
        return batches
    import tensorflow as tf

    def parts(*batch):
        n = tf.shape(batch[0])[0]
        sizes = n // _replicas + tf.cast(tf.range(_replicas) < n % _replicas, tf.int32)
        ends = tf.cumsum(sizes)
        few = n < _replicas  # no replica computes with no image: Keras would fail
        starts, ends = tf.where(few, 0, ends - sizes), tf.where(few, n, ends)
        return tf.data.Dataset.from_tensor_slices((starts, ends)).map(lambda a, b: tuple(t[a:b] for t in batch))

    cut = batches.flat_map(parts).prefetch(2 * _replicas)
    return tf.distribute.get_strategy().distribute_datasets_from_function(lambda context: cut)


def steps(number: int) -> int | None:
    """How many steps Keras must be told that a finite pipeline has; None: it knows."""
    return number if _replicas > 1 else None


def evaluation_batch(images: int, batch_size: int) -> int:
    """Size of batches to evaluate so many images in: less than asked for, where the last would miss a replica."""
    for size in range(batch_size, _replicas, -1):
        if images % size == 0 or images % size >= _replicas:
            return size
    return batch_size


def weighed(loss: Any) -> Any:
    """A loss of Keras, made to weigh a replica by its share of the batch in the gradient.

    Keras sums the gradients of the replicas' means divided by the number of replicas, which is the gradient of the
    mean over the batch where the parts are equal. The value stays the mean of the part, from which Keras gets the
    right mean over the epoch.
    """
    if _replicas == 1:
        return loss
    import keras
    import tensorflow as tf

    class Weighed(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            value = loss(y_true, y_pred, sample_weight)
            context = tf.distribute.get_replica_context()
            if context is None:
                return value
            n = tf.cast(tf.shape(y_true)[0], value.dtype)
            in_gradient = value * (n * _replicas / context.all_reduce("SUM", n))
            return in_gradient + tf.stop_gradient(value - in_gradient)

    return Weighed(name=loss.name)


def prepare(model: Any, batches: Any) -> None:
    """Mend a compiled model for TensorFlow's strategy; `batches` is any pipeline of its inputs and labels.

    Keras clips each replica's gradient, and looks for overflow in the first's alone, before it sums them: sum first.
    It makes the variables of the metrics from the mean of the parts of a first batch, which must be equal for that.
    """
    if _replicas == 1:
        return
    import tensorflow as tf

    whole, single = model.optimizer, getattr(model.optimizer, "inner_optimizer", model.optimizer)
    apply = whole.apply

    def apply_sum(grads, trainable_variables=None):
        grads = tf.distribute.get_replica_context().all_reduce("SUM", list(grads))
        return apply(grads, trainable_variables)

    whole.apply = apply_sum
    single._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars
    model._symbolic_build(data_batch=next(iter(batches)))
    model._maybe_symbolic_build = lambda **_: None


def own_draws(model: Any) -> None:
    """Let each replica draw its own random numbers: from the same state they would draw the same.

    The first replica's state, which is the one that checkpoints hold, decides the others'.
    """
    if _replicas == 1:
        return
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            seed, count = variable.numpy()
            for number, state in enumerate(variable.value.values):
                state.assign([seed + number * DRAWS_APART, count])


def copies(variables: Sequence) -> list[list]:
    """The variables of each replica where each has its own, as the sums of metrics are; else none."""
    if _replicas == 1:
        return []
    return [[variable.value.values[number] for variable in variables] for number in range(_replicas)]
