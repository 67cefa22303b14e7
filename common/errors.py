"""Mistakes in what a user asks for, and the one line that answers them."""

import difflib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from common.stopping import leave_output


class ConfigError(ValueError):
    """A mistake in what the user asked for; its text is the one line that the user reads."""


def positive(name: str, value: float) -> None:
    """Raise ConfigError unless value is above zero, and finite."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}; it must be {'finite' if value > 0 else 'above zero'}")


def not_negative(name: str, value: float) -> None:
    """Raise ConfigError unless value is zero or above, and finite."""
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name} is {value}; allowed: zero and above, finite")


def choice(name: str, value: str, allowed: Sequence[str], also: str = "") -> None:
    """Raise ConfigError unless value is one of the allowed."""
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"unknown {name} {value!r}; allowed: {', '.join([*allowed, *([also] if also else [])])}{hint}"
        )


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says, without a full stop; of one that says nothing its type."""
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return first.rstrip(".")


def fail(message: str, code: int = 2) -> NoReturn:
    """End the process with one line on stderr."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def within_reach() -> Iterator[None]:
    """Turn what the system says of a path that nobody may look at, or that is too long, into ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error


@contextmanager
def in_one_line(written: Path | None = None) -> Iterator[None]:
    """Turn the faults of a command into one line and an exit code: 2 for bad input; 1 for files and for closed output.

    `written` is the file that the command writes, for a fault that names none.
    """
    try:
        yield
    except ConfigError as error:
        fail(str(error))
    except BrokenPipeError:
        leave_output()
        fail("nobody reads the output any more, as behind `| head`", 1)
    except OSError as error:
        place = error.filename or written
        fail(f"{place}: {error.strerror}" if place and error.strerror else str(error), 1)


def command(main: Callable[[], None]) -> None:
    """Run a command that Ctrl-C may end: in one line, with exit code 130."""
    sys.unraisablehook = pass_on
    try:
        main()
    except KeyboardInterrupt:
        fail("stopped by Ctrl-C", 128 + signal.SIGINT)


def pass_on(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt once more after Ctrl-C in a place that ignores it, such as a callback of the garbage collector."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        # Not at once: that would be ignored here too. A real signal, since it ends what the main thread waits for.
        threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)
