"""Advice on the precision of a run on a CPU."""

import os
from collections.abc import Collection

# How many times as fast TensorFlow trains a network in bfloat16 as in float32 on a CPU whose best instructions for it
# are these, if it comes out as accurate: tests/benchmarks/README.md, "In bfloat16".
FASTER_IN_BFLOAT16 = {"avx512_bf16": {"base_cnn": 1.2, "resnet18": 1.4}, "amx_bf16": {}}


def advice(architecture: str, instruction_sets: Collection[str]) -> str:
    """What to say before a run in float32 that bfloat16 would make faster; empty if nothing.

    Args:
        architecture: `Config.architecture`.
        instruction_sets: as `environment.processor` has them.
    """
    best = next((name for name in reversed(FASTER_IN_BFLOAT16) if name in instruction_sets), "")
    times = FASTER_IN_BFLOAT16.get(best, {}).get(architecture)
    if times is None or onednn_limit():
        return ""
    return (
        f"note: {architecture} trains about {times} times as fast on this processor with --precision mixed_bfloat16, "
        "and is as accurate; tables keep such runs apart"
    )


def onednn_limit() -> str:
    """The instructions that oneDNN may not go beyond; empty if it may use all."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return "" if most.upper() in ("ALL", "DEFAULT") else most.upper()
