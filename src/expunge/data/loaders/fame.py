"""FAME (Savelli et al. 2025, arXiv:2512.15235): invented actors in five languages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError, nearest
from expunge.data.examples import ExampleSet, qa_rows
from expunge.data.granularity import row_set
from expunge.data.source import is_hub_id, load_raw, load_split
from expunge.data.table_files import Records

HUB_IDS = {"FAME": "ClaudioSavelli/FAME", "task1": "SVELA-task/SVELA_task1", "task2": "SVELA-task/SVELA_task2"}
LANGUAGES = ("DE", "EN", "ES", "FR", "IT")  # the order of the published class labels
SPLITS = {"forget": "forget", "retain": "retain", "holdout": "test"}


def load_fame(root: str, languages: Collection[str]) -> dict[str, ExampleSet]:
    """Return `forget`, `retain` and `holdout` (the split `test`: actors that no model learns) in these languages.

    root: a hub id, or a folder with data/forget-*.parquet or forget.json and so on. Columns: question, answer, language
    (0 to 4 or DE, EN, ES, FR, IT), name, identity_id, topic_id. Each example has the language, person and topic in its
    `meta`. Raises DataError.
    """
    sets = {}
    for name, split in SPLITS.items():
        raw, where = _records(root, split)
        rows = []
        for row, record in zip(qa_rows(raw, name=name, where=where), raw, strict=True):
            language = _language(record, f"{where} row {row.row_id}")
            if language in languages:
                person = str(record.get("identity_id", record.get("name", "")))
                meta = {"language": language, "person": person, "topic": str(record.get("topic_id", ""))}
                rows.append(replace(row, meta=meta))
        if not rows:
            raise DataError(f"{where}: no row in {', '.join(sorted(languages))}")
        sets[name] = row_set(name, rows)
    return sets


def _records(root: str, split: str) -> tuple[Records, str]:
    if is_hub_id(root):
        return load_raw(root, split=split)
    folder = Path(root).expanduser()
    if (folder / "data").is_dir():
        return load_split(root, "data", split)
    return load_raw(split, root=root)


def _language(record: Mapping[str, Any], place: str) -> str:
    value = record.get("language")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(LANGUAGES):
        return LANGUAGES[value]
    text = str(value).strip().upper()
    if text.isdecimal() and int(text) < len(LANGUAGES):
        return LANGUAGES[int(text)]
    if text not in LANGUAGES:
        raise DataError(f"{place}: language={value!r} is none of {', '.join(LANGUAGES)}{nearest(text, LANGUAGES)}")
    return text
