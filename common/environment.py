"""Where and with what a run happens: code, packages, processor."""

import json
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from common.config import REPOSITORY

SNAPSHOT = "snapshot.json"
INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
VERSIONS = ("keras", "tensorflow", "tensorflow-cpu", "jax", "numpy", "scikit-learn", "keras-cv", "tensorflow-datasets")


def git_state(code: Path | None = None) -> dict:
    """Commit of the code, and whether the code that trains differs from it; nulls outside a checkout.

    A copy of the code that the launcher made has this written beside it.
    """
    code = code or REPOSITORY
    if (code / SNAPSHOT).is_file():
        return json.loads((code / SNAPSHOT).read_text())

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(code), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        changes = git("status", "--porcelain", "--", "common/*.py", "tasks/*.py")
        return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
    except FileNotFoundError:
        return {"commit": None, "dirty": None}


def installed(packages: Sequence[str] = VERSIONS) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def processor() -> dict:
    """Name of the processor, and those of its instruction sets that speed and rounding depend on (Linux, x86)."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "name": facts.get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
    }
