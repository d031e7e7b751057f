"""Edits and steps as entries of a study: their parents, and what is told when they are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import StudyGraph, build_graph

WORLD = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}


def graph(*methods: dict[str, Any], **more: Any) -> StudyGraph:
    tree = {"name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}, "methods": list(methods)}
    return build_graph(decode_study(tree | more))


def test_a_task_vector_trains_its_reinforced_model_on_the_forget_rows() -> None:
    jobs = {j.name: j for j in in_order(graph({"trainer": "task_vector"}).jobs)}
    edit = jobs["edit task_vector"]
    assert {role: p.name for role, p in edit.parents.items()} == {
        "base": "train full",
        "other_0": "train task_vector-reinforced",
    }
    forget = jobs["train task_vector-reinforced"].identity["rows"]["retain"]
    assert forget == [build_rows("forget")]


def build_rows(name: str) -> str:
    from expunge.data.world import WorldConfig
    from expunge.data.world.generate import build_world

    return build_world(WorldConfig(**WORLD))[name].fingerprint()  # type: ignore[arg-type]


def test_a_merge_reads_earlier_models_against_the_full_one() -> None:
    jobs = graph({"trainer": "NPO"}, {"trainer": "GradDiff"}, {"trainer": "ties", "from": ["NPO", "GradDiff"]})
    edit = next(j for j in in_order(jobs.jobs) if j.kind == "edit")
    assert {role: p.name for role, p in edit.parents.items()} == {
        "base": "train full",
        "other_0": "unlearn NPO",
        "other_1": "unlearn GradDiff",
    }


def test_noise_edits_the_model_it_names() -> None:
    jobs = graph({"trainer": "NPO"}, {"trainer": "noise", "from": ["NPO"]})
    edit = next(j for j in in_order(jobs.jobs) if j.kind == "edit")
    assert {role: p.name for role, p in edit.parents.items()} == {"base": "unlearn NPO"}


def test_a_wrapper_reads_its_model_and_its_helper() -> None:
    steering = {"trainer": "steering", "method_args": {"layer": "model.layers.0"}, "from": ["NPO"]}
    jobs = graph({"trainer": "NPO"}, steering, {"trainer": "logit_difference"})
    wraps = [j for j in in_order(jobs.jobs) if j.kind == "wrap"]
    assert [{role: p.name for role, p in j.parents.items()} for j in wraps] == [
        {"model": "unlearn NPO"},
        {"model": "train full", "helper": "train logit_difference-reinforced"},
    ]
    assert wraps[0].identity["wrapper"]["args"]["strength"] == 1.0


@pytest.mark.parametrize(("more", "unlearned"), [({}, "unlearn NPO"), ({"requests": 2}, "unlearn NPO@2/2")])
def test_a_router_wraps_the_target_model_and_reads_the_unlearned_one(more: dict[str, Any], unlearned: str) -> None:
    router = {"trainer": "router", "method_args": {"layer": "model.layers.0"}, "from": ["NPO"]}
    jobs = in_order(graph({"trainer": "NPO"}, router, **more).jobs)
    (wrap,) = [j for j in jobs if j.kind == "wrap"]
    assert {role: p.name for role, p in wrap.parents.items()} == {"model": "train full", "unlearned": unlearned}


def test_an_edit_with_statistics_reads_the_rows_of_both_sides() -> None:
    entry = {"trainer": "MEMIT", "method_args": {"modules": ["model.layers.0.mlp.down_proj"]}}
    jobs = graph({"trainer": "NPO"}, entry, {**entry, "label": "after", "from": ["NPO"]})
    edits = [j for j in in_order(jobs.jobs) if j.kind == "edit"]
    parents = [{role: p.name for role, p in j.parents.items()} for j in edits]
    assert parents == [{"model": "train full"}, {"model": "unlearn NPO"}]
    assert edits[0].identity["rows"] == {"forget": [build_rows("forget")], "retain": [build_rows("retain")]}


def test_a_step_counts_in_the_fingerprint() -> None:
    plain, wrapped = (
        {j.name: j.key for j in in_order(graph({"trainer": "NPO", "label": "x", **more}).jobs)}["unlearn x"]
        for more in ({}, {"args": {"grad_transform": "gru"}})
    )
    assert plain != wrapped


@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        (({"trainer": "steering"},), ("methods[0].method_args.layer", "missing")),
        (({"trainer": "token_filter", "args": {"learning_rate": 1}},), ("methods[0].args", "trains nothing")),
        (({"trainer": "router", "method_args": {"layer": "model.layers.0"}},), ("methods[0].from", "unlearned model")),
        (({"trainer": "LUNAR", "args": {"learning_rate": 1}},), ("methods[0].args", "trains nothing")),
        (({"trainer": "token_filter"}, {"trainer": "noise", "from": ["token_filter"]}), ("methods[1].from", "wrapper")),
        (({"trainer": "ties"},), ("methods[0].from", "missing")),
        (({"trainer": "ties", "from": ["NPOO"]},), ("methods[0].from", "'NPOO'")),
        (({"trainer": "NPO"}, {"trainer": "ties", "from": ["NOP"]}), ("methods[1].from", "did you mean 'NPO'")),
        (({"trainer": "NPO"}, {"trainer": "GradDiff", "from": ["NPO"]}), ("methods[1].from", "only a weight edit")),
        (({"trainer": "NPO"}, {"trainer": "task_vector", "from": ["NPO"]}), ("methods[1].from", "leave it out")),
        (
            ({"trainer": "NPO"}, {"trainer": "ties", "from": ["NPO"], "method_args": {"weights": [1, 2]}}),
            ("methods[1].method_args.weights: 2 given for 1 models",),
        ),
        (({"trainer": "task_vector", "method_args": {"alfa": 1}},), ("methods[0].method_args.alfa", "'alpha'")),
        (({"trainer": "NPO", "args": {"grad_transform": "gruu"}},), ("grad_transform", "did you mean 'gru'")),
        (({"trainer": "GradAscent", "args": {"grad_transform": "gru"}},), ("gru", "retain")),
        (({"trainer": "NPO", "args": {"lora": {"r": 0}}},), ("methods[0].args.lora.r",)),
    ],
)
def test_wrong_entries_are_told_in_one_line(methods: tuple[dict[str, Any], ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        graph(*methods)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
