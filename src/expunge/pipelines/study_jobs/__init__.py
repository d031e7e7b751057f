"""The jobs of a study, and their work. Here: the facts of finished jobs that reports show, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

READING = "reading"  # in a job's facts: notes on the loading of its model, and on its template
TRAJECTORY = "trajectory.jsonl"
GENERATIONS = "generations.jsonl"
LM_EVAL = "LMEval_"  # the start of the names of the result files of lm-evaluation-harness
LM_EVAL_FILE = f"{LM_EVAL}EVAL.json"


def cut_answers(record: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the number of truncated answers of a finished job by set, without zeros."""
    facts = (record or {}).get("facts", {})
    cut = {**facts.get("truncated_rows", {}), **facts.get("truncated_answers", {})}
    return {name: n for name, n in cut.items() if n}


def reading_notes(record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the notes of a finished job on the loading of its model."""
    return tuple((record or {}).get("facts", {}).get(READING, ()))
