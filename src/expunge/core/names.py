"""The rules for names: words that become file names (tasks, studies, labels), and names of the parts of a model."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from expunge.core.errors import ConfigError, nearest

JOINERS = "\u200c\u200d"  # part of words in Persian and Indic scripts, and of emoji
LONGEST = 200  # bytes in UTF-8 of each part; file systems allow 255, and fingerprints are added

PartKind = Literal["module", "matrix", "adapted", "parameters", "weights", "layers"]


@dataclass(frozen=True)
class PartOf:
    """Marks the type of a setting that names parts of a model, so that a plan can compare it with the model's names."""

    kind: PartKind


ModuleName = Annotated[str, PartOf("module")]
"""A module by its name or by the end of its name, such as `model.layers.7`; `NAME:input` is its input."""
MatrixName = Annotated[str, PartOf("matrix")]
"""A module with a weight matrix, by its whole name."""
AdaptedName = Annotated[str, PartOf("adapted")]
"""A linear module, by its name or the last parts of it; each module of that name gets an adapter."""
ParameterPattern = Annotated[str, PartOf("parameters")]
"""A regular expression of whole names of parameters."""
WeightPattern = Annotated[str, PartOf("weights")]
"""A regular expression of whole names of modules that have a weight."""
LayerCount = Annotated[int, PartOf("layers")]
"""A number of layers, at most those of the model."""


@dataclass(frozen=True)
class PartName:
    """A setting that names a part of a model, with its key."""

    key: str
    kind: PartKind
    value: Any


def check_folder_name(path: str | None, key: str) -> None:
    """Raise ValueError, for a dataclass to report, if a path is blank, starts with ~ or has a too long part."""
    if path is None:
        return
    if not path.strip() or "\0" in path:
        raise ValueError(f"{key} must name a folder")
    if path.startswith("~"):
        raise ValueError(f"{key} starts with ~, which is not replaced here; write the whole path of the folder")
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in PurePosixPath(path).parts):
        raise ValueError(f"{key} has a part of more than 255 bytes")


def check_name(name: str, key: str, *, nested: bool = False) -> str:
    """Return the name if it can be a file name, on its own or in a longer one.

    Args:
        name: The word that a user gave.
        key: The setting that the message names, such as `task_name`.
        nested: Allow `a/b`, a folder in a folder.

    Raises:
        ConfigError: The name is empty, too long, absolute, contains `..`, a control character, or leading or trailing
            blanks.
    """
    if not name.strip():
        raise ConfigError(f"{key}: is empty; give a name")
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    hidden = next((c for c in name if unicodedata.category(c) in kinds and c not in JOINERS), None)
    if hidden is not None:
        raise ConfigError(f"{key}: {name!r:.60} contains the control character U+{ord(hidden):04X}; leave it out")
    parts = (PurePosixPath(name).parts if nested else ()) or (name,)  # "." has no parts
    if name.startswith(("/", "~")) or (not nested and "/" in name):
        allowed = "a relative path without `..`" if nested else "a name without /"
        raise ConfigError(f"{key}: {name!r:.60} is a path (allowed: {allowed})")
    for part in parts:
        if part in ("..", "."):
            raise ConfigError(f"{key}: {name!r:.60} leaves its folder; leave {part} out")
        if part != part.strip():
            raise ConfigError(f"{key}: {name!r:.60} begins or ends with a blank; leave it out")
        if len(part.encode()) > LONGEST:
            raise ConfigError(f"{key}: {name!r:.60}... is too long: {len(part.encode())} bytes, at most {LONGEST}")
    return name


def names_in(settings: Any, where: str) -> Iterator[PartName]:
    """Yield the names of parts of a model in a dataclass of settings, by the types of its fields; nested ones too."""
    for name, hint in _hints(type(settings)).items():  # type: ignore[arg-type]  # a class is hashable
        value, key = getattr(settings, name, None), f"{where}.{name}"
        listed = isinstance(value, tuple | list)
        if dataclasses.is_dataclass(value):
            yield from names_in(value, key)
        elif value and (kind := _kind(hint, listed)):
            yield from (
                (PartName(f"{key}[{i}]", kind, one) for i, one in enumerate(value))
                if listed
                else (PartName(key, kind, value),)
            )


@functools.cache
def _hints(cls: type[Any]) -> Mapping[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _kind(hint: Any, listed: bool) -> PartKind | None:
    """Return the mark of a value's type; listed: of the items of a list."""
    mark = next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, PartOf)), None)
    inside = get_origin(hint) in (tuple, list)
    if mark is not None or (inside and not listed):
        return mark.kind if mark is not None and not listed else None
    return next((kind for arg in get_args(hint) if (kind := _kind(arg, listed and not inside))), None)


def find_name(names: Iterable[str], name: str, key: str) -> str:
    """Return the one of a model's module names that a setting names, whole or by its end.

    Raises ConfigError, at `key`, if there is no such module, or several with that ending.
    """
    known = list(names)
    if name in known:
        return name
    matches = [one for one in known if name and one.endswith(f".{name}")]
    if len(matches) > 1:
        raise ConfigError(
            f"{key}: {name!r} is the end of {len(matches)} modules' names; give one of them: {', '.join(matches[:3])}"
        )
    if not matches:
        raise ConfigError(f"{key}: the model has no module {name!r}{nearest(name, filter(None, known), similar=True)}")
    return matches[0]
