"""What several tests of common/ need."""

import keras
import pytest


@pytest.fixture
def float32_afterwards():
    """Leave the dtype policy as it was for the tests that follow."""
    yield
    keras.config.set_dtype_policy("float32")
