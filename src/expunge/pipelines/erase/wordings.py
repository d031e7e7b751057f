"""The same knowledge in other words: other wordings of a question, and the model's own wording of an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from expunge.core.records import GeneratedText
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.question_text import SENTENCE_END
from expunge.metrics.answer_content import contains

# Training reads other wordings than the preflight, the report and the prompting audit, so that these are no rehearsal.
TRAINED = ("{}", "Please answer this question: {}", "{} Answer in one sentence.", "I would like to know: {}")
MEASURED = ("direct", "upper", "plain")  # prompt variants, next to the question as it is
MOST_CHARACTERS = 400


def own_wording(text: str, answer: str) -> str | None:
    """Return the sentences of a generation up to the one that completes the content of an answer.

    None if the generation does not contain the content, is too long, or is the answer itself.
    """
    if not contains(text, answer):
        return None
    ends = [*(m.end() for m in SENTENCE_END.finditer(text)), len(text)]
    whole = next(text[:end].strip() for end in ends if contains(text[:end], answer))
    if len(whole) > MOST_CHARACTERS or whole.rstrip(".") == answer.strip().rstrip("."):
        return None
    return whole


def shortened(text: str, length: int = 80) -> str:
    """Return a text in one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def best_text(texts: Sequence[GeneratedText], answer: str) -> str | None:
    """Return the own wording of the first generation that has one."""
    return next((own for t in texts if (own := own_wording(t.generation, answer))), None)


def fitting(encoder: Encoder, rows: ExampleSet, room: int = 1) -> list[int]:
    """Return the examples whose prompt leaves `room` tokens for the answer."""
    prompts = encoder.row_prompts(rows, rows.rows)
    return [row.row_id for row, ids in zip(rows, prompts, strict=True) if len(ids) + room <= encoder.max_length]


def picked(rows: ExampleSet, ids: Sequence[int], name: str | None = None) -> ExampleSet:
    """Return some examples of a set, with new positions."""
    some = tuple(dataclasses.replace(rows[i], row_id=n) for n, i in enumerate(ids))
    return dataclasses.replace(rows, name=name or rows.name, rows=some)
