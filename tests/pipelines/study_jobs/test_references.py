"""Reference jobs: computed once, read by all, and without a trace in the results."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import file_sha256
from expunge.engine.job import Job, in_order
from expunge.engine.run import plan, run
from expunge.engine.store import Store
from expunge.evaluation import passport
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import StudyGraph, build_graph
from expunge.pipelines.study_jobs import training_jobs

WORLD = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}
SHORT = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


def graph(*methods: dict[str, Any], **unlearn: Any) -> StudyGraph:
    tree = {
        "name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}, "methods": list(methods),
        "eval": {"generation": {"max_new_tokens": 5}},
        "train": {**SHORT, "learning_rate": 3e-3}, "unlearn": {**SHORT, "learning_rate": 1e-3, **unlearn},
    }  # fmt: skip
    return build_graph(decode_study(tree))


def models(graph: StudyGraph) -> list[Job]:
    return [leaf.model for leaf in graph.leaves if leaf.role == "unlearn"]


def of_kind(graph: StudyGraph, kind: str) -> list[Job]:
    return [j for j in in_order(graph.jobs) if j.kind == kind]


def make(jobs: list[Job], store: Store) -> None:
    outcome = run(jobs, store, lambda event: None)
    assert not outcome.failures, outcome.failures


NPOS = ({"trainer": "NPO"}, {"trainer": "NPO", "method_args": {"beta": 0.5}}, {"trainer": "DPO"}, {"trainer": "AltPO"})


def test_one_reference_serves_all_methods_and_hyperparameters() -> None:
    jobs = graph(*NPOS, {"trainer": "NPO", "label": "lora", "args": {"lora": {"r": 4}, "learning_rate": 1e-2}})
    named = Counter(j.label for j in of_kind(jobs, "reference"))
    assert named == {"full-forget-logps": 1, "full-alternates-logps": 2}  # refusals, and AltPO's own
    seeds = build_graph(decode_study({**_tree(jobs), "seeds": {"unlearn": [0, 1, 2]}}))
    assert Counter(j.label for j in of_kind(seeds, "reference"))["full-forget-logps"] == 1


def _tree(graph: StudyGraph) -> dict[str, Any]:
    return {"name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}, "methods": [{"trainer": "NPO"}],
            "unlearn": graph.study.unlearn}  # fmt: skip


def test_a_run_that_visits_some_rows_asks_for_these_alone() -> None:
    retain_kl = {"trainer": "GradDiff", "method_args": {"retain_loss_type": "KL"}}
    few = of_kind(graph(retain_kl, num_train_epochs=1), "reference")[0]
    other = {"trainer": "NPO", "method_args": {"retain_loss_type": "KL", "alpha": 2}}
    same = next(j for j in of_kind(graph(other, num_train_epochs=1), "reference") if "retain" in j.label)
    assert few.key == same.key  # another method, the same rows
    whole = of_kind(graph(retain_kl, num_train_epochs=10), "reference")[0]
    longer = of_kind(graph(retain_kl, num_train_epochs=20), "reference")[0]
    assert few.key != whole.key == longer.key
    assert 0 < few.estimate.tokens < whole.estimate.tokens


def test_a_reference_of_the_same_model_adds_nothing_to_a_key() -> None:
    (npo,) = models(graph({"trainer": "NPO"}))
    assert {"model", "forget_ref"} == set(npo.parents)
    bare = dataclasses.replace(npo, parents={"model": npo.parents["model"]})
    assert npo.key == bare.key


def test_a_reference_of_another_model_counts() -> None:
    keys = {
        lr: models(graph({"trainer": "WHP", "label": "w", "method_args": {"reinforce_epochs": lr}}))[0] for lr in (1, 2)
    }
    one, two = keys[1], keys[2]
    assert one.parents["forget_ref"].key == two.parents["forget_ref"].key
    assert one.parents["forget_teacher"].key != two.parents["forget_teacher"].key
    bare = dataclasses.replace(one, parents={"model": one.parents["model"]})
    assert one.key != bare.key


def test_topk_is_part_of_a_runs_identity_and_exact_leaves_no_trace() -> None:
    entry = {"trainer": "UNDIAL", "label": "u"}
    exact, top, wider = (
        models(graph({**entry, "args": a}))[0]
        for a in ({}, {"reference": "topk"}, {"reference": "topk", "reference_topk": 9})
    )
    assert len({exact.key, top.key, wider.key}) == 3
    assert "reference" not in exact.identity["args"]
    assert models(graph({**entry, "args": {"reference_topk": 9}}))[0].key == exact.key
    assert [j.parents["forget_ref"].identity["spec"]["topk"] for j in (exact, top, wider)] == [None, 64, 9]
    with pytest.raises(ConfigError, match=r"^trainer.args.reference: topk .* use exact$"):
        graph({**entry, "args": {"reference": "topk"}, "method_args": {"compat": "openunlearning"}})


def test_the_other_models_of_whp_and_undo() -> None:
    jobs = graph(
        {"trainer": "NPO"}, {"trainer": "WHP"}, {"trainer": "UNDO", "from": ["NPO"]}, {"trainer": "task_vector"}
    )
    npo, whp, undo, vector = models(jobs)
    reinforced = whp.parents["forget_teacher"].parents["model"]
    assert reinforced.key == vector.parents["other_0"].key  # the same run, made once
    assert whp.parents["forget_ref"].parents["model"].key == whp.parents["model"].key
    assert undo.parents["model"].kind == "edit"
    assert undo.parents["model"].parents["base"].key == npo.key
    for role in ("forget_teacher", "retain_teacher"):
        assert undo.parents[role].parents["model"].key == npo.key
    assert not undo.excluded_from_key & set(undo.parents)


@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        (({"trainer": "UNDO"},), ("methods[0].from", "name its label")),
        (
            ({"trainer": "NPO"}, {"trainer": "DPO"}, {"trainer": "UNDO", "from": ["NPO", "DPO"]}),
            ("methods[2].from", "one"),
        ),
        (({"trainer": "NPO"}, {"trainer": "UNDO", "from": ["NOP"]}), ("methods[1].from", "did you mean 'NPO'")),
        (({"trainer": "NPO"}, {"trainer": "WHP", "from": ["NPO"]}), ("methods[1].from", "only a weight edit")),
        (({"trainer": "WHP", "method_args": {"alfa": 1}},), ("methods[0].method_args.alfa", "'alpha'")),
        (({"trainer": "NPO", "args": {"reference": "top"}},), ("methods[0].args.reference", "'topk'")),
    ],
)
def test_wrong_entries_are_told_in_one_line(methods: tuple[dict[str, Any], ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        graph(*methods)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


RMU = {"module_regex": "model.layers.1", "adaptive": True}
READERS: list[dict[str, Any]] = [
    *NPOS[1:],
    {"trainer": "KL"},
    {"trainer": "RMU", "method_args": RMU},
    {"trainer": "NPO", "label": "lora", "args": {"lora": {"r": 2, "lora_dropout": 0.1}, "learning_rate": 1e-2}},
    {"trainer": "UNDIAL", "args": {"reference": "topk", "reference_topk": 8}},
]


@pytest.mark.slow
def test_with_and_without_stored_references_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = graph(*READERS)
    stored, bare = Store(tmp_path / "stored"), Store(tmp_path / "bare")
    loaded: list[str] = []
    real = passport.load_model
    monkeypatch.setattr(passport, "load_model", lambda source, *a, **k: loaded.append(source) or real(source, *a, **k))
    make([leaf.model for leaf in jobs.leaves[:1]], stored)
    for kind in ("base", "train"):
        shutil.copytree(stored.root / kind, bare.root / kind)
    before = len(loaded)
    make(models(jobs), stored)
    n_references = len(of_kind(jobs, "reference"))
    assert n_references == 7
    # each reference job and each run (and AltPO's sampling) loads one model
    assert len(loaded) - before == n_references + len(READERS) + 1
    monkeypatch.setattr(training_jobs, "reference_specs", lambda *a: {})
    without = graph(*READERS)
    assert not of_kind(without, "reference")
    make(models(without), bare)
    sums = [
        {(leaf.label, f): file_sha256(store.path(leaf.model) / f) for f in ("model.safetensors", "log.jsonl")
         for leaf in g.leaves if leaf.role == "unlearn"}
        for g, store in ((jobs, stored), (without, bare))
    ]  # fmt: skip
    assert sums[0] == sums[1]
    assert len(set(sums[0].values())) == len(sums[0])


@pytest.mark.slow
def test_whp_and_undo_run_and_a_reference_nobody_needs_is_not_made_again(tmp_path: Path) -> None:
    jobs = graph(
        {"trainer": "NPO"},
        {"trainer": "WHP", "method_args": {"reinforce_epochs": 1, "target": "softmax"}},
        {"trainer": "UNDO", "from": ["NPO"], "method_args": {"a": 0.05}},
    )
    store = Store(tmp_path)
    assert {p.job.kind for p in plan(jobs.jobs, store) if p.state == "blocked"} >= {"reference", "unlearn"}
    make(models(jobs), store)
    npo, whp, undo = models(jobs)
    sums = {file_sha256(store.path(j) / "model.safetensors") for j in (npo, whp, undo, undo.parents["model"])}
    assert len(sums) == 4
    losses = (store.path(undo) / "log.jsonl").read_text()
    assert '"retain"' in losses and '"forget"' in losses
    everything = {p.job.name: p.state for p in plan(models(jobs), store)}
    assert set(everything.values()) == {"hit"}
    assert sum("reference" in name for name in everything) == 5
    shutil.rmtree(store.root / "reference")
    left = {p.job.name: p.state for p in plan(models(jobs), store)}
    assert set(left.values()) == {"hit"} and not any("reference" in name for name in left)
    shutil.rmtree(store.path(undo))
    again = {p.job.name for p in plan(models(jobs), store) if p.state != "hit"}
    assert again == {undo.name, undo.parents["forget_teacher"].name, undo.parents["retain_teacher"].name}


def test_the_record_tells_how_much_an_approximation_leaves_out(tmp_path: Path) -> None:
    jobs = graph({"trainer": "UNDIAL", "args": {"reference": "topk", "reference_topk": 4}})
    store = Store(tmp_path)
    (job,) = of_kind(jobs, "reference")
    make([job], store)
    facts = store.record(job)["facts"]  # type: ignore[index]
    assert 0 < facts["mass_outside_mean"] <= facts["mass_outside_max"] <= 1
    assert facts["rows"] == 6
    assert job.label == "full-forget-logits-top4"
