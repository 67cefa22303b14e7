"""TensorFlow 2.21's messages about itself while it is imported, whatever TF_CPP_MIN_LOG_LEVEL is."""

import importlib.abc
import importlib.machinery
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

# That oneDNN is on is no news: common sets it, and environment.json has it. The other is the heading of the first.
NOISE = ("oneDNN custom operations are on", "All log messages before absl::InitializeLog")


def silence_import() -> None:
    """Leave those messages out when TensorFlow is imported; all others appear.

    A filter of lines stands between for that time, in a process of its own: what is said before a crash is not lost.
    """
    if "tensorflow" not in sys.modules and shutil.which("sed"):
        sys.meta_path.insert(0, Finder())


class Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as Python does, and has it loaded with standard error filtered."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with filtered():
                    load(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this loader alone
        return spec


@contextmanager
def filtered() -> Iterator[None]:
    """Standard error of this process without the lines of NOISE."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: there is nothing to filter
        yield
        return
    command = ["sed", *(part for text in NOISE for part in ("-e", f"/{text}/d"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=kept) as sed:
        assert sed.stdin is not None
        os.dup2(sed.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
