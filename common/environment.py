"""Where and with what a run happens: code, packages, processor."""

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from common.config import REPOSITORY
from common.errors import ConfigError, choice, fail
from common.files import Damaged, read_json

SNAPSHOT = "snapshot.json"
INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
VERSIONS = ("keras", "tensorflow", "tensorflow-cpu", "jax", "numpy", "scikit-learn", "keras-cv", "tensorflow-datasets")


def git_state(task: str, code: Path | None = None) -> dict:
    """Commit of the code, and whether the code that trains a task differs from it; nulls outside a checkout.

    If git refuses to say, as for a checkout of another user, `git` has its reason. A copy of the code that the launcher
    made has this written beside it.
    """
    code = code or REPOSITORY
    unknown = {"commit": None, "dirty": None}
    if (code / SNAPSHOT).is_file():
        try:
            return unknown | read_json(code / SNAPSHOT, commit=str | None, dirty=bool | None)
        except Damaged as error:
            return unknown | {"git": str(error)}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(code), *arguments]
        environment = os.environ | {"LC_ALL": "C"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        # An editor's own files, such as Emacs' .#train.py beside a file with unsaved changes, are no code.
        paths = ("common/*.py", "tasks/*.py", ":(exclude,glob)**/.*")
        changes = git("status", "--porcelain", "--untracked-files=all", "--", *paths).splitlines()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "git is not installed")
        # Only what is before the path: records have none.
        return unknown | ({"git": "detected dubious ownership"} if "dubious ownership" in said else {})
    # Nothing that is committed needs new files of another task, which may be under way.
    of_others = [line for line in changes if line.startswith("?? tasks/") and not line.startswith(f"?? tasks/{task}/")]
    return {"commit": commit, "dirty": len(changes) > len(of_others)}


def installed() -> dict[str, str]:
    """Versions of the packages that results depend on, as far as they are installed."""
    versions = {}
    for package in VERSIONS:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def other_versions(environment: Mapping, here: Mapping[str, str]) -> list[str]:
    """Packages whose version here is not that of a run's last start, as far as bits depend on it."""
    recorded = counting(environment.get("versions", {}), environment.get("backend"))
    others = [name for name in recorded if here.get(name) != recorded[name]]
    return [f"{name} {here.get(name, 'none')} in place of {recorded[name]}" for name in others]


def counting(versions: Mapping[str, str], backend: str | None) -> dict[str, str]:
    """The versions that bits depend on: JAX's only if it is the backend."""
    return {package: version for package, version in versions.items() if package != "jax" or backend == "jax"}


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


def backend() -> str:
    """Keras's backend, without loading it; ends the process for one that is not installed, or that is not supported."""
    name = os.environ.get("KERAS_BACKEND", "tensorflow")
    try:
        choice("KERAS_BACKEND", name, ("tensorflow", "jax"))
    except ConfigError as error:
        fail(str(error))
    if find_spec(name) is None:
        fail(f"KERAS_BACKEND is {name}, which is not installed; requirements-dev.txt has JAX for CPUs")
    return name
