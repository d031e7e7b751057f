"""Items of general ability that come with the package, as metrics of any benchmark and of an erasure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from expunge.data.examples import ANSWER, PERTURBED, Example, ExampleSet
from expunge.data.general import FLUENCY, general_sets
from expunge.metrics.answer_content import EMPTY, contains
from expunge.metrics.api import Metric
from expunge.metrics.utility import ABILITY

ABOUT = 0.5  # share of an item's words in a row from which both are about the same thing
_WORD = re.compile(r"\w+")


def items_apart_from(forget: Iterable[Example]) -> dict[str, ExampleSet]:
    """Return the items by set, without items that a row to forget answers: unlearning is to change these."""
    rows = [(f"{row.question} {row.answer}", _words(f"{row.question} {row.answer}")) for row in forget if row.question]
    out = {}
    for name, items in general_sets().items():
        apart = [item for item in items.rows if name.endswith(FLUENCY) or not _is_in(item, rows)]
        out[name] = ExampleSet(name, tuple(dataclasses.replace(item, row_id=i) for i, item in enumerate(apart)))
    return {name: items for name, items in out.items() if len(items)}


def same_fact(item: Example, row: Example) -> bool:
    """Return whether a row states an item's answer, in words of its question."""
    text = f"{row.question} {row.answer}"
    return _is_in(item, [(text, _words(text))])


def general_panel(sets: Mapping[str, ExampleSet]) -> list[Metric]:
    """Return the metrics of general ability, a metric per set."""
    reads = {"tokens": (ANSWER, PERTURBED)}
    choices = [Metric(name, "multiple_choice", rows=name, reads=reads) for name in sets if not name.endswith(FLUENCY)]
    fluent = [
        Metric(name, "fluency", rows=name, reads={"texts": (ANSWER,)}, args={"statistic": "repetition_4"})
        for name in sets
        if name.endswith(FLUENCY)
    ]
    return [*choices, *fluent]


def ability(panel: Iterable[Metric]) -> Metric:
    """Return the metric over the items of all metrics of choices."""
    return Metric(
        ABILITY, "mean_over_questions", parents={m.name: m.name for m in panel if m.family == "multiple_choice"}
    )


def _is_in(item: Example, rows: Iterable[tuple[str, set[str]]]) -> bool:
    words = _words(item.question)
    return any(len(words & of) >= ABOUT * len(words) and contains(text, item.answer) for text, of in rows)


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.casefold()) if word not in EMPTY}
