"""fer_layerwise_lr: every layer in its group, frozen groups, test images that are training images too."""

import contextlib
import dataclasses
import io
import json

import in_process
import initial_weights
import keras
import numpy as np
import pytest
import stopped_before

from common import checkpoints
from common.backbones import STAGES, networks
from common.command_line import parse_strictly
from common.data import sources, splits
from common.errors import ConfigError
from common.normalisation import BatchNormalization
from common.result import Predictions
from slurm.plan import load_task

TASK = load_task("fer_layerwise_lr")
SMALL = ["--preset", "demo", "--limit-train", "120", "--limit-test", "50", "--epochs", "1"]
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "head")


def config(*flags):
    return parse_strictly(TASK.PRESETS, "", list(flags))


@pytest.fixture(scope="module")
def data():
    return sources.load(config(*SMALL))


def network(data, name="resnet18"):
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    backbone = networks.build(name, 32)
    return backbone, TASK.build(config(), backbone, data)


def test_the_new_head_starts_as_the_presets_say(data):
    backbone = networks.build("resnet18", 32)
    for preset, check in (("by_depth", "torchs"), ("one_rate", "torchs"), ("frozen", "torchs"), ("demo", "kerass")):
        keras.utils.set_random_seed(0)
        model = TASK.build(config("--preset", preset), backbone, data)
        getattr(initial_weights, f"assert_{check}")([model.get_layer("head")])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_by_depth_trains_every_layer_so_that_layer_is_follow(name):
    """Why the sweeps of this task leave `layer` out; with a frozen backbone the two differ."""
    backbone = networks.build(name, 32)
    layers = [own for own in backbone.model.layers if isinstance(own, BatchNormalization)]
    assert len(layers) > 10

    def regime(preset, batch_norm):
        rates = dataclasses.asdict(TASK.PRESETS[preset].rates)
        backbone.set_trainable([stage for stage in STAGES if rates[stage] > 0], batch_norm)
        return [(own.keep_statistics, own.trainable, own.gamma.trainable) for own in layers]

    assert regime("by_depth", "layer") == regime("by_depth", "follow")
    assert regime("frozen", "layer") != regime("frozen", "follow")


# --- groups of layers


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_every_variable_is_in_one_group(data, name):
    backbone, model = network(data, name)
    found = TASK.groups(backbone, model)
    assert found.keys() == {variable.path for variable in model.weights}
    assert tuple(dict.fromkeys(found[variable.path] for variable in model.weights)) == GROUPS  # in order of depth
    assert [path for path, group in found.items() if group == "head"] == ["head/kernel", "head/bias"]


def test_the_rates_of_each_arm():
    assert dataclasses.asdict(config().rates) == {
        "stem": 1e-5,
        "layer1": 1e-5,
        "layer2": 5e-5,
        "layer3": 1e-4,
        "layer4": 5e-4,
        "head": 1e-3,
    }
    (phase,) = config().phases
    assert (phase.optimizer, phase.momentum, phase.rate, phase.epochs) == ("sgd", 0.9, 1e-3, 10)
    assert set(dataclasses.asdict(config("--preset", "one_rate").rates).values()) == {1e-3}
    assert set(dataclasses.asdict(config("--preset", "frozen").rates).values()) == {0.0, 1e-3}
    upwards, downwards = (dataclasses.astuple(config("--preset", arm).rates) for arm in ("by_depth", "reversed"))
    assert downwards == (1e-3, 5e-4, 1e-4, 5e-5, 1e-5, 1e-5) == upwards[::-1]
    (mean,) = set(dataclasses.astuple(config("--preset", "geometric_mean").rates))
    assert np.log(mean) == pytest.approx(np.mean(np.log(upwards)), abs=1e-3)
    same = [dataclasses.replace(p, preset="", rates=config().rates) for n, p in TASK.PRESETS.items() if n != "demo"]
    assert len(set(same)) == 1, "the arms differ in more than their rates"


