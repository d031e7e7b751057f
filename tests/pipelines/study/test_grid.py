"""Grids: the cells of a study, the jobs they share, and what they are called."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import StudyGraph, build_graph
from expunge.pipelines.study.grid import study_graph

WORLD = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}
METHODS = [{"trainer": "GradAscent"}, {"trainer": "NPO"}]


def tree(**changes: Any) -> dict[str, Any]:
    own = {"name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}, "methods": METHODS}
    return own | changes


def models(graph: StudyGraph) -> Counter[str]:
    return Counter(j.label.rpartition("/")[2] for j in in_order(graph.jobs) if j.kind in ("base", "train", "unlearn"))


SPLITS = {"small": {"data.world.forget_fraction": 0.17}, "large": {"data.world.forget_fraction": 0.34}}
LENGTHS = {"short": {"train.num_train_epochs": 1}, "long": {"train.num_train_epochs": 2}}


def test_cells_are_the_product_and_share_what_is_equal() -> None:
    result = study_graph(tree(grid={"split": SPLITS, "length": LENGTHS}))
    assert list(result.cells) == ["small,short", "small,long", "large,short", "large,long"]
    # the rows of the full model are the same for every split, so there is one of each length; one base for all
    assert models(result) == {"llama-64k": 1, "full": 2, "retain": 4, "GradAscent": 4, "NPO": 4}
    assert {j.label for j in in_order(result.jobs) if j.kind in ("base", "train")} == {
        "llama-64k", "short/full", "long/full",
        "small,short/retain", "small,long/retain", "large,short/retain", "large,long/retain",
    }  # fmt: skip
    assert len(result.leaves) == 4 * 4


def test_an_axis_without_effect_is_refused() -> None:
    grid = {"split": SPLITS, "forget_split": ["forget10", "forget05"]}  # the embedded world has no splits
    with pytest.raises(ConfigError, match=r"^grid\.forget_split: 'forget10' and 'forget05' lead to the same jobs"):
        study_graph(tree(grid=grid))
    assert len(study_graph(tree(grid={"split": SPLITS, "forget_split": ["forget10"]})).cells) == 2


def test_a_cell_is_the_study_it_stands_for() -> None:
    result = study_graph(tree(grid={"split": SPLITS, "length": LENGTHS}))
    alone = build_graph(
        decode_study(tree(data={"world": WORLD | {"forget_fraction": 0.17}}, train={"num_train_epochs": 2}))
    )
    assert [j.key for j in result.cells["small,long"].jobs] == [j.key for j in alone.jobs]
    assert set(result.cells["small,long"].setting.benchmark.sets) == set(alone.setting.benchmark.sets)


def test_equal_jobs_are_one_job_and_have_one_label() -> None:
    result = study_graph(tree(grid={"split": SPLITS, "seeds.train": [[0], [1]]}))
    jobs = in_order(result.jobs)
    by_key = {job.key: job for job in jobs}
    assert all(parent is by_key[parent.key] for job in jobs for parent in job.parents.values())
    names = Counter(job.name for job in jobs)
    assert max(names.values()) == 1, names.most_common(3)


def test_models_by_number() -> None:
    grid = {"length": LENGTHS, "split": SPLITS}
    result = study_graph(tree(grid=grid, grid_names="numbers"))
    assert list(result.cells) == [f"experiment_{i}" for i in range(4)]
    actual = [j.label for j in in_order(result.jobs) if j.kind in ("train", "unlearn")]
    assert sorted(actual) == sorted(
        [f"t/full_{i}" for i in range(2)] + [f"t/retain_{i}" for i in range(4)] + [f"t/forget_{i}" for i in range(8)]
    )
    # the splits of one training config follow one another, as the last axis changes fastest
    of = {leaf.model.label for leaf in result.cells["experiment_1"].leaves}
    assert of == {"t/full_0", "t/retain_1", "t/forget_2", "t/forget_3"}


def test_a_methods_grid() -> None:
    entry = {"trainer": "NPO", "method_args": {"alpha": 0.5}, "grid": {
        "method_args.beta": [0.1, 0.5], "args.learning_rate": [1e-5, 2e-5]}}  # fmt: skip
    task = decode_study(tree(methods=[METHODS[0], entry, {**entry, "label": "mine"}]))
    assert [m.label for m in task.methods[1:5]] == [
        "NPO(alpha=0.5,beta=0.1,learning_rate=1e-05)", "NPO(alpha=0.5,beta=0.1,learning_rate=2e-05)",
        "NPO(alpha=0.5,beta=0.5,learning_rate=1e-05)", "NPO(alpha=0.5,beta=0.5,learning_rate=2e-05)",
    ]  # fmt: skip
    assert task.methods[4].method_args == {"alpha": 0.5, "beta": 0.5}
    assert task.methods[4].args == {"learning_rate": 2e-5}
    assert task.methods[8].label == "mine(beta=0.5,learning_rate=2e-05)"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"grid": {"forget_splt": ["a"]}}, ("forget_splt", "'forget_split'")),
        ({"grid": {"train.num_train_epoch": [1, 2]}}, ("num_train_epoch=1", "'num_train_epochs'")),
        ({"grid": {"split": {"a": 3}}}, ("grid.split.a", "3")),
        ({"grid": {"forget_split": []}}, ("grid.forget_split",)),
        ({"grid": {"model.init_seed": [1, 1]}}, ("grid.model.init_seed", "twice")),
        ({"grid": {"paths.store": ["a", "b"]}}, ("paths.store", "whole grid")),
        ({"methods": [{"trainer": "NPO", "grid": {"beta": [1]}}]}, ("methods[0].grid.beta", "method_args.beta")),
        ({"methods": [{"trainer": "NPO", "grid": {"args.seed": []}}]}, ("methods[0].grid.args.seed",)),
        ({"methods": [{"trainer": "NPO", "grid": {"method_args.bta": [1]}}]}, ("method_args.bta", "'beta'")),
    ],
)
def test_wrong_grids_are_told_in_one_line(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        study_graph(tree(**changes))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
