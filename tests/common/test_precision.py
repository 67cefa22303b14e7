"""Which precision a run computes in, by device, instructions and what it was begun with."""

import keras
import pytest

from common import precision, setup
from common.devices import Devices
from tasks.cifar_phased.train import PhasedConfig
from tasks.hinge_svm.train import SVMConfig
from tasks.rotation_contrastive.train import RotationConfig

BFLOAT16 = ["avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"]
RESNET18, MOBILENET = PhasedConfig(backbone="resnet18"), PhasedConfig(backbone="mobilenet_v2")


@pytest.mark.parametrize(
    ("config", "sets", "expected"),
    [
        (RESNET18, BFLOAT16, "mixed_bfloat16"),
        (RotationConfig(), BFLOAT16, "mixed_bfloat16"),
        (RotationConfig(experiment="contrastive"), BFLOAT16, "float32"),
        (MOBILENET, BFLOAT16, "float32"),
        (SVMConfig(), BFLOAT16, "float32"),
        (RESNET18, BFLOAT16[:-1], "float32"),
        (RESNET18, [*BFLOAT16, "amx_bf16"], "float32"),  # not measured there
        (RESNET18, [], "float32"),
    ],
)
def test_bfloat16_is_for_what_was_measured_to_be_faster(monkeypatch, config, sets, expected):
    monkeypatch.setattr(setup, "processor", lambda: {"instruction_sets": sets})
    monkeypatch.setattr(setup, "on_gpu", lambda: False)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    assert setup.policy(config, "") == (expected if on_tensorflow else "float32")
    assert precision.on_cpu(config.architecture, "jax", sets) == "float32"


@pytest.mark.parametrize(("most", "expected"), [("AVX512_CORE", "float32"), ("ALL", "mixed_bfloat16")])
def test_onednn_may_be_kept_from_bfloat16(monkeypatch, most, expected):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    assert precision.on_cpu("resnet18", "tensorflow", BFLOAT16) == expected


@pytest.mark.parametrize("begun_with", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("sets", [BFLOAT16, []])
def test_a_run_keeps_what_it_was_begun_with_on_any_cpu(monkeypatch, begun_with, sets):
    monkeypatch.setattr(setup, "processor", lambda: {"instruction_sets": sets})
    monkeypatch.setattr(setup, "on_gpu", lambda: False)
    assert setup.policy(RESNET18, begun_with) == begun_with
    assert setup.policy(MOBILENET, begun_with) == begun_with


def test_a_gpu_computes_in_float16_and_what_is_asked_for_counts(monkeypatch):
    monkeypatch.setattr(setup, "on_gpu", lambda: True)
    assert setup.policy(RESNET18, "mixed_bfloat16") == "mixed_float16"
    for asked in ("float32", "mixed_float16", "mixed_bfloat16"):
        assert setup.policy(PhasedConfig(precision=asked), "float32") == asked


@pytest.mark.parametrize("most", ["AVX2", None])
def test_what_onednn_is_kept_from_is_recorded(monkeypatch, most):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most) if most else monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    assert setup.environment(SVMConfig(), Devices(), model).get("onednn_max_cpu_isa") == most


def test_it_is_set(monkeypatch):
    monkeypatch.setattr(setup, "processor", lambda: {"instruction_sets": []})
    try:
        setup.set_up(PhasedConfig(deterministic="no"), Devices(), "mixed_bfloat16")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        setup.set_up(PhasedConfig(precision="float32", deterministic="no"), Devices())
