"""Studies of finished models: nothing is trained; each is scored and compared with the retain model or its log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.cli.compose import study_tree
from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.audit_jobs.types import AnalysisJob
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.graph import build_graph
from expunge.pipelines.study_jobs.job_values import TaskJob

FULL, RETAIN, NPO = ("tofu_x_full", "tofu_x_retain90", "unlearn_tofu_x_NPO")  # folders, named as on a hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models that share a tokenizer, with different weights."""
    folder = tmp_path_factory.mktemp("finished")
    words = ["benchmark=world", "model=llama-64k", "data.world.authors=10", "trainer.args.max_steps=1", "task_name=x"]
    paths = [f"paths.output_dir={folder / FULL}", f"paths.store={folder / 'store'}"]
    expunge.load_job("train", [*words, *paths]).run()
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / FULL / "model.safetensors")
    for name, factor in ((RETAIN, 0.5), (NPO, 0.8)):
        shutil.copytree(folder / FULL, folder / name)
        save_file({k: v * factor for k, v in weights.items()}, folder / name / "model.safetensors", {"format": "pt"})
    return folder


def tree(folder: Path, **changes: Any) -> dict[str, Any]:
    models = [
        {"role": "unlearn", "label": "NPO", "source": str(folder / NPO)},
        {"role": "retain", "source": str(folder / RETAIN)},
        {"role": "full", "source": str(folder / FULL)},
    ]
    few = {"authors": 10, "questions_per_author": 2}
    inputs = {"name": "finished", "benchmark": "world", "data": {"world": few}, "finished_models": models}
    return inputs | {"eval": {"generation": {"max_new_tokens": 2}}} | changes


def test_each_model_is_scored_by_its_own_weights(folder: Path) -> None:
    graph = build_graph(decode_study(tree(folder)))
    assert [(leaf.role, leaf.label) for leaf in graph.leaves] == [
        ("full", "full"),
        ("retain", "retain"),
        ("unlearn", "NPO"),
    ]
    assert {job.kind for job in in_order(graph.jobs)} == {"score", "records", "metrics"}
    full, retain, unlearned = graph.leaves
    assert unlearned.metrics.parents["retain"] is retain.metrics and "retain" not in full.metrics.parents
    scored = [{job.key for job in leaf.records.parents.values()} for leaf in graph.leaves]
    assert not scored[0] & scored[1] and not scored[1] & scored[2] and not scored[0] & scored[2]
    for leaf, name in zip(graph.leaves, (FULL, RETAIN, NPO), strict=True):
        for job in leaf.records.parents.values():
            assert isinstance(job, TaskJob) and job.model_source({}) == str(folder / name)
            elsewhere = ContextSource(task=job.source.task, steps=job.source.steps)  # as another process loads it
            assert elsewhere.load().model == job.source.load().model


def test_a_score_is_shared_with_a_job_of_the_same_model(folder: Path) -> None:
    alone = build_graph(decode_study(tree(folder, finished_models=tree(folder)["finished_models"][:1])))
    whole = build_graph(decode_study(tree(folder)))
    assert {j.key for j in alone.leaves[0].records.parents.values()} == {
        j.key for j in whole.leaves[2].records.parents.values()
    }


def test_audits_read_each_models_own_weights(folder: Path) -> None:
    audits = [{"name": "depth"}, {"name": "quantize", "forms": ["int8"]}]
    graph = build_graph(decode_study(tree(folder, audits=audits)))
    assert [(one.name, one.subject.label) for one in graph.audits] == [("depth", "NPO"), ("quantize", "NPO")]
    depth, quantize = (one.job.parents for one in graph.audits)
    for role, name in (("model", NPO), ("retain", RETAIN), ("full", FULL)):
        job = depth[f"{role} depth"]
        assert isinstance(job, AnalysisJob) and job.model_source({}) == str(folder / name)
        assert job.contexts["full"].load().model.source == str(folder / FULL)
        assert job.source.load().model.source == str(folder / name)
        rounded = next(j for j in in_order([quantize[f"{role} int8"]]) if j.kind == "edit")
        assert isinstance(rounded, TaskJob) and rounded.model_source({}) == str(folder / name)
    assert len({job.key for job in depth.values()}) == 3
    swapped = [
        {**m, "source": str(folder / RETAIN)} if m["role"] == "full" else m for m in tree(folder)["finished_models"]
    ]
    other = build_graph(decode_study(tree(folder, audits=audits, finished_models=swapped)))
    assert other.audits[0].job.parents["model depth"].key != depth["model depth"].key  # another target model


