"""Metric suite for rows with only a question and an answer: the applicable metrics of TOFU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from expunge.benchmarks.metric_suite import tofu_panel
from expunge.core.errors import ConfigError
from expunge.data.examples import PARAPHRASE, TRACE, ExampleSet
from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

PLAIN = (
    "forget_Q_A_Prob",
    "forget_Q_A_ROUGE",
    "exact_memorization",
    "extraction_strength",
    "model_utility",
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
)
SUBSETS = ("retain_entity", "retain_other")
RATIOS = ("forget_truth_ratio", "retain_Truth_Ratio")


def rows_panel(sets: Mapping[str, ExampleSet], *, truth_ratio: str = "geometric") -> tuple[Metric, ...]:
    """Return the metrics over forget_eval and retain_eval that their rows allow, with TOFU's names.

    The truth ratio of a set requires perturbed answers of every row. It uses the paraphrase if every row has one, else
    the answer itself (as in arcsf). The attacks require a holdout in `sets`. Model utility is the harmonic mean of the
    available ones of the retain rows' probability, ROUGE and truth ratio. Sets with a trace in every row also get the
    metrics of `trace_panel`.

    Raises:
        ConfigError: If `sets` has no forget_eval or no retain_eval.
    """
    if absent := {"forget_eval", "retain_eval"} - sets.keys():
        raise ConfigError(f"rows_panel: sets has no {min(absent)}, the rows that the metrics read; add this set")
    selected = {*PLAIN}
    for ratio, rows in zip(RATIOS, (sets["forget_eval"], sets["retain_eval"]), strict=True):
        if all(row.perturbed for row in rows):
            selected |= {ratio, "forget_quality"} if ratio == RATIOS[0] else {ratio}
    out: list[Metric] = []
    for metric in tofu_panel(truth_ratio, holdout="holdout" in sets):
        if metric.name.startswith("mia_") or metric.name == "privleak" or metric.name in selected:
            out.append(_fitted(metric, sets, selected))
    for short, name in (("forget", "forget_eval"), ("retain", "retain_eval")):
        if all(row.trace for row in sets[name]):
            out += trace_panel(short, name)
    in_order(out)
    return tuple(out)


def trace_panel(short: str, rows: str) -> tuple[Metric, ...]:
    """Return the metrics of the traces of a set: `SHORT_trace_Prob` and `SHORT_trace_ROUGE`, which read that span.

    The ROUGE compares the trace that the model generates, up to its closing tag, with the trace of the example.
    """
    args = {"statistic": "rougeL_recall"}
    return (
        Metric(f"{short}_trace_Prob", "probability", rows=rows, reads={"tokens": (TRACE,)}),
        Metric(f"{short}_trace_ROUGE", "rouge", rows=rows, reads={"texts": (TRACE,)}, args=args),
    )


def subset_panel(short: str, rows: str, sets: Mapping[str, ExampleSet], truth_ratio: str) -> tuple[Metric, ...]:
    """Return probability, ROUGE and truth ratio of another set of retain rows, as `SHORT_Q_A_Prob`, ..."""
    subset = []
    for metric in rows_panel({"forget_eval": sets[rows], "retain_eval": sets[rows]}, truth_ratio=truth_ratio):
        if metric.rows == "retain_eval":
            subset.append(dataclasses.replace(metric, name=metric.name.replace("retain", short, 1), rows=rows))
    return tuple(subset)


def _fitted(metric: Metric, sets: Mapping[str, ExampleSet], selected: set[str]) -> Metric:
    if metric.name == "model_utility":
        parts = [part for part in metric.parents if part in selected]
        return dataclasses.replace(metric, parents={part: part for part in parts})
    if metric.name in RATIOS:
        rows = sets[metric.rows or ""]
        correct = PARAPHRASE if all(PARAPHRASE in row.answers for row in rows) else "answer"
        return dataclasses.replace(metric, reads={"tokens": (correct, "perturbed")})
    return metric
