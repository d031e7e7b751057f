"""Short answers with several accepted wordings, and the variety of longer ones, as RWKU measures utility."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from expunge.core.records import GeneratedText
from expunge.metrics.api import MetricInputs, MetricResult, family
from expunge.metrics.semeval import mean_of_texts
from expunge.metrics.words import blank_separated

PAPER = "RWKU (arXiv:2406.10890), section 4"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CONCLUSION = re.compile(r"[tT]he answer is (.*?)\.")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # of the entropies of pairs and triples


@family("short_answer", revision=2, higher_is="more answers are right", range="[0, 1]", paper=PAPER, fidelity="reading")
def short_answer(inputs: MetricInputs, *, score: Literal["em", "f1"] = "em", conclusion: bool = False) -> MetricResult:
    """Compute whether generations are accepted answers.

    Formula: generation and answers without capitals, punctuation and the articles a, an, the, as in SQuAD. A text of
    articles alone, such as the option "(A)", keeps them. em: 1 if the words are those of an accepted answer; f1: the
    harmonic mean of precision and recall of the words, the best over the accepted answers. A text without words scores
    0. The value is the mean over rows.

    Reads: greedy generations; the reference has one accepted answer on each line. Per row: `score`, `em`, `f1`.
    Arguments: `score`: the value, em or f1. `conclusion`: read only the text between "the answer is" and the next stop,
    if there is one, as for answers with reasoning.
    Good direction: high, near the model before unlearning.
    Pitfall: em punishes every further word; read f1 next to it.
    """

    def scores(text: GeneratedText) -> dict[str, float]:
        match = _CONCLUSION.search(text.generation) if conclusion else None
        mine = _words(match[1] if match else text.generation)
        accepted = [_words(line) for line in text.reference.split("\n") if line.strip()]
        em = max((float(mine == one != []) for one in accepted), default=math.nan)
        f1 = max((_f1(mine, one) for one in accepted), default=math.nan)
        return {"score": em if score == "em" else f1, "em": em, "f1": f1}

    return mean_of_texts(inputs, scores)


@family(
    "ngram_entropy", revision=1, higher_is="more varied text", range="[0, inf) bits", paper=PAPER, fidelity="reading"
)
def ngram_entropy(inputs: MetricInputs) -> MetricResult:
    """Compute how varied generations are: a model that repeats itself is near 0.

    Formula: the mean of 2/3 H_2 and 4/3 H_3, H_n the entropy in bits of the n-grams of a generation's words. The value
    is the mean over rows.

    Reads: generations. Per row: `score`.
    Good direction: near the model before unlearning.
    Pitfalls: it grows with the length, so compare at one limit of new tokens. RWKU splits words with NLTK, which counts
    punctuation as words; here they are split at blanks.
    """

    def scores(text: GeneratedText) -> dict[str, float]:
        words = blank_separated(text.generation)
        return {"score": sum(weight * _entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)}

    return mean_of_texts(inputs, scores)


def _words(text: str) -> list[str]:
    plain = text.lower().translate(_PUNCTUATION)
    return _ARTICLES.sub(" ", plain).split() or plain.split()  # "(A)" is an answer


def _f1(mine: Sequence[str], theirs: Sequence[str]) -> float:
    if not mine or not theirs:
        return 0.0
    common = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * common / (len(mine) + len(theirs))


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = counts.total()
    return -sum(c / total * math.log2(c / total) for c in counts.values()) + 0.0
