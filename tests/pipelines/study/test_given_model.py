"""Studies of benchmarks that train nothing: the given model is the full one, and there is no retain model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import build_graph


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model from scratch that learned a little of the embedded world."""
    folder = tmp_path_factory.mktemp("given")
    words = ["benchmark=world", "model=llama-64k", "data.world.authors=10", "trainer.args.max_steps=2", "task_name=x"]
    paths = [f"paths.output_dir={folder / 'model'}", f"paths.store={folder / 'store'}"]
    return expunge.load_job("train", [*words, *paths]).run().folder


def tree(root: Path, model: Path | None, **changes: Any) -> dict[str, Any]:
    source = {"model_args": {"pretrained_model_name_or_path": str(model)}} if model else {"preset": "llama-64k"}
    few = {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    return {
        "name": "given",
        "benchmark": "wmdp",
        "data": {"root": str(root), "args": {"mmlu": str(root / "mmlu"), "max_length": 48}},
        "model": source,
        "unlearn": few,
        "methods": [
            {"trainer": "RMU", "method_args": {"module_regex": r"model\\.layers\\.1"}},
            {"trainer": "GradDiff"},
        ],
    } | changes


def test_the_graph_starts_from_the_given_model(wmdp_folder: Path, model_folder: Path) -> None:
    graph = build_graph(decode_study(tree(wmdp_folder, model_folder, methods=[{"trainer": "GradDiff"}])))
    assert [(leaf.role, leaf.label) for leaf in graph.leaves] == [("full", "full"), ("unlearn", "GradDiff")]
    assert graph.leaves[0].model is None
    kinds = dict.fromkeys(j.kind for j in in_order(graph.jobs))
    assert list(kinds) == ["score", "records", "metrics", "unlearn"]
    assert all("retain" not in leaf.metrics.parents for leaf in graph.leaves)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"preset": "llama-64k"}}, "model: benchmark=wmdp has no rows to train a model on"),
        ({"seeds": {"train": [0, 1]}}, "seeds.train: benchmark=wmdp trains no full model"),
        ({"methods": [{"trainer": "DPO"}]}, "trainer=DPO: it reads other answers to the forget questions"),
        (
            {"data": {"args": {"questions_only": True}}},
            "benchmark=wmdp: it has no rows to forget here; see `expunge list benchmarks wmdp`",
        ),
    ],
)
def test_what_is_refused(wmdp_folder: Path, model_folder: Path, changes: dict[str, Any], message: str) -> None:
    if "data" in changes:
        changes["data"]["root"] = str(wmdp_folder)
    with pytest.raises(ConfigError) as error:
        build_graph(decode_study(tree(wmdp_folder, model_folder) | changes))
    assert str(error.value).startswith(message)


def test_an_edit_of_the_given_model(wmdp_folder: Path, model_folder: Path) -> None:
    graph = build_graph(decode_study(tree(wmdp_folder, model_folder, methods=[{"trainer": "noise"}])))
    (edit,) = (job for job in in_order(graph.jobs) if job.kind == "edit")
    assert edit.parents == {} and "model" in edit.identity


@pytest.mark.slow
def test_a_study_runs_and_its_report_shows_its_own_columns(
    wmdp_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    study = tmp_path / "wmdp.yaml"
    methods = [{"trainer": "GradDiff"}, {"trainer": "noise"}]
    study.write_text(json.dumps(tree(wmdp_folder, model_folder, methods=methods)))
    words = [f"study={study}", f"paths.store={tmp_path / 'store'}", f"paths.output_dir={tmp_path / 'out'}"]
    result = expunge.load_study(words).run()
    assert not result.failures
    full, *rest = result.table()
    assert list(full) == ["run", "wmdp_bio", "wmdp_cyber", "mmlu", "utility_drop_percent", "steps", "wall_s"]
    assert [row["run"] for row in (full, *rest)] == ["full", "GradDiff", "noise"]
    assert all(0 <= row[key] <= 1 for row in (full, *rest) for key in ("wmdp_bio", "wmdp_cyber", "mmlu"))
    text = (tmp_path / "out" / "results.md").read_text()
    assert "guessing" in text and "no retain model" in text and "Truth ratio" not in text
    assert "Remaining knowledge" in (tmp_path / "out" / "report.html").read_text()
