"""The code of a plugin as a part of the revisions that it declares.

Edited code may give other numbers, and authors of plugins forget to raise a revision. So the key of a result covers the
source of the plugin and of its own modules that it imports, and the files that their texts name. A file whose name a
plugin computes is not covered.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from expunge.core.fingerprints import file_sha256, fingerprint
from expunge.core.named_files import named_files, texts
from expunge.core.registry import is_shipped

_DECLARED = 10**6  # declared revisions are smaller
_DIGITS = 15  # of the code's fingerprint
_PACKAGE = __name__.partition(".")[0]


def with_code(revision: int, definition: Any) -> int:
    """Return a revision that also stands for the code of a class or function; unchanged for those of this package."""
    name = str(getattr(definition, "__module__", ""))
    files: dict[str, str] = {}
    if not is_shipped(definition):
        _collect(name, _root(name), files, "")
    return declared(revision) + (int(fingerprint(files)[:_DIGITS], 16) * _DECLARED if files else 0)


def declared(revision: int) -> int:
    """Return the number that the definition declares."""
    return revision % _DECLARED


def _root(name: str) -> str:
    return name.partition(".")[0]


def _collect(name: str, root: str, files: dict[str, str], key: str) -> None:
    """Add the checksums of a loaded module and of its imports. Libraries and modules without a file are left out.

    key: the module's name in the result; "" for the first one, whose name depends on the process.
    """
    module = sys.modules.get(name)
    path = None if module is None else _source(module)
    if module is None or path is None or key in files or (_root(name) != root and _of_library(path)):
        return
    files[key] = file_sha256(path)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    files.update({f"{key}/{place}": file_sha256(file) for place, file in named_files(texts(tree), path.parent)})
    for imported in _imports(tree, module.__package__ or ""):
        if _root(imported) != _PACKAGE and imported != name:
            _collect(imported, root, files, imported)


def _source(module: ModuleType) -> Path | None:
    path = Path(getattr(module, "__file__", None) or "")
    return path if path.suffix == ".py" and path.is_file() else None


def _of_library(path: Path) -> bool:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(place) for place in places)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of modules that a module may import; some are attributes of a module instead."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(part for part in (above, node.module or "") if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
