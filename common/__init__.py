"""What every task shares: config, data, augmentation, backbones, training, metrics, figures, run directories.

To import it sets what results depend on and libraries take from outside, before those are loaded.
"""

import io
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from common.workarounds.import_messages import silence_import

if find_spec("keras") is None:
    sys.exit(f"error: {sys.executable} lacks the packages: `source .venv/bin/activate`; `make demo` makes that first")
# TensorFlow reads both when it is imported. oneDNN's convolutions are faster on any x86-64 processor, but TensorFlow
# enables them by default only for AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A keras.json of the user's may name another backend; an empty variable names none.
if not os.environ.get("KERAS_BACKEND"):
    os.environ["KERAS_BACKEND"] = "tensorflow"
# Figures need no window. In a notebook's shell the variable names a backend that may not be installed here; a notebook
# itself needs it to show the user's own figures.
if not {"matplotlib", "ipykernel"} & sys.modules.keys():
    os.environ["MPLBACKEND"] = "agg"
# Python has no streams if they were closed, as by `>&-` or a service manager.
for name in ("stdout", "stderr"):
    if getattr(sys, name) is None:
        setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (for as long as the process lasts)
# A terminal's encoding may lack characters of file names and tables.
for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
# Libraries look for their caches there. A container's user may have none.
try:
    Path.home()
except RuntimeError:
    os.environ["HOME"] = tempfile.gettempdir()
    print(f"note: this user has no home folder and HOME is not set; {os.environ['HOME']} stands in", file=sys.stderr)
silence_import()
