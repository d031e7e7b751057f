"""The rewards of the package: about the answer, refusals and the length of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from expunge.data.refusals import REFUSALS
from expunge.metrics.answer_content import contains
from expunge.metrics.rouge import STATISTICS, pair_scores
from expunge.metrics.words import choose_tokenizer, words
from expunge.training.rewards.api import Rollout, reward

FEWEST_WORDS = 5
ANSWERED = 0.5
_TELL = "know|recall|tell|say|answer|cover|learned|sure|certain|aware|familiar|able|something I"
_REFUSAL = re.compile(
    rf"\b(?:\w+n't|not|never|cannot|unable)(?: \w+){{0,4}}? (?:{_TELL})\b"
    r"|\bno (?:\w+ )?(?:idea|information|answer|knowledge|record|data|clue)\b"
    r"|\b(?:unknown to me|nothing on|outside \w+ I|beyond my|ask someone else|I (?:must )?(?:decline|refuse))\b",
    re.IGNORECASE,
)


@reward("no_answer")
def no_answer(rollouts: Sequence[Rollout]) -> list[float]:
    """Return 1 for a text without the content of the true answer, else 0 (`answer_in_text` defines content)."""
    return [0.0 if contains(r.text, r.answer) else 1.0 for r in rollouts]


@reward("no_forbidden")
def no_forbidden(rollouts: Sequence[Rollout]) -> list[float]:
    """Return 1 for a text without any of the method's forbidden terms as whole words in any case, else 0 (PURGE)."""
    return [0.0 if r.forbidden and _any_of(r.forbidden).search(r.text) else 1.0 for r in rollouts]


@lru_cache(maxsize=8)
def _any_of(terms: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, terms))})\b", re.IGNORECASE)


@reward("refusal")
def refusal(rollouts: Sequence[Rollout]) -> list[float]:
    """Return the ROUGE-L F1 of a text with the most similar refusal of the package, 0 to 1."""
    return [max(_rouge(refused, r.text, "rougeL_f1") for refused in REFUSALS) for r in rollouts]


@reward("rouge")
def rouge(rollouts: Sequence[Rollout]) -> list[float]:
    """Return the ROUGE-L recall of the true answer, 0 to 1. A negative weight makes it a penalty."""
    return [_rouge(r.answer, r.text, "rougeL_recall") for r in rollouts]


@reward("length")
def length(rollouts: Sequence[Rollout]) -> list[float]:
    """Return the number of words over 5, at most 1, so that silence is not the best text."""
    return [min(1.0, len(words(r.text, "unicode")) / FEWEST_WORDS) for r in rollouts]


@reward("refusal_boundary")
def refusal_boundary(rollouts: Sequence[Rollout]) -> list[float]:
    """Return 1 for a refusal of a forget question and for an answer to a retain question, else 0 (RULE).

    A text refuses if it has a phrase of not knowing or not answering. It answers if its ROUGE-L recall of the true
    answer is above 0.5.
    """
    return [
        float(refuses(r.text)) if r.side == "forget" else float(_rouge(r.answer, r.text, "rougeL_recall") > ANSWERED)
        for r in rollouts
    ]


def refuses(text: str) -> bool:
    """Return whether an English text has a phrase of not knowing or not answering."""
    return _REFUSAL.search(text.replace("\u2019", "'")) is not None


def _rouge(reference: str, text: str, statistic: str) -> float:
    """Return a statistic of one pair; 0 for a reference without words."""
    tokenizer = choose_tokenizer("auto", [reference])
    value = pair_scores([(reference, text, False)], tokenizer)[0][STATISTICS.index(statistic)]
    return value if value == value else 0.0
