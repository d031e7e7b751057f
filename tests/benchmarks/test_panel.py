"""The TOFU panel: its names, and what it asks to be scored."""

from __future__ import annotations

import dataclasses

import pytest

from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.benchmarks.metric_suite import UTILITY_PARTS, as_openunlearning, tofu_panel
from expunge.core.errors import ConfigError
from expunge.data.world import WorldConfig
from expunge.metrics.compute import compute, in_order, requests

NAMES = {
    "forget_quality",
    "forget_truth_ratio",
    "forget_Q_A_Prob",
    "forget_Q_A_PARA_Prob",
    "forget_Q_A_PERT_Prob",
    "forget_Q_A_ROUGE",
    "forget_Q_A_PARA_ROUGE",
    "exact_memorization",
    "extraction_strength",
    "model_utility",
    "retain_Q_A_Prob",
    "retain_Q_A_PARA_Prob",
    "retain_Q_A_PERT_Prob",
    "retain_Q_A_ROUGE",
    "retain_Truth_Ratio",
} | {
    f"{short}_{name}"
    for short in ("ra", "wf")
    for name in ("Q_A_Prob", "Q_A_PERT_Prob", "Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")
}

ENDS = ("", "_forget", "_holdout")
ATTACKS = {"mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference"}


def test_names_with_holdout_rows() -> None:
    names = {m.name for m in tofu_panel(holdout=True)}
    assert names - NAMES == {f"{a}{end}" for a in ATTACKS for end in ENDS} | {"privleak"}
    assert names > NAMES


def test_holdout_rows_cost_one_answer_each() -> None:
    before, after = requests(tofu_panel()), requests(tofu_panel(holdout=True))
    assert after.tokens == {**before.tokens, "holdout": ("answer",)}
    assert after.texts == before.texts


@pytest.mark.parametrize("authors", [0, 1])
def test_the_world_attacks_where_it_has_holdout_authors(authors: int) -> None:
    config = WorldConfig(authors=6, questions_per_author=3, facts=4, holdout_authors=authors)
    benchmark = find_benchmark("world").make(BenchmarkConfig(world=config))
    assert ("privleak" in {m.name for m in benchmark.panel}) == ("holdout" in benchmark.sets) == bool(authors)


def test_as_openunlearning_changes_every_metric_that_differs() -> None:
    panel = as_openunlearning(tofu_panel("arithmetic", holdout=True))
    args = {m.name: m.args for m in panel}
    assert args["extraction_strength"] == {"compat": "openunlearning"}
    assert args["privleak"] == {"ref_value": 0.5}
    floors = [m.args["floor"] for m in panel if m.family in ("truth_ratio", "probability_w_options")]
    assert floors == [1e-10] * 6
    assert all(m.args["aggregator"] == "arithmetic" for m in panel if m.family == "truth_ratio")


def test_names() -> None:
    panel = tofu_panel()
    assert {m.name for m in panel} == NAMES
    assert len(panel) == len(NAMES) == len(in_order(panel))
    assert len(UTILITY_PARTS) == 9 and set(UTILITY_PARTS) < NAMES


def test_requests() -> None:
    needs = requests(tofu_panel())
    own = ("answer", "paraphrase", "perturbed")
    world = ("answer", "perturbed")
    assert needs.tokens == {"forget_eval": own, "real_authors": world, "retain_eval": own, "world_facts": world}
    assert needs.texts == {
        "forget_eval": ("answer", "paraphrase"),
        "real_authors": ("answer",),
        "retain_eval": ("answer",),
        "world_facts": ("answer",),
    }


def test_correct_answer_of_each_truth_ratio() -> None:
    correct = {m.name: m.tokens[0] for m in tofu_panel() if m.family == "truth_ratio"}
    assert correct == {
        "forget_truth_ratio": "paraphrase",
        "retain_Truth_Ratio": "paraphrase",
        "ra_Truth_Ratio": "answer",
        "wf_Truth_Ratio": "answer",
    }


def test_nothing_scored_is_all_missing_with_reasons() -> None:
    results = compute(tofu_panel(), {})
    assert all(r.reason for r in results.values())
    assert "needs retain_Q_A_Prob" in (results["model_utility"].reason or "")


def test_unknown_truth_ratio() -> None:
    with pytest.raises(ConfigError, match=r"args\.aggregator: 'geometrical': no such choice; did you mean 'geometric'"):
        tofu_panel("geometrical")


def test_utility_is_a_metric_of_the_panel() -> None:
    whole = find_benchmark("world").make(
        BenchmarkConfig(world=WorldConfig(authors=4, questions_per_author=2, forget_fraction=0.5))
    )
    parts = [metric for metric in whole.panel if metric.name in ("retain_Q_A_Prob", "forget_Q_A_Prob")]
    assert whole.measured_utility == "model_utility"
    assert dataclasses.replace(whole, panel=tuple(parts)).measured_utility == "retain_Q_A_Prob"
    assert dataclasses.replace(whole, panel=tuple(parts[:0])).measured_utility == "model_utility"
