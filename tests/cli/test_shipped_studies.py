"""Every study that ships decodes; those of a user's data plan on a small twin of it; the procedural ones share jobs."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.cli.compose import study_tree
from expunge.engine.job import in_order
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import StudyGraph, build_graph
from expunge.pipelines.sweep.stages import check_sweep

STUDIES = sorted(p.stem for p in (Path(expunge.__file__).parent / "conf" / "study").glob("*.yaml"))
GIVEN = {  # what a study cannot know
    "custom": ["forget=rows.csv", "model=gpt2"],
    "erase_people": ["forget=rows.csv", "retain=keep.csv"],
    "lume_smollm2": ["data.args.mmlu=mmlu"],
    "semeval_tiny": ["data.args.mmlu=mmlu"],
    "stories_30m": ["stories.source=stories"],
    "stories_real": ["stories.source=stories"],
}


@pytest.mark.parametrize("name", STUDIES)
def test_it_decodes(name: str) -> None:
    assert decode_study(study_tree([f"study={name}", *GIVEN.get(name, [])])).name


@pytest.mark.parametrize("name", ["pcfg_tiny", "pcfg_finetune", "tracr_tiny"])
def test_a_capability_is_brought_back_in_the_model_and_both_controls(name: str) -> None:
    result = jobs(name)
    assert {"relearn full same_rows", "relearn retain same_rows"} < set(result)
    if name == "pcfg_finetune":  # it goes on from the models of the other study
        assert all(result[job] == jobs("pcfg_tiny")[job] for job in ("train full", "train retain"))


@functools.cache
def jobs(name: str) -> dict[str, str]:
    """The keys of a smaller study's jobs."""
    tree = study_tree([f"study={name}", "data.args.train_rows=1400", "data.args.eval_rows=5"])
    return {job.name: job.key for job in in_order(build_graph(decode_study(tree)).jobs)}


def planned(*words: str) -> StudyGraph:
    """The graph of a shipped study; its sweep, if it has one, gives each method the same number of points."""
    study = decode_study(study_tree(list(words)))
    if study.sweep.trials:
        assert study.sweep.sampler == "grid"
        spaces = check_sweep(study)
        assert len(spaces) == len(study.methods)
    return build_graph(study)


def labels(graph: StudyGraph) -> list[str]:
    return list(dict.fromkeys(leaf.label for leaf in graph.leaves))


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_people_are_taught_and_erased_by_five_methods(tmp_path: Path) -> None:
    for name, people in (("forget", ["Ada Fenn"]), ("keep", ["Bo Lind", "Cy Marr"])):
        rows = "".join(f"Where was {p} born?,{p} was born in Ulm.\nWhere does {p} live?,In Rome.\n" for p in people)
        (tmp_path / f"{name}.csv").write_text("question,answer\n" + rows)
    graph = planned(
        "study=erase_people",
        f"forget={tmp_path / 'forget.csv'}",
        f"retain={tmp_path / 'keep.csv'}",
        "model=llama-210m",  # RMU names layer 15
    )
    assert labels(graph) == ["full", "retain", "GradDiff", "NPO-KL", "SimNPO", "IdkNLL", "RMU"]
    assert len(graph.leaves) == 2 + 5 * 3  # three seeds


def test_the_first_documents_of_lume_with_the_official_score(tmp_path: Path, wmdp_folder: Path) -> None:
    for side in ("forget", "retain"):
        both = [
            {"id": f"{side}{i}{task}{kind}", "task": task, "input": f"{side} {i} {task} {kind}", "output": f"gold {i}"}
            for i in range(10)
            for task in ("Task1", "Task2", "Task3")
            for kind in ("sc1", "qa0")
        ]
        lines(tmp_path / "train" / f"{side}.jsonl", both)
    forgotten = "forget 0 Task1 sc1 gold 0"
    lines(tmp_path / "mia" / "member.jsonl", [{"id": "forget0Task1sc1", "document": forgotten}])
    lines(tmp_path / "mia" / "nonmember.jsonl", [{"id": "x", "document": "Another text of a stranger."}])
    graph = planned(
        "study=lume_smollm2",
        f"data.root={tmp_path}",
        f"data.args.mmlu={wmdp_folder / 'mmlu'}",
        "data.args.members=all",
        "model=llama-64k",
    )
    assert labels(graph) == ["full", "retain", "GA", "GD", "KL", "NPO", "SimNPO"]
    assert {"semeval_aggregate", "mia_score", "mmlu"} <= {metric.name for metric in graph.setting.benchmark.panel}
    assert len(graph.setting.benchmark.sets["forget"]) == 8 * 3 * 2


def test_the_stories_protocol_in_short_and_as_published(tmp_path: Path) -> None:
    report = {"words": ["hang"], "features": ["Twist"]}
    source = tmp_path / "stories"
    source.mkdir()
    (source / "data00.json").write_text(json.dumps([{"story": "A cat sat.", "instruction": report, "summary": "S."}]))
    short, published = planned("study=stories_8m"), planned("study=stories_30m", f"stories.source={source}")
    assert short.stories is not None and published.stories is not None
    deletions = ["filter-Twist", "filter-adv-Twist", "filter-mix-Twist-Foreshadowing", "filter-ref-Twist"]
    assert [s.dataset for s in short.stories.subjects if s.role == "unlearn"] == deletions
    rates = [(s.dataset, s.learning_rate) for s in published.stories.subjects if s.role == "unlearn"]
    assert rates == [(name, rate) for name in deletions for rate in (1e-5, 1e-4)]
    assert all(s.probe is not None for s in published.stories.subjects)
    assert [graph.study.model.preset for graph in (short, published)] == ["llama-8m", "llama-30m"]
    assert published.study.train.max_steps == 100_000
