"""Per-row stopping: after the search only the rows that are still known are trained on, from the best model."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from expunge.cli.compose import study_tree
from expunge.engine.job import Job
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.budget import Budget
from expunge.pipelines.erase import search as search_module
from expunge.pipelines.erase.goals import BeforeAfter, still_known
from expunge.pipelines.erase.preflight import Preflight, RowKnowledge
from expunge.pipelines.erase.request import UTILITY, EraseRequest, EraseRun, prepare_erase, with_preflight
from expunge.pipelines.erase.rows import CONTENT, KNOWN
from expunge.pipelines.erase.search import refine
from expunge.pipelines.erase.trials import EraseTrial, SearchGoal, TrialResult, trial_job
from expunge.pipelines.study.config import decode_study

FORGET = [(f"Who is no {i}?", f"It is Ann {i}.") for i in range(4)]
KEEP = [(f"Which river is number {i}?", f"It is the long river {i}.") for i in range(10)]


def results(probs: list[float], texts: list[float]) -> dict[str, MetricResult]:
    rows = {i: {"prob": p} for i, p in enumerate(probs)}
    content = {i: {"score": s} for i, s in enumerate(texts)}
    return {KNOWN: MetricResult(sum(probs) / 4, per_row=rows), CONTENT: MetricResult(sum(texts) / 4, per_row=content)}


def test_rows_are_still_known_by_probability_or_by_a_text() -> None:
    before = results([0.9] * 4, [1, 1, 1, 1])
    after = results([0.0, 0.5, 0.4, 0.0], [0, 0, 0, 1])  # more than half of 0.9 is left of row 1; row 3 is answered
    assert still_known(BeforeAfter(before, after, None)) == [1, 3]
    assert still_known(BeforeAfter(before, after, None, known=(0, 2))) == []


@pytest.fixture
def erasing(tmp_path: Path) -> EraseRun:
    """An erasure of four rows that a model of random weights is said to know."""
    for name, rows in (("forget", FORGET), ("keep", KEEP)):
        with open(tmp_path / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("question", "answer"), *rows])
    tokenizer = train_tokenizer([q + a for q, a in [*FORGET, *KEEP]], 400, max_length=256)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer, tmp_path / "model")
    tree = study_tree([
        "study=custom", f"forget={tmp_path}/forget.csv", f"retain={tmp_path}/keep.csv", "model=llama-64k",
        f"model.model_args.pretrained_model_name_or_path={tmp_path}/model", "unlearn.per_device_train_batch_size=2",
    ])  # fmt: skip
    study = decode_study(tree | {"methods": [], "audits": []})
    rows = tuple(
        RowKnowledge(row=i, says=a, probability=0.9, rouge=1.0, in_text=True, known=True, trained=(0, 1))
        for i, (_, a) in enumerate(FORGET)
    )
    return with_preflight(prepare_erase(EraseRequest(study=study, out=tmp_path / "out")), Preflight(rows=rows))


def refined(erasing: EraseRun, monkeypatch: pytest.MonkeyPatch, rest: float) -> tuple[TrialResult | None, list[Job]]:
    """Refine rows 1 and 3 of a winner with this share of utility; returns the jobs that were run."""
    jobs: list[Job] = []

    def finish(trial: EraseTrial, job: Job, *args: Any, **keys: Any) -> TrialResult:
        jobs.append(job)
        return TrialResult(trial, job, 4, {KNOWN: 0.01, UTILITY: 0.46}, True)

    monkeypatch.setattr(search_module, "finished_trial", finish)
    monkeypatch.setattr(search_module, "with_ability", lambda erasing, result, *rest: result)
    trial, goal = EraseTrial("NPO", 1e-3, 40), SearchGoal(enough=0.05, start=0.9)
    values = {KNOWN: 0.2, UTILITY: 0.5 * rest}
    winner = TrialResult(trial, trial_job(erasing, trial, goal), 20, values, True, start_utility=0.5)
    store = Store(erasing.work)
    return refine(erasing, winner, [1, 3], goal, store, lambda *a: None, Budget(60.0)), jobs  # type: ignore[arg-type,return-value]


def test_only_the_rows_left_are_trained_on_from_the_best_model(
    erasing: EraseRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, (job,) = refined(erasing, monkeypatch, rest=0.95)
    assert result is not None and result.refined and result.trial.steps == 20
    assert result.retention == pytest.approx(0.46 / 0.5)  # of the model before the erasure
    assert any(parent.kind == "unlearn" for parent in job.parents.values())  # it continues the best model
    evaluate = job.args.evaluate  # type: ignore[attr-defined]
    assert evaluate.rule.floor == pytest.approx(0.9 * 0.5 / (0.95 * 0.5), rel=1e-12)  # the floor of the first model
    assert evaluate.rule.enough == 0  # the mean may have been low enough before
    trained = job.source.load().benchmark.sets  # type: ignore[attr-defined]
    assert [row.question for row in trained["forget"]] == [
        "Who is no 1?", "Please answer this question: Who is no 1?",
        "Who is no 3?", "Please answer this question: Who is no 3?",
    ]  # fmt: skip
    assert len(trained["forget_eval"]) == 4  # all rows are measured


def test_a_model_at_the_floor_is_refined_within_it(erasing: EraseRun, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (job,) = refined(erasing, monkeypatch, rest=0.88)
    assert job.args.evaluate.rule.floor == 1.0  # type: ignore[attr-defined]


def test_without_utility_nothing_is_refined(erasing: EraseRun, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refined(erasing, monkeypatch, rest=math.inf) == (None, [])
