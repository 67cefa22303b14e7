"""Advice on the precision of a run on a CPU."""

import os
from collections.abc import Collection

# How many times as fast a network trains in bfloat16 as in float32 on CPUs with avx512_bf16 and without AMX, where it
# was not measured; those whose accuracy was compared: tests/benchmarks/README.md, "In bfloat16".
FASTER_IN_BFLOAT16 = {"base_cnn": 1.2, "resnet18": 1.4}


def advice(architecture: str, instruction_sets: Collection[str]) -> str:
    """The note that a run in float32 starts with if bfloat16 would be faster; empty if none.

    Args:
        architecture: `Config.architecture`.
        instruction_sets: as `environment.processor` has them.
    """
    measured = "avx512_bf16" in instruction_sets and "amx_bf16" not in instruction_sets
    times = FASTER_IN_BFLOAT16.get(architecture)
    if not times or not measured or onednn_limit():
        return ""
    return (
        f"note: --precision mixed_bfloat16 trained {architecture} {times} times as fast on such a processor, and over "
        "3 seeds no loss of accuracy was found; tables list such runs separately"
    )


def onednn_is_on() -> bool:
    """Whether TensorFlow may use oneDNN's kernels; importing `common` sets the variable."""
    return os.environ["TF_ENABLE_ONEDNN_OPTS"].lower() in ("1", "true")


def onednn_limit() -> str:
    """The newest instruction set that oneDNN may use, in capitals; empty for no limit."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return "" if most.upper() in ("ALL", "DEFAULT") else most.upper()
