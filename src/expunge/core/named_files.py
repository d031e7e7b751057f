"""The files that Python code names in its texts, such as a list of words next to a plugin."""

from __future__ import annotations

import ast
import fnmatch
import itertools
import os
from collections.abc import Collection, Iterator
from pathlib import Path

_LONGEST = 200  # characters of a text that can be a name


def texts(tree: ast.AST) -> set[str]:
    """Return the texts of a module that can be the name of a file or folder, or a pattern of names."""
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in constants if isinstance(text, str) and 0 < len(text) <= _LONGEST and text.isprintable()}


def named_files(names: Collection[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that texts name, each with a label for it that does not depend on the place of the folder.

    A text names a file by its path from the root, the current folder, the folder, or a folder in it that another text
    names. A text such as /words.txt, the end of an f-string, is a path from the folder, too. Folders of files and
    patterns are not followed.
    """
    inside = [folder, *(folder / name for name in sorted(names) if name.strip("./") and os.path.isdir(folder / name))]
    for place, name in itertools.product(inside, sorted({*names, *(name.lstrip("/") for name in names)})):
        if name and os.path.isfile(place / name):
            yield f"{place.name if place != folder else '.'}/{name}", place / name
    for name in sorted(names):
        if not name.endswith(".py") and not os.path.isfile(folder / name) and os.path.isfile(name):
            yield f"current/{name}", Path(name)


def mentions(names: Collection[str], file: str) -> bool:
    """Return whether texts of code name a file, by its name, by a pattern, or by the end of its name (`.md`)."""
    file = file.lower()
    for name in names:
        last = name.lower().rpartition("/")[2]
        if fnmatch.fnmatch(file, last) or (last.startswith(".") and file.endswith(last)):
            return True
    return False
