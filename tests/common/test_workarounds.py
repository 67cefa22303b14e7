"""Each workaround is still needed: a test here fails when its library is mended, and then the workaround goes.

What cannot be shown by one call, because it is a matter of speed or of chance, is bound to the versions that it was
last tried with.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.workarounds import grouped_convolution, max_pooling, optimizer_variables, resizing, step_logs

# autotuner, batch_norm_kernel, dense, few_pixels, max_pooling, strided_depthwise, update_kernels: with a newer version
# run the benchmark of each.
TRIED_WITH = {"keras": "3.15.1", "tensorflow": "2.21.0"}
FOLDER = Path(step_logs.__file__).parent
REPOSITORY = FOLDER.parents[1]


@pytest.mark.parametrize("library", [keras, tf], ids=TRIED_WITH)
def test_speed_was_tried_with_the_versions_that_are_installed(library):
    assert library.__version__ == TRIED_WITH[library.__name__.split(".")[0]], "try it again, then write it here"


def test_every_file_says_which_library_it_is_for():
    for path in FOLDER.glob("[!_]*.py"):
        head = path.read_text().partition('"""\n')[0]
        assert "Keras 3.15.1" in head or "TensorFlow 2.21" in head, path.name


class Log:
    """The loss of a step that is read by somebody."""

    def __init__(self):
        self.reads = 0

    def __float__(self):
        self.reads += 1
        return 1.0


class Count(keras.callbacks.Callback):
    """Counts the steps that it hears of, and the losses that are numbers already."""

    def __init__(self):
        super().__init__()
        self.steps = self.numbers = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.numbers += isinstance(logs["loss"], float)


@pytest.mark.parametrize(("kind", "reads"), [(keras.callbacks.CallbackList, 1), (step_logs.Unread, 0)])
def test_keras_reads_the_logs_of_each_step(kind, reads):
    count = Count()
    callbacks = kind([count], add_history=False, add_progbar=False)
    callbacks.on_train_batch_end(0, {"loss": tf.constant(1.0)})
    assert (count.steps, count.numbers) == (1, reads)


def test_keras_loses_a_variable_of_nadam_in_half_precision():
    def variables(build_first):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        inner = keras.optimizers.Nadam()
        if build_first:
            optimizer_variables.built(inner, model)
        outer = keras.optimizers.LossScaleOptimizer(inner)
        outer.build(model.trainable_variables)
        return {id(v) for v in outer.variables}, id(inner._u_product)

    for build_first in (False, True):
        known, product = variables(build_first)
        assert (product in known) == build_first


def test_keras_runs_past_the_end_of_an_epoch_that_several_steps_do_not_divide():
    seen = []

    def batches():
        for number in range(12):
            seen.append(number)
            yield np.ones((1, 2), "float32"), np.ones((1, 1), "float32")

    signature = (tf.TensorSpec((1, 2)), tf.TensorSpec((1, 1)))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=2)
    model.fit(
        tf.data.Dataset.from_generator(batches, output_signature=signature), steps_per_epoch=3, shuffle=False, verbose=0
    )
    assert int(model.optimizer.iterations.numpy()) == 4  # where three were asked for


GROUPED = """
import keras
from common.workarounds import grouped_convolution
from keras.src.backend.tensorflow import nn
import tensorflow as tf

compiled = []
plain = tf.function
tf.function = lambda *args, **more: (compiled.append(more.get("jit_compile")), plain(*args, **more))[1]
keras.ops.conv(tf.ones((1, 4, 4, 4)), tf.ones((3, 3, 2, 4)))
print(compiled)
print(grouped_convolution.has_grouped_kernels())
"""


def test_keras_compiles_grouped_convolutions_with_xla():
    assert says(GROUPED, "tensorflow") == ["[True]", "True"]
    assert says(GROUPED, "tensorflow", TF_ENABLE_ONEDNN_OPTS="0") == ["[True]", "False"]


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolutions_are_those_of_groups(stride, monkeypatch):
    layer = grouped_convolution.GroupedConv2D(8, 3, stride, "same", groups=2, use_bias=False)
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype("float32")
    with tf.GradientTape() as tape:
        outputs = layer(images)
    gradient = tape.gradient(outputs, layer.kernel.value)
    kernel = layer.kernel.numpy()
    parts = [
        tf.nn.conv2d(images[..., 2 * g : 2 * g + 2], kernel[..., 4 * g : 4 * g + 4], stride, "SAME") for g in (0, 1)
    ]
    np.testing.assert_allclose(outputs, np.concatenate(parts, axis=-1), atol=1e-5)
    monkeypatch.setattr(grouped_convolution, "has_grouped_kernels", lambda: False)
    with tf.GradientTape() as tape:
        dense = layer(images)
    np.testing.assert_allclose(outputs, dense, atol=1e-5)
    np.testing.assert_allclose(gradient, tape.gradient(dense, layer.kernel.value), atol=1e-4)


def says(code, backend, **more):
    """What a process of its own prints."""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(REPOSITORY)} | more
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


