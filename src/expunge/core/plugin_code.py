"""The code of a plugin as a part of the revisions that it declares.

Edited code may give other numbers, and authors of plugins forget to raise a revision. So the key of a result covers
the source of the plugin and of its own modules that it imports, also later in a function. It also covers the files
that their texts name. A file whose name a plugin computes is not covered.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from expunge.core.fingerprints import file_sha256, fingerprint
from expunge.core.named_files import named_files, texts
from expunge.core.registry import is_shipped

_DECLARED = 10**6  # declared revisions are smaller
_DIGITS = 15  # of the code's fingerprint
_PACKAGE = __name__.partition(".")[0]
_IMPORTERS = frozenset({"import_module", "__import__"})
_loading: contextvars.ContextVar[str | None] = contextvars.ContextVar("loading", default=None)


@contextlib.contextmanager
def loading(module: str) -> Iterator[None]:
    """Count the code of a plugin's module in the revisions that a block registers.

    A function that the plugin imports may register a definition, with arguments that stand in the plugin alone.
    """
    token = _loading.set(module)
    try:
        yield
    finally:
        _loading.reset(token)


def with_code(revision: int, definition: Any) -> int:
    """Return a revision that also stands for the code of a class or function; unchanged for those of this package."""
    files: dict[str, str] = {}
    if not is_shipped(definition):
        for key, name in (("", str(getattr(definition, "__module__", ""))), ("plugin", _loading.get() or "")):
            _collect(name, _root(name), files, key)
    return declared(revision) + (int(fingerprint(files)[:_DIGITS], 16) * _DECLARED if files else 0)


def declared(revision: int) -> int:
    """Return the number that the definition declares."""
    return revision % _DECLARED


def _root(name: str) -> str:
    return name.partition(".")[0]


def _collect(name: str, root: str, files: dict[str, str], key: str) -> None:
    """Add the checksums of a module and of its imports. Libraries and modules without a file are left out.

    key: the module's name in the result; "" for the first one, whose name depends on the process.
    """
    path = _source(name)
    if path is None or key in files or (_root(name) != root and _of_library(path)):
        return
    files[key] = file_sha256(path)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    files.update({f"{key}/{place}": file_sha256(file) for place, file in named_files(texts(tree), path.parent)})
    for imported in _imports(tree, _package(name, path)):
        if _root(imported) != _PACKAGE and imported != name:
            _collect(imported, root, files, imported)


def _source(name: str) -> Path | None:
    """Return the file of a module; of one that is not loaded yet, without importing it. None if it has none."""
    module = sys.modules.get(name)
    if module is not None:
        place = getattr(module, "__file__", None)
    else:
        spec = _unloaded(name)
        place = spec.origin if spec is not None and spec.has_location else None
    path = Path(place or "")
    return path if path.suffix == ".py" and path.is_file() else None


def _unloaded(name: str) -> ModuleSpec | None:
    """Return the place of a module that a function may import later."""
    package, _, _ = name.rpartition(".")
    places: Sequence[str] | None = None  # those of sys.path
    if package:
        loaded = sys.modules.get(package)
        above = _unloaded(package) if loaded is None else loaded.__spec__
        if above is None:
            return None
        places = above.submodule_search_locations
    try:
        return PathFinder.find_spec(name, places)
    except (ImportError, ValueError, TypeError, OSError):  # a text that is no name
        return None


def _package(name: str, path: Path) -> str:
    """Return the package against which a module resolves relative imports."""
    module = sys.modules.get(name)
    if module is not None:
        return module.__package__ or ""
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


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
        elif isinstance(node, ast.Call) and _called(node) in _IMPORTERS:
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
