"""A registry of named entries, each from one class or function, that a decorator fills: `registry.add(entry)`.

The entries of the package are found by reading the source files of one folder: `@method("NPO", ...)` names one. Its
file is imported when the entry is first used, so names cost no import. Plugins add their entries when they are loaded.
A badge reports how an entry was checked.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from expunge.core.errors import ConfigError, kind_of, nearest

PACKAGE = Path(__file__).resolve().parent.parent
Fidelity = Literal["", "formula", "code", "reading", "files", "schema"]

BADGES: dict[str, str] = {
    "": "own definition",
    "formula": "paper formula checked by hand",
    "code": "checked by hand; equals another implementation's numbers",
    "reading": "our reading, unconfirmed",
    "files": "read from the released files",
    "schema": "read from the published schema",
}


class Named(Protocol):
    """An entry with the name that users type."""

    @property
    def name(self) -> str:
        """The name that users type."""
        ...


E = TypeVar("E", bound=Named)


@dataclass(frozen=True)
class ShippedEntry:
    """An entry of a source file of the package. name: the name that users type."""

    name: str
    aliases: tuple[str, ...]
    module: str
    path: Path
    node: ast.ClassDef | ast.FunctionDef


@functools.cache
def shipped_entries(folder: str, decorator: str) -> tuple[ShippedEntry, ...]:
    """Return the entries that `@decorator("NAME", ...)` registers in the files of a folder, such as "methods"."""
    out: list[ShippedEntry] = []
    for path in sorted((PACKAGE / folder).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if f"\n@{decorator}(" not in text:
            continue
        module = ".".join(("expunge", *folder.split("/"), path.stem))
        for node in ast.parse(text).body:
            for call in node.decorator_list if isinstance(node, ast.ClassDef | ast.FunctionDef) else ():
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
                    aliases = next((ast.literal_eval(k.value) for k in call.keywords if k.arg == "aliases"), ())
                    out.append(ShippedEntry(ast.literal_eval(call.args[0]), tuple(aliases), module, path, node))  # type: ignore[arg-type]
    return tuple(out)


class Registry(Mapping[str, E]):
    """Entries of one kind ("method", "step", ...) by name, in alphabetical order; reading one imports its file.

    made_of: function from an entry to its class or function. folder, decorator: where the package's own entries are.
    """

    def __init__(self, kind: str, made_of: Callable[[E], Any], *, folder: str = "", decorator: str = "") -> None:
        self._kind, self._made_of = kind, made_of
        self._place = (folder, decorator)
        self._entries: dict[str, E] = {}
        self._aliases: dict[str, str] = {}
        self._removed: set[str] = set()

    def add(self, entry: E, aliases: Iterable[str] = ()) -> None:
        """Register an entry. The same class may come again (a module that is reloaded), another may not.

        The revision of a plugin's entry also stands for the plugin's code (`core.plugin_code`).

        Raises ConfigError if another class has the name.
        """
        new = self._made_of(entry)
        shipped = self._shipped().get(entry.name)
        if shipped is not None and shipped.module != new.__module__:
            self._load(entry.name)
        existing = self._entries.get(entry.name)
        if existing is not None and self._made_of(existing).__qualname__ != new.__qualname__:
            raise ConfigError(f"{self._kind} {entry.name}: registered twice, by {self._made_of(existing)} and {new}")
        revision = getattr(entry, "revision", None)
        if isinstance(revision, int) and dataclasses.is_dataclass(entry) and not is_shipped(new):
            from expunge.core.plugin_code import with_code

            entry = dataclasses.replace(entry, revision=with_code(revision, new))
        self._entries[entry.name] = entry
        self._aliases.update({alias: entry.name for alias in aliases})
        self._removed.discard(entry.name)

    def remove(self, name: str) -> None:
        """Remove an entry and its aliases, if it exists, so that tests can undo their registrations."""
        self._entries.pop(name, None)
        self._aliases = {alias: to for alias, to in self._aliases.items() if to != name}
        self._removed.add(name)

    def __getitem__(self, name: str) -> E:
        self._load(name)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names(), key=str.lower))

    def __len__(self) -> int:
        return len(self._names())

    def find(self, name: str, where: str = "", *, rule: str = "") -> E:
        """Return the entry with a name or alias.

        Args:
            name: Name or alias.
            where: Key of the name, for the error message.
            rule: Further text of the error message.

        Raises:
            ConfigError: If there is no such entry; the message contains the nearest right name.
        """
        if not isinstance(name, str):
            raise ConfigError(f"{where or self._kind}: expected a name, got {kind_of(name)}")
        if name in self._entries:
            return self._entries[name]
        aliases = {alias: entry.name for entry in self._shipped().values() for alias in entry.aliases} | self._aliases
        key = aliases.get(name, name)
        if key not in self:
            known = [*self, *aliases]
            hint = nearest(name, known)
            # A name of one's own is less like a shipped one than a typing error.
            lower = [other.lower() for other in known]
            is_typing_error = "did you mean" in hint and difflib.get_close_matches(name.lower(), lower, cutoff=0.7)
            hint += "" if is_typing_error else "; --plugin FILE.py loads names of your own"
            raise ConfigError(f"{where}{': ' if where else ''}no {self._kind} named {name!r}{hint}{rule}")
        return self[key]

    def of(self, instance: object) -> E:
        """Return the entry whose class an object has. Raises ConfigError if there is none."""
        for entry in self._entries.values():
            if self._made_of(entry) is type(instance):
                return entry
        name = type(instance).__name__
        raise ConfigError(f"{self._kind}: {name} is not registered{nearest(name, self)}")

    def identity(self, instance: object) -> dict[str, Any]:
        """Return the content of an object's fingerprint: name, revision and every setting.

        Raises ConfigError if the object's class is not registered.
        """
        entry = self.of(instance)
        revision = getattr(entry, "revision", None)
        return {"name": entry.name, "revision": revision, "args": dataclasses.asdict(instance)}  # type: ignore[call-overload]

    def _shipped(self) -> Mapping[str, ShippedEntry]:
        entries = shipped_entries(*self._place) if self._place[0] else ()
        return {entry.name: entry for entry in entries if entry.name not in self._removed}

    def _names(self) -> set[str]:
        return {*self._entries, *self._shipped()}

    def _load(self, name: str) -> None:
        """Import the file of an entry of the package, which registers it."""
        if name not in self._entries and name in self._shipped():
            importlib.import_module(self._shipped()[name].module)


def is_shipped(definition: Any) -> bool:
    """Return whether a class or function belongs to this package, not to a plugin."""
    return str(getattr(definition, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def badge(fidelity: str) -> str:
    """Return the text of a badge. Raises ConfigError for an unknown one."""
    if fidelity not in BADGES:
        raise ConfigError(f"fidelity: no badge named {fidelity!r}{nearest(fidelity, BADGES)}")
    return BADGES[fidelity]
