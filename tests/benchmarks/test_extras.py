"""Groups of metrics beside the panel: what they read, and what they need."""

from __future__ import annotations

import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.benchmarks.extras import EXTRAS, N_REFUSALS, with_extras
from expunge.core.errors import ConfigError
from expunge.data.refusals import REFUSALS
from expunge.data.world import WorldConfig
from expunge.metrics.compute import in_order, requests


def benchmark_of(*names: str, holdout: int = 1) -> Benchmark:
    config = WorldConfig(authors=8, questions_per_author=4, facts=4, holdout_authors=holdout, forget_fraction=0.25)
    return with_extras(find_benchmark("world").make(BenchmarkConfig(world=config)), names, samples=6, refusals=REFUSALS)


def test_all_groups_at_once_make_a_panel() -> None:
    panel = benchmark_of(*EXTRAS).panel
    assert len({m.name for m in panel}) == len(panel)
    assert len(in_order(panel)) == len(panel)
    assert all(m.rows is None or m.rows in benchmark_of(*EXTRAS).sets for m in panel)


@pytest.mark.parametrize("name", sorted(EXTRAS))
def test_a_group_adds_metrics_and_changes_none(name: str) -> None:
    plain, more = benchmark_of(), benchmark_of(name)
    assert more.panel[: len(plain.panel)] == plain.panel
    assert len(more.panel) > len(plain.panel)
    for rows, names in requests(plain.panel).tokens.items():
        assert set(names) <= set(requests(more.panel).tokens[rows])
        assert more.sets[rows].fingerprint() == plain.sets[rows].fingerprint()


@pytest.mark.parametrize("name", ["rmia", "lira", "fluency", "entity"])
def test_some_groups_cost_no_scoring(name: str) -> None:
    assert requests(benchmark_of(name).panel) == requests(benchmark_of().panel)


def test_what_the_others_ask_to_be_scored() -> None:
    assert requests(benchmark_of("gradnorm").panel)["grads"] == {"forget_eval": ("answer",), "holdout": ("answer",)}
    assert requests(benchmark_of("leak").panel)["samples"] == {"forget_eval": ("answer",)}
    assert [m.args["k"] for m in benchmark_of("leak").panel if m.family == "leak_at_k"] == [1, 2, 4, 6]
    assert requests(benchmark_of("agreement").panel)["agreement"] == {
        "forget_eval": ("answer",),
        "retain_eval": ("answer",),
    }
    assert set(requests(benchmark_of("similarity").panel)["texts_similarity"]) == {"forget_eval", "retain_eval"}
    refusing = benchmark_of("refusal")
    assert requests(refusing.panel).tokens["forget_eval_refusals"] == ("refusal",)
    assert len(refusing.sets["forget_eval_refusals"][0].answers) == N_REFUSALS + 1
    questions = {r for r in requests(benchmark_of("worst_case").panel).texts if r.startswith("forget_eval_")}
    assert questions == {f"forget_eval_{way}" for way in ("direct", "upper", "quoted", "plain", "paraphrased")}


def test_arcsf_names_all_its_numbers() -> None:
    names = {m.name.removeprefix("arcsf_") for m in benchmark_of("arcsf").panel if m.name.startswith("arcsf_")}
    assert names == {
        "forget_mean_tr", "forget_mean_clamped_tr", "retain_mean_tr", "forget_quality_1", "forget_quality_2",
    } | {
        f"{side}_{name}"
        for side in ("forget", "retain")
        for name in (
            "mean_probability_gt", "mean_rougeL_recall", "mean_loss_gt", "mean_loss_perturbed", "model_utility",
            "model_utility_3", "arithmetic_model_utility_3",
        )
    }  # fmt: skip


def test_a_group_without_its_rows() -> None:
    with pytest.raises(ConfigError, match=r"eval\.extras: gradnorm reads the rows 'holdout', which world lacks"):
        benchmark_of("gradnorm", holdout=0)
