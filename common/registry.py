"""Names that a user may give, and what they stand for."""

import pkgutil
from typing import Any

from common.errors import choice


class Registry(dict[str, str]):
    """Names with the places of what they stand for, "module:attribute", which is loaded only when it is used.

    A task registers its own by `REGISTRY["name"] = "tasks.mine.module:attribute"`.
    """

    def __init__(self, kind: str, entries: dict[str, str]):
        super().__init__(entries)
        self.kind = kind

    def check(self, name: str, also: str = "") -> None:
        """Raise ConfigError unless the name is registered; `also` is what else is allowed."""
        choice(self.kind, name, tuple(self), also)

    def load(self, name: str) -> Any:
        """What a name stands for. Raises ConfigError for one that is not registered."""
        self.check(name)
        return pkgutil.resolve_name(self[name])
