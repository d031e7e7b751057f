"""MMLU and WMDP: sets, panels and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError
from expunge.metrics.compute import requests


def benchmark_of(name: str, root: Path, **args: Any) -> Benchmark:
    return find_benchmark(name).make(BenchmarkConfig(root=str(root), args=args))


def test_mmlu_measures_and_has_nothing_to_forget(wmdp_folder: Path) -> None:
    benchmark = benchmark_of("mmlu", wmdp_folder / "mmlu", shots=1)
    assert [m.name for m in benchmark.panel] == ["mmlu", "mmlu_anatomy", "mmlu_us_law"]
    assert benchmark.panel[0].parents == {"anatomy": "mmlu_anatomy", "us_law": "mmlu_us_law"}
    assert requests(benchmark.panel).tokens == {n: ("answer", "wrong") for n in ("mmlu_anatomy", "mmlu_us_law")}
    assert benchmark.full_sets == benchmark.retain_sets == () and benchmark.forget_set not in benchmark.sets


def test_the_score_reaches_every_metric(wmdp_folder: Path) -> None:
    whole, *subjects = benchmark_of("mmlu", wmdp_folder / "mmlu", score="per_byte").panel
    assert whole.args == {"statistic": "acc_norm"}
    assert all(m.args == {"score": "per_byte"} for m in subjects)


def test_wmdp_asks_mmlu_where_it_is_named(wmdp_folder: Path) -> None:
    plain = benchmark_of("wmdp", wmdp_folder)
    assert [m.name for m in plain.panel] == list(plain.shown) == ["wmdp_bio", "wmdp_cyber"]
    assert set(plain.sets) == {"wmdp_bio", "wmdp_cyber", "forget", "retain"}
    more = benchmark_of("wmdp", wmdp_folder, mmlu=str(wmdp_folder / "mmlu"), subjects=["chem"], questions_only=True)
    assert [m.name for m in more.panel] == ["wmdp_chem", "mmlu", "mmlu_anatomy", "mmlu_us_law"]
    assert more.shown == ("wmdp_chem", "mmlu") and "forget" not in more.sets


def test_the_corpora_may_lie_elsewhere(wmdp_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cyber-forget-corpus.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "mine.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    config = BenchmarkConfig(
        root=str(wmdp_folder), retain_split=str(tmp_path / "mine.jsonl"), args={"corpora": str(tmp_path)}
    )
    benchmark = find_benchmark("wmdp").make(config)
    assert (len(benchmark.sets["forget"]), len(benchmark.sets["retain"])) == (1, 2)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mmlu", {"shots": 6}, "data.args.shots: must be 0 to 5, got 6"),
        ("mmlu", {"limit": -1}, "data.args.limit: must be at least 0 (0: all), got -1"),
        ("mmlu", {"style": "letter"}, "data.args.style: should be 'letters' or 'options', got 'letter'"),
        ("wmdp", {"mmlu_shots": 6}, "data.args.mmlu_shots: must be 0 to 5, got 6"),
        ("wmdp", {"subjects": ["bio", "bio"]}, "data.args.subjects: must be a list of different subjects"),
        ("wmdp", {"texts": -1}, "data.args.texts: must be at least 0 (0: all), got -1"),
    ],
)
def test_what_is_refused(wmdp_folder: Path, name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        benchmark_of(name, wmdp_folder / ("mmlu" if name == "mmlu" else ""), **args)
    assert str(error.value).startswith(message)
