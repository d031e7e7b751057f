"""Public objects that hold rows, jobs or models are shown in a few lines, as a notebook prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

import expunge


@pytest.mark.parametrize("n", [8, 400])
def test_a_set_of_examples(n: int) -> None:
    rows = expunge.examples_from([{"question": f"Q{i}?", "answer": f"A{i}."} for i in range(n)])
    assert repr(rows) == f"ExampleSet(data, {n} rows)"


def test_a_benchmark_and_its_world() -> None:
    benchmark = expunge.load_benchmark("world")
    text = repr(benchmark)
    assert text.startswith("Benchmark(world, seed0)\n  rows: full ")
    assert len(text) < 2500 and len(text.splitlines()) == 3 and "forget_quality" in text
    world = expunge.demo_world()
    assert repr(world) == "DemoWorld(8 rows to forget, 16 to keep, 8 never seen)"


def test_a_study_and_its_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    study = expunge.load_study(["study=quickstart"])
    planned = study.plan()
    assert repr(study) == f"StudyHandle(quickstart, {len(planned)} jobs)"
    assert max(len(repr(job)) for job in planned) < 200
    assert "TrainJob(full)" in [repr(p.job) for p in planned]


def test_a_table_of_judgements() -> None:
    from expunge.judges.api import JudgementTable

    table = JudgementTable("rules", 0.5, 0.25, 0.75, "wilson", 4, 1, None, "few rows", ())
    assert repr(table) == "JudgementTable(rules: 0.5, 95 % [0.25, 0.75], n = 4)\n  few rows"
