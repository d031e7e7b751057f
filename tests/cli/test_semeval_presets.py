"""The experiments and the study of SemEval-2025 Task 4 compose, and say what their sources say."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.cli.compose import single_tree, study_tree
from expunge.pipelines.study.config import decode_study, unlearn_args
from expunge.pipelines.study.single import merge_of, training_runs
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task


def single(name: str, *words: str) -> SingleJob:
    tree, _ = single_tree("unlearn", [f"experiment=semeval/{name}", "task_name=x", *words])
    return decode_task(SingleJob, tree)


@pytest.mark.parametrize(
    ("name", "method"),
    [("ga", "GradAscent"), ("gd", "GradDiff"), ("kl", "KL"), ("npo", "NPO"), ("iterative", "SemEvalGA")],
)
def test_the_baselines_and_the_iterative_pipeline(name: str, method: str) -> None:
    settings = single(name)
    ((label, objective, args),) = training_runs(settings)
    assert (label, objective.spec.name, merge_of(settings)) == ("x", method, None)
    assert settings.benchmark == "semeval" and settings.eval.generation.max_new_tokens == 256
    if name == "iterative":
        assert args.evaluate.keep == "best" and args.max_loss == 100
        assert {objective.weights.gamma, objective.weights.alpha, objective.weights.nll_weight} == {0.2, 1.0, 0.5}


def test_validation_rows_lie_where_the_data_does() -> None:
    assert single("iterative", "data.root=FOLDER").data.args["validation"] == "FOLDER"
    assert single("iterative", "data.args.validation=self").data.args["validation"] == "self"


def test_the_first_place() -> None:
    ((_, objective, args),) = training_runs(single("ails-ntua"))
    assert (args.schedule.kind, args.schedule.chunk_size, args.schedule.retain_ratio) == ("chunks", 32, 7)
    assert args.lora is not None and (args.lora.r, args.lora.lora_alpha) == (16, 64)
    assert (args.num_train_epochs, args.learning_rate) == (7, 1e-5)
    # factors -1 and +0.5 of each row, means over the 8 rows of a step
    assert (objective.weights.gamma, objective.weights.alpha) == (1 / 8, 0.5 * 7 / 8)


def test_the_second_place() -> None:
    settings = single("zjuklab")
    one, two = training_runs(settings)
    assert [f.label for f in (one, two)] == ["x-model1", "x-model2"]
    for fitting, weights, size in ((one, (0.4, 0.4, 0.2), 1), (two, (0.3, 0.3, 0.4), 2)):
        inputs = fitting.objective.weights
        assert (inputs.gamma, inputs.alpha, inputs.nll_weight) == weights
        assert fitting.args.per_device_train_batch_size == size and fitting.args.gradient_accumulation_steps == 4
        assert fitting.args.lora is not None and fitting.args.lora.r == 32 and fitting.args.learning_rate == 1e-4
    merge = merge_of(settings)
    assert type(merge).__name__ == "TIES" and vars(merge)["density"] == 0.8


def test_the_study_has_all_submissions() -> None:
    study = decode_study(study_tree(["study=semeval_tiny", "data.args.mmlu=FOLDER"]))
    assert [entry.label for entry in study.methods] == [
        "GA", "GD", "KL", "NPO", "iterative", "AILS-NTUA", "ZJUKLAB-1", "ZJUKLAB-2", "ZJUKLAB",
    ]  # fmt: skip
    assert study.methods[-1].from_models == ("ZJUKLAB-1", "ZJUKLAB-2")
    for i in range(len(study.methods)):
        unlearn_args(study, i, 0)


@pytest.mark.shared
def test_the_study_reads_the_tasks_own_rows(shared: Path) -> None:
    from expunge.pipelines.study.grid import study_graph

    words = [f"data.root={shared / 'data' / 'semeval'}", f"data.args.mmlu={shared / 'data' / 'mmlu'}"]
    graph = study_graph(study_tree(["study=semeval_tiny", *words]))
    sets = graph.setting.benchmark.sets
    # 16 documents of each task: an end and a question of each, five questions in Task2
    assert {side: len(sets[side].rows) for side in ("forget", "retain")} == {"forget": 160, "retain": 160}
    assert 0 < len(sets["member"].rows) < 16 and len(graph.leaves) == 11
