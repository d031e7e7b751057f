"""Read the fields of config dataclasses from the source: annotation, default and attribute docstring.

The source is parsed with `ast`, so nothing is imported and no documentation is written twice.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from expunge.core.registry import PACKAGE, shipped_entries


@dataclass(frozen=True)
class FieldDoc:
    """One field of a config dataclass.

    annotation, default: the source text ("" for a required field). doc: the string literal below the field.
    """

    name: str
    annotation: str
    default: str
    doc: str


@dataclass(frozen=True)
class ClassDoc:
    """One config dataclass: its name, where it is defined (a path below the package), its docstring and fields."""

    name: str
    path: str
    doc: str
    bases: tuple[str, ...]
    fields: Mapping[str, FieldDoc]


@functools.cache
def classes_in(path: Path) -> tuple[ClassDoc, ...]:
    """Return the `@strict` dataclasses that a source file defines."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(_class(node, path) for node in module.body if isinstance(node, ast.ClassDef) and _is_config(node))


def config_classes(folder: str = "") -> Iterator[ClassDoc]:
    """Yield the config dataclasses of the package, or of one folder of it."""
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        yield from classes_in(path)


def class_doc(cls: type[object]) -> ClassDoc | None:
    """Return the source record of a config dataclass; None if it has no source file."""
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        return None
    classes = classes_in(Path(file)) if file else ()
    return next((c for c in classes if c.name == cls.__name__), None)


def annotations_of(folder: str, field: str) -> frozenset[str]:
    """Return every annotation that the config classes of a folder give a field of this name."""
    return frozenset(c.fields[field].annotation for c in config_classes(folder) if field in c.fields)


def _is_config(node: ast.ClassDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "strict" for d in node.decorator_list)


def _class(node: ast.ClassDef, path: Path) -> ClassDoc:
    fields: dict[str, FieldDoc] = {}
    for i, item in enumerate(node.body):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        after = node.body[i + 1] if i + 1 < len(node.body) else None
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = " ".join(after.value.value.split())
        default = ast.unparse(item.value) if item.value is not None else ""
        fields[item.target.id] = FieldDoc(item.target.id, ast.unparse(item.annotation), default, text)
    where = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
    return ClassDoc(
        node.name, where, ast.get_docstring(node) or "", tuple(ast.unparse(base) for base in node.bases), fields
    )


@functools.cache
def shipped_methods() -> Mapping[str, frozenset[str]]:
    """Return the names and aliases of the shipped losses, each with the names of its own settings."""
    return {
        name: frozenset(_class(entry.node, entry.path).fields)
        for entry in shipped_entries("methods", "method")
        if isinstance(entry.node, ast.ClassDef)
        for name in (entry.name, *entry.aliases)
    }


@functools.cache
def fields_of(path: str, name: str) -> tuple[str, ...]:
    """Return the field names of a dataclass in a source file of the package."""
    file = PACKAGE / path
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tuple(_class(node, file).fields)
    raise LookupError(f"{path} defines no class {name}")
