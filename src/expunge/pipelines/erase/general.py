"""General ability that the user did not list: items of the package, before and after an erasure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.benchmarks.general import same_fact
from expunge.core.records import Floats
from expunge.data.examples import Example, ExampleSet
from expunge.data.general import AREAS, FLUENCY, general_sets
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import share_interval
from expunge.metrics.fluency import MOST, REPEATED
from expunge.metrics.utility import PLAIN_WORDS, above_chance
from expunge.metrics.verdict import share_text
from expunge.pipelines.erase.wordings import picked

MARGIN = 0.05  # largest loss that counts as none, as a share of the items that the model solved before
DRAWS, SEED = 2000, 0  # of the interval
NAMES = {**{one: PLAIN_WORDS[f"general_{one}"] for one in ("facts", "reasoning", "subjects")}, FLUENCY: "fluency"}


def general_items(part: str, rows: Iterable[Example]) -> dict[str, ExampleSet]:
    """Return the items of the selection (`choose`) or of the report (`report`): every second one each.

    Items about a row to forget are left out: an erasure is to change their answers. The prompts of fluency belong to
    the report.

    Args:
        part: `choose` or `report`.
        rows: The rows to forget.
    """
    forget = list(rows)
    out: dict[str, ExampleSet] = {}
    for name, items in general_sets().items():
        if name.endswith(FLUENCY):
            out |= {name: items} if part == "report" else {}
            continue
        half = items.rows[part == "report" :: 2]
        out[name] = picked(items, [item.row_id for item in half if not any(same_fact(item, row) for row in forget)])
    return out


@dataclass(frozen=True)
class AbilityChange:
    """The items that a model solves before and after, with a 95 % interval of their ratio over items.

    All items count, also an item that only one of the models solves. The items solved before alone would show a loss
    after any change, because some of them were solved by luck.
    """

    name: str
    items: int
    before: int
    after: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The items solved after, as a share of those solved before."""
        return self.after / self.before if self.before else math.nan

    def __str__(self) -> str:
        low, share, high = (share_text(x, 1 - MARGIN) for x in (self.low, self.share, self.high))
        ends = f" [{low}, {high}]" if math.isfinite(self.low + self.high) else ""
        return f"{self.name} {self.after} after, {self.before} before, of {self.items} ({share}{ends})"


def ability_changes(before: Mapping[str, MetricResult], after: Mapping[str, MetricResult]) -> list[AbilityChange]:
    """Return the change of all items together, then of each area; none if the model was at chance before.

    Chance: the right options of the choices are no more than guessing gives, by a one-sided test at 95 %.
    """
    areas: dict[str, list[tuple[bool, bool]]] = {}
    for area in (*AREAS, FLUENCY):
        name = f"general_{area}"
        if name not in before or name not in after:
            continue
        then, now = _solved(before[name]), _solved(after[name])
        areas[area] = [(solved, now.get(row, False)) for row, solved in then.items()]
    choices = [pair for area, pairs in areas.items() if area != FLUENCY for pair in pairs]
    if not above_chance(sum(then for then, _ in choices), len(choices)):
        return []
    whole = _change("all items", [pair for pairs in areas.values() for pair in pairs])
    return [whole, *(_change(NAMES[area], pairs) for area, pairs in areas.items() if any(then for then, _ in pairs))]


def ability_left(before: Mapping[str, MetricResult], after: Mapping[str, MetricResult]) -> float:
    """Return the share of all items that a model still solves; NaN if the model before was at chance."""
    changes = ability_changes(before, after)
    return changes[0].share if changes else math.nan


def gibberish_in(before: Mapping[str, MetricResult], after: Mapping[str, MetricResult]) -> str:
    """Return why a model is broken by its texts, or an empty text: at least half, and twice as many as before."""
    name = f"general_{FLUENCY}"
    if name not in before or name not in after:
        return ""
    then, now = ([not solved for solved in _solved(side[name]).values()] for side in (before, after))
    share, old = (sum(side) / max(len(side), 1) for side in (now, then))
    if share < MOST or share < 2 * old:
        return ""
    return f"gibberish: {share:.0%} of its texts are empty or repeat themselves ({old:.0%} before)"


def _change(name: str, pairs: Sequence[tuple[bool, bool]]) -> AbilityChange:
    solved_N2 = np.array(pairs, dtype=np.float64)
    before, after = (int(n) for n in solved_N2.sum(axis=0))
    low, high = _ratio_interval(solved_N2)
    return AbilityChange(name, len(pairs), before, after, low, high)


def _ratio_interval(solved_N2: Floats) -> tuple[float, float]:
    """Return a 95 % interval of solved after / solved before, by resampling items; NaN without one.

    If no item changes, all resamples are equal: Wilson's interval of the share of changed items then gives the ends.
    """
    n, before = len(solved_N2), float(solved_N2[:, 0].sum())
    if n < 2 or not before:
        return math.nan, math.nan
    if (solved_N2[:, 0] == solved_N2[:, 1]).all():
        rare = share_interval(0, n)[1]
        return max(0.0, 1 - rare * n / before), min(1 + rare * n / before, n / before)
    draws = np.random.default_rng(SEED).integers(0, n, size=(DRAWS, n))
    totals_D2 = solved_N2[draws].sum(axis=1)
    ratios = totals_D2[:, 1] / np.maximum(totals_D2[:, 0], 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def _solved(result: MetricResult) -> dict[int, bool]:
    """Return whether each item is solved: the right option is the most likely, or a text is fluent."""
    out = {}
    for row, numbers in result.per_row.items():
        if "acc" in numbers:
            out[row] = float(numbers["acc"]) >= 1.0  # type: ignore[arg-type]
        else:
            empty, repeated = (float(numbers[k]) for k in ("empty", "repetition_4"))  # type: ignore[arg-type]
            out[row] = empty < 0.5 and repeated <= REPEATED
    return out