@pytest.fixture(scope="module")
def printed_run(tmp_path_factory):
    """A run whose first groups are frozen, and one of which hardly moves; and what it printed."""
    out = tmp_path_factory.mktemp("runs")
    flags = [*SMALL, "--rates.stem", "0", "--rates.layer1", "0", "--rates.layer2", "1e-9"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert in_process.call(TASK, "--out", str(out), *flags) == 0
    (folder,) = out.glob("*/*")
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def run(printed_run):
    return printed_run[0]


def test_groups_move_by_their_rates(run, data):
    kept = run / "checkpoints"
    arrays = checkpoints.load(kept / checkpoints.latest(kept).data["best"]["train"]["file"]).arrays
    after = {key.split("/", 2)[2]: array for key, array in arrays.items()}
    backbone, model = network(data)
    moved = dict.fromkeys(GROUPS, 0.0)
    statistics = dict.fromkeys(GROUPS, 0.0)
    for variable in model.weights:
        group = TASK.groups(backbone, model)[variable.path]
        change = float(np.abs(after[variable.path] - np.array(variable)).max())
        of = moved if variable.trainable else statistics
        of[group] = max(of[group], change)
    assert moved["stem"] == moved["layer1"] == 0
    assert 0 < moved["layer2"] < 1e-6
    for group in ("layer3", "layer4", "head"):
        assert moved[group] > 1e-4
    # A frozen group's batch normalisation keeps its statistics too.
    assert statistics["stem"] == statistics["layer1"] == 0
    assert min(statistics[group] for group in ("layer2", "layer3", "layer4")) > 0


def test_the_head_keeps_its_rate_if_it_is_given():
    for arm, first in (("reversed", 1e-3), ("geometric_mean", 7.94e-5)):
        given = config("--preset", arm, "--rates.head", "1e-3")
        assert (given.rates.stem, given.rates.head) == (first, 1e-3)
        assert given.setting(TASK.PRESETS).endswith("rates.head=0.001")


def test_the_rates_are_printed_drawn_and_kept(printed_run):
    run, printed = printed_run
    assert "rates: stem 0, layer1 0, layer2 1e-09, layer3 0.01, layer4 0.02, head 0.02\n" in printed
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["rates"]) == list(GROUPS)
    assert (metrics["rates"]["stem"], metrics["rates"]["head"]) == (0.0, TASK.PRESETS["demo"].rates.head)
    assert (run / "figures" / "rates.png").is_file()


def test_the_table_has_the_f1_of_every_class(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for scores in metrics["test"]["per_class"]:
        assert metrics["by_name"][f"test F1 of {scores['class']} (%)"] == pytest.approx(100 * scores["f1"])


# --- test images that are training images too


def test_metrics_without_copies_against_numpy():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(20) % 2
    test = pictures[10:].copy()
    test[2], test[5], test[9] = pictures[0], pictures[7], pictures[9]  # two of training images, one of validation
    parts = (pictures[:8], labels[:8]), (pictures[8:10], labels[8:10]), (test, labels[10:])
    data = splits.Dataset("any", ("a", "b"), *(splits.whole(*part, 4) for part in parts))
    probabilities = rng.dirichlet([1, 1], 10).astype(np.float32)
    apart, by_name = TASK.without_copies(data, Predictions(labels[10:], probabilities))
    own = [0, 1, 3, 4, 6, 7, 8]
    right = probabilities.argmax(axis=1) == labels[10:]
    assert apart["n"] == 7
    assert apart["accuracy"] == pytest.approx(right[own].mean())
    assert by_name["test images that are training images too"] == 3
    assert by_name["test accuracy without these (%)"] == pytest.approx(100 * right[own].mean())
    assert sum(scores["support"] for scores in apart["per_class"]) == 7


def test_if_every_test_image_is_a_copy_they_are_counted_alone():
    pictures, labels = np.zeros((4, 4, 4, 1), np.uint8), np.array([0, 1, 0, 1])
    data = splits.Dataset("any", ("a", "b"), *(splits.whole(pictures, labels, 4) for _ in range(3)))
    probabilities = np.full((4, 2), 0.5, np.float32)
    apart, by_name = TASK.without_copies(data, Predictions(labels, probabilities))
    assert apart == {"n": 0}
    assert by_name == {"test images that are training images too": 4}


def test_a_run_counts_copies(run):
    metrics = json.loads((run / "metrics.json").read_text())
    # scikit-learn's digits are without copies on either side of the split
    assert metrics["by_name"]["test images that are training images too"] == 0
    assert metrics["test_without_copies"]["accuracy"] == metrics["test"]["accuracy"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rates.head", "0"], "rates.head is 0.0; it must be above zero"),
        (["--rates.layer2=-1"], "rates.layer2 is -1.0; allowed: zero and above"),
        (["--rates.layer9", "1"], "rates.layer9"),
        (["--backbone", "resnet19"], "did you mean resnet18"),
        (["--image-size", "31"], "image-size is 31; the backbones need 32 or more"),
        (["--weights", "nowhere"], "weights 'nowhere': not found"),
        (["--epochs", "0"], "epochs is 0; it must be above zero"),
    ],
)
def test_bad_input_is_one_line(flags, said):
    with pytest.raises(ConfigError) as error:
        config(*flags)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_demo_reads_digits(tmp_path):
    assert in_process.call(TASK, "--preset", "demo", "--out", str(tmp_path)) == 0
    (folder,) = tmp_path.glob("*/*")
    assert json.loads((folder / "metrics.json").read_text())["test"]["accuracy"] > 0.8


@pytest.mark.parametrize(("regime", "by_batch"), [("layer", [False] * 2 + [True] * 3), ("follow", [True] * 5)])
def test_batch_norm_is_that_of_the_flag(tmp_path, monkeypatch, tiny_backbone, regime, by_batch):
    flags = ["--rates.stem", "0", "--rates.layer1", "0", "--batch-norm", regime]
    (seen,) = stopped_before.phases(load_task("fer_layerwise_lr"), tmp_path, monkeypatch, *flags)
    assert seen["by batch"] == by_batch
