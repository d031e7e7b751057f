"""Drafts of greedy texts from scores: the first tokens of the true answer that the model would generate anyway."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from expunge.core.records import TokenRecords
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.prompts import Prompt

# A token with a higher probability is the first choice by a logit margin of at least 0.4, more than the rounding error
# of another batch, in half precision too.
SURE = 0.6

DraftTexts = Mapping[int, tuple[int, ...]]  # by row


def drafts_of(records: TokenRecords, variant: str) -> DraftTexts:
    """Return the first tokens of each row's answer, up to the first whose probability is at most SURE."""
    answers = records.by_variant.get(variant)
    if answers is None:
        return {}
    rows = zip(answers.row_ids, answers.by_row(answers.token_id), answers.by_row(answers.logp), strict=True)
    return {int(row): tuple(ids[: _n_first(logp > math.log(SURE))].tolist()) for row, ids, logp in rows}


def _n_first(true: npt.NDArray[np.bool_]) -> int:
    """Return the number of True values before the first False."""
    return len(true) if true.all() else int(true.argmin())


def with_drafts(
    prompts: Sequence[Prompt], drafts: DraftTexts, rows: ExampleSet, reference: str, encoder: Encoder
) -> list[Prompt]:
    """Return the prompts with their drafts, if the answer was scored after exactly the tokens of the prompt."""
    known = {p.row_id for p in prompts if drafts.get(p.row_id)}
    answers = [(row, reference) for row in rows.rows if row.row_id in known]
    whole = {row.row_id: e for (row, _), e in zip(answers, encoder.rows(rows, answers), strict=True)}
    out: list[Prompt] = []
    for p in prompts:
        draft = drafts.get(p.row_id, ())[: p.limit]
        scored = whole.get(p.row_id)
        begins = p.ids + draft
        fits = scored is not None and scored.n_prompt == len(p.ids) > 0 and scored.ids[: len(begins)] == begins
        out.append(dataclasses.replace(p, draft=draft) if fits else p)
    return out
