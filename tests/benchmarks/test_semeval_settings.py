"""The settings of benchmark=semeval: folders by side, validation rows, members, MMLU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, DataError


def rows_of(side: str) -> list[dict[str, str]]:
    return [
        {"id": f"{side}-{task}{kind}", "task": task, "input": f"{side} {task} {kind}", "output": f"gold {task}"}
        for task in ("Task1", "Task2", "Task3")
        for kind in ("sc1", "qa0")
    ]


def write(folder: Path, side: str, name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name or side}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows_of(side)))
    return folder


def benchmark_of(**args: Any) -> Benchmark:
    return find_benchmark("semeval").make(BenchmarkConfig(args=args))


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, str]:
    """The forget rows as parquet under their own name, the retain rows as lines under the hub's."""
    folder = tmp_path / "f"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows_of("forget")), folder / "forget.parquet")
    retain = write(tmp_path / "r", "retain", "retain_train-00000-of-00001")
    return {"forget_dir": str(folder), "retain_dir": str(retain)}


def test_a_folder_for_each_side(sides: dict[str, str]) -> None:
    result = benchmark_of(**sides)
    assert [r.meta["id"] for r in result.sets["forget"]] == [r["id"] for r in rows_of("forget")]
    assert [r.question for r in result.sets["retain"]] == [r["input"] for r in rows_of("retain")]
    assert result.split == "given" and not any("validation" in m.name for m in result.panel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retain_dir": None}, "data.args.forget_dir: .* with retain_dir"),
        ({"mmlu_limit": 3}, "need mmlu, the folder of questions"),
        ({"mmlu_shots": 6}, "mmlu_shots: must be 0 to 5"),
        ({"mmlu_max_length": 512}, "need mmlu, the folder of questions"),
        ({"mmlu": "x", "mmlu_max_length": 1}, "mmlu_max_length: must be at least 2"),
        ({"members": "retain"}, "data.args.members"),
    ],
)
def test_wrong_settings(sides: dict[str, str], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark_of(**(sides | change))


def test_a_model_with_a_short_context_reads_the_end_of_a_question_of_mmlu(
    sides: dict[str, str], tmp_path: Path
) -> None:
    for part in ("dev", "test"):
        (tmp_path / "mmlu" / part).mkdir(parents=True)
        (tmp_path / "mmlu" / part / f"anatomy_{part}.csv").write_text(
            "question,choice0,choice1,choice2,choice3,answer\nWhich?,a,b,c,d,1\n"
        )
    mmlu = {"mmlu": str(tmp_path / "mmlu"), "mmlu_shots": 1}
    for args, limit in ((mmlu, 4096), (mmlu | {"mmlu_max_length": 512}, 512)):
        rows = benchmark_of(**(sides | args)).sets["mmlu_anatomy"]
        assert (rows.max_length, rows.long) == (limit, "left")
        assert "a key of data.args" in rows.limit_setting


def test_wrong_folders(sides: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no folder"):
        benchmark_of(**(sides | {"forget_dir": "nowhere"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected one file of retain rows, got: no file retain.jsonl"):
        benchmark_of(**(sides | {"retain_dir": str(tmp_path / "empty")}))
    write(tmp_path / "two", "retain", "retain_a")
    write(tmp_path / "two", "retain", "retain_b")
    with pytest.raises(DataError, match=r"got: retain_a.jsonl, retain_b.jsonl"):
        benchmark_of(**(sides | {"retain_dir": str(tmp_path / "two")}))
    with pytest.raises(ConfigError, match=r"data.root=x"):
        find_benchmark("semeval").make(BenchmarkConfig(root="x", args=sides))


def test_validation_rows_are_watched_and_never_trained_on(sides: dict[str, str], tmp_path: Path) -> None:
    for side in ("forget", "retain"):
        write(tmp_path / "v" / "validation", side)
        write(tmp_path / "plain", side)
    itself = benchmark_of(**sides, validation="self")
    for result in (
        benchmark_of(**sides, validation=str(tmp_path / "v")),
        benchmark_of(**sides, validation=str(tmp_path / "plain")),
    ):
        assert result.full_sets == ("forget", "retain")
        assert [m.rows for m in result.panel if m.name == "forget_validation_Prob"] == ["forget_validation"]
        assert len(result.sets["retain_validation"].rows) == 6
    assert itself.sets["forget_validation"].rows == itself.sets["forget"].rows


def test_only_the_members_that_are_forget_documents(sides: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mia").mkdir()
    members = [{"id": "forget-Task3sc1", "document": "of a row"}, {"id": "other", "document": "of none"}]
    (tmp_path / "mia" / "member.jsonl").write_text("".join(json.dumps(m) + "\n" for m in members))
    (tmp_path / "mia" / "nonmember.jsonl").write_text(json.dumps({"id": 5, "document": "unseen"}) + "\n")
    inputs = sides | {"mia": str(tmp_path / "mia")}
    assert [r.answer for r in benchmark_of(**inputs).sets["member"]] == ["of a row", "of none"]
    rest = benchmark_of(**inputs, members="forget")
    assert [r.answer for r in rest.sets["member"]] == ["of a row"]
    assert [r.answer for r in rest.sets["nonmember"]] == ["unseen"]
    (tmp_path / "mia" / "member.jsonl").write_text(json.dumps(members[1]) + "\n")
    with pytest.raises(DataError, match=r"data.args.members=forget: no document in .*member.jsonl"):
        benchmark_of(**inputs, members="forget")
