"""Functions that run one at a time, each in a thread of its own, up to what they ask the main thread for."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TextIO


class Left(BaseException):
    """Raised in a function that waits for what will never come."""


class Turn(threading.Thread):
    """A function that runs only while the main thread waits for it, until it asks for something or ends.

    Keras has names and policies by thread, so each function builds its model as in a process of its own.
    """

    def __init__(self, function: Callable[[], None], name: str, out: TextIO):
        """What the function prints goes to `out`."""
        super().__init__(name=name, daemon=True)
        self.function = function
        self.out = out
        self.asked: Any = None
        self.error: BaseException | None = None
        self.thrown: BaseException | None = None
        self.runs = False
        self.begin, self.over = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def run(self) -> None:
        """In the thread: the function, once it is its turn."""
        self.begin.acquire()
        try:
            if self.thrown is None:
                self.function()
        except BaseException as error:  # raised again in the main thread
            self.error = error
        finally:
            self.over.release()

    def ask(self, what: Any) -> None:
        """In the thread: wait until the main thread has done this. Raises what the main thread throws."""
        self.asked = what
        self.over.release()
        self.begin.acquire()
        self.asked = None
        thrown, self.thrown = self.thrown, None
        if thrown is not None:
            raise thrown

    def go(self, thrown: BaseException | None = None) -> None:
        """In the main thread: let the function go on, with an exception if one is given. Raises what it ends with."""
        self.thrown = thrown
        with contextlib.redirect_stdout(self.out):
            self.runs = True
            self.begin.release()
            self.over.acquire()
            self.runs = False
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def leave(self) -> None:
        """In the main thread: end a function that has not begun or waits, so that it closes its files."""
        if self.is_alive() and not self.runs:
            with contextlib.suppress(BaseException):
                self.go(Left())
