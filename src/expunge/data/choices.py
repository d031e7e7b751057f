"""Multiple-choice questions as rows: the right option is `answer`, the others are `wrong_0`, ..."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expunge.core.errors import DataError, nearest
from expunge.data.examples import ANSWER, Example, ExampleSet

WRONG = "wrong"
Style = Literal["letters", "options"]


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, its options in order, and the position of the right one."""

    text: str
    options: tuple[str, ...]
    right: int


def read_questions(raw: Sequence[Mapping[str, Any]], where: str) -> list[ChoiceQuestion]:
    """Parse raw records with `question`, `choices` (a list; or `choice0`, `choice1`, ...) and `answer`.

    `answer` is a position from 0, or a letter. Raises DataError naming the row, counted from 0.
    """
    return [_question(record, f"{where} row {i}") for i, record in enumerate(raw)]


def _question(record: Mapping[str, Any], place: str) -> ChoiceQuestion:
    for key in ("question", "answer"):
        if key not in record:
            raise DataError(f"{place}: no column '{key}'{nearest(key, record)}")
    options = record.get("choices")
    if options is None:
        options = [record[f"choice{i}"] for i in range(len(record)) if f"choice{i}" in record]
    texts = [record["question"], *options] if isinstance(options, list | tuple) else []
    if len(texts) < 3 or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: needs a question and at least two options (choices, or choice0, choice1, ...)")
    for name, text in zip(("'question'", *(f"option {i}" for i in range(len(options)))), texts, strict=True):
        if not text.strip():
            raise DataError(f"{place}: {name} is empty")
    right = str(record["answer"]).strip()
    letters = string.ascii_uppercase[: len(options)]
    at = int(right) if right.isascii() and right.isdigit() else letters.find(right) if len(right) == 1 else -1
    if not 0 <= at < len(options):
        raise DataError(
            f"{place}: 'answer' must be 0 to {len(options) - 1} or {letters[0]} to {letters[-1]}: {right!r}"
        )
    return ChoiceQuestion(record["question"].strip(), tuple(options), at)


def choice_rows(
    name: str,
    questions: Sequence[ChoiceQuestion],
    *,
    about: str,
    style: Style = "letters",
    shots: Sequence[ChoiceQuestion] = (),
    max_length: int | None = None,
) -> ExampleSet:
    """Convert questions to rows, with the prompts of MMLU's own code and of lm-evaluation-harness.

    Args:
        name: Name of the set.
        questions: Questions with their options.
        about: Subject in the prompt's first line.
        style: "letters" lists the options in the prompt (`A. ...`) and the answers are the letters; "options" omits
            them and the answers are the options themselves.
        shots: Solved questions before each.
        max_length: Largest number of tokens; a longer prompt loses its beginning.
    """
    head = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    solved = tuple(
        (("" if i else head) + _prompt(shot, style), _answers(shot, style)[shot.right]) for i, shot in enumerate(shots)
    )
    rows = []
    for i, question in enumerate(questions):
        answers = _answers(question, style)
        wrong = [a for k, a in enumerate(answers) if k != question.right]
        named = {ANSWER: answers[question.right]} | {f"{WRONG}_{k}": a for k, a in enumerate(wrong)}
        rows.append(Example(i, ("" if solved else head) + _prompt(question, style), named))
    return ExampleSet(name, tuple(rows), form="text", shots=solved, max_length=max_length, long="left")


def _prompt(question: ChoiceQuestion, style: Style) -> str:
    listed = "".join(f"\n{c}. {o}" for c, o in zip(string.ascii_uppercase, question.options, strict=False))
    return f"{question.text}{listed if style == 'letters' else ''}\nAnswer:"


def _answers(question: ChoiceQuestion, style: Style) -> list[str]:
    if style == "letters":
        return list(string.ascii_uppercase[: len(question.options)])
    return [option.strip() for option in question.options]
