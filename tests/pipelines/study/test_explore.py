"""The rows of a study for the report: which scores are taken for which set, and what each model said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from expunge.engine.run import RunOutcome
from expunge.metrics.api import MetricResult
from expunge.pipelines.study.example_explorer import explorer, making
from expunge.pipelines.study.graph import StudyGraph
from expunge.pipelines.study.handle import load_study
from expunge.pipelines.study.results import _trajectory
from expunge.report.model import ReportRun


@pytest.fixture(scope="module")
def graph(micro: list[str]) -> StudyGraph:
    return load_study(micro).graph


def run(label: str, role: Any, prob: float, seed: int | None = None) -> ReportRun:
    results = {
        "forget_Q_A_Prob": MetricResult(prob, per_row={0: {"prob": prob, "avg_loss": 1.0}}),
        "forget_Q_A_PARA_Prob": MetricResult(0.9, per_row={0: {"prob": 0.9}}),  # of the paraphrase: not the answer's
        "forget_truth_ratio": MetricResult(0.5, per_row={0: {"score": 1.5, "log_score": 0.4}}),
        "wf_Q_A_ROUGE": MetricResult(0.25, per_row={1: {"rougeL_recall": 0.25, "rouge1_recall": 0.5}}),
        "model_utility": MetricResult(0.5),
    }
    return ReportRun(label, role, seed=seed, results=results)


def test_scores_and_texts_of_each_row(graph: StudyGraph) -> None:
    benchmark = graph.setting.benchmark
    models = [
        (run("full", "full", 0.75), {"forget_eval": {0: "said", 1: ""}}),
        (run("NPO", "unlearn", 0.25), {"retain_eval": {0: "kept"}}),
    ]
    result = explorer(benchmark, models)
    assert result.models == ("full", "NPO")
    assert [score.name for score in result.scores] == ["probability", "ROUGE", "truth ratio"]
    first = result.rows[0]
    row = benchmark.sets["forget_eval"].rows[0]
    assert (first.set, first.row_id, first.question, first.answer) == ("forget_eval", 0, row.question, row.answer)
    assert first.said == ("said", None) and result.rows[1].said == ("", None)
    assert [scores[0] for scores in first.scores] == [0.75, 0.25] and first.scores[0][2] == 1.5
    assert math.isnan(first.scores[0][1]) and all(math.isnan(v) for v in result.rows[1].scores[0])
    sets = list(dict.fromkeys(entry.set for entry in result.rows))
    assert set(sets) == {"forget_eval", "world_facts", "retain_eval"}  # and no set that nothing is known of
    facts = next(entry for entry in result.rows if entry.set == "world_facts" and entry.row_id == 1)
    assert facts.scores[0][1] == 0.25


def test_seeds_are_told_apart(graph: StudyGraph) -> None:
    models: list[Any] = [(run("NPO", "unlearn", 0.5, seed), {}) for seed in (0, 1)]
    assert explorer(graph.setting.benchmark, models).models == ("NPO, seed 0", "NPO, seed 1")


def test_nothing_measured_is_no_row(graph: StudyGraph) -> None:
    assert explorer(graph.setting.benchmark, []).rows == ()


def test_how_it_was_made(graph: StudyGraph) -> None:
    record = {"versions": {"expunge": "0.1.0", "torch": "2"}, "machine": {"cpus": 2}}
    result = making(graph, RunOutcome({"a": record, "b": record, "c": {}}, {}), "expunge run study=quickstart")
    assert result.versions == ("expunge 0.1.0, torch 2",) and result.machines == ("cpus 2",)
    assert result.commands == ("expunge run study=quickstart",) and result.seeds == "training [0], unlearning [0]"
    assert "llama-64k" in result.config


def test_a_trajectory_keeps_the_steps_and_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.jsonl"
    path.write_text('{"step": 4, "epoch": 1.0, "phase": 1, "a": 0.5, "b": null}\n')
    assert _trajectory(path) == ({"step": 4.0, "a": 0.5},)
    assert _trajectory(tmp_path / "none.jsonl") == ()
