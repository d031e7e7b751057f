"""Rows to forget that are made from the model's own answers: to questions, or about a thing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.files import write_text
from expunge.core.fingerprints import fingerprint
from expunge.data.question_text import first_sentence, listed_questions
from expunge.data.variants import ENTITY_QUESTIONS
from expunge.metrics.answer_content import contains
from expunge.metrics.fluency import is_gibberish

MORE = "Write five short questions about {}, one per line."
MOST_ROWS = 20
_MARK = re.compile(r"\.forget-[0-9a-f]{8}\.jsonl")


@dataclass(frozen=True)
class RowRequest:
    """A request for rows: questions, or the name of a thing."""

    questions: tuple[str, ...] = ()
    entity: str = ""

    def file(self, out: Path, model: Mapping[str, Any]) -> Path:
        """Return the file of its rows, next to the output folder. The name contains the request and the model."""
        mark = fingerprint({"questions": self.questions, "entity": self.entity, "model": model})[:8]
        return out.with_name(f"{out.name}.forget-{mark}.jsonl")


def without_mark(text: str) -> str:
    """Return a text of a report without the mark in the names of `RowRequest.file`, which tests a guess of a name."""
    return _MARK.sub(".forget.jsonl", text)


def make_rows(request: RowRequest, answer: Callable[[Sequence[str]], list[str]]) -> list[tuple[str, str]]:
    """Return questions with the model's own answers.

    Args:
        request: The request.
        answer: Returns the model's greedy answers to questions.
    """
    questions = list(request.questions)
    if request.entity:
        name = request.entity
        own = [q for q in listed_questions(answer([MORE.format(name)])[0]) if contains(q, name)]
        questions += dict.fromkeys([*(form.replace("{}", name) for form in ENTITY_QUESTIONS), *own])
    questions = questions[:MOST_ROWS]
    pairs = zip(questions, answer(questions), strict=True)
    return [(q, first_sentence(text)) for q, text in pairs if text.strip() and not is_gibberish(text)]


def write_rows(file: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write the rows as JSON lines, whole or not at all."""
    lines = [json.dumps({"question": q, "answer": a}, ensure_ascii=False) for q, a in rows]
    write_text(file, "".join(f"{line}\n" for line in lines))


def is_question(text: str) -> bool:
    """Return whether the value of --forget is a question and no file name."""
    return text.rstrip().endswith("?") and not os.path.exists(text)  # False if it is longer than a file name can be
