"""Some of the command lines of `make test-fuzz`."""

import fuzz


def test_no_command_line_ends_in_a_traceback():
    fuzz.run(180)
