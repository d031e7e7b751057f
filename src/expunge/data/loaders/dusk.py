"""DUSK (Jeung et al. 2025, arXiv:2505.15209): invented professors in documents whose facts overlap."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError, nearest
from expunge.data.examples import ExampleSet, qa_rows, text_rows
from expunge.data.granularity import row_set
from expunge.data.source import is_hub_id, load_raw, load_split
from expunge.data.table_files import Records

HUB_ID = "AI-ISL/DUSK"
FORGET = "forget_chronological"
RETAIN = ("retain_feature_story", "retain_interview", "retain_inverted_pyramid", "retain_listicle")
QUESTIONS = {
    "forget_knowmem": "eval_specific_forget_qa",
    "shared_knowmem": "eval_general_qa",
    "retain_knowmem": "eval_specific_retain_qa",
}
TRUE_TEXTS = ("gt", "ground_truth", "answer")  # column of the true continuation of a prompt


def load_dusk(root: str, *, max_length: int) -> dict[str, ExampleSet]:
    """Return DUSK's sets by role.

    Training, as pieces of max_length tokens: `forget` (the chronological documents) and `retain` (the other four
    styles). Evaluation: `forget_knowmem` (facts of the forgotten document alone); `shared_knowmem` (facts that other
    documents also have); `retain_knowmem` (facts of the others alone), all three after the solved questions of
    eval_icl; `forget_verbmem` (prompts and their true continuation); `privleak_forget` and `privleak_holdout`
    (documents).

    root: the hub id, or a folder with the hub's layout (raw/forget_chronological-*.parquet,
    eval_general_qa-*.parquet) or files of the same names with another extension. Raises DataError.
    """
    forget, forget_at = _records(root, "raw", FORGET)
    retained = [_records(root, "raw", split) for split in RETAIN]
    holdout, holdout_at = _records(root, "eval_holdout", "eval")
    retain = [row for raw, where in retained for row in text_rows(raw, name="retain", where=where)]
    sets = {
        "forget": text_rows(forget, name="forget", where=forget_at, max_length=max_length, long="pieces"),
        "retain": dataclasses.replace(row_set("retain", retain), form="text", max_length=max_length, long="pieces"),
        "privleak_forget": text_rows(forget, name="privleak_forget", where=forget_at, max_length=max_length),
        "privleak_holdout": text_rows(holdout, name="privleak_holdout", where=holdout_at, max_length=max_length),
    }
    solved, solved_at = _records(root, "eval_icl", "eval")
    shots = tuple((row.question, row.answer) for row in qa_rows(solved, name="shots", where=solved_at))
    for name, subset in QUESTIONS.items():
        raw, where = _records(root, subset, "eval")
        sets[name] = dataclasses.replace(qa_rows(raw, name=name, where=where), shots=shots)
    raw, where = _records(root, "eval_verbatim", "eval")
    answer = _answer_column(raw, where)
    prompts = qa_rows(raw, name="forget_verbmem", where=where, question_key="prompt", answer_key=answer)
    sets["forget_verbmem"] = dataclasses.replace(
        row_set("forget_verbmem", prompts), form="completion", max_length=2 * max_length
    )
    return sets


def _answer_column(raw: Sequence[Mapping[str, Any]], where: str) -> str:
    columns = list(raw[0]) if raw else []
    for column in TRUE_TEXTS:
        if column in columns:
            return column
    raise DataError(f"{where}: no column of the true text ({', '.join(TRUE_TEXTS)}){nearest('gt', columns)}")


def _records(root: str, subset: str, split: str) -> tuple[Records, str]:
    """Return a split: on the hub by subset and split, in a folder as subset/split or as one file named by subset."""
    folder = Path(root).expanduser()
    if is_hub_id(root) or subset == "raw":
        return load_split(root, subset, split)
    shards = sorted(folder.glob(f"{subset}-*-of-*.parquet"))
    if shards:
        return [record for shard in shards for record in load_raw(str(shard))[0]], str(folder / subset)
    return load_raw(subset, root=root)
