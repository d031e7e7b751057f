"""ROUGE: how much of a text a generation repeats."""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np

from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText
from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family

Statistic = Literal["rouge1_recall", "rougeL_recall", "rougeL_f1"]
STATISTICS: tuple[str, ...] = get_args(Statistic)
Scores = tuple[float, float, float]
Pair = tuple[str, str, bool]  # the reference, the generation, and whether there is none to score
FEWEST = 20_000  # pairs that are worth a process of their own: a few seconds of counting


@family(
    "rouge",
    revision=1,
    higher_is="more of the answer is repeated",
    range="[0, 1]",
    paper="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries (ACL W04-1013)",
)
def rouge(inputs: MetricInputs, *, statistic: Statistic = "rougeL_recall") -> MetricResult:
    """How much of the true answer the model's own answer repeats, in words.

    Formula: rouge1_recall = matched words / words of the reference, rougeL_recall = longest common subsequence / words
    of the reference, rougeL_f1 = its harmonic mean with LCS / words of the generation. Words are split and stemmed
    (Porter) by the package rouge_score. The value is the mean over rows of `statistic`.

    Reads: generations, against the answer that the metric's `texts` names. Another name there scores the same
    generations against another wording (forget_Q_A_PARA_ROUGE: the paraphrase), not other generations.
    Per row: rouge1_recall, rougeL_recall, rougeL_f1, means over the row's samples if there are several.
    Arguments: `statistic`: rougeL_recall (default; TOFU, arcsf), rougeL_f1 (MUSE), rouge1_recall.
    Good direction: low on forget rows, high on all others.
    Pitfalls: recall does not punish long generations, so the length limit matters. Only Latin letters and digits count
    as words: a row whose reference has none is NaN, not 0, and so is one whose generation broke off at once because the
    model's logits were not numbers. A gibberish model scores low too: read with model_utility.
    """
    if inputs.texts is None:
        raise ConfigError(f"metric {inputs.metric.name}: family rouge reads generations; set reads={{'texts': ANSWER}}")
    texts = sorted(inputs.texts, key=lambda t: (t.row_id, t.sample))
    by_row: dict[int, list[tuple[float, float, float]]] = {}
    for text, scores in zip(texts, rouge_of_all(texts), strict=True):
        by_row.setdefault(text.row_id, []).append(scores)
    scores_R3 = np.array([np.mean(samples, axis=0) for samples in by_row.values()]).reshape(-1, len(STATISTICS))
    columns = {name: scores_R3[:, i].tolist() for i, name in enumerate(STATISTICS)}
    row_ids = np.array(list(by_row), dtype=np.int64)
    return mean_over_rows(row_ids, scores_R3[:, STATISTICS.index(statistic)], columns)


def rouge_of_all(texts: Sequence[GeneratedText]) -> list[Scores]:
    """The statistics of every generation, in order; many are counted in several processes, to the same numbers."""
    pairs = [(text.reference, text.generation, text.n_new_tokens == 0) for text in texts]
    n = min(os.cpu_count() or 1, len(pairs) // FEWEST)
    if n < 2:
        return pair_scores(pairs)
    step = -(-len(pairs) // n)
    parts = [pairs[k : k + step] for k in range(0, len(pairs), step)]
    with ThreadPoolExecutor(len(parts)) as pool:
        return [scores for part in pool.map(_in_a_process, parts) for scores in part]


def _in_a_process(pairs: Sequence[Pair]) -> list[Scores]:
    """`pair_scores` by another Python, which imports this file alone and not the program that runs."""
    command = [sys.executable, "-c", "from expunge.metrics.rouge import work; work()"]
    done = subprocess.run(command, input=json.dumps(pairs).encode(), capture_output=True)
    if done.returncode:  # an interpreter that does not find the package: the numbers are the same here
        return pair_scores(pairs)
    return [(a, b, c) for a, b, c in json.loads(done.stdout)]


def rouge_scores(text: GeneratedText) -> Scores:
    """The three statistics of one generation, in the order of STATISTICS.

    NaN if the reference has no word, or if the model made no token at all (its logits were not numbers).
    """
    return pair_scores([(text.reference, text.generation, text.n_new_tokens == 0)])[0]


def pair_scores(pairs: Iterable[Pair]) -> list[Scores]:
    """The statistics of pairs of a reference, a generation, and whether that is missing."""
    return [(math.nan,) * 3 if absent else _scores(_words(truth), _words(said)) for truth, said, absent in pairs]


def _scores(truth: Sequence[str], said: Sequence[str]) -> Scores:
    if not truth:
        return (math.nan, math.nan, math.nan)
    if not said:
        return (0.0, 0.0, 0.0)
    matched = sum((Counter(truth) & Counter(said)).values())
    common = _common(truth, said)
    precision, recall = common / len(said), common / len(truth)
    return (matched / len(truth), recall, 2 * precision * recall / (precision + recall) if common else 0.0)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a word of `b` at a time over all of `a` as the bits of one integer.

    Source: Hyyro 2004, Bit-parallel LCS-length computation revisited. A zero bit marks where the length grows by one.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    all_bits = (1 << len(a)) - 1
    row = all_bits
    for word in b:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & all_bits
    return len(a) - row.bit_count()


def _words(text: str) -> list[str]:
    """The words of a text, split and stemmed as the package rouge_score does."""
    # Imported here: it pulls in nltk, a second that a command which scores nothing should not wait for.
    from rouge_score import tokenize

    return list(tokenize.tokenize(text, _Stems()))


class _Stems:
    """Porter's stems, each word's found once: most of the time of a ROUGE goes there."""

    def stem(self, word: str) -> str:
        return _stem(word)


@functools.lru_cache(maxsize=2**17)
def _stem(word: str) -> str:
    return str(_porter().stem(word))


@functools.cache
def _porter() -> Any:
    from nltk.stem import porter

    return porter.PorterStemmer()


def work() -> None:
    """A worker process: pairs as JSON on standard input, their statistics on standard output."""
    json.dump(pair_scores(json.load(sys.stdin)), sys.stdout)
