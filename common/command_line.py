"""The command line of a task: flags over a preset into a checked config, and any mistake into one line."""

import argparse
import contextlib
import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import dropwhile, pairwise, takewhile
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from common import data
from common.config import Config, flat
from common.errors import ConfigError, choice, fail, within_reach
from common.stopping import leave_output

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
    except BrokenPipeError:  # --help | head
        leave_output()
        raise SystemExit(1) from None
    return config


def parse_strictly(presets: Mapping[str, C], description: str, argv: Sequence[str]) -> C:
    """As `parse`, with ConfigError for every mistake (the launcher collects them)."""
    config = parse_unchecked(presets, description, argv)
    with within_reach():
        config.check()
    return config


def parse_unchecked(presets: Mapping[str, C], description: str, argv: Sequence[str]) -> C:
    """As `parse_strictly`, before the config checks that its values go together."""
    for word in argv:
        if not word.isprintable() and not is_utf8(word):
            raise ConfigError(f"{word!a} is not UTF-8; rename the file or folder")
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--preset", default=next(iter(presets)), nargs="?")
    name = finder.parse_known_args(argv)[0].preset
    choice("preset", name or "", tuple(presets))
    default = presets[name]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            found = tyro.cli(type(default), default=default, description=description, args=argv, prog="train.py")
        return at_home(found)
    except SystemExit as stop:
        if not stop.code:
            raise
        check_switches(default, argv)
        flags = [f"--{key.replace('_', '-')}" for key in flat(default.identity() | default.operational())]
        raise ConfigError(one_line(errors.getvalue(), flags)) from None


def is_utf8(text: str) -> bool:
    """Whether what the shell gave is text; Python keeps other bytes as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def at_home(config: C) -> C:
    """A config in whose paths a leading ~ is the home folder: shells leave it alone behind `=` and `:`."""
    paths = {key: value for key, value in vars(config).items() if isinstance(value, Path | str) and is_at_home(value)}
    try:
        changed: dict = {key: type(value)(Path(value).expanduser()) for key, value in paths.items()}
        if (folder := data.folder_of(config.dataset)) and str(folder).startswith("~"):
            changed["dataset"] = f"{data.FOLDER}{folder.expanduser()}"
    except RuntimeError as error:  # no such user
        raise ConfigError(f"a path begins with ~: {error}") from error
    return dataclasses.replace(config, **changed)


def is_at_home(value: Path | str) -> bool:
    """Whether a value begins with a home folder."""
    return str(value).startswith("~") and (isinstance(value, Path) or "/" in value)


def check_switches(config: Config, argv: Sequence[str]) -> None:
    """Raise ConfigError for a value behind a flag that has none, as `--flag no`."""
    switches = [
        key.replace("_", "-")
        for key, value in flat(config.identity() | config.operational()).items()
        if isinstance(value, bool)
    ]
    for word, after in pairwise([*argv, ""]):
        name, equals, value = word.removeprefix("--").replace("_", "-").partition("=")
        given = value if equals else after
        if name in switches and (equals or given.lower() in ("yes", "no", "on", "off", "true", "false", "0", "1")):
            raise ConfigError(f"{name} is {given!r}; write --{name} or --no-{name}; true or false in a sweep")


def one_line(text: str, flags: Sequence[str]) -> str:
    """The message in tyro's framed text, on one line: the title above it and the help below it left out."""

    def is_rule(line: str) -> bool:
        return set(line) <= set("─-╰╯")  # tyro draws the frame in ASCII where the terminal is not UTF-8

    plain = re.sub(r"\x1b\[[\d;]*m", "", text)  # it colours what it writes where stdout is a terminal
    lines = [line.strip("│ ") for line in plain.splitlines()]
    message = " ".join(takewhile(lambda line: not is_rule(line), dropwhile(is_rule, lines[1:])))
    unknown = re.findall(r"--[\w.-]+", message) if message.startswith("Unrecognized") else []
    near = dict.fromkeys(match for flag in unknown for match in difflib.get_close_matches(flag, flags, n=1))
    return message + (f"; did you mean {' '.join(near)}?" if near else "; see --help")
