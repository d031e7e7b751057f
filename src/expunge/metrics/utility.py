"""Whether a model kept its utility: the share of the target model's that is left, with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from expunge.metrics.aggregate import interval_around, paired_rows
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import NOT_MEASURABLE, UNDECIDED
from expunge.metrics.verdict import BROKEN, DAMAGE, DAMAGED, KEPT, VerdictAnswer, as_sentence, number_with_interval

Results = Mapping[str, MetricResult]
GENERAL = ("general_", "mmlu")  # beginnings of the names of metrics of general ability
PLAIN_WORDS: Mapping[str, str] = {
    "model_utility": "model utility",
    "retain_Q_A_Prob": "the probability of the answers to keep",
    "retain_knowmem_ROUGE": "the overlap with the answers to keep",
    "general_facts": "world facts",
    "general_reasoning": "short reasoning",
    "general_subjects": "school subjects",
    "general_fluency": "repetition in texts",  # a smaller number is better
}
"""Words for the metrics in a verdict; other metrics have their names."""
ABILITY = "general_ability"  # the share of all items of choices that are right
OPTIONS = 4  # of each item
CHANCE_SD = 1.645  # standard deviations over guessing from which a model is above chance, one-sided 95 %
LEAST_UTILITY = 0.05  # of a target model; a share of less is noise


def utility_answer(models: Sequence[Results], full: Sequence[Results], metric: str, floor: float) -> VerdictAnswer:
    """Return whether utility is left: means over seeds of the model, as a share of the target model's.

    The word is the result of an equivalence test: `kept` if the whole interval of the share, and each seed, lies above
    the margin, `damaged` if all of them lie below it, else undecided. If general ability was measured, `kept` needs its
    interval above the margin as well, and its interval below the margin is damage.

    Args:
        models: The results of the model's seeds.
        full: The results of the target models, or of the model before unlearning.
        metric: The metric of utility.
        floor: Share of the target model's utility below which a model is broken.
    """
    mine, theirs, name = _mean(models, metric), _mean(full, metric), PLAIN_WORDS.get(metric, metric)
    if not math.isfinite(mine) or not theirs > LEAST_UTILITY:
        sides = {"the model": mine, "the target model": theirs}
        unknown = [side for side, value in sides.items() if not math.isfinite(value)]
        why = f"{name} is not known of {' and of '.join(unknown)}"
        if not unknown:
            why = f"{name} of the target model is {theirs:.3g}: it had no utility to keep"
        return VerdictAnswer(NOT_MEASURABLE, as_sentence(why), metric=metric)
    share, low, high = share_of_utility(models, full, metric)
    seeds = [one / theirs for r in models if math.isfinite(one := _mean([r], metric))]
    ends = [*((low, high) if math.isfinite(low + high) else ()), *(seeds if len(seeds) > 1 else ())]
    word = BROKEN if share < floor else UNDECIDED
    if ends and word == UNDECIDED:
        word = KEPT if min(*ends, share) >= 1 - DAMAGE else DAMAGED if max(*ends, share) < 1 - DAMAGE else UNDECIDED
    text = f"{name} is {number_with_interval(share, low, high)} of the target model's ({mine:.3g} of {theirs:.3g})"
    text += "" if ends else ", without an interval"
    text += f", single seeds {min(seeds):.3g} to {max(seeds):.3g}" if len(seeds) > 1 else ""
    text += f", below the floor of {floor:g}" if word == BROKEN else f"; a loss up to {DAMAGE:.0%} counts as kept"
    ability, of_ability = _ability(models, full)
    if of_ability == DAMAGED and word != BROKEN:
        word = DAMAGED
    elif of_ability == UNDECIDED and word == KEPT:
        word = UNDECIDED
    general = [
        n for n in dict.fromkeys(n for r in models for n in r) if n.startswith(GENERAL) and n not in (metric, ABILITY)
    ]
    known = [f"{PLAIN_WORDS.get(n, n)} {_mean(models, n):.3g} (target model {_mean(full, n):.3g})" for n in general
             if math.isfinite(_mean(models, n) + _mean(full, n))]  # fmt: skip
    text += f"; general ability: {', '.join([*ability, *known])}" if known else "; general ability was not measured"
    return VerdictAnswer(word, as_sentence(text), share, low, high, control=1.0, metric=metric)


def _ability(models: Sequence[Results], full: Sequence[Results]) -> tuple[list[str], str]:
    """Return the share of general ability that is left, in words, and the word of its equivalence test.

    The word is empty if general ability was not measured, or if the target model has none.
    """
    sides = [*models, *full]
    if not (models and full) or any(ABILITY not in r or not math.isfinite(r[ABILITY].value) for r in sides):
        return [], ""
    paired, theirs = paired_rows(sides, ABILITY), _mean(full, ABILITY)
    if paired is not None and not above_chance(theirs * paired.rows, paired.rows):
        return ["the target model solves no more items than guessing does"], ""
    share, low, high = share_of_utility(models, full, ABILITY)
    word = KEPT if low >= 1 - DAMAGE else DAMAGED if high < 1 - DAMAGE else UNDECIDED
    return [f"items solved {number_with_interval(share, low, high)} of the target model's"], word


def above_chance(solved: float, items: int) -> bool:
    """Return whether a model solves more items than guessing among the options does, by a one-sided test at 95 %."""
    chance = 1 / OPTIONS
    return solved > items * chance + CHANCE_SD * math.sqrt(items * chance * (1 - chance))


def share_of_utility(models: Sequence[Results], full: Sequence[Results], metric: str) -> tuple[float, float, float]:
    """Return the models' mean as a share of the target models', with its 95 % interval; NaN where there is none.

    The same draws of rows are used on both sides, so rows that are hard for both models do not widen the interval.
    Without rows of both, the ends come from the two intervals alone, which is wider.
    """
    sides = [[r for r in of if metric in r and math.isfinite(r[metric].value)] for of in (models, full)]
    share = _mean(sides[0], metric) / _mean(sides[1], metric)
    paired = paired_rows([*sides[0], *sides[1]], metric)
    if paired is None or paired.fewest < 2:
        low, high = (_mean(sides[0], metric, end) for end in ("ci_low", "ci_high"))
        least, most = (_mean(sides[1], metric, end) for end in ("ci_low", "ci_high"))
        theirs = _mean(sides[1], metric)
        known = math.isfinite(least + most) and least > 0
        return share, low / (most if known else theirs), high / (least if known else theirs)
    n = len(sides[0])
    mine_D, theirs_D = paired.draws_MD[:n].mean(axis=0), paired.draws_MD[n:].mean(axis=0)
    share = float(paired.values_M[:n].mean() / paired.values_M[n:].mean())
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw in which the target model has no utility
        low, high = interval_around(share, mine_D / theirs_D)
    return share, low, high


def _mean(results: Sequence[Results], metric: str, extra: str | None = None) -> float:
    values = [
        r[metric].value if extra is None else r[metric].extra.get(extra, math.nan) for r in results if metric in r
    ]
    finite = [v for v in values if math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else math.nan
