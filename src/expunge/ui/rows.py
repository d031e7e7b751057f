"""The answers of two models to the same rows, one under the other, with the changed words marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.errors import ConfigError, DataError, JobError, nearest, one_line
from expunge.core.records import GeneratedText, text_records
from expunge.engine.record import RECORD, read_record
from expunge.engine.store import wrong_file
from expunge.ui.workspace import Model

ENDING = ".texts.parquet"
N_ROWS = 25  # on a page
LONGEST = 2000  # characters of a text that are shown
_WORDS = re.compile(r"\s+|[^\s]+")
Piece = tuple[str, str]  # "same", "gone" or "added", and the text
Texts = Mapping[str, Mapping[int, GeneratedText]]  # set of rows -> row -> greedy answer


@dataclass(frozen=True)
class RowPair:
    """A row with the answers of two models. change: the words from the first answer to the second one."""

    row_id: int
    prompt: str
    reference: str
    before: str
    after: str
    change: tuple[Piece, ...]


@dataclass(frozen=True)
class RowsView:
    """A page of rows. sets: the names to choose from; total: rows that fit; changed: those with another answer."""

    sets: tuple[str, ...]
    set: str
    words: str
    page: int
    pages: int
    total: int
    changed: int
    rows: tuple[RowPair, ...]


def rows_view(a: Model, b: Model, name: str, words: str, page: int) -> RowsView:
    """Return the rows of a set whose texts contain all words, from the given page on.

    Args:
        a: The first model.
        b: The second one.
        name: The set of rows. "": the first one, which is that of the forget rows.
        words: Words to search for, in any order and case.
        page: The number of the page, from 0.

    Raises:
        ConfigError: The models share no set, or have none of this name.
        JobError, DataError: A file is damaged.
    """
    first, second = texts_of(a), texts_of(b)
    sets = tuple(sorted((s for s in first if s in second), key=lambda s: (not s.startswith("forget"), s)))
    if not sets:
        raise ConfigError("these two models have no generations of the same rows")
    name = name or sets[0]
    if name not in sets:
        raise ConfigError(f"no set named {name!r}{nearest(name, sets)}")
    terms = words.lower().split()
    pairs = [
        (mine, theirs)
        for row, mine in first[name].items()
        if (theirs := second[name].get(row)) is not None
        if all(w in f"{mine.prompt} {mine.reference} {mine.generation} {theirs.generation}".lower() for w in terms)
    ]
    pages = max(1, -(-len(pairs) // N_ROWS))
    page = min(max(page, 0), pages - 1)
    shown = tuple(_pair(*both) for both in pairs[page * N_ROWS : (page + 1) * N_ROWS])
    changed = sum(mine.generation != theirs.generation for mine, theirs in pairs)
    return RowsView(sets, name, words, page, pages, len(pairs), changed, shown)


def texts_of(model: Model) -> Texts:
    """Return a model's greedy answers: those of its records in the store, or next to its log."""
    folder = _records(model)
    out: dict[str, dict[int, GeneratedText]] = {}
    record = read_record(folder / RECORD) if model.record is not None else None
    for file in sorted(folder.glob(f"*{ENDING}")):
        if record is not None:
            sha, n_bytes = record["files"].get(file.name, ("", -1))
            reason = wrong_file(file, sha, n_bytes, {})
            if reason:
                raise JobError(f"{file} {reason}")
        try:
            lines = text_records(pq.read_table(file))
        except (pa.ArrowException, OSError, TypeError) as error:
            raise DataError(f"{file}: no table of generations: {one_line(error)[:200]}") from None
        out[file.name.removesuffix(ENDING)] = {line.row_id: line for line in lines if line.sample == 0}
    return out


def _records(model: Model) -> Path:
    """Return the folder of a model's records. Raises JobError if a record is damaged."""
    if model.record is None:
        return model.file.parent / "records"
    key = str((read_record(model.record) or {"parents": {}})["parents"].get("records", ""))
    store = model.record.parent.parent.parent
    return next((f for f in (store / "records").glob(f"*-{key[:12]}") if key and not f.is_symlink()), store / ".none")


def _pair(mine: GeneratedText, theirs: GeneratedText) -> RowPair:
    before, after = _short(mine.generation), _short(theirs.generation)
    return RowPair(
        mine.row_id, _short(mine.prompt), _short(mine.reference), before, after, change_of(before, after)
    )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"


def change_of(before: str, after: str) -> tuple[Piece, ...]:
    """Return the change from one text to another, word by word."""
    a, b = _WORDS.findall(before), _WORDS.findall(after)
    out: list[Piece] = []
    for action, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if action == "equal":
            out.append(("same", "".join(a[i:j])))
            continue
        out += [("gone", "".join(a[i:j]))] if j > i else []
        out += [("added", "".join(b[k:m]))] if m > k else []
    return tuple(out)
