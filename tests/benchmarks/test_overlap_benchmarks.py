"""Benchmarks whose forget and retain sides overlap: PISTOL, FAME, DUSK, BLUR, and WMDP's cleaned questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.wmdp import TOPICS

COLUMNS = ("question", "answer")


def benchmark_of(name: str, root: Path, **config: Any) -> Benchmark:
    return find_benchmark(name).make(BenchmarkConfig(root=str(root), **config))


def written(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    edges = ("A_B", "A_C", "D_E")
    written(tmp_path / "sample_data_1.json", [{"question": f"{e}?", "answer": "x", "edge": e} for e in edges])
    return tmp_path


def test_pistol_measures_connected_and_independent_contracts(contracts: Path) -> None:
    benchmark = benchmark_of("pistol", contracts)
    assert benchmark.split == "A_C" and benchmark.retain_sets == ("retain",)
    names = {metric.name: metric.rows for metric in benchmark.panel}
    assert names["connected_Q_A_ROUGE"] == "retain_connected"
    assert names["independent_Q_A_Prob"] == "retain_independent"
    assert benchmark_of("pistol", contracts, forget_split="A_C, A_B").split == "A_C,A_B"


def test_what_pistol_refuses(contracts: Path) -> None:
    with pytest.raises(ConfigError, match="data_split=3: PISTOL has no such part"):
        benchmark_of("pistol", contracts, data_split="3")
    with pytest.raises(ConfigError, match="names no contract"):
        benchmark_of("pistol", contracts, forget_split=" ,")


@pytest.fixture
def actors(tmp_path: Path) -> Path:
    for split in ("forget", "retain", "test"):
        rows = [
            {"question": f"{split} {n}?", "answer": "x", "language": n % 5, "identity_id": n, "topic_id": "t"}
            for n in range(20)
        ]
        written(tmp_path / f"{split}.json", rows)
    return tmp_path


def test_fame_forgets_in_one_language_and_measures_all(actors: Path) -> None:
    benchmark = benchmark_of("fame", actors, args={"forget_languages": ["EN"], "eval_rows": 10})
    assert {row.meta["language"] for row in benchmark.sets["forget"]} == {"EN"}
    assert len(benchmark.sets["learned"]) == 20 and len(benchmark.sets["forget_eval"]) == 10
    by_language = {m.name: m.where for m in benchmark.panel if m.name.startswith("forget_Q_A_Prob_")}
    assert by_language["forget_Q_A_Prob_it"] == {"language": "IT"} and len(by_language) == 5
    assert "privleak" in {m.name for m in benchmark.panel}  # the unseen actors are the control
    assert benchmark.full_sets == ("learned", "retain")


def test_fame_in_one_language_has_no_column_of_it(actors: Path) -> None:
    benchmark = benchmark_of("fame", actors, args={"languages": ["FR"]})
    assert not any(m.name.endswith("_fr") for m in benchmark.panel)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"languages": ["FRA"]}, "languages: .*no language 'FRA'; did you mean 'FR'"),
        ({"languages": []}, "languages: must name one of"),
        ({"languages": ["FR"], "forget_languages": ["IT"]}, "forget_languages: .*IT is not in languages"),
        ({"eval_rows": -1}, "eval_rows: must be at least 0"),
    ],
)
def test_what_fame_refuses(actors: Path, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark_of("fame", actors, args=args)


def test_dusk_keeps_what_other_documents_share(tmp_path: Path) -> None:
    styles = ("feature_story", "interview", "inverted_pyramid", "listicle")
    for split in ("forget_chronological", *(f"retain_{style}" for style in styles)):
        written(tmp_path / "raw" / f"{split}.json", [{"text": split}])
    for subset in ("general", "specific_forget", "specific_retain"):
        written(tmp_path / f"eval_{subset}_qa.json", [{"question": f"{subset}?", "answer": "x"}])
    written(tmp_path / "eval_icl.json", [{"question": "a?", "answer": "b"}])
    written(tmp_path / "eval_verbatim.json", [{"prompt": "a", "gt": "b"}])
    written(tmp_path / "eval_holdout.json", [{"text": "c"}])
    benchmark = benchmark_of("dusk", tmp_path)
    utility = next(m for m in benchmark.panel if m.name == "model_utility")
    assert set(utility.parents) == {"shared_knowmem_ROUGE", "retain_knowmem_ROUGE"}
    assert set(benchmark.generation) <= set(benchmark.sets)
    assert {m.rows for m in benchmark.panel if m.rows} <= set(benchmark.sets)


def test_blur_compares_with_the_original_model(tmp_path: Path) -> None:
    for stem in ("tofu_paired_forget_retain", "whp_forget", "whp_retain", "whp_paired_forget_retain"):
        written(tmp_path / f"{stem}.json", [{"text": "Who?"}])
    benchmark = benchmark_of("blur", tmp_path)
    assert [m.name for m in benchmark.panel if m.rows == "combined"] == [
        "combined_agreement",
        "combined_kl",
        "combined_loss",
    ]
    assert "relearn_hi" in benchmark.notes[0]
    assert set(benchmark_of("blur", tmp_path, data_split="tofu").sets) == {"combined"}
    with pytest.raises(ConfigError, match="data_split=twku: BLUR has no such task; did you mean 'rwku'"):
        benchmark_of("blur", tmp_path, data_split="twku")


def question(text: str) -> dict[str, Any]:
    return {"question": text, "choices": ["a", "b", "c", "d"], "answer": 1}


def test_wmdp_robust_and_shortcut_questions(tmp_path: Path) -> None:
    for topic in TOPICS:
        written(tmp_path / topic / "robust.json", [question(f"{topic}?")])
        written(tmp_path / topic / "shortcut.json", [question("easy?"), question("easy too?")])
    benchmark = benchmark_of("wmdp", tmp_path, args={"questions": "robust", "questions_only": True})
    assert {name: len(rows) for name, rows in benchmark.sets.items()} == {
        "wmdp_bio_robust": 6,
        "wmdp_bio_shortcut": 12,
    }
    assert benchmark.shown == ("wmdp_bio_robust", "wmdp_bio_shortcut")


def test_wmdp_deduplicated_questions(tmp_path: Path) -> None:
    for number in range(5):
        written(tmp_path / f"split_{number}.json", [question(f"{number}?")])
    benchmark = benchmark_of("wmdp", tmp_path, args={"questions": "deduplicated", "questions_only": True})
    assert len(benchmark.sets["wmdp_deduplicated"]) == 5
    with pytest.raises(DataError, match=r"set data\.root to a folder of split_0\.jsonl"):
        find_benchmark("wmdp").make(BenchmarkConfig(args={"questions": "deduplicated", "questions_only": True}))
    with pytest.raises(ConfigError, match="subjects: has no effect with questions=robust"):
        benchmark_of("wmdp", tmp_path, args={"questions": "robust", "subjects": ["bio"]})
