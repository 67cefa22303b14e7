"""Names that a user may give, and what they stand for."""

import pkgutil
from typing import Any

from common.errors import ConfigError, choice, first_line


class Registry(dict[str, str]):
    """Names with the places of what they stand for, "module:attribute", which is loaded only when it is used.

    A task registers its own by `REGISTRY["name"] = "tasks.mine.module:attribute"`. `of` is the place of the class that
    all of them must be instances of, if there is one.
    """

    def __init__(self, kind: str, entries: dict[str, str], of: str = "builtins:object"):
        super().__init__(entries)
        self.kind, self.of = kind, of

    def check(self, name: str, also: str = "") -> None:
        """Raise ConfigError unless the name is registered; `also` is what else is allowed."""
        choice(self.kind, name, tuple(self), also)

    def load(self, name: str) -> Any:
        """What a name stands for. Raises ConfigError if it is not registered, not there, or of another class."""
        self.check(name)
        try:
            found = pkgutil.resolve_name(self[name])
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{self.kind} {name!r}: {self[name]!r} cannot be loaded: {first_line(error)}") from error
        if not isinstance(found, allowed := pkgutil.resolve_name(self.of)):
            raise ConfigError(
                f"{self.kind} {name!r}: {self[name]} is a {type(found).__name__}; it must be a {allowed.__name__}"
            )
        return found
