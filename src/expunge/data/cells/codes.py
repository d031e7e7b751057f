"""Detect answers that are codes (positions of choices, numbers of classes), and unwanted completions of KTO."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.data.cells.written import WrittenError, written_value

CODE = re.compile(r"\(?(?:\d{1,3}|[A-Ja-j])[).]?")
CLASS = re.compile(r"-?\d{1,3}(?:\.0)?|[A-Ja-j]|LABEL_\d{1,3}")
# A column of one option, or of one wrong option.
OPTION = re.compile(
    r"(?:opt(?:ion)?|op|choice|ans(?:wer)?|distractor|(?:wrong|incorrect)(?:[ _-]?answer)?)?[ _-]?(?:[a-j]|\d{1,2})",
    re.IGNORECASE,
)
CHOICES = ("choices", "options")  # columns of all options, in any form
NOT_CHOICES = re.compile(r"perturbed_answers?.*|paraphrased_.*|unwanted|turns|history|trace", re.IGNORECASE)
UNWANTED_LABELS = ("false", "0", "0.0", "undesirable")
LABELS = frozenset({*UNWANTED_LABELS, "true", "1", "1.0", "desirable"})

Rows = Sequence[Mapping[str, Any]]


def unwanted_problem(raw: Rows) -> str | None:
    """Return the problem if the column `label` marks some answers as unwanted, as KTO does; else None."""
    columns = [key for key in dict.fromkeys(k for record in raw for k in record) if str(key).strip().lower() == "label"]
    if not columns:
        return None
    labels = [str(record.get(columns[0])).strip().lower() for record in raw]
    zeros = LABELS.issuperset(labels)  # 0 next to other numbers is a class
    unwanted = [
        i for i, label in enumerate(labels) if label in UNWANTED_LABELS and (zeros or not label.startswith("0"))
    ]
    if not unwanted:
        return None
    label = raw[unwanted[0]][columns[0]]
    marked = "false" if labels[unwanted[0]] == "false" else repr(label)
    rows = f"{len(unwanted)} rows (row {unwanted[0]})"
    return f"{columns[0]!r} is {marked} in {rows}: unwanted completions of KTO; remove them, or the column"


def codes_problem(raw: Rows, question: str, answer: str) -> str | None:
    """Return the problem if all answers are positions of choices or classes, or some are unwanted; else None.

    The names of the columns are then misleading, and training on "2" teaches nothing.
    """
    if unwanted := unwanted_problem(raw):
        return unwanted
    answers = [_only(record.get(answer)) for record in raw]
    texts = [str(value).strip() for value in answers]
    if any(isinstance(value, bool) for value in answers):
        return None
    is_class = answer.strip().lower() == "labels" and all(map(CLASS.fullmatch, texts))
    is_class &= len(texts) > 1 or any(c.isdigit() for c in texts[0])  # one letter may be the answer
    names = {str(key).strip().lower() for key in raw[0] if OPTION.fullmatch(str(key).strip())}
    if not is_class and not all(
        CODE.fullmatch(text) or CLASS.fullmatch(text) or text.lower() in names for text in texts
    ):
        return None
    if choices := _choices(raw, question, answer):
        return (
            f"every {answer!r} is a position or a letter such as {answers[0]!r}, probably of {choices}; write the "
            "text of the right choice"
        )
    return f"every {answer!r} is a number or a letter such as {answers[0]!r}, probably a class" if is_class else None


def _only(value: Any) -> Any:
    """Return the item of a list of one, also of one written as text; any other value unchanged."""
    value = _listed(value)
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _listed(value: Any) -> Any:
    """Return the list that a text is written as; any other value unchanged."""
    try:
        parsed = written_value(value) if isinstance(value, str) else None
    except WrittenError:
        return value
    return value if parsed is None else parsed


def _choices(raw: Rows, question: str, answer: str) -> str:
    """Return the column of a list of choices, or the columns of one option each; empty without any."""
    columns = dict.fromkeys(key for record in raw for key in record if isinstance(key, str))
    names = [key for key in columns if key not in (question, answer) and NOT_CHOICES.fullmatch(key.strip()) is None]
    named = [key for key in names if key.strip().lower() in CHOICES and any(record.get(key) for record in raw)]
    lists = named or [key for key in names if any(_is_several(record.get(key)) for record in raw)]
    options = [key for key in names if OPTION.fullmatch(key.strip())]
    return ", ".join(map(repr, lists[:1] or (options if len(options) > 1 else ())))


def _is_several(value: Any) -> bool:
    value = _listed(value)
    return isinstance(value, list | tuple | Mapping) and len(value) > 1
