"""The panel of rows that come with no more than a question and an answer: TOFU's metrics, as far as they go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from expunge.benchmarks.metric_suite import tofu_panel
from expunge.data.examples import PARAPHRASE, ExampleSet
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
    """The metrics over forget_eval and retain_eval that their rows allow, by TOFU's names.

    A truth ratio is there where every row of its set has perturbed answers: against the paraphrase if every row has
    one, else against the answer itself (as in arcsf). The attacks are there if `sets` has a holdout. Model utility is
    the harmonic mean of what is there of the retain rows' probability, ROUGE and truth ratio.
    """
    wanted = {*PLAIN}
    for ratio, rows in zip(RATIOS, (sets["forget_eval"], sets["retain_eval"]), strict=True):
        if all(row.perturbed for row in rows):
            wanted |= {ratio, "forget_quality"} if ratio == RATIOS[0] else {ratio}
    out: list[Metric] = []
    for metric in tofu_panel(truth_ratio, holdout="holdout" in sets):
        if metric.name.startswith("mia_") or metric.name == "privleak" or metric.name in wanted:
            out.append(_fitted(metric, sets, wanted))
    in_order(out)
    return tuple(out)


def subset_panel(short: str, rows: str, sets: Mapping[str, ExampleSet], truth_ratio: str) -> tuple[Metric, ...]:
    """Probability, ROUGE and truth ratio of one more set of retain rows, as `SHORT_Q_A_Prob`, ..."""
    found = []
    for metric in rows_panel({"forget_eval": sets[rows], "retain_eval": sets[rows]}, truth_ratio=truth_ratio):
        if metric.rows == "retain_eval":
            found.append(dataclasses.replace(metric, name=metric.name.replace("retain", short, 1), rows=rows))
    return tuple(found)


def _fitted(metric: Metric, sets: Mapping[str, ExampleSet], wanted: set[str]) -> Metric:
    if metric.name == "model_utility":
        parts = [part for part in metric.parents if part in wanted]
        return dataclasses.replace(metric, parents={part: part for part in parts})
    if metric.name in RATIOS:
        rows = sets[metric.rows or ""]
        correct = PARAPHRASE if all(PARAPHRASE in row.answers for row in rows) else "answer"
        return dataclasses.replace(metric, reads={"tokens": (correct, "perturbed")})
    return metric
