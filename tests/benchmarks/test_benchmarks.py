"""What the user chose reaches a benchmark, and what it does not know is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, benchmarks, find_benchmark, settings
from expunge.benchmarks.example_metrics import rows_panel
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet


def test_every_benchmark_has_a_page_with_a_command() -> None:
    for name, spec in benchmarks().items():
        assert spec.about, name
        assert "Try: expunge" in spec.page, name


def test_an_unknown_benchmark_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"^benchmark: no benchmark named 'tofoo'; did you mean 'tofu'\?"):
        find_benchmark("tofoo")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "tofu",
            BenchmarkConfig(forget="rows.csv"),
            "forget=rows.csv: the benchmark tofu has no such setting; write forget=null, or benchmark=custom, "
            "which reads such a file",
        ),
        (
            "tofu",
            BenchmarkConfig(data_split="News"),
            "data_split=News: the benchmark tofu has no such setting; write data_split=null",
        ),
        (
            "world",
            BenchmarkConfig(root="here"),
            "data.root=here: the benchmark world has no such setting; write data.root=null",
        ),
        (
            "world",
            BenchmarkConfig(args={"a": 1}),
            "data.args={'a': 1}: the benchmark world has no such setting",
        ),
    ],
)
def test_what_a_benchmark_does_not_know_is_refused(name: str, config: BenchmarkConfig, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_benchmark(name).make(config)
    assert str(error.value) == message


def test_settings_of_one_benchmark_are_decoded_at_their_key() -> None:
    from dataclasses import dataclass

    @strict
    @dataclass(frozen=True, kw_only=True)
    class Mine:
        size: int = 1

    assert settings(BenchmarkConfig(args={"size": 3}), Mine).size == 3
    with pytest.raises(ConfigError, match=r"^data\.args\.siz: unknown key.*'size'"):
        settings(BenchmarkConfig(args={"siz": 3}), Mine)


@pytest.mark.shared
def test_the_retain_split_is_the_partner_of_the_forget_split(shared: Path) -> None:
    benchmark = find_benchmark("tofu").make(
        BenchmarkConfig(root=str(shared / "data" / "tofu"), forget_split="forget05")
    )
    assert (benchmark.split, len(benchmark.sets["forget"]), len(benchmark.sets["retain"])) == ("forget05", 200, 3800)


def test_a_role_of_a_set_that_is_not_there_is_refused() -> None:
    rows = {"full": ExampleSet("full", (Example(0, "q", {"answer": "a"}),))}
    with pytest.raises(ConfigError, match=r"^benchmark own: full_sets: no set named 'ful'; did you mean 'full'\?"):
        Benchmark("own", "x", rows, (), full_sets=("ful",), retain_sets=())
    with pytest.raises(ConfigError, match=r"^rows_panel: sets has no forget_eval, the rows that the metrics read"):
        rows_panel(rows)
