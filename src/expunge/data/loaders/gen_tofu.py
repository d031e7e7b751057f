"""arcsf's gen_tofu: a graph of authors, books and publishers, and the rows that name its entities by key."""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError
from expunge.data.cells import written_list
from expunge.data.examples import Example, qa_rows
from expunge.data.granularity import N_WRONG
from expunge.data.source import EXTENSIONS, read_file

REWORDED = ("paraphrased_question", "paraphrased_answer")  # columns of evaluation


@dataclass(frozen=True, eq=False)  # compared by identity: one object for each state of its files
class GraphFiles:
    """arcsf's gen_tofu: entities by key (`type`, `data`), and links."""

    items: Mapping[str, Mapping[str, Any]]
    links: tuple[tuple[str, str], ...]

    def of_type(self, type_: str) -> list[str]:
        """Return the keys of all entities of a type."""
        return [key for key, item in self.items.items() if item["type"] == type_]


def load_graph(folder: Path) -> GraphFiles:
    """Read `all_items.json` and `all_connections.csv` (two keys per line, no header). Raises DataError."""
    items, links = folder / "all_items.json", folder / "all_connections.csv"
    return _graph(folder, items, links, (_written(items), _written(links)))


def _written(file: Path) -> tuple[int, int] | None:
    """Return the time and size of a file, as a cache key: a grid reads the same files once for each cell."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=2)
def _graph(folder: Path, items_file: Path, links_file: Path, written: object) -> GraphFiles:
    try:
        text, lines = items_file.read_text(encoding="utf-8"), links_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: all_items.json and all_connections.csv cannot be read: {error}") from None
    try:
        items = json.loads(text)
    except ValueError as error:
        raise DataError(f"{items_file}: not JSON: {error}; is the file whole?") from None
    if not isinstance(items, dict) or any(not isinstance(i, dict) or "type" not in i for i in items.values()):
        raise DataError(f"{items_file}: expected an object of entities, each with a type")
    links = []
    for number, fields in enumerate(csv.reader(lines), 1):
        if len(fields) != 2 or any(key not in items for key in fields):
            raise DataError(f"{links_file} line {number}: expected two keys of all_items.json, got {fields!r}")
        links.append((fields[0], fields[1]))
    return GraphFiles(items, tuple(links))


def load_graph_rows(folder: Path, graph: GraphFiles, *, training_words: bool) -> tuple[list[Example], list[Example]]:
    """Return the training rows and the same rows in the wording of evaluation.

    They are in `dataset` (a folder of `save_to_disk`, which arcsf's code reads), or else in `questions.json` (jsonl,
    csv, parquet, arrow, or a saved folder `questions`).

    Columns: keys, question, answer, perturbed_answers, paraphrased_question, paraphrased_answer,
    paraphrased_perturbed_answers. Evaluation uses the paraphrased ones, or with `training_words` the others. Raises
    DataError if there is no such file.
    """
    saved = (folder / "dataset", folder / "questions")
    files = (*saved, *(folder / f"questions{e}" for e in EXTENSIONS))
    marks = ("state.json", "dataset_dict.json")  # of a saved set, and of a folder of saved splits
    file = next((f for f in files if f.is_file() or (f in saved and any((f / m).is_file() for m in marks))), None)
    if file is None:
        raise DataError(
            f"{folder}: no question rows; looked for dataset (a folder of save_to_disk) and questions "
            f"({', '.join(EXTENSIONS)}). benchmark=world data.world.granularity=... needs no files"
        )
    plain, other = _rows(
        file, _written(next((file / m for m in marks if (file / m).is_file()), file)), graph, training_words
    )
    return list(plain), list(other)


@functools.lru_cache(maxsize=2)
def _rows(
    file: Path, written: object, graph: GraphFiles, training_words: bool
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    raw = read_file(file)
    for i, record in enumerate(raw):
        keys = _listed(record.get("keys"))
        odd = [k for k in keys if not isinstance(k, str) or k not in graph.items] if isinstance(keys, list) else [keys]
        if odd:
            raise DataError(f"{file} row {i}: 'keys' must be a list of keys of all_items.json, got {odd[0]!r:.60}")
        if not training_words and (lacks := [c for c in REWORDED if c not in record]):
            raise DataError(
                f"{file} row {i}: no column '{lacks[0]}'; to evaluate with the training questions, set "
                "data.args.train_set_eval=true"
            )
    plain = qa_rows([_as_asked(r, "") for r in raw], name="full", where=str(file))
    other = plain if training_words else qa_rows([_as_asked(r, "paraphrased_") for r in raw], name="e", where=str(file))
    metas = [{"keys": list(_listed(record["keys"]))} for record in raw]
    return (
        tuple(replace(r, answers={"answer": r.answer}, meta=m) for r, m in zip(plain, metas, strict=True)),
        tuple(replace(r, meta=m) for r, m in zip(other, metas, strict=True)),
    )


def _as_asked(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    out = {key: record[prefix + key] for key in ("question", "answer") if prefix + key in record}
    if wrong := _listed(record.get(f"{prefix}perturbed_answers")):
        out["perturbed_answer"] = list(wrong)[:N_WRONG]
    return out


def _listed(value: Any) -> Any:
    """Return a list that a csv file holds as text, as a list; other values as they are."""
    return (written_list(value) if isinstance(value, str) else None) or value