def test_audits_need_a_model_to_audit_and_one_tokenizer(folder: Path, tmp_path: Path) -> None:
    models = [model for model in tree(folder)["finished_models"] if model["role"] != "unlearn"]
    with pytest.raises(
        ConfigError, match=r"^audits: there is nothing to audit; .*finished_models` with the role unlearn"
    ):
        build_graph(decode_study(tree(folder, audits=["quantize"], finished_models=models)))
    tokenizer = train_tokenizer(["a few other words"], 300, max_length=64)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, tmp_path / "foreign")
    models = [*models, {"role": "unlearn", "label": "X", "source": str(tmp_path / "foreign")}]
    with pytest.raises(ConfigError, match=r"^audits: the finished models full and X have different tokenizers"):
        build_graph(decode_study(tree(folder, audits=["quantize"], finished_models=models)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["NPO"]}, "methods: a study of finished models (`finished_models`) trains nothing; leave it out"),
        ({"requests": 2}, "requests: a study of finished models"),
        ({"finished_models": [{"role": "unlearn", "source": "a/b"}]}, "finished_models[0].label: missing"),
        (
            {"finished_models": [{"role": "full", "label": "x", "source": "a/b"}]},
            "finished_models[0].label: reports call this model full",
        ),
        (
            {"finished_models": 2 * [{"role": "full", "source": "a/b"}]},
            "finished_models[0].role: two models have the role 'full'",
        ),
        (
            {"finished_models": 2 * [{"role": "unlearn", "label": "x", "source": "a/b"}]},
            "finished_models[0].label: two models have 'x'",
        ),
        ({"finished_models": [{"role": "best", "source": "a/b"}]}, "finished_models[0].role"),
        (
            {"finished_models": [], "retain_logs_path": "x.json"},
            "retain_logs_path: this study trains its own retain model",
        ),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_read(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        decode_study(tree(tmp_path) | changes)
    assert str(error.value).startswith(message)


def test_a_missing_folder_is_named_with_its_model(folder: Path) -> None:
    models = [{"role": "unlearn", "label": "NPO", "source": str(folder / "unlearn_tofu_x_NP")}]
    with pytest.raises(
        ConfigError, match=r"^finished_models: NPO: source: no folder .*did you mean.*unlearn_tofu_x_NPO"
    ):
        build_graph(decode_study(tree(folder, finished_models=models)))


def test_the_shipped_study_on_folders_of_the_same_names(folder: Path, tmp_path: Path) -> None:
    own = [
        "benchmark=world",
        "forget_split=null",
        "data.world.authors=10",
        "model.template_args.apply_chat_template=false",
    ]
    settings = study_tree(["study=ou_hub", *own])
    assert all(model["source"].startswith("open-unlearning/") for model in settings["finished_models"])
    for model in settings["finished_models"]:
        place = tmp_path / model["source"].partition("/")[2]
        place.symlink_to(folder / FULL, target_is_directory=True)
        model["source"] = str(place)
    graph = build_graph(decode_study(settings))
    methods = ["GradDiff", "IdkNLL", "IdkDPO", "NPO", "SimNPO", "AltPO", "UNDIAL", "RMU"]
    assert [leaf.label for leaf in graph.leaves] == ["full", "retain", *methods]
    assert {job.kind for job in in_order(graph.jobs)} == {"score", "records", "metrics"}


@pytest.mark.slow
def test_a_study_runs_and_compares_with_the_retain_model_or_its_log(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps(tree(folder)))
    words = [f"study={study}", f"paths.store={tmp_path / 'store'}", f"paths.output_dir={tmp_path / 'out'}"]
    first = expunge.load_study(words)
    result = first.run()
    assert not result.failures
    rows = {row["run"]: row for row in result.table()}
    assert list(rows) == ["full", "retain", "NPO"]
    assert rows["NPO"]["forget_quality"] is not None

    stored = first.graph.leaves[1].metrics  # the retain model's results act as its log
    log = next((tmp_path / "store").rglob(f"*{stored.key[:12]}*/TOFU_EVAL.json"))
    graph = build_graph(decode_study(tree(folder, retain_logs_path=str(log))))
    assert all("retain" not in leaf.metrics.parents for leaf in graph.leaves)
    again = expunge.load_study([*words, f"retain_logs_path={log}"]).run()
    assert not again.failures
    compared = {row["run"]: row for row in again.table()}
    assert compared["NPO"]["forget_quality"] == pytest.approx(rows["NPO"]["forget_quality"])
    assert compared["retain"]["forget_quality"] == pytest.approx(1.0)
