"""Parse lists, arrays and SQuAD's answers that a table holds as text, such as "['1888']"."""

from __future__ import annotations

import ast
import io
import itertools
import json
import re
import tokenize
from collections.abc import Callable, Mapping
from typing import Any

NUMBER_IN_LIST = re.compile(r"\s*\[\s*(-?\d+(?:\.\d+)?)\s*\]\s*")
NUMBERS = re.compile(
    r"\s*\[\s*(?:[-+]?[\d.]+(?:e[-+]?\d+)?\s+)+[-+]?[\d.]+(?:e[-+]?\d+)?\s*\]\s*", re.IGNORECASE
)  # NumPy
ARRAY = re.compile(r"\barray\(\s*(\[.*?\])\s*(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
MISSING = re.compile(r"(?<=[\[(,\s])(?:nan|null|none|nat|<na>)(?=\s*[\]),])", re.IGNORECASE)  # an item without a value
# The whole cell is a list, a tuple, an array or SQuAD's answers. In "[sic] he said" the bracket ends earlier.
QUOTED_LIST = re.compile(r"\s*\[\s*['\"].*\]\s*\Z", re.DOTALL)
VALUE = re.compile(
    r"\s*(?:\[.*\]|\(.*,\s*\)|\(\s*['\"].*\)|array\(\s*\[.*\)|\{\s*['\"](?:text|answer_start)['\"]\s*:.*\})\s*\Z",
    re.DOTALL,
)
# A value of that kind, whether it can be parsed or not: its items have quotes.
DAMAGED = re.compile(
    r"\s*(?:\[\s*[bur]?(['\"]).*\1\s*\]|array\(.*|\{\s*['\"]text['\"]\s*:\s*(?:\[|array\().*answer_start.*)\s*\Z",
    re.DOTALL,
)
ERRORS = (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError)


class WrittenError(ValueError):
    """A text that looks like a list and cannot be parsed."""


def written_value(text: str) -> Any:
    """Return the list, or SQuAD's object, that a text is written as; None for any other text.

    JSON comes first, because Python reads some of its escapes otherwise. Raises WrittenError if neither can read it.
    """
    if text.lstrip()[:1] not in ("[", "(", "{", "a") or VALUE.match(text) is None:
        return None
    if (number := number_in_list(text)) is not None:
        return [number]
    plain = ARRAY.sub(r"\1", text).strip()
    for candidate in dict.fromkeys((plain, MISSING.sub("None", plain), _with_commas(plain))):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(candidate)
            except ERRORS:
                continue
            return _of_kind(value, candidate, parse)
    if DAMAGED.match(text):
        raise WrittenError("looks like a list written as text, and cannot be parsed")
    return None


def _with_commas(text: str) -> str:
    """Return NumPy's numbers, "[1888 1889]", with commas."""
    return ", ".join(text.split()) if NUMBERS.fullmatch(text) else text


def _of_kind(value: Any, text: str, parse: Callable[[str], Any]) -> Any:
    """Return a parsed value if it is a list, or SQuAD's object; None for others, such as a call or a number."""
    if isinstance(value, tuple):
        return list(value) if len(value) == 1 or all(isinstance(item, str) for item in value) else None
    if isinstance(value, Mapping):
        return value if value.keys() == {"text", "answer_start"} else None
    if not isinstance(value, list) or parse is json.loads:
        return value if isinstance(value, list) else None
    # Python joins texts without a comma between them, which would make one answer of NumPy's several
    parts = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.STRING]
    if len(parts) <= len(value) or any(isinstance(item, list | tuple | Mapping) for item in value):
        return value
    touch = any(one.end == other.start for one, other in itertools.pairwise(parts))  # "it''s": a doubled quote
    return None if touch else [ast.literal_eval(part.string) for part in parts]


def written_list(text: str) -> list[Any] | None:
    """Parse a text such as "['a', 'b']", or NumPy's "['a' 'b']", as a list; None for any other text."""
    try:
        value = written_value(text) if QUOTED_LIST.match(text) else None
    except WrittenError:
        return None
    return value if isinstance(value, list) else None


def number_in_list(text: str) -> str | None:
    """Return the number of a text such as "[1888]" as it is written; None for any other text."""
    match = NUMBER_IN_LIST.fullmatch(text)
    return match[1] if match else None


def written_turns(value: Any) -> Any:
    """Return the turns that a table holds as JSON or Python text; any other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            turns = parse(value.strip())
        except ERRORS:
            continue
        return turns if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns) else value
    return value


def squad_texts(value: Any) -> Any:
    """Return the texts of SQuAD's `{"text": [...], "answer_start": [...]}`, each once; any other value unchanged.

    Its own files have a list of objects with one text and one number each.
    """
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, Mapping) and {"text", "answer_start"} <= v.keys() for v in value)
    ):
        value = {key: [v[key] for v in value] for key in ("text", "answer_start")}
    if not isinstance(value, Mapping) or value.keys() != {"text", "answer_start"}:
        return value
    texts = value["text"]
    return list(dict.fromkeys(texts)) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else texts
