"""Which values of a grid are to blame for what the task's parser rejects."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from common.config import Config
from common.data.listing import few
from common.errors import ConfigError
from slurm.sweeps import Values

Found = tuple[str, Values]
"""A mistake, and the values that cause it."""


class Mistakes(ConfigError):
    """What the task's parser rejects in a grid: each mistake with the values that cause it."""

    def __init__(self, found: Sequence[Found]):
        super().__init__("the grid has mistakes")
        self.found = found

    def lines(self) -> list[str]:
        """One line for the user per mistake, with the first values that cause it."""
        by_text: dict[str, list[str]] = {}
        for text, values in self.found:
            by_text.setdefault(text, []).append(describe(values))
        return [f"error: {text}" + (f" ({few(named, 1)})" if named[0] else "") for text, named in by_text.items()]


def describe(values: Values) -> str:
    """Values as text: `key=value ...`."""
    return " ".join(f"{key}={value}" for key, value in values.items())


@dataclass(frozen=True)
class Trials:
    """The values of a grid, tried one by one beside those that are fixed."""

    grid: Sequence[Values]
    fixed: Mapping[str, str]
    parse: Callable[[Values], Config]

    @functools.cached_property
    def singles(self) -> list[Values]:
        """Each value that stands anywhere, once."""
        found: list[Values] = []
        for pair in ({key: value} for values in (self.fixed, *self.grid) for key, value in values.items()):
            if pair not in found:
                found.append(pair)
        return found

    @functools.cached_property
    def all_fail(self) -> bool:
        """Whether no combination is right."""
        return not any(self.mistake({**self.fixed, **values}) is None for values in self.grid)

    def mistake(self, values: Values) -> str | None:
        """What the parser rejects first in these values; None if they are right."""
        try:
            self.parse(values)
        except ConfigError as error:
            return re.sub(r"(--[\w.-]+)=[^\s;]+", r"\1", str(error))  # an unknown key is one mistake for all its values
        return None

    def fault(self, single: Values, beside: Values) -> str | None:
        """The mistake in a single value; None if it is right, or becomes so next to another of its combinations."""
        text = self.mistake({**beside, **single})
        together = [
            v for v in ({**self.fixed, **values} for values in self.grid) if text and single.items() <= v.items()
        ]
        others = [other for other in self.singles if any(other.items() <= values.items() for values in together)]
        helped = any(self.mistake({**beside, **other, **single}) is None for other in others)
        return None if helped else text


def find(grid: Sequence[Values], fixed: Mapping[str, str], parse: Callable[[Values], Config]) -> list[Found]:
    """Every mistake with the values that cause it. A parser reports only its first, so values are tried one by one.

    A value is to blame if it is wrong on its own, next to any one other value, and in every combination. The other
    values are then judged without it.
    """
    trials = Trials(grid, fixed, parse)
    found = in_fixed(trials)
    kept = {key: value for key, value in fixed.items() if all(key not in values for _, values in found)}
    mistake = trials.mistake
    if trials.all_fail and (text := mistake(kept)) and all(mistake({**kept, **single}) for single in trials.singles):
        return [*found, (text, kept)]
    return found + in_grid(trials, kept)


def in_fixed(trials: Trials) -> list[Found]:
    """The fixed values that are wrong in every combination, each judged without those before it."""
    found: list[Found] = []
    kept: dict[str, object] = dict(trials.fixed)
    for key, value in trials.fixed.items():
        if trials.all_fail and trials.mistake(kept) and (text := trials.fault({key: value}, {})):
            found.append((text, {key: value}))
            del kept[key]
    return found


def in_grid(trials: Trials, kept: Values) -> list[Found]:
    """Wrong values of the grid next to the fixed ones that were kept; then combinations of values that are right."""
    wrong = [(values, text) for values in trials.grid if (text := trials.mistake({**kept, **values}))]
    right = [values for values in trials.grid if values not in [w for w, _ in wrong]]
    found: list[Found] = []
    for single in trials.singles:
        innocent = single.items() <= trials.fixed.items() or any(single.items() <= v.items() for v in right)
        if not innocent and (text := trials.fault(single, kept)):
            found.append((text, single))
    blamed = [single for _, single in found]
    rest = [(text, values) for values, text in wrong if not any(b.items() <= values.items() for b in blamed)]
    return found + rest
