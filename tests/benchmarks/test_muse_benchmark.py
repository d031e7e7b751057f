"""MUSE: which rows play which role, the panel's names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError
from expunge.metrics.compute import requests

NAMES = {
    "forget_knowmem_ROUGE",
    "forget_verbmem_ROUGE",
    "retain_knowmem_ROUGE",
    "extraction_strength",
    "exact_memorization",
    "privleak",
    "mia_min_k",
    "mia_min_k_forget",
    "mia_min_k_holdout",
}


def benchmark_of(folder: Path, **target: object) -> Benchmark:
    return find_benchmark("muse").make(BenchmarkConfig(root=str(folder), **target))  # type: ignore[arg-type]


def test_the_panel_and_what_it_reads(muse_folder: Path) -> None:
    benchmark = benchmark_of(muse_folder)
    assert {m.name for m in benchmark.panel} == NAMES
    assert set(benchmark.shown) < NAMES and benchmark.utility in NAMES
    needs = requests(benchmark.panel)
    assert needs.tokens == {n: ("answer",) for n in ("forget_verbmem", "privleak_forget", "privleak_holdout")}
    assert set(needs.texts) == set(benchmark.generation) == {"forget_knowmem", "forget_verbmem", "retain_knowmem"}
    assert {n: v.max_new_tokens for n, v in benchmark.generation.items()} == {
        "forget_knowmem": 32,
        "retain_knowmem": 32,
        "forget_verbmem": 128,
    }
    assert all(m.args == {"statistic": "rougeL_f1"} for m in benchmark.panel if m.family == "rouge")


def test_a_folder_named_after_the_other_part_is_noted(muse_folder: Path, tmp_path: Path) -> None:
    named = tmp_path / "muse_news"
    named.symlink_to(muse_folder, target_is_directory=True)
    (note,) = benchmark_of(named, data_split="Books").notes
    assert note.endswith("named after MUSE-News, and data_split is Books; did you mean News?")
    assert not benchmark_of(named).notes


def test_every_attack_when_asked(muse_folder: Path) -> None:
    names = {m.name for m in benchmark_of(muse_folder, args={"attacks": True}).panel}
    attacks = {"mia_loss", "mia_zlib", "mia_min_k_plus_plus", "mia_reference"}
    assert names - NAMES == {f"{a}{end}" for a in attacks for end in ("", "_forget", "_holdout")}


def test_roles(muse_folder: Path) -> None:
    benchmark = benchmark_of(muse_folder, forget_split="sust_2")
    assert (benchmark.full_sets, benchmark.retain_sets) == (("forget", "retain2"), ("retain2",))
    assert benchmark.split == "News sust_forget_2" and len(benchmark.sets["forget"]) == 2
    assert benchmark_of(muse_folder, forget_split="forget_2", args={"series": "sust"}).split == benchmark.split
    assert benchmark_of(muse_folder, data_split="Books").split == "Books forget"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"data_split": "Poems"}, "data_split=Poems: MUSE has no such part (allowed: Books, News)"),
        ({"retain_split": "retain90"}, "retain_split=retain90: MUSE has no such split; did you mean 'retain"),
        ({"forget_split": "forget10"}, "forget_split=forget10: MUSE-News has no such split; did you mean 'forget'?"),
        ({"holdout_split": "h"}, "holdout_split=h: the benchmark muse has no such setting"),
        ({"args": {"serie": "scal"}}, "data.args.serie: unknown key; did you mean 'series'?"),
        ({"args": {"max_length": 1}}, "data.args.max_length: must be at least 2 tokens, got 1"),
    ],
)
def test_what_is_refused(muse_folder: Path, target: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        benchmark_of(muse_folder, **target)
    assert str(error.value).startswith(message)
