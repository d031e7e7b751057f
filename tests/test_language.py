"""The package reads as plain technical English: words, names, docstrings and class names, room by room.

`tests/language_pending.txt` lists the files and folders that are not clean yet. Remove a line when its room is clean.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "expunge"
PENDING = Path(__file__).with_name("language_pending.txt")

# A word or phrase, and the replacement to suggest. Searched in docstrings, comments and error messages.
BANNED = {
    r"anew": "again",
    r"so-?manieth": "every n-th",
    r"for to": "to",
    r"beside": "next to",
    r"(of )?those that": "name the things",
    r"what": "a noun instead of a 'what' clause",
    r"(said|says|told|tells|asked|asks|hears|heard|speaks|spoken)": "returns, contains, reports, requests",
    r"shall": "must, or the present tense",
    r"(?<=[,;:] )for (it|they|there|he|this|these|those|no|none|nothing)\b(?= \w+)": "because",
    r"as (it|they) stands?": "unchanged, current",
    r"goes by|go by|goes on from|go on from|looked after|at hand|handed in|hands? in": "a plain verb",
    r"whatever|whichever|such as are": "a plain clause",
}
BANNED_RE = {re.compile(rf"\b{word}\b", re.IGNORECASE): hint for word, hint in BANNED.items()}

QUOTED = re.compile(r"`[^`]*`|'[^'\n]*'|^\w+ must\b")  # code, quotations, and the key at the start of a setting's error

# Participles and bare verbs that do not name a thing.
NAMES = frozenset(
    "found said told made held kept asked given lost taken wanted served tried gone gave chosen drawn met "
    "heard got brought put sent wanting asking saying".split()
)
NOT_IMPERATIVE = frozenset(
    "the a an what which how whether where each every all one those this these its as of if in for with from no nothing "
    "several some any both is are whose when only at by to it that to so two not what's other same".split()
)


@cache
def pending() -> tuple[str, ...]:
    """Paths below src/expunge that are not clean yet; a folder ends in '/'."""
    lines = (line.split("#")[0].strip() for line in PENDING.read_text().splitlines())
    return tuple(line for line in lines if line)


def is_pending(path: str) -> bool:
    return any(path.startswith(entry) if entry.endswith("/") else path == entry for entry in pending())


@cache
def modules() -> dict[str, tuple[str, ast.Module]]:
    files = {str(p.relative_to(PACKAGE)): p.read_text() for p in sorted(PACKAGE.rglob("*.py"))}
    return {path: (source, ast.parse(source)) for path, source in files.items()}


def clean_modules() -> dict[str, tuple[str, ast.Module]]:
    return {path: module for path, module in modules().items() if not is_pending(path)}


def texts(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each docstring, comment and message of an exception."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each variable, parameter and function; fields belong to the public interface and are not listed."""
    fields = {id(s.target) for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for s in n.body if isinstance(s, ast.AnnAssign)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef):
            yield node.lineno, node.name


def word_offences(source: str, tree: ast.Module) -> list[str]:
    return [
        f"{line}: {match.group()!r} -> {hint}"
        for line, text in texts(source, tree)
        for pattern, hint in BANNED_RE.items()
        if (match := pattern.search(QUOTED.sub("", text)))
    ]


def name_offences(tree: ast.Module) -> list[str]:
    return [f"{line}: name {name!r}" for line, name in names(tree) if name.strip("_") in NAMES]


def is_property(node: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(d) for d in node.decorator_list)


def docstring_offences(tree: ast.Module) -> list[str]:
    """A function's docstring starts with an imperative verb; a property's may be a noun phrase."""
    return [
        f"{node.lineno}: {node.name}: {text.splitlines()[0][:60]!r} is no imperative"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and not is_property(node)
        if (text := ast.get_docstring(node)) and first_word(text) in NOT_IMPERATIVE
    ]


def first_word(text: str) -> str:
    return re.split(r"[^\w'-]", text.strip(), maxsplit=1)[0].lower()


def is_config(node: ast.ClassDef) -> bool:
    return any(ast.unparse(d) == "strict" for d in node.decorator_list)


def field_offences(tree: ast.Module) -> list[str]:
    """Each public field of a configuration class (`@strict`) has a docstring of its own."""
    offences = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or not is_config(node):
            continue
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if not described and not statement.target.id.startswith("_") and "ClassVar" not in ast.unparse(statement):
                offences.append(f"{statement.lineno}: {node.name}.{statement.target.id} has no docstring")
    return offences


def offences(source: str, tree: ast.Module) -> list[str]:
    return word_offences(source, tree) + name_offences(tree) + docstring_offences(tree) + field_offences(tree)
