"""tf.data pipelines: uint8 batches at native resolution, in an order that depends only on seed and epoch."""

import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from common.data.image_files import read
from common.data.splits import Split
from common.devices import Devices
from common.errors import ConfigError
from common.workarounds.autotuner import untuned

# What the host makes of a batch: uint8 images (b, h, w, c), int64 labels (b,) and a seed of the batch, int64 (2,), to
# uint8 images and targets. The seed is epoch and step: fold the run's seed into it, or every run draws the same.
Transform = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def training(
    split: Split,
    batch_size: int,
    seed: int,
    epochs: range,
    skip: int = 0,
    transform: Transform | None = None,
    views: int = 1,
    devices: Devices | None = None,
) -> tf.data.Dataset:
    """Batches of consecutive epochs, each in its own order.

    `epochs` counts from the start of the run, over all phases. `skip` leaves out the first batches of the first epoch,
    so that a run can resume within one. The split may contain several `views` of its images, one after the other; the
    epochs use them in turn. Elements: uint8 (b, h, w, c), int64 (b,), or what `transform` makes of them. With `devices`
    of several processes, each reads its own images of a batch and all of its labels.
    """
    images = len(split) // views
    devices = devices or Devices()
    batches = reader(split, batch_size, devices)

    makes_targets: list[bool] = []

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        done = tf.where(number == epochs.start, tf.constant(skip, tf.int64), 0)  # these images are not read
        places = order(images, seed, number)[done * batch_size :]
        dataset = batches(places + tf.cast(number % views * images, tf.int32))
        if transform is None:
            return dataset

        def transformed(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            own, labels = batch
            own, targets = transform(own, labels, tf.stack([number, devices.local_step(step, own, labels)]))
            makes_targets.append(targets is not labels)
            return own, targets

        return dataset.enumerate(done).map(transformed, num_parallel_calls=tf.data.AUTOTUNE)

    dataset = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch)
    if any(makes_targets) and not devices.reads_all:
        raise ConfigError("a transform that makes targets sees the images of one process alone: --nodes 1")
    return untuned(dataset.prefetch(tf.data.AUTOTUNE))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Number of batches in an epoch; the last one may be smaller."""
    return -(-len(split) // batch_size)


def evaluation(split: Split, batch_size: int, devices: Devices | None = None) -> tf.data.Dataset:
    """Batches of the split, once and in its own order; with `devices`, they evaluate together."""
    return untuned(reader(split, batch_size, devices)(tf.range(len(split))).prefetch(tf.data.AUTOTUNE))


def filled(split: Split, batch_size: int) -> Split:
    """The split, with its last image again and again until all batches have one size.

    An image then gives the same bits in any company: kernels are chosen by the size of a batch.
    """
    return split.take(np.minimum(np.arange(steps_per_epoch(split, batch_size) * batch_size), len(split) - 1))


def pictures(split: Split, indices: np.ndarray) -> np.ndarray:
    """The images at these indices of the split, as an array: uint8 (n, h, w, c)."""
    return rows(split)(tf.constant(split.places[indices])).numpy()


def order(n: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """A permutation of 0 .. n-1 as a pure function of (seed, epoch): sorted stateless random keys."""
    keys = tf.random.stateless_uniform([n], tf.stack([tf.constant(seed, tf.int64), epoch]), None, None, tf.int64)
    return tf.argsort(keys, stable=True)


def reader(split: Split, batch_size: int, devices: Devices | None = None) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """A function from indices of a split to batches of images and labels; the caller must keep a NumPy store alive.

    Of several processes that train together, each reads its own images of a batch and all of its labels.
    """
    devices = devices or Devices()
    # Created once, here: inside a dataset's function they would be copied into its graph.
    places, labels = tf.constant(split.places), tf.constant(split.labels)

    def batches(indices: tf.Tensor) -> tf.data.Dataset:
        # Slices: single indices would take a fifth of a step of the linear SVM, on one core.
        starts = tf.data.Dataset.range(0, tf.size(indices, tf.int64), batch_size)
        return starts.map(lambda start: indices[start : start + batch_size])

    def from_files(indices: tf.Tensor) -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices(indices)
        dataset = dataset.map(lambda i: (from_file(split, places[i]), labels[i]), tf.data.AUTOTUNE)
        return dataset.batch(batch_size)

    def in_batches(indices: tf.Tensor) -> tf.data.Dataset:
        dataset = batches(indices)
        return dataset.map(
            lambda i: (images(tf.gather(places, devices.local(i))), tf.gather(labels, i)), tf.data.AUTOTUNE
        )

    images = rows(split)
    return from_files if split.in_files and devices.reads_all else in_batches


def rows(split: Split) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from places in a split's store to the images there."""
    if split.in_files:
        return lambda own: tf.map_fn(lambda place: from_file(split, place), own, fn_output_signature=tf.uint8)
    if not isinstance(split.store, np.ndarray):
        return lambda own: tf.gather(split.store, own)
    # TensorFlow never frees the functions that it calls, so they must not hold the array.
    store, dtype, shape = weakref.ref(split.store), split.store.dtype, split.store.shape[1:]

    def at(own: np.ndarray) -> np.ndarray:
        array = store()
        assert array is not None  # the caller keeps it
        return array[own]

    # Stateless: of functions with a state, TensorFlow runs one at a time if it has to be deterministic, and says so.
    return lambda own: tf.ensure_shape(tf.numpy_function(at, [own], dtype, stateful=False), [None, *shape])


def from_file(split: Split, place: tf.Tensor) -> tf.Tensor:
    """The image at a place of a store of files."""
    return read(split.store[place], split.size, split.channels)
