"""The command line of a task: flags over a preset into a checked config, and any mistake into one line."""

import argparse
import contextlib
import difflib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import dropwhile, takewhile
from typing import NoReturn, TypeVar

import tyro

from common.config import Config, flat
from common.errors import ConfigError, choice, fail

C = TypeVar("C", bound=Config)


class Parser(argparse.ArgumentParser):
    """A parser, and by inheritance those of its commands, that answers a mistake with one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        fail(f"{message}; see {self.prog} --help")


def parse(presets: Mapping[str, C], description: str, argv: Sequence[str] | None = None) -> C:
    """Read the command line into a checked config.

    The first preset is the default one. Exits with code 2 and one line on stderr when something is wrong.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        config = parse_strictly(presets, description, argv)
    except ConfigError as error:
        fail(str(error))
    return config


def parse_strictly(presets: Mapping[str, C], description: str, argv: Sequence[str]) -> C:
    """As `parse`, with ConfigError for every mistake (the launcher collects them)."""
    config = parse_unchecked(presets, description, argv)
    config.check()
    return config


def parse_unchecked(presets: Mapping[str, C], description: str, argv: Sequence[str]) -> C:
    """As `parse_strictly`, before the config checks that its values go together."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--preset", default=next(iter(presets)), nargs="?")
    name = finder.parse_known_args(argv)[0].preset
    choice("preset", name or "", tuple(presets))
    default = presets[name]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(type(default), default=default, description=description, args=argv, prog="train.py")
    except SystemExit as stop:
        if not stop.code:
            raise
        flags = [f"--{key.replace('_', '-')}" for key in flat(default.identity() | default.operational())]
        raise ConfigError(one_line(errors.getvalue(), flags)) from None


def one_line(text: str, flags: Sequence[str]) -> str:
    """The message in tyro's framed text, on one line: the title above it and the help below it left out."""

    def is_rule(line: str) -> bool:
        return set(line) <= set("─-╰╯")  # tyro draws the frame in ASCII where the terminal is not UTF-8

    plain = re.sub(r"\x1b\[[\d;]*m", "", text)  # it colours what it writes where stdout is a terminal
    lines = [line.strip("│ ") for line in plain.splitlines()]
    message = " ".join(takewhile(lambda line: not is_rule(line), dropwhile(is_rule, lines[1:])))
    unknown = re.findall(r"--[\w.-]+", message) if message.startswith("Unrecognized") else []
    near = [match for flag in unknown for match in difflib.get_close_matches(flag, flags, n=1)]
    return message + (f"; did you mean {' '.join(near)}?" if near else "; see --help")
