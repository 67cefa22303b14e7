"""What is said of bfloat16 on a CPU, and what oneDNN may be kept from."""

import keras
import pytest

from common import command, precision, setup
from common.config import Config
from common.devices import Devices
from common.errors import ConfigError
from tasks.cifar_phased.train import PhasedConfig
from tasks.hinge_svm.train import SVMConfig
from tasks.rotation_contrastive.train import RotationConfig

BFLOAT16 = ["avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"]
RESNET18 = PhasedConfig(backbone="resnet18")


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """A CPU with bfloat16 that oneDNN may use."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    monkeypatch.setattr(setup, "processor", lambda: {"instruction_sets": BFLOAT16})
    monkeypatch.setattr(setup, "on_gpu", lambda: False)


def advised(capsys, config=RESNET18):
    """The network that is said to be faster in bfloat16."""
    setup.advise(config)
    return capsys.readouterr().out.partition(" trained ")[2].partition(" ")[0]


@pytest.mark.parametrize(
    ("config", "network"),
    [
        (RESNET18, "resnet18"),
        (RotationConfig(), "base_cnn"),
        (RotationConfig(experiment="contrastive"), ""),
        (PhasedConfig(backbone="mobilenet_v2"), ""),
        (SVMConfig(), ""),
        (PhasedConfig(backbone="resnet18", precision="float32"), ""),
    ],
)
def test_advice_is_for_what_was_measured(capsys, config, network):
    assert advised(capsys, config) == network


@pytest.mark.parametrize("sets", [[], BFLOAT16[:-1], [*BFLOAT16, "amx_bf16"]])
def test_no_advice_for_other_processors(monkeypatch, capsys, sets):
    monkeypatch.setattr(setup, "processor", lambda: {"instruction_sets": sets})
    assert advised(capsys) == ""


@pytest.mark.parametrize(
    ("name", "value", "network"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", ""),
        ("DNNL_MAX_CPU_ISA", "avx512_core", ""),
        ("ONEDNN_MAX_CPU_ISA", "default", "resnet18"),
        ("ONEDNN_MAX_CPU_ISA", "", "resnet18"),
        ("TF_ENABLE_ONEDNN_OPTS", "0", ""),
    ],
)
def test_no_advice_if_onednn_does_not_use_the_instructions(monkeypatch, capsys, name, value, network):
    monkeypatch.setenv(name, value)
    assert advised(capsys) == network


@pytest.mark.parametrize(("owner", "name", "value"), [(keras.backend, "backend", "jax"), (setup, "on_gpu", True)])
def test_no_advice_on_a_gpu_or_on_jax(monkeypatch, capsys, owner, name, value):
    monkeypatch.setattr(owner, name, lambda: value)
    assert advised(capsys) == ""


@pytest.mark.parametrize("begun", [True, False])
def test_only_a_run_that_begins_is_advised(monkeypatch, tmp_path, begun):
    heard = []
    monkeypatch.setattr(setup, "advise", heard.append)
    monkeypatch.setattr(setup, "set_up", lambda *given: None)
    config = Config(dataset="digits", out=tmp_path)
    run = command.Run(tmp_path, "hinge_svm", config)
    if begun:
        run.files.environment_file.write_text("{}")
    command.conclude(lambda *given: None, config, run)
    assert heard == [config][begun:]


@pytest.mark.parametrize(("limit", "fails"), [("AVX2", True), ("AVX512_CORE", False), ("", False)])
def test_bfloat16_that_onednn_may_not_compute_is_one_line(monkeypatch, limit, fails):
    """TensorFlow would end in a traceback at the first convolution."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    setup.check_bfloat16("float32")
    if not fails:
        setup.check_bfloat16("mixed_bfloat16")
        return
    with pytest.raises(ConfigError, match=r"^oneDNN is limited to AVX2 \(ONEDNN_MAX_CPU_ISA\); bfloat16 needs"):
        setup.check_bfloat16("mixed_bfloat16")
    monkeypatch.setattr(setup, "processor", lambda: {"instruction_sets": ["avx", "avx2"]})
    setup.check_bfloat16("mixed_bfloat16")  # TensorFlow does not leave it to oneDNN there


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", ""])
def test_what_onednn_is_kept_from_is_recorded(monkeypatch, name):
    if name:
        monkeypatch.setenv(name, "avx2")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    assert setup.environment(SVMConfig(), Devices(), model).get("onednn_max_cpu_isa") == ("AVX2" if name else None)


def test_every_network_of_the_table_is_that_of_a_task():
    networks = {config.architecture for config in (RESNET18, RotationConfig())}
    assert set(precision.FASTER_IN_BFLOAT16) <= networks
