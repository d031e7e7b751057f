"""Marks of tokens, for losses that treat some tokens of an answer apart from the others.

"trace": the tokens of the reasoning trace. "unwanted": the tokens of the words to forget. Those are the words that the
example names (`unwanted`), or else the content words of its answer that its question does not contain.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from expunge.core.errors import DataError
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import TRACE, UNWANTED, Example, ExampleSet
from expunge.methods.api import Marks
from expunge.metrics.answer_content import EMPTY

_WORD = re.compile(r"\w+")


def mark_rows(encoded: Sequence[Encoded], of: ExampleSet, encoder: Encoder, marks: Marks) -> list[Encoded]:
    """Return the encoded examples of a set with their marks.

    Raises DataError for texts without questions, if the marks are unwanted words.
    """
    if marks == TRACE:
        return _with_traces(encoded, of, encoder)
    if of.n_tokens is not None or of.long == "pieces" or of.form == "text":
        raise DataError(f"{of.name}: the method forgets words of answers, and these rows are texts without answers")
    return [
        dataclasses.replace(row, marks=word_marks(row, unwanted_words(example), encoder.tokenizer))
        for row, example in zip(encoded, of.rows, strict=True)
    ]


def unwanted_words(example: Example) -> list[str]:
    """Return the words to forget: those of the column `unwanted`, or else by a rule.

    The rule: words of the answer that carry content and that the question does not contain. An answer without such
    words counts whole.
    """
    words = example.meta.get(UNWANTED)
    if words is not None:
        return list(words)
    in_question = {word.casefold() for word in _WORD.findall(example.question)}
    every = list(dict.fromkeys(_WORD.findall(example.answer)))
    content = [word for word in every if word.casefold() not in EMPTY]
    return [word for word in content if word.casefold() not in in_question] or content or every


def word_marks(row: Encoded, words: Sequence[str], tokenizer: Any) -> tuple[int, ...]:
    """Return the indices of the scored tokens that contain a part of one of the words, in any case.

    A word matches whole words of the text; if there are none, also parts of words (scripts without blanks).
    """
    spans = _token_spans(row, tokenizer)
    text = tokenizer.decode(row.ids[row.n_prompt :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    matches = [place for word in words for place in _places(word, text)]
    overlaps = (any(low < stop and start < high for start, stop in matches) for low, high in spans)
    return tuple(row.n_prompt + i for i, inside in enumerate(overlaps) if inside)


def _places(word: str, text: str) -> list[tuple[int, int]]:
    """Return where a word is in a text."""
    plain = re.escape(word)
    for pattern in (rf"(?<!\w){plain}(?!\w)", plain):
        if places := [m.span() for m in re.finditer(pattern, text, re.IGNORECASE)]:
            return places
    return []


def _token_spans(row: Encoded, tokenizer: Any) -> list[tuple[int, int]]:
    """Return the characters of each scored token in the decoded answer, by decoding its beginnings.

    A token with a part of a character has this character; a special token has none.
    """
    ids, special = row.ids[row.n_prompt :], set(tokenizer.all_special_ids)
    spans, end = [], 0
    for i, token in enumerate(ids):
        text = tokenizer.decode(ids[: i + 1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        start, end = end, max(end, len(text.rstrip("\ufffd")))
        spans.append((start, start if token in special else max(end, start + 1)))
    return spans


def _with_traces(encoded: Sequence[Encoded], of: ExampleSet, encoder: Encoder) -> list[Encoded]:
    """Return the encoded examples with marks at the tokens of their traces."""
    if of.long == "pieces" or not of.has_traces:
        return list(encoded)
    there = [row for row in of.rows if row.has(TRACE)]
    traces = encoder.rows(of, [(row, TRACE) for row in there])
    n_trace = {row.row_id: trace.n_answer for row, trace in zip(there, traces, strict=True)}
    return [
        dataclasses.replace(
            row, marks=tuple(range(row.n_prompt, min(len(row.ids), row.n_prompt + n_trace.get(example.row_id, 0))))
        )
        for row, example in zip(encoded, of.rows, strict=True)
    ]
