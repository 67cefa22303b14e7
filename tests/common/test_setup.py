"""What a process that trains sets up before anything is computed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SET_UP = """
from common import devices, setup
from common.config import Config

devices.FIXED_ORDER = "--xla_no_such_flag"
config = Config(dataset="digits", deterministic=%r, devices=%d)
chosen = devices.choose(config, "jax")
chosen.join()
setup.set_up(config, chosen)
print("set up")
"""


@pytest.mark.parametrize(
    ("deterministic", "devices", "heard"), [("yes", 1, True), ("yes", 2, True), ("auto", 1, False)]
)
def test_xla_hears_what_is_asked_of_it_on_jax(deterministic, devices, heard):
    """It ends the process for a flag that it does not know, so it has not read its flags too early."""
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", SET_UP % (deterministic, devices)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert ("Unknown flag in XLA_FLAGS: --xla_no_such_flag" in done.stderr, "set up" in done.stdout) == (
        heard,
        not heard,
    )
