"""Memorisation: how much of the answer the model reproduces, token for token."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from expunge.core.records import Floats
from expunge.metrics.aggregate import mean_over_rows, one_answer
from expunge.metrics.api import MetricInputs, MetricResult, family

Compat = Literal["clean", "openunlearning"]


@family(
    "exact_memorization",
    revision=1,
    higher_is="more of the answer is memorised",
    range="[0, 1]",
    paper="Tirumala et al. 2022 (arXiv:2205.10770), exact memorisation",
    fidelity="code",
)
def exact_memorization(inputs: MetricInputs, *, eos: bool = False) -> MetricResult:
    """Compute the share of the answer's tokens that are the model's first choice, with the true tokens as context.

    Formula: EM = (1/n) sum_t [argmax_v p(v | q, a_<t) = a_t]; the value is the mean over rows.

    Reads: tokens (answer). Per row: `score`.
    Arguments: `eos` also counts the last token, which ends the answer. By default it is excluded, as in OpenUnlearning,
    because it carries no content.
    Good direction: near the retain model's value on forget rows. A model that never saw them is not at 0, because it
    can guess half of the words of any sentence.
    Pitfalls: a row of one token has no token left without its last one, and counts as missing. The metric is a step
    function: if two tokens are almost equally likely, rounding decides.
    """
    scores_R = np.array([row.mean() if len(row) else math.nan for row in _right_by_row(inputs, eos=eos)])
    return mean_over_rows(one_answer(inputs).row_ids, scores_R, {"score": scores_R.tolist()})


@family(
    "extraction_strength",
    revision=1,
    higher_is="more of the answer can be extracted",
    range="[0, 1]",
    paper="Carlini et al. 2021 (arXiv:2012.07805); as a score: Wang et al. 2024 (arXiv:2406.09179)",
    fidelity="code",
)
def extraction_strength(inputs: MetricInputs, *, compat: Compat = "clean") -> MetricResult:
    """Compute how short a prefix of the answer makes the model continue with all of the rest.

    Formula: ES = 1 - k/L, k the smallest prefix length after which each of the L - k other tokens is the model's first
    choice. Without any prefix: 1. If the last token is wrong: k = L, so 0. The value is the mean over rows. The end
    token is excluded, as in OpenUnlearning.

    Reads: tokens (answer). Per row: `score`.
    Arguments: `compat="openunlearning"` reproduces that project's numbers. There the minimum is 1/L, so an answer
    without a right token scores as one whose last token alone is right.
    Good direction: near the retain model's value on forget rows; low, but not 0.
    Pitfalls: it depends only on the end of the answer: one wrong token near it hides all right tokens before. It is a
    step function: if two tokens are almost equally likely, rounding decides.
    """
    scores_R = np.array([_strength(row, compat) for row in _right_by_row(inputs, eos=False)])
    return mean_over_rows(one_answer(inputs).row_ids, scores_R, {"score": scores_R.tolist()})


def _right_by_row(inputs: MetricInputs, *, eos: bool) -> list[Floats]:
    """Return for each row which of its tokens are the model's first choice, as 0 and 1; NaN without valid logits."""
    answer = one_answer(inputs)
    answer = answer if eos else answer.without_last()
    return answer.by_row(np.where(np.isnan(answer.logp), np.nan, answer.is_argmax))


def _strength(right: Floats, compat: Compat) -> float:
    if not len(right) or np.isnan(right).any():
        return math.nan
    wrong = np.flatnonzero(right == 0)
    run = len(right) - (int(wrong[-1]) + 1 if len(wrong) else 0)  # right tokens at the end
    return (max(run, 1) if compat == "openunlearning" else run) / len(right)