STATE = """
import numpy as np
import keras
from keras.src.utils import tracking
from common.workarounds.jax_state import keep_state_as_it_is

def looked_at():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    seen = []
    plain = tracking.Tracker.track
    tracking.Tracker.track = lambda self, value: (seen.append(type(value)), plain(self, value))[1]
    model._jax_state = {"trainable_variables": [np.ones(2)]}
    tracking.Tracker.track = plain
    return len(seen)

print(looked_at())
keep_state_as_it_is()
print(looked_at())
"""


def test_keras_looks_for_layers_in_the_state_of_a_step_on_jax():
    before, after = map(int, says(STATE, "jax"))
    assert before > 0
    assert after == 0


BATCHES = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import keras
import numpy as np
import tensorflow as tf
from common.workarounds.jax_batches import lay_out_each_batch

keras.distribution.set_distribution(
    keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"], auto_shard_dataset=False)
)

def trains():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices((np.ones((7, 2), "float32"), np.ones((7, 1), "float32"))).batch(4)
    try:
        model.fit(data, verbose=0)
    except Exception:
        return "fails"
    return "trains"

print(trains())
lay_out_each_batch()
print(trains())
"""


def test_keras_on_jax_fails_at_a_last_batch_that_the_devices_do_not_divide():
    assert says(BATCHES, "jax") == ["fails", "trains"]


MIRRORED = """
import keras
import numpy as np
import tensorflow as tf
from common.workarounds import mirrored

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
tf.distribute.experimental_set_strategy(strategy)
x = np.array([[1.0], [-3.0]], "float32")

def moved(mended):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    optimizer = keras.optimizers.SGD(1.0, global_clipnorm=0.5)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    if mended:
        mirrored.sum_gradients_first(model)
    model.fit(tf.data.Dataset.from_tensors((x, np.ones((2, 1), "float32"))).unbatch().batch(2), verbose=0)
    return round(float(model.get_weights()[0][0, 0]), 4)

print(moved(False), moved(True))
"""


def test_keras_clips_the_gradient_of_each_replica_by_itself():
    # The mean's gradient is 2 (-1 + 3) / 2 = 2, clipped to 0.5; of the parts, halved, -1 and 3: clipped, they cancel.
    assert says(MIRRORED, "tensorflow") == ["0.0", "-0.5"]


# Libraries ask whether TensorFlow is there before one of them imports it.
QUIET = "import common, importlib.util; importlib.util.find_spec('tensorflow'); "


@pytest.mark.parametrize(("before", "said"), [("", True), (QUIET, False)])
def test_tensorflow_says_that_onednn_is_on(before, said):
    """With common it does not, and other words on standard error appear, a crash's too."""
    crash = "import tensorflow, os; os.write(2, b'last words'); os.abort()"
    done = subprocess.run(
        [sys.executable, "-c", before + crash],
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    *noise, last = done.stderr.splitlines()
    assert last == "last words"
    assert ("oneDNN custom operations are on" in "".join(noise)) == said
    assert said or noise == []


def test_words_before_a_crash_within_the_import_are_not_lost():
    crash = (
        "import os; from common.workarounds import import_messages\n"
        "with import_messages.filtered():\n"
        "    os.write(2, b'oneDNN custom operations are on\\nlast words\\n'); os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", crash], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.stderr == "last words\n"


@pytest.mark.parametrize(("window", "stride", "side"), [(3, 2, 9), (3, 2, 8), (2, 2, 7)])
def test_maximum_of_slices_is_max_pooling_with_its_gradient(window, stride, side):
    """On TensorFlow's kernel: values, and whole numbers, many of them equal, for where the gradient goes."""
    images = tf.constant(np.random.default_rng(0).integers(-2, 3, (2, side, side, 3)), tf.float32)
    gradients = []
    values = []
    for pooled in (
        keras.layers.MaxPooling2D(window, stride),
        lambda x: max_pooling.by_slices(x, (window, window), (stride, stride)),
    ):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = pooled(images)
            weights = tf.reshape(tf.range(tf.size(outputs), dtype=tf.float32), outputs.shape)
            loss = tf.reduce_sum(weights * outputs)
        values.append(outputs)
        gradients.append(tape.gradient(loss, images))
    assert np.array_equal(*values)
    assert np.array_equal(*gradients)


def test_maximum_of_slices_keeps_what_is_not_a_number():
    images = np.zeros((1, 4, 4, 1), np.float32)
    images[0, 1, 1] = np.nan
    pooled = np.asarray(max_pooling.by_slices(tf.constant(images), (2, 2), (2, 2)))
    assert np.isnan(pooled[0, 0, 0, 0])
    assert np.isfinite(pooled).sum() == 3


def test_xla_cannot_compile_keras_antialiased_resize():
    images = np.zeros((1, 8, 8, 1), "float32")

    def compiled(layer):
        return tf.function(layer, jit_compile=True)(images)

    assert compiled(resizing.Resizing(4, 4)).shape == (1, 4, 4, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="ScaleAndTranslate"):
        compiled(keras.layers.Resizing(4, 4, antialias=True))
