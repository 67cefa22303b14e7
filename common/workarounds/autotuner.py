"""TensorFlow 2.21's autotuner of tf.data, which now and then does not wake up."""

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The data set without TensorFlow's autotuner: it reads with one thread per core, at most 16.

    The end of an iterator waits for the autotuner. TensorFlow 2.21 sometimes fails to wake it, and it may then sleep
    for as long as it has run before (`tests/benchmarks/autotuner.py`). On several devices TensorFlow wraps this in
    pipelines of its own, which still have an autotuner.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
