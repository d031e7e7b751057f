"""R-TOFU from a small folder of its published columns: roles, tasks, traces and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.r_tofu import load_r_tofu, retain_file


def row(i: int, **more: Any) -> dict[str, Any]:
    return {"question": f"Who is author {i}?", "answer": f"Author {i} is A{i}.", "cot": f"Let me see {i}.", **more}


def wrong(i: int) -> dict[str, Any]:
    return {"paraphrased_answer": f"A{i}, that is author {i}.", "perturbed_answer": [f"B{i}.", f"C{i}."]}


def write_r_tofu(folder: Path, split: str = "forget01") -> Path:
    """Two tasks of two rows, four rows to keep, and the evaluation files, whose forget rows have empty traces."""
    tasks = [row(i, task_id=str(1 + i // 2)) for i in range(4)]
    files = {
        split: tasks,
        retain_file(split): [row(i) for i in range(4, 8)],
        f"{split}_perturbed": [{**r, **wrong(i), "cot": ""} for i, r in enumerate(tasks)],
        "retain_perturbed": [row(i, **wrong(i)) for i in range(4, 6)],
        "real_authors_perturbed": [row(8, perturbed_answer=["x", "y"], cot="", original_answer="z")],
        "world_facts_perturbed": [row(9, perturbed_answer=["x", "y"], cot="", original_answer="z")],
    }
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.mark.parametrize(
    ("split", "file"), [("forget01", "retain90"), ("forget05", "retain50"), ("forget10", "retain10")]
)
def test_the_retain_file_completes_all_tasks_of_a_forget_file(split: str, file: str) -> None:
    assert retain_file(split) == file


def test_a_task_is_forgotten_and_the_others_are_retained(tmp_path: Path) -> None:
    sets = load_r_tofu(str(write_r_tofu(tmp_path)), "forget01", 2)
    assert [r.question for r in sets["forget"]] == ["Who is author 2?", "Who is author 3?"]
    assert [r.question[-2:] for r in sets["retain"]] == ["4?", "5?", "6?", "7?", "0?", "1?"]
    assert len(sets["full"]) == len(sets["forget"]) + len(sets["retain"])
    assert sets["forget"][0].trace == "Let me see 2."
    assert [r.trace for r in sets["forget_eval"]] == ["", ""]
    assert sets["forget_eval"][1].perturbed == ["B3.", "C3."]
    assert {s.max_length for s in sets.values()} == {2048}


def test_the_benchmark_names_spans(tmp_path: Path) -> None:
    benchmark = find_benchmark("r_tofu").make(BenchmarkConfig(root=str(write_r_tofu(tmp_path)), args={"task": 1}))
    assert (benchmark.split, benchmark.retain_split, benchmark.full_sets, benchmark.retain_sets) == (
        "forget01-1", "retain90", ("full",), ("retain",),
    )  # fmt: skip
    traces = {m.name: (m.family, m.rows, m.reads) for m in benchmark.panel if "_trace_" in m.name}
    assert traces == {
        "forget_trace_Prob": ("probability", "forget", {"tokens": ("trace",)}),
        "forget_trace_ROUGE": ("rouge", "forget", {"texts": ("trace",)}),
        "retain_trace_Prob": ("probability", "retain_eval", {"tokens": ("trace",)}),
        "retain_trace_ROUGE": ("rouge", "retain_eval", {"texts": ("trace",)}),
    }
    assert benchmark.generation["forget"].max_new_tokens == 1024


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"root": None}, "data.root: missing"),
        ({"forget_split": "forget1"}, r"forget_split=forget1: R-TOFU has no such split; did you mean"),
        ({"args": {"task": 3}}, r"data.args.task=3: .*forget01.json has the tasks 1 to 2"),
        ({"retain_split": "retain90"}, "retain_split=retain90: the benchmark r_tofu has no such setting"),
    ],
)
def test_wrong_settings(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    write_r_tofu(tmp_path)
    with pytest.raises(ConfigError, match=message):
        find_benchmark("r_tofu").make(BenchmarkConfig(**{"root": str(tmp_path), **config}))


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("forget01", [row(0, task_id="x")], "row 0: 'task_id' must be a number, got 'x'"),
        ("forget01", [row(0, task_id="1", cot="")], "no trace in the column 'cot' of the question"),
        ("forget01_perturbed", [row(7, task_id="1", **wrong(7))], "the questions of task 1 differ"),
    ],
)
def test_wrong_files(tmp_path: Path, file: str, rows: list[dict[str, Any]], message: str) -> None:
    write_r_tofu(tmp_path)
    (tmp_path / f"{file}.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if message.startswith("no trace"):
        (tmp_path / "forget01_perturbed.json").write_text(json.dumps(row(0, task_id="1", **wrong(0))))
    with pytest.raises(DataError, match=message):
        load_r_tofu(str(tmp_path), "forget01", 1)
