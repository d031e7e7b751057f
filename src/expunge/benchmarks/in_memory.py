from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.benchmarks.api import Benchmark
from expunge.benchmarks.example_metrics import rows_panel
from expunge.core.errors import ConfigError, DataError
from expunge.data.custom import continuations, row_key
from expunge.data.examples import ExampleSet
from expunge.data.in_memory import examples_from
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

NEED_RETAIN = ("forget_quality", "privleak", "reference_score")  # families that need the retain model's results


def in_memory_benchmark(
    *,
    forget: Any = None,
    retain: Any = None,
    holdout: Any = None,
    truth_ratio: str = "geometric",
    has_retain_results: bool = False,
) -> Benchmark:
    """Return a benchmark of data in memory, with the metrics that the data allows.

    Args:
        forget: Examples to be forgotten, in any form that `data.in_memory.examples_from` reads.
        retain: Examples to be usable.
        holdout: Examples like those to be forgotten that no model has seen. They add the membership attacks.
        truth_ratio: "geometric" or "arithmetic"; see the metric family truth_ratio.
        has_retain_results: Whether results of a retain model are there. They add forget quality and PrivLeak.

    Returns:
        A benchmark with the sets forget_eval, retain_eval and holdout, as far as they are given. It can be measured; it
        names no sets to train a full or a retain model on.

    Raises:
        ConfigError: If neither forget nor retain is given, or holdout without forget.
        DataError: If a row stands in two of the sets, or as `examples_from`.
    """
    if forget is None and retain is None:
        raise ConfigError("evaluate: nothing to measure; give benchmark=, forget= or retain=")
    if holdout is not None and forget is None:
        raise ConfigError("evaluate: holdout= needs forget=; membership attacks compare the two")
    sides = {"forget": forget, "retain": retain, "holdout": holdout}
    sets = {name: examples_from(data, name) for name, data in sides.items() if data is not None}
    check_disjoint(sets)
    names = {"forget": "forget_eval", "retain": "retain_eval", "holdout": "holdout"}
    measured = {names[side]: continuations(rows, names[side], side) for side, rows in sets.items()}
    return Benchmark(
        name="custom",
        split="forget",
        sets={**{n: s for n, s in sets.items() if n != "holdout"}, **measured},
        panel=default_metrics(measured, truth_ratio=truth_ratio, has_retain_results=has_retain_results),
        full_sets=(),
        retain_sets=(),
        eval_name="CUSTOM",
    )


def default_metrics(
    sets: dict[str, ExampleSet], *, truth_ratio: str = "geometric", has_retain_results: bool = False
) -> tuple[Metric, ...]:
    """Return the metrics that examples allow, under TOFU's names.

    Probability, ROUGE, exact memorisation and extraction strength of both sides; truth ratios if all examples of a side
    have perturbed answers; membership attacks if there is a holdout; forget quality and PrivLeak if there are results
    of a retain model; model utility over the metrics of the retain side.
    """
    one = next(iter(sets.values()))
    suite = list(rows_panel({"forget_eval": one, "retain_eval": one, **sets}, truth_ratio=truth_ratio))
    for family in ("exact_memorization", "extraction_strength"):
        suite.append(Metric(f"retain_{family}", family, rows="retain_eval", reads={"tokens": ("answer",)}))
    usable: dict[str, Metric] = {}
    for metric in in_order(suite):
        lacks_rows = metric.rows is not None and metric.rows not in sets
        lacks_parent = any(parent not in usable for parent in metric.parents.values())
        lacks_retain = metric.family in NEED_RETAIN and not has_retain_results
        if not (lacks_rows or lacks_parent or lacks_retain):
            usable[metric.name] = metric
    return tuple(m for m in suite if m.name in usable)


def check_disjoint(sets: Mapping[str, ExampleSet]) -> None:
    """Raise DataError if a row stands in two sets."""
    seen: dict[tuple[str, ...], str] = {}
    for name, rows in sets.items():
        own = {}
        for row in rows:
            key = row_key(row)
            if key in seen:
                text = (row.question or row.answer)[:60]
                raise DataError(f"{name} row {row.row_id} is also {seen[key]}: {text!r}; a row belongs to one set")
            own[key] = f"{name} row {row.row_id}"
        seen |= own
