"""ROUGE: the share of a reference text that a generation repeats."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
from rapidfuzz.distance import LCSseq

from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText
from expunge.metrics.aggregate import UNSCORED, mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family
from expunge.metrics.words import Chosen, Tokenizer, choose_tokenizer, words

Statistic = Literal["rouge1_recall", "rougeL_recall", "rougeL_f1"]
STATISTICS: tuple[str, ...] = get_args(Statistic)
Scores = tuple[float, float, float]
Pair = tuple[str, str, bool]  # the reference, the generation, and whether the generation is missing
FEWEST = 20_000  # pairs per process: a few seconds of counting


@family(
    "rouge",
    revision=2,
    higher_is="more of the answer is repeated",
    range="[0, 1]",
    paper="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries (ACL W04-1013)",
    fidelity="code",
)
def rouge(
    inputs: MetricInputs, *, statistic: Statistic = "rougeL_recall", tokenizer: Tokenizer = "auto"
) -> MetricResult:
    """Measure the share of the true answer's words that the model's own answer repeats.

    Formula: rouge1_recall = matched words / words of the reference; rougeL_recall = longest common subsequence / words
    of the reference; rougeL_f1 = its harmonic mean with LCS / words of the generation. The value is the mean over rows
    of `statistic`.

    Reads: generations, compared with the answer that the metric's `texts` names. Another name compares the same
    generations with another wording (forget_Q_A_PARA_ROUGE: the paraphrase).
    Per row: rouge1_recall, rougeL_recall, rougeL_f1, means over the row's samples if there are several. Extra:
    unicode_words, 1 with the tokenizer `unicode`; n_without_words, the number of rows whose reference has no word.
    Arguments: `statistic`: rougeL_recall (default; TOFU, arcsf), rougeL_f1 (MUSE), rouge1_recall. `tokenizer`:
    rouge_score (ASCII letters and digits, with Porter's stems, as in the publications), unicode (words of every script;
    characters in scripts without blanks; no stems) or auto (default): rouge_score if it drops at most 1 % of the
    letters of the set's references, else unicode.
    Good direction: low on forget rows, high on all others.
    Pitfalls: recall does not punish long generations, so the length limit matters. A row whose reference has no word is
    NaN, not 0, and so is a row without a generation because the model's logits were NaN. Characters match by chance
    more often than words: compare numbers of one language only. A gibberish model scores low too: read it together with
    model_utility.
    """
    if inputs.texts is None:
        raise ConfigError(f"metric {inputs.metric.name}: family rouge reads generations; set reads={{'texts': ANSWER}}")
    texts = sorted(inputs.texts, key=lambda t: (t.row_id, t.sample))
    resolved = choose_tokenizer(tokenizer, (t.reference for t in texts))
    by_row: dict[int, list[Scores]] = {}
    wordless: set[int] = set()
    for text, scores in zip(texts, rouge_of_all(texts, resolved), strict=True):
        by_row.setdefault(text.row_id, []).append(scores)
        if math.isnan(scores[0]) and text.n_new_tokens:
            wordless.add(text.row_id)
    scores_R3 = np.array([np.mean(samples, axis=0) for samples in by_row.values()]).reshape(-1, len(STATISTICS))
    columns = {name: scores_R3[:, i].tolist() for i, name in enumerate(STATISTICS)}
    extra = {"unicode_words": 1.0} if resolved == "unicode" else {}
    if wordless:
        extra["n_without_words"] = float(len(wordless))
    unscored = f"the references of {len(wordless)} rows have no word ({resolved})" if wordless else UNSCORED
    if 0 < len(wordless) < len(by_row):
        unscored += ", and the model's logits were not numbers in the others"
    row_ids = np.array(list(by_row), dtype=np.int64)
    values_R = scores_R3[:, STATISTICS.index(statistic)]
    return mean_over_rows(row_ids, values_R, columns, extra, unscored=unscored)


def rouge_of_all(texts: Sequence[GeneratedText], tokenizer: Chosen = "rouge_score") -> list[Scores]:
    """Return the statistics of every generation, in order. Many texts are divided over processes."""
    pairs = [(text.reference, text.generation, text.n_new_tokens == 0) for text in texts]
    n = min(os.cpu_count() or 1, len(pairs) // FEWEST)
    if n < 2:
        return pair_scores(pairs, tokenizer)
    step = -(-len(pairs) // n)
    parts = [pairs[k : k + step] for k in range(0, len(pairs), step)]
    with ThreadPoolExecutor(len(parts)) as pool:
        done = pool.map(lambda part: _in_a_process(part, tokenizer), parts)
        return [scores for part in done for scores in part]


def _in_a_process(pairs: Sequence[Pair], tokenizer: Chosen) -> list[Scores]:
    """Run `pair_scores` in another Python process, which imports this module and not the running program."""
    command = [sys.executable, "-c", "from expunge.metrics.rouge import work; work()"]
    done = subprocess.run(command, input=json.dumps([pairs, tokenizer]).encode(), capture_output=True)
    if done.returncode:  # the interpreter cannot import the package: compute the same numbers here
        return pair_scores(pairs, tokenizer)
    return [(a, b, c) for a, b, c in json.loads(done.stdout)]


def rouge_scores(text: GeneratedText, tokenizer: Chosen = "rouge_score") -> Scores:
    """Return the three statistics of one generation, in the order of STATISTICS.

    NaN if the reference has no word, or if the model generated no token (its logits were NaN).
    """
    return pair_scores([(text.reference, text.generation, text.n_new_tokens == 0)], tokenizer)[0]


def pair_scores(pairs: Iterable[Pair], tokenizer: Chosen) -> list[Scores]:
    """Return the statistics of pairs of a reference, a generation, and whether the generation is missing."""
    return [
        (math.nan,) * 3 if absent else _scores(words(truth, tokenizer), words(generation, tokenizer))
        for truth, generation, absent in pairs
    ]


def _scores(truth: Sequence[str], generation: Sequence[str]) -> Scores:
    if not truth:
        return (math.nan, math.nan, math.nan)
    if not generation:
        return (0.0, 0.0, 0.0)
    matched = sum((Counter(truth) & Counter(generation)).values())
    common = LCSseq.similarity(truth, generation)
    precision, recall = common / len(generation), common / len(truth)
    return (matched / len(truth), recall, 2 * precision * recall / (precision + recall) if common else 0.0)


def work() -> None:
    """Run a worker process: pairs and a tokenizer as JSON on standard input, their statistics on standard output."""
    json.dump(pair_scores(*json.load(sys.stdin)), sys.stdout)
