"""A list that files fill by being imported: named entries, each made of one class or function.

`registry.add(entry)` in a decorator registers; a name is taken once, and a wrong name is answered with the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from expunge.core.errors import ConfigError, nearest


class Named(Protocol):
    """An entry: it has a name, the one users type."""

    @property
    def name(self) -> str:
        """The name users type."""
        ...


E = TypeVar("E", bound=Named)


class Registry(Generic[E]):
    """Entries of one kind ("method", "step", ...). made_of: the class or function an entry was made of."""

    def __init__(self, kind: str, made_of: Callable[[E], Any]) -> None:
        self._kind, self._made_of = kind, made_of
        self._entries: dict[str, E] = {}
        self._aliases: dict[str, str] = {}

    def add(self, entry: E, aliases: Iterable[str] = ()) -> None:
        """Register an entry. The same class may come again (a module that is loaded anew), another may not.

        Raises ConfigError.
        """
        known, new = self._entries.get(entry.name), self._made_of(entry)
        if known is not None and self._made_of(known).__qualname__ != new.__qualname__:
            raise ConfigError(f"{self._kind} {entry.name}: registered twice, by {self._made_of(known)} and {new}")
        self._entries[entry.name] = entry
        self._aliases.update({alias: entry.name for alias in aliases})

    def remove(self, name: str) -> None:
        """Take an entry and its aliases out again, if it is there: what tests register goes with them."""
        self._entries.pop(name, None)
        self._aliases = {alias: to for alias, to in self._aliases.items() if to != name}

    def all(self) -> dict[str, E]:
        """All entries by name, in the order of the alphabet."""
        return dict(sorted(self._entries.items(), key=lambda item: item[0].lower()))

    def find(self, name: str, where: str = "", *, rule: str = "") -> E:
        """The entry of a name or alias. `where` is the key the name stands at, `rule` what else the user should know.

        Raises ConfigError with the nearest right name.
        """
        key = self._aliases.get(name, name)
        if key not in self._entries:
            hint = nearest(name, [*self._entries, *self._aliases])
            raise ConfigError(f"{where}{': ' if where else ''}no {self._kind} named {name!r}{hint}{rule}")
        return self._entries[key]

    def of(self, made: object) -> E:
        """The entry whose class a thing is of. Raises ConfigError if there is none."""
        for entry in self._entries.values():
            if self._made_of(entry) is type(made):
                return entry
        name = type(made).__name__
        raise ConfigError(f"{self._kind}: {name} is not registered{nearest(name, self._entries)}")
