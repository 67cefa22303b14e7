"""A request to stop, by Ctrl-C, SLURM or a closed terminal: heeded at once, or at the end of a step that can save."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SAME_REQUEST = 0.5  # seconds in which further signals say nothing new: SLURM sends SIGTERM several times at once


class Interrupted(BaseException):
    """The run was asked to stop, and can go on from its last checkpoint.

    It comes out of a signal handler, so in the midst of any call: no Exception, since Keras raises those that pass
    through a layer's call again with a text of its own, and others take them for their own failure.
    """

    def __init__(self, number: signal.Signals):
        super().__init__(number.name)
        self.number = number


def leave_terminal() -> None:
    """Let nothing more be written to a terminal that was closed: each write would fail, before the run has saved."""
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def leave_output() -> None:
    """Let nothing more be written to a pipe that nobody reads: Python would still try at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def say(line: str) -> None:
    """Write a line from a signal handler, if somebody reads it: not by print, which it may have interrupted."""
    with suppress(OSError):
        os.write(1, f"\n{line}\n".encode())


class StopRequest:
    """What signals have asked of this process."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.time = 0.0
        self.deferring = False

    def on_signal(self, number: int, frame: object) -> None:
        """The signal handler. A second request is heeded at once."""
        now = time.monotonic()
        if self.signal and now - self.time < SAME_REQUEST:
            return
        again = self.signal is not None
        self.signal, self.time = signal.Signals(number), now
        if number == signal.SIGHUP:
            leave_terminal()
        if again or not self.deferring:
            self.heed()
        say(f"{self.signal.name}: saving at the end of this step")

    def heed(self) -> None:
        """Raise Interrupted if there is a request."""
        if self.signal:
            raise Interrupted(self.signal)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Leave a first request to the block, which looks at `signal` and saves."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
