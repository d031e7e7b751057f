"""Several forget requests in turn: the parts, the chain of jobs, and one part by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from expunge.cli.compose import study_tree
from expunge.core.errors import ConfigError
from expunge.engine.job import Job, in_order
from expunge.engine.run import run
from expunge.engine.store import Store
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import StudyGraph, build_graph
from expunge.pipelines.study.requests import ranges
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.results import report_model
from expunge.pipelines.study.single import prepare
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task

WORLD = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}
N_FORGET = 6


def tree(**changes: Any) -> dict[str, Any]:
    result = {"name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}, "methods": [{"trainer": "NPO"}]}
    return result | changes


def graph(**changes: Any) -> StudyGraph:
    return build_graph(decode_study(tree(**changes)))


def jobs(graph: StudyGraph) -> dict[str, Job]:
    return {job.name: job for job in in_order(graph.jobs)}


def labels(graph: StudyGraph) -> list[str]:
    return [leaf.label for leaf in graph.leaves if leaf.role == "unlearn"]


@pytest.mark.parametrize(
    ("n", "n_rows", "parts"),
    [
        (1, 5, [(0, 5)]),
        (2, 6, [(0, 3), (3, 6)]),
        (4, 10, [(0, 3), (3, 6), (6, 8), (8, 10)]),
        (3, 3, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_a_number_cuts_consecutive_parts(n: int, n_rows: int, parts: list[tuple[int, int]]) -> None:
    assert list(ranges(n, n_rows).values()) == parts
    assert list(ranges(n, n_rows)) == [f"{i + 1}/{n}" for i in range(n)]


def test_each_request_starts_from_the_model_before_it() -> None:
    result = jobs(graph(requests=2))
    first, second = result["unlearn NPO@1/2"], result["unlearn NPO@2/2"]
    assert first.parents["model"].name == "train full"
    assert second.parents["model"] is first
    assert first.identity["rows"]["retain"] == second.identity["rows"]["retain"]
    assert len(first.identity["rows"]["retain"]) == 1
    assert first.identity["rows"]["forget"] != second.identity["rows"]["forget"]
    assert first.parents["forget_ref"].parents["model"].name == "train full"
    assert second.parents["forget_ref"].parents["model"] is first
    kinds = {"base": 1, "train": 2, "reference": 2, "unlearn": 2, "score": 4 * 8, "records": 4, "metrics": 4}
    assert Counter(j.kind for j in result.values()) == kinds


def test_the_rows_of_the_requests_are_the_forget_rows_cut() -> None:
    sets = graph(requests=4).setting.benchmark.sets
    parts = [sets[f"forget@{i}/4"] for i in (1, 2, 3, 4)]
    assert [len(p) for p in parts] == [2, 2, 1, 1]
    assert [r.question for p in parts for r in p] == [r.question for r in sets["forget"]]
    assert all(r.row_id == i for p in parts for i, r in enumerate(p))


def test_every_link_is_a_line_with_the_whole_panel() -> None:
    result = graph(requests=3, methods=[{"trainer": "NPO"}, {"trainer": "GradDiff", "label": "GD"}])
    assert labels(result) == ["NPO@1/3", "NPO@2/3", "NPO@3/3", "GD@1/3", "GD@2/3", "GD@3/3"]
    panels = {tuple(sorted(leaf.records.parents)) for leaf in result.leaves}
    assert len(panels) == 1
    assert {leaf.metrics.parents["retain"].key for leaf in result.leaves if leaf.role == "unlearn"} == {
        leaf.metrics.key for leaf in result.leaves if leaf.role == "retain"
    }


def test_named_ranges() -> None:
    result = graph(requests={"spring": [4, 6], "autumn": [0, 3]})
    assert labels(result) == ["NPO@spring", "NPO@autumn"]
    sets = result.setting.benchmark.sets
    assert [r.question for r in sets["forget@spring"]] == [r.question for r in sets["forget"].rows[4:6]]
    assert jobs(result)["unlearn NPO@autumn"].parents["model"].name == "unlearn NPO@spring"


def test_later_requests_are_retained_only_where_asked() -> None:
    result = graph(requests=3, keep_later_requests=True)
    sets = result.setting.benchmark.sets
    rest = [jobs(result)[f"unlearn NPO@{i}/3"].identity["rows"]["retain"] for i in (1, 2, 3)]
    assert rest[2] == [sets["retain"].fingerprint()]
    assert rest[0] == [sets[n].fingerprint() for n in ("retain", "forget@2/3", "forget@3/3")]


def test_a_loss_on_traces_reads_the_parts_with_traces() -> None:
    method = {"trainer": "NPO", "args": {"train_on": "trace+answer"}}
    result = graph(requests=3, keep_later_requests=True, methods=[method])
    sets = result.setting.benchmark.sets
    rows = jobs(result)["unlearn NPO@2/3"].identity["rows"]
    assert rows["forget"] == [sets["forget_traces@2/3"].fingerprint()]
    assert rows["retain"] == [sets[n].fingerprint() for n in ("retain_traces", "forget_traces@3/3")]
    assert [r.trace for r in sets["forget_traces@2/3"]] == [r.trace for r in sets["forget_traces"].rows[2:4]]
    whole = jobs(graph(methods=[method]))
    assert whole["unlearn NPO"].identity["rows"]["forget"] == [sets["forget_traces"].fingerprint()]
    plain = graph()
    assert jobs(plain)["unlearn NPO"].identity["rows"]["forget"] == [sets["forget"].fingerprint()]
    assert whole["train full"].key == jobs(plain)["train full"].key


def test_without_requests_nothing_changes() -> None:
    plain = {n: j.key for n, j in jobs(graph()).items()}
    assert {n: j.key for n, j in jobs(graph(requests=1)).items()} == plain
    assert "unlearn NPO" in plain
    chained = {n: j.key for n, j in jobs(graph(requests=2)).items()}
    shared = {n: k for n, k in plain.items() if "NPO" not in n and not n.startswith("reference")}
    assert shared.items() <= chained.items()


def test_edits_refer_to_the_last_link_and_task_vectors_are_chains() -> None:
    methods = [{"trainer": "NPO"}, {"trainer": "noise", "from": ["NPO"]}, {"trainer": "task_vector"}]
    result = graph(requests=2, methods=methods)
    assert labels(result) == ["NPO@1/2", "NPO@2/2", "noise", "task_vector@1/2", "task_vector@2/2"]
    named = jobs(result)
    assert named["edit noise"].parents["base"].name == "unlearn NPO@2/2"
    second = named["edit task_vector@2/2"]
    assert {r: p.name for r, p in second.parents.items()} == {
        "base": "edit task_vector@1/2",
        "other_0": "train task_vector@2/2-reinforced",
    }
    twin = second.parents["other_0"]
    assert twin.parents["model"].name == "edit task_vector@1/2"
    assert twin.identity["rows"]["retain"] == [result.setting.benchmark.sets["forget@2/2"].fingerprint()]


DOWN = "model.layers.0.mlp.down_proj"


def test_an_edit_with_statistics_is_a_chain() -> None:
    entry = {"trainer": "MEMIT", "label": "MEMIT", "method_args": {"modules": [DOWN]}, "from": ["NPO"]}
    named = jobs(graph(requests=2, methods=[{"trainer": "NPO"}, entry]))
    assert named["edit MEMIT@1/2"].parents["model"].name == "unlearn NPO@2/2"
    assert named["edit MEMIT@2/2"].parents["model"].name == "edit MEMIT@1/2"


def test_generated_answers_are_made_for_each_link_by_the_model_before_it() -> None:
    result = jobs(graph(requests=2, methods=[{"trainer": "AltPO"}]))
    requests = [result[f"unlearn AltPO@{i}/2"].parents["alternates"] for i in (1, 2)]
    assert requests[0].identity["rows"] != requests[1].identity["rows"]
    assert requests[1].parents["model"].name == "unlearn AltPO@1/2"


def test_estimates_count_the_parts_and_the_schedule() -> None:
    def tokens(name: str, **changes: Any) -> int:
        return jobs(graph(**changes))[f"unlearn {name}"].estimate.tokens

    whole = tokens("NPO")
    assert sum(tokens(f"NPO@{i}/2", requests=2) for i in (1, 2)) == pytest.approx(whole, rel=0.05)
    chunks = {"kind": "chunks", "chunk_size": 4}
    assert tokens("NPO", unlearn={"schedule": chunks}) == whole
    many = tokens("NPO", unlearn={"schedule": {**chunks, "retain_ratio": 3}})
    sizes = {n: sum(len(r.question) + len(r.answer) for r in s) / 4 for n, s in build_sets().items()}
    assert many == pytest.approx(10 * sizes["forget"] + 10 * 3 * N_FORGET * sizes["retain"] / 12, rel=1e-3)
    agad = {"kind": "alternating", "chunk_size": 4, "anneal_share": 0.5, "anneal_epochs": 2}
    expected = 10 * sizes["forget"] + 2 * 1.5 * sizes["retain"]  # one whole chunk of 4, and the end
    assert tokens("NPO", unlearn={"schedule": agad}) == pytest.approx(expected, rel=1e-3)


def build_sets() -> Any:
    from expunge.data.world import WorldConfig
    from expunge.data.world.generate import build_world

    return build_world(WorldConfig(**WORLD))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"requests": 0}, r"^requests: 6 forget rows make 1 to 6 parts, got 0"),
        ({"requests": 7}, r"^requests: 6 forget rows make 1 to 6 parts, got 7"),
        ({"requests": {}}, r"^requests: no request is named"),
        ({"requests": {"a": [0, 9]}}, r"^requests\.a: must be \[first, end\] with 0 <= first < end <= 6, got \[0, 9\]"),
        ({"requests": {"a": [0, 3], "b": [2, 5]}}, r"^requests\.b: row 2 belongs to a already"),
        ({"requests": {"a": [0]}}, r"^requests"),
        ({"requests": True}, r"^requests: should be a number, got True"),
        ({"requests": 2, "methods": [{"trainer": "NPO", "label": "a@b"}]}, r"^methods\[0\]\.label: 'a@b' has an @"),
        ({"data": {"world": WORLD, "request": "1/2"}}, r"^data\.request: .* in a study set `requests`"),
        (
            {"methods": [{"trainer": "GradAscent", "args": {"schedule": {"retain_ratio": 7}}}]},
            r"^methods\[0\]\.args\.schedule\.retain_ratio: GradAscent reads no retain rows",
        ),
    ],
)
def test_wrong_requests_end_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        graph(**changes)
    assert "\n" not in str(caught.value)


def single(request: str | None, mode: str = "unlearn") -> SingleJob:
    trainer = {"handler": "NPO" if mode == "unlearn" else "finetune"}
    data = {"world": WORLD, "request": request}
    result = {"mode": mode, "task_name": "x", "trainer": trainer, "model": {"preset": "llama-64k"}, "data": data}
    return decode_task(SingleJob, result)


def test_one_part_by_hand_is_the_studys_part() -> None:
    part = resolve_task(single("2/3")).benchmark
    in_study = graph(requests=3).setting.benchmark.sets["forget@2/3"]
    assert part.sets[part.forget_set].fingerprint() == in_study.fingerprint()
    job = prepare(single("2/3")).model
    assert job is not None and job.identity["rows"]["forget"] == [in_study.fingerprint()]
    plain, whole = prepare(single(None)).model, prepare(single("1/1")).model
    assert plain is not None and whole is not None and plain.key == whole.key


@pytest.mark.parametrize(
    ("request_", "mode", "words"),
    [
        ("5/4", "unlearn", r"^data\.request: must be a part such as 2/4"),
        ("0/4", "unlearn", r"^data\.request: must be a part such as 2/4"),
        ("half", "unlearn", r"^data\.request: must be a part such as 2/4, .* got 'half'"),
        ("1/7", "unlearn", r"^data\.request: 6 forget rows make 1 to 6 parts, got 7"),
        ("1/2", "train", r"^data\.request: selects forget rows for `expunge unlearn`"),
        ("1/2", "eval", r"^data\.request: selects forget rows for `expunge unlearn`"),
    ],
)
def test_a_wrong_part_ends_in_one_line(request_: str, mode: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(single(request_, mode))


@pytest.mark.slow
def test_the_whole_path(micro: list[str], tmp_path: Path) -> None:
    """full -> request 1 -> request 2 with a schedule in it, and a line for each in the report."""
    words = [
        "methods=[{trainer: GradDiff, args: {schedule: {kind: chunks, chunk_size: 3, retain_ratio: 2}}}]", "requests=2",
        f"paths.store={tmp_path}",
    ]  # fmt: skip
    result = build_graph(decode_study(study_tree([*micro, *words])))
    store = Store(tmp_path)
    outcome = run(result.jobs, store, lambda event: None)
    assert not outcome.failures
    report = report_model(result, outcome, store, "")
    assert [r.label for r in report.runs] == ["full", "retain", "GradDiff@1/2", "GradDiff@2/2"]
    log = (store.path(result.leaves[-1].model) / "log.jsonl").read_text().splitlines()
    assert {json.loads(line)["phase"] for line in log} == {1.0, 2.0}  # 4 forget rows in chunks of 3


@pytest.mark.slow
def test_the_adapters_of_a_request_avoid_those_of_the_request_before_it(micro: list[str], tmp_path: Path) -> None:
    words = [
        "methods=[{trainer: GradDiff, args: {lora: {r: 2, orthogonal: 0.1}, logging_steps: 1}}]", "requests=2",
        f"paths.store={tmp_path}",
    ]  # fmt: skip
    graph = build_graph(decode_study(study_tree([*micro, *words])))
    store = Store(tmp_path)
    assert not run(graph.jobs, store, lambda event: None).failures
    first, second = (store.path(leaf.model) for leaf in graph.leaves if leaf.role == "unlearn")
    adapters = [load_file(folder / "request_adapters.safetensors") for folder in (first, second)]
    assert all((adapters[1][name][:2] == a).all() and len(adapters[1][name]) == 4 for name, a in adapters[0].items())
    logs = [(folder / "log.jsonl").read_text() for folder in (first, second)]
    assert "regulariser" not in logs[0] and "regulariser" in logs[1]
