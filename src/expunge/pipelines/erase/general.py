"""General ability that the user did not list: items of the package, before and after an erasure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expunge.data.examples import ANSWER, PERTURBED, ExampleSet
from expunge.data.general import AREAS, FLUENCY
from expunge.metrics.aggregate import bootstrap_interval
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.fluency import MOST, REPEATED

MARGIN = 0.05  # largest loss that counts as none, as a share of the items that the model knew before
NAMES = {"facts": "world facts", "reasoning": "short reasoning", "subjects": "school subjects", FLUENCY: "fluency"}


def general_panel(sets: Mapping[str, ExampleSet]) -> list[Metric]:
    """Return the metrics of general ability."""
    reads = {"tokens": (ANSWER, PERTURBED)}
    choices = [Metric(name, "multiple_choice", rows=name, reads=reads) for name in sets if not name.endswith(FLUENCY)]
    fluent = [
        Metric(name, "fluency", rows=name, reads={"texts": (ANSWER,)}, args={"statistic": "repetition_4"})
        for name in sets
        if name.endswith(FLUENCY)
    ]
    return [*choices, *fluent]


@dataclass(frozen=True)
class AbilityChange:
    """Of the items that the model solved before, the share that it still solves, with a 95 % interval over items."""

    name: str
    items: int
    kept: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share that is left."""
        return self.kept / self.items if self.items else math.nan

    @property
    def damaged(self) -> bool:
        """Whether the loss is larger than the margin."""
        return self.share < 1 - MARGIN

    def __str__(self) -> str:
        ends = f" [{self.low:.0%}, {self.high:.0%}]" if math.isfinite(self.low + self.high) else ""
        return f"{self.name} {self.kept} of {self.items} ({self.share:.0%}{ends})"


def ability_changes(before: Mapping[str, MetricResult], after: Mapping[str, MetricResult]) -> list[AbilityChange]:
    """Return the change of all items together, then of each area; none if the model solved no item before."""
    pooled: list[bool] = []
    areas = []
    for area in (*AREAS, FLUENCY):
        name = f"general_{area}"
        if name not in before or name not in after:
            continue
        then, now = _solved(before[name]), _solved(after[name])
        still = [now.get(row, False) for row, solved in then.items() if solved]
        pooled += still
        if still:
            areas.append(_change(NAMES[area], still))
    return [_change("all items", pooled), *areas] if pooled else []


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


def _change(name: str, still: list[bool]) -> AbilityChange:
    values = np.array(still, dtype=float)
    low, high = bootstrap_interval(values) if len(values) > 1 else (math.nan, math.nan)
    if values.all() and len(values) > 1:  # all resamples are equal then: Wilson's interval has a lower end
        low, high = len(values) / (len(values) + 1.96**2), 1.0
    return AbilityChange(name, len(still), int(values.sum()), float(low), float(high))


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
