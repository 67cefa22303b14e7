"""Seeds as the command line names them."""

import re

from common.errors import ConfigError

MOST_SEEDS = 10_000


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from text: `0:5` is 0 to 4; `0,3` and `7` list them. Raises ConfigError for anything else."""
    span = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)
    if span and 0 < int(span[2]) - int(span[1]) <= MOST_SEEDS:
        return tuple(range(int(span[1]), int(span[2])))
    if re.fullmatch(r"\d{1,10}(,\d{1,10})*", text):
        return tuple(dict.fromkeys(map(int, text.split(","))))
    raise ConfigError(
        f"seeds {text!r}; allowed: FIRST:END (0:5 is 0 to 4), or a list such as 0,3,7; {MOST_SEEDS:,} at most"
    )
