"""Whether a text contains the content of an answer, in any wording."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np

from expunge.core.errors import ConfigError
from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family
from expunge.metrics.words import UNSPACED, unicode_words

MOST_WORDS = 5  # an answer of up to so many content words must occur whole
SHARE = 0.8  # of a longer answer, this share of its content words
_WORD = re.compile(r"\w+")
_UNITS = _WORD.findall(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = _WORD.findall("twenty thirty forty fifty sixty seventy eighty ninety")
NUMBERS = {word: str(i) for i, word in enumerate(_UNITS)} | {word: str(20 + 10 * i) for i, word in enumerate(_TENS)}
# Words that carry no content of an answer.
EMPTY = frozenset(
    _WORD.findall(
        "a an the is are was were be been being has have had do does did it its he she they his her their this that "
        "these those there of in on at to by for from with as and or which who whom called named known answer"
    )
)
_GROUPED = re.compile(r"(?<=\d)[,\u00a0\u202f\u2009'](?=\d{3}(?!\d))")  # 1,000 or 1'000
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7af]")  # particles are written at the end of a Korean word
# Marks of Latin, Greek and Cyrillic letters; vowel points of Hebrew; vowel marks of Arabic and its long dash.
_ACCENT = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u065f\u0670]")
_BLANK = re.compile("[\\s\ufe0f]+")  # with the selector of coloured emoji


@family(
    "answer_in_text",
    revision=2,
    higher_is="more answers are still given, in any wording",
    range="[0, 1]",
    paper="answer containment, as in open-domain question answering (arXiv:1704.00051)",
    reads={"texts": "answer"},
)
def answer_in_text(inputs: MetricInputs) -> MetricResult:
    """Compute the share of examples whose generation contains the content of the answer.

    Formula: 1 if all numbers and all content words of the answer occur in the generation, in any order, else 0. Of more
    than 5 content words, 80 % suffice. Case, diacritics, punctuation, articles, separators of thousands and the
    spelling of small numbers do not count. In scripts without blanks, and if the answer has no words (as of emoji), the
    answer must occur as it is. A Korean word may have further syllables.

    Reads: generations, compared with the answer that the metric's `texts` names. Per row: `score`, the mean over
    samples if there are several.
    Good direction: on forget rows near the retain model's value, on all others high.
    Pitfalls: "It is not Paris" contains "Paris". A one-word answer that is also in the question is often repeated.
    """
    if inputs.texts is None:
        name = inputs.metric.name
        raise ConfigError(f"metric {name}: family answer_in_text reads generations; set reads={{'texts': ANSWER}}")
    by_row: dict[int, list[float]] = {}
    for text in sorted(inputs.texts, key=lambda t: (t.row_id, t.sample)):
        by_row.setdefault(text.row_id, []).append(float(contains(text.generation, text.reference)))
    scores_R = np.array([np.mean(samples) for samples in by_row.values()])
    return mean_over_rows(np.array(list(by_row), dtype=np.int64), scores_R, {"score": scores_R.tolist()})


def contains(text: str, answer: str) -> bool:
    """Return whether a text contains the content of an answer; False for an empty answer."""
    needed = _normal_words(answer)
    if not needed:
        sign = _BLANK.sub("", unicodedata.normalize("NFKC", answer))
        return bool(sign) and sign in _BLANK.sub("", unicodedata.normalize("NFKC", text))
    if UNSPACED.search(answer):
        return "".join(needed) in "".join(_normal_words(text))
    content = {w for w in needed if w not in EMPTY} or set(needed)
    words = set(_normal_words(text))
    there = {w for w in content if w in words or (_HANGUL.search(w) and any(word.startswith(w) for word in words))}
    numbers = {w for w in content if w[0].isdigit()}
    least = len(content) if len(content) <= MOST_WORDS else SHARE * len(content)
    return numbers <= there and len(there) >= least


@lru_cache(maxsize=4096)
def _normal_words(text: str) -> tuple[str, ...]:
    """Return the words of a text without case and diacritics, and with small numbers as digits."""
    plain = _ACCENT.sub("", unicodedata.normalize("NFKD", _GROUPED.sub("", text)))
    return tuple(NUMBERS.get(w, w) for w in unicode_words(plain))
