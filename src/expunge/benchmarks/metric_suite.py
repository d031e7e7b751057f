"""The TOFU panel: the metrics of TOFU (arXiv:2401.06121) with their usual names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from expunge.metrics.api import Metric
from expunge.metrics.compute import in_order

FORGET, RETAIN, AUTHORS, FACTS = "forget_eval", "retain_eval", "real_authors", "world_facts"
HOLDOUT = "holdout"
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")

UTILITY_PARTS = (
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
    "retain_Truth_Ratio",
    "ra_Q_A_Prob_normalised",
    "ra_Q_A_ROUGE",
    "ra_Truth_Ratio",
    "wf_Q_A_Prob_normalised",
    "wf_Q_A_ROUGE",
    "wf_Truth_Ratio",
)


# The arguments that reproduce OpenUnlearning's metrics, by family.
OPENUNLEARNING: Mapping[str, Mapping[str, Any]] = {
    "extraction_strength": {"compat": "openunlearning"},
    "truth_ratio": {"floor": 1e-10},
    "probability_w_options": {"floor": 1e-10},
    "privleak": {"ref_value": 0.5},
}


def as_openunlearning(panel: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return the metrics with the arguments that reproduce OpenUnlearning's numbers (`eval.compat`)."""
    return tuple(
        dataclasses.replace(metric, args={**metric.args, **OPENUNLEARNING[metric.family]})
        if metric.family in OPENUNLEARNING
        else metric
        for metric in panel
    )


def tofu_panel(truth_ratio: str = "geometric", *, holdout: bool = False) -> tuple[Metric, ...]:
    """Return the metrics of one TOFU evaluation, over forget_eval, retain_eval, real_authors and world_facts.

    Args:
        truth_ratio: "geometric" (TOFU's code, OpenUnlearning) or "arithmetic" (the paper's equation 1, arcsf); see the
            family truth_ratio.
        holdout: Whether there is a set holdout of authors no model has seen; adds the membership attacks and privleak.

    Raises:
        ConfigError: If an argument has another value.
    """
    panel = (
        Metric(
            "forget_quality",
            "forget_quality",
            parents={"truth_ratio": "forget_truth_ratio"},
            retain="forget_truth_ratio",
        ),
        _ratio("forget_truth_ratio", FORGET, "paraphrase", "closer_to_1_better", truth_ratio),
        *_probabilities("forget", FORGET, paraphrase=True),
        _rouge("forget_Q_A_ROUGE", FORGET, "answer"),
        # The same generations compared with the paraphrased answer, not answers to the paraphrased question.
        _rouge("forget_Q_A_PARA_ROUGE", FORGET, "paraphrase"),
        Metric("exact_memorization", "exact_memorization", rows=FORGET, reads={"tokens": ("answer",)}),
        Metric(
            "extraction_strength",
            "extraction_strength",
            rows=FORGET,
            reads={"tokens": ("answer",)},
            args={"compat": "clean"},
        ),
        *(_attacks() if holdout else ()),
        Metric("model_utility", "model_utility", parents={part: part for part in UTILITY_PARTS}),
        *_probabilities("retain", RETAIN, paraphrase=True),
        _rouge("retain_Q_A_ROUGE", RETAIN, "answer"),
        _ratio("retain_Truth_Ratio", RETAIN, "paraphrase", "true_better", truth_ratio),
        *_choices("ra", AUTHORS, truth_ratio),
        *_choices("wf", FACTS, truth_ratio),
    )
    in_order(panel)  # rejects a wrong argument before anything is scored
    return panel


def _attacks() -> tuple[Metric, ...]:
    """Return for each attack its scores on the forget rows and on the holdout rows, and its AUC."""
    metrics: list[Metric] = []
    for attack in ATTACKS:
        name = f"mia_{attack}"
        parents = {"members": f"{name}_forget", "others": f"{name}_holdout"}
        metrics.append(Metric(name, "attack_auc", parents=parents, retain=name))
        for short, rows in (("forget", FORGET), ("holdout", HOLDOUT)):
            retain = f"mia_loss_{short}" if attack == "reference" else None
            metrics.append(
                Metric(f"{name}_{short}", f"{attack}_score", rows=rows, reads={"tokens": ("answer",)}, retain=retain)
            )
    return (*metrics, Metric("privleak", "privleak", parents={"auc": "mia_min_k"}, retain="mia_min_k"))


def _choices(short: str, rows: str, truth_ratio: str) -> tuple[Metric, ...]:
    """Return the metrics of questions about the real world, which have wrong options and no paraphrase."""
    return (
        *_probabilities(short, rows, paraphrase=False),
        Metric(
            f"{short}_Q_A_Prob_normalised",
            "probability_w_options",
            rows=rows,
            reads={"tokens": ("answer", "perturbed")},
            args={"floor": 0.0},
        ),
        _rouge(f"{short}_Q_A_ROUGE", rows, "answer"),
        _ratio(f"{short}_Truth_Ratio", rows, "answer", "true_better", truth_ratio),
    )


def _probabilities(short: str, rows: str, *, paraphrase: bool) -> tuple[Metric, ...]:
    read = {"Prob": "answer", "PARA_Prob": "paraphrase", "PERT_Prob": "perturbed"}
    return tuple(
        Metric(f"{short}_Q_A_{ending}", "probability", rows=rows, reads={"tokens": (answers,)})
        for ending, answers in read.items()
        if paraphrase or answers != "paraphrase"
    )


def _rouge(name: str, rows: str, reference: str) -> Metric:
    return Metric(name, "rouge", rows=rows, reads={"texts": (reference,)}, args={"statistic": "rougeL_recall"})


def _ratio(name: str, rows: str, correct: str, aggregate: str, aggregator: str) -> Metric:
    args = {"aggregate": aggregate, "aggregator": aggregator, "floor": 0.0}
    return Metric(name, "truth_ratio", rows=rows, reads={"tokens": (correct, "perturbed")}, args=args)
