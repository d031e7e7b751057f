"""What scoring has shown of greedy texts: how far each would say the true answer, which need not be made again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from expunge.core.records import TokenRecords
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.evaluation.prompts import Prompt

# A token that is likelier than this is the first choice by .4 in its logit at least, more than what the rounding of
# another batch moves logits by, in half precision too.
SURE = 0.6

DraftTexts = Mapping[int, tuple[int, ...]]  # by row


def drafts_of(records: TokenRecords, variant: str) -> DraftTexts:
    """The first tokens of each row's answer, as long as the model is sure of each."""
    answers = records.by_variant.get(variant)
    if answers is None:
        return {}
    rows = zip(answers.row_ids, answers.by_row(answers.token_id), answers.by_row(answers.logp), strict=True)
    return {int(row): tuple(ids[: _n_first(logp > math.log(SURE))].tolist()) for row, ids, logp in rows}


def _n_first(true: npt.NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return len(true) if true.all() else int(true.argmin())


def with_drafts(
    prompts: Sequence[Prompt], drafts: DraftTexts, rows: ExampleSet, reference: str, encoder: Encoder
) -> list[Prompt]:
    """Prompts with what is known of their texts, where the answer was scored after the very tokens of the prompt."""
    known = {p.row_id for p in prompts if drafts.get(p.row_id)}
    asked = [(row, reference) for row in rows.rows if row.row_id in known]
    whole = {row.row_id: e for (row, _), e in zip(asked, encoder.rows(rows, asked), strict=True)}
    out: list[Prompt] = []
    for p in prompts:
        draft = drafts.get(p.row_id, ())[: p.limit]
        scored = whole.get(p.row_id)
        begins = p.ids + draft
        fits = scored is not None and scored.n_prompt == len(p.ids) > 0 and scored.ids[: len(begins)] == begins
        out.append(dataclasses.replace(p, draft=draft) if fits else p)
    return out
