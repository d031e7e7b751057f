"""KnowUnDo (Tian et al. 2024, arXiv:2407.01920): protected and public knowledge of books and people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError
from expunge.data.examples import ExampleSet, qa_rows
from expunge.data.source import load_raw

HUB_ID = "zjunlp/KnowUnDo"
DOMAINS = ("copyright", "privacy")
SIDES = {"forget": "unlearn", "retain": "retention"}
PARTS = {"": "train", "_eval": "val"}


def load_knowundo(root: str, domain: str) -> dict[str, ExampleSet]:
    """Return `forget` and `retain` (their train parts), `forget_eval` and `retain_eval` (their val parts).

    root: a hub id, or a folder with DOMAIN/unlearn.json and DOMAIN/retention.json. Each contains one record with two
    lists, `train` and `val`, whose rows have `text` (the question) and `labels` (the answer). Raises DataError.
    """
    sets = {}
    for side, split in SIDES.items():
        record, where = _record(root, domain, split)
        for ending, part in PARTS.items():
            rows = record.get(part)
            if not isinstance(rows, list) or any(not isinstance(row, Mapping) for row in rows):
                raise DataError(f"{where}: '{part}' must be a list of rows with text and labels")
            name, place = f"{side}{ending}", f"{where} {part}"
            sets[name] = qa_rows(rows, name=name, where=place, question_key="text", answer_key="labels")
    return sets


def _record(root: str, domain: str, split: str) -> tuple[Mapping[str, Any], str]:
    base = Path(root).expanduser()
    if not base.is_dir():
        raw, where = load_raw(root, subset=domain, split=split)
    else:
        file = base / domain / f"{split}.json"
        if not file.is_file():
            raise DataError(f"{file}: no such file{_right_folder(base, split)}")
        where = str(file)
        try:
            value = json.loads(file.read_bytes())
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise DataError(f"{file}: not JSON: {error}") from None
        raw = value if isinstance(value, list) else [value]
    if len(raw) != 1 or not isinstance(raw[0], Mapping):
        raise DataError(f"{where}: expected one record with the lists train and val, got {len(raw)} records")
    return raw[0], where


def _right_folder(base: Path, split: str) -> str:
    """Return a hint: the settings for the folder of a part, or the part that is there."""
    if (base / f"{split}.json").is_file() and base.name in DOMAINS:
        return f"; write data.root={base.parent} data_split={base.name}"
    parts = [name for name in DOMAINS if (base / name / f"{split}.json").is_file()]
    return f"; write data_split={parts[0]}" if parts else f" (allowed: a folder with {' or '.join(DOMAINS)})"
