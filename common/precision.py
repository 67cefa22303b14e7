"""Which precision a run computes in if `--precision` is auto."""

import os
from collections.abc import Collection

# Networks that TensorFlow trains at least 1.2 times as fast in bfloat16 on a CPU whose best instructions for it are
# these, and as well: tests/benchmarks/README.md, "bfloat16".
FASTER_IN_BFLOAT16 = {"avx512_bf16": ("base_cnn", "resnet18"), "amx_bf16": ()}


def on_cpu(architecture: str, backend: str, instruction_sets: Collection[str], begun_with: str = "") -> str:
    """The precision of a run on a CPU, which is that of the run's first start if there was one.

    Args:
        architecture: `Config.architecture`.
        backend: Keras's.
        instruction_sets: as `environment.processor` has them.
        begun_with: the precision in the run's environment.json; empty for a new run.
    """
    if begun_with in ("float32", "mixed_bfloat16"):
        return begun_with
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL") not in ("ALL", "DEFAULT"):  # it may be kept from these instructions
        return "float32"
    best = next((name for name in reversed(FASTER_IN_BFLOAT16) if name in instruction_sets), None)
    faster = best is not None and architecture in FASTER_IN_BFLOAT16[best]
    return "mixed_bfloat16" if faster and backend == "tensorflow" else "float32"
