"""A registry that files fill when they are imported: named entries, each from one class or function.

`registry.add(entry)` in a decorator registers an entry. A name can be registered once; the error for a wrong name
contains the nearest right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from expunge.core.errors import ConfigError, nearest


class Named(Protocol):
    """An entry with the name that users type."""

    @property
    def name(self) -> str:
        """The name that users type."""
        ...


E = TypeVar("E", bound=Named)


class Registry(Generic[E]):
    """Entries of one kind ("method", "step", ...). made_of: function from an entry to its class or function."""

    def __init__(self, kind: str, made_of: Callable[[E], Any]) -> None:
        self._kind, self._made_of = kind, made_of
        self._entries: dict[str, E] = {}
        self._aliases: dict[str, str] = {}

    def add(self, entry: E, aliases: Iterable[str] = ()) -> None:
        """Register an entry. The same class may come again (a module that is reloaded), another may not.

        Raises ConfigError if another class has the name.
        """
        existing, new = self._entries.get(entry.name), self._made_of(entry)
        if existing is not None and self._made_of(existing).__qualname__ != new.__qualname__:
            raise ConfigError(f"{self._kind} {entry.name}: registered twice, by {self._made_of(existing)} and {new}")
        self._entries[entry.name] = entry
        self._aliases.update({alias: entry.name for alias in aliases})

    def remove(self, name: str) -> None:
        """Remove an entry and its aliases, if it exists, so that tests can undo their registrations."""
        self._entries.pop(name, None)
        self._aliases = {alias: to for alias, to in self._aliases.items() if to != name}

    def all(self) -> dict[str, E]:
        """Return all entries by name, in alphabetical order."""
        return dict(sorted(self._entries.items(), key=lambda item: item[0].lower()))

    def find(self, name: str, where: str = "", *, rule: str = "") -> E:
        """Return the entry with a name or alias.

        Args:
            name: Name or alias.
            where: Key of the name, for the error message.
            rule: Further text of the error message.

        Raises:
            ConfigError: If there is no such entry; the message contains the nearest right name.
        """
        key = self._aliases.get(name, name)
        if key not in self._entries:
            hint = nearest(name, [*self._entries, *self._aliases])
            raise ConfigError(f"{where}{': ' if where else ''}no {self._kind} named {name!r}{hint}{rule}")
        return self._entries[key]

    def of(self, instance: object) -> E:
        """Return the entry whose class an object has. Raises ConfigError if there is none."""
        for entry in self._entries.values():
            if self._made_of(entry) is type(instance):
                return entry
        name = type(instance).__name__
        raise ConfigError(f"{self._kind}: {name} is not registered{nearest(name, self._entries)}")
