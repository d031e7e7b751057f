"""From a study to its jobs: how many, which parents, and what their fingerprints cover."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import StudyGraph, build_graph

SCORED = ("forget_eval", "retain_eval", "real_authors", "world_facts")
WORLD = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}


def graph(**changes: Any) -> StudyGraph:
    """The graph of a small study on the embedded world."""
    tree: dict[str, Any] = {
        "name": "t",
        "data": {"world": WORLD},
        "model": {"preset": "llama-64k"},
        "methods": [{"trainer": "GradAscent"}, {"trainer": "NPO"}],
    }
    return build_graph(decode_study(tree | changes))


def keys(graph: StudyGraph) -> dict[str, str]:
    return {job.name: job.key for job in in_order(graph.jobs)}


def test_the_product_of_seeds_shares_parents() -> None:
    jobs = graph(seeds={"train": [0, 1], "unlearn": [0, 1, 2]})
    kinds = Counter(job.kind for job in in_order(jobs.jobs))
    # a model's records: the tokens and the texts of four sets of rows
    assert kinds == {
        "base": 1,
        "train": 4,
        "reference": 2,
        "unlearn": 12,
        "score": 16 * 8,
        "records": 16,
        "metrics": 16,
    }
    assert len(jobs.leaves) == 16


def test_unlearning_is_compared_with_the_retain_model_of_its_training_seed() -> None:
    jobs = graph(seeds={"train": [0, 1]})
    retain = {leaf.train_seed: leaf.metrics.key for leaf in jobs.leaves if leaf.role == "retain"}
    assert len(set(retain.values())) == 2
    for leaf in jobs.leaves:
        if leaf.role != "retain":
            assert leaf.metrics.parents["retain"].key == retain[leaf.train_seed]


def test_a_setting_changes_what_depends_on_it_and_nothing_else() -> None:
    before, after = keys(graph()), keys(graph(unlearn={"learning_rate": 1e-4}))
    changed = {name for name in before if before[name] != after[name]}
    methods = ("GradAscent", "NPO")
    parts = {f"score {m} {rows} {kind}" for m in methods for rows in SCORED for kind in ("tokens", "texts")}
    assert changed == parts | {f"{kind} {m}" for kind in ("unlearn", "records", "metrics") for m in methods}


def test_labels_and_places_do_not_count() -> None:
    renamed = graph(name="other", paths={"store": "elsewhere"}, methods=[{"trainer": "ascent", "label": "climb"}])
    assert keys(renamed)["unlearn climb"] == keys(graph())["unlearn GradAscent"]


def test_the_order_of_the_log_does_not_count_and_the_seed_does() -> None:
    base = keys(graph())["train full"]
    assert keys(graph(train={"logging_steps": 1}))["train full"] == base
    assert keys(graph(seeds={"train": [7]}))["train full"] != base


def test_refusals_count_only_for_methods_that_read_them(tmp_path: Path) -> None:
    mine = tmp_path / "refusals.txt"
    mine.write_text("No.\nNever heard of it.\n")
    methods = [{"trainer": "IdkNLL"}, {"trainer": "NPO"}]
    before = keys(graph(methods=methods))
    after = keys(graph(methods=methods, data={"world": WORLD, "refusals": str(mine)}))
    assert before["unlearn NPO"] == after["unlearn NPO"]
    assert before["unlearn IdkNLL"] != after["unlearn IdkNLL"]


def test_generated_alternates_are_a_job_of_their_own() -> None:
    result = graph(methods=[{"trainer": "AltPO"}, {"trainer": "AltPO", "method_args": {"alpha": 1}, "label": "b"}])
    jobs = in_order(result.jobs)
    assert [j.kind for j in jobs].count("alternates") == 1
    assert {j.parents["alternates"].key for j in jobs if j.kind == "unlearn"} == {
        j.key for j in jobs if j.kind == "alternates"
    }


@pytest.mark.shared
def test_the_data_counts_by_its_contents(shared: Path, tmp_path: Path) -> None:
    tofu = {"benchmark": "tofu", "forget_split": "forget01", "retain_split": "retain99"}
    here = tmp_path / "copy"
    shutil.copytree(shared / "data" / "tofu", here)
    before = keys(graph(**tofu, data={"root": str(shared / "data" / "tofu")}))
    assert keys(graph(**tofu, data={"root": str(here)})) == before
    lines = (here / "forget01_perturbed.json").read_text().split("\n")
    lines[0] = lines[0].replace('"paraphrased_answer":"', '"paraphrased_answer":"Well, ')
    (here / "forget01_perturbed.json").write_text("\n".join(lines))
    after = keys(graph(**tofu, data={"root": str(here)}))
    assert after["train full"] == before["train full"]
    assert after["score full forget_eval tokens"] != before["score full forget_eval tokens"]
    assert after["score full retain_eval tokens"] == before["score full retain_eval tokens"]
    assert after["records full"] != before["records full"]


def test_fine_tuning_is_no_method_of_a_study() -> None:
    with pytest.raises(ConfigError, match=r"methods\[0\]\.trainer: finetune does not unlearn"):
        graph(methods=[{"trainer": "finetune"}])


def test_estimates_grow_with_the_work() -> None:
    by_name = {job.name: job.estimate for job in in_order(graph().jobs)}
    assert by_name["train full"].tokens > by_name["train retain"].tokens > by_name["unlearn NPO"].tokens > 0
    twice = {j.name: j.estimate for j in in_order(graph(train={"num_train_epochs": 20}).jobs)}
    assert twice["train full"].tokens == pytest.approx(2 * by_name["train full"].tokens, rel=0.01)
    assert all(dataclasses.asdict(e)["flops"] >= 0 for e in by_name.values())


def test_evaluations_on_the_way_are_part_of_the_estimate() -> None:
    def tokens(**evaluate: Any) -> int:
        jobs = graph(unlearn={"num_train_epochs": 4, "evaluate": evaluate})
        return next(j.estimate.tokens for j in in_order(jobs.jobs) if j.name == "unlearn NPO")

    plain, one, four = tokens(), tokens(every=4, at_start=False), tokens(every=1, at_start=False)
    each = one - plain
    assert each > 0
    assert four - plain == pytest.approx(4 * each, abs=4)
    assert tokens(every=1) - plain == pytest.approx(5 * each, abs=5)
    assert 0 < tokens(every=4, at_start=False, rows=2) - plain < each
