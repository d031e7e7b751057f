"""SemEval, RWKU and KnowUnDo: which rows play which role, and what is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText, GeneratedTexts
from expunge.metrics.compute import compute, requests
from expunge.metrics.semeval import TERMS

PEOPLE = ("Stephen King", "Confucius")


def semeval_folder(folder: Path, *, mia: bool = True) -> Path:
    (folder / "train").mkdir()
    for side in ("forget", "retain"):
        rows = [
            {"id": f"{side}-{task}{kind}", "task": task, "input": f"{side} {task} {kind}", "output": f"gold {task}"}
            for task in ("Task1", "Task2", "Task3")
            for kind in ("sc1", "qa0")
        ]
        (folder / "train" / f"{side}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if mia:
        (folder / "mia").mkdir()
        for name in ("member", "nonmember"):
            (folder / "mia" / f"{name}.jsonl").write_text('{"id": "1", "document": "A text."}\n')
    return folder


def test_semeval_reads_what_the_official_evaluation_reads(tmp_path: Path) -> None:
    benchmark = find_benchmark("semeval").make(
        BenchmarkConfig(root=str(semeval_folder(tmp_path)), args={"mmlu_accuracy": 0.4})
    )
    needs = requests(benchmark.panel)
    assert set(needs.texts) == set(TERMS)
    assert needs.tokens == {"member": ("answer",), "nonmember": ("answer",)}
    assert {benchmark.sets[name].form for name in TERMS} == {"completion"}
    assert {benchmark.sets[name].form for name in ("member", "nonmember")} == {"text"}
    assert (benchmark.full_sets, benchmark.retain_sets) == (("forget", "retain"), ("retain",))
    assert benchmark.shown_set in needs.texts and benchmark.eval_name == "LUME"


def test_semeval_from_generations_to_the_task_aggregate(tmp_path: Path) -> None:
    """A model that forgot what it should and kept the rest: 1, and no aggregate without its other parts."""
    benchmark = find_benchmark("semeval").make(BenchmarkConfig(root=str(semeval_folder(tmp_path, mia=False))))
    texts = {
        name: GeneratedTexts(
            [
                GeneratedText(
                    r.row_id, 0, r.question, "none" if name.startswith("forget") else r.answer, r.answer, 1, True
                )
                for r in benchmark.sets[name]
            ]
        )
        for name in TERMS
    }
    results = compute(benchmark.panel, {"texts": texts})
    assert results["task_aggregate"].value == 1.0
    assert results["forget_Task1_knowledge"].value == 0.0
    assert results["mia_score"].reason == "no membership documents were given (data.args.mia)"
    assert "mia: no membership documents" in (results["semeval_aggregate"].reason or "")


def test_semeval_measures_mmlu_beside_it(tmp_path: Path) -> None:
    for split, n in (("dev", 5), ("test", 2)):
        (tmp_path / "mmlu" / split).mkdir(parents=True)
        lines = "".join(f"What is {i}?,a,b,c,d,{i % 4}\n" for i in range(n))
        (tmp_path / "mmlu" / split / f"sums_{split}.csv").write_text(
            "question,choice0,choice1,choice2,choice3,answer\n" + lines
        )
    root, mmlu = str(semeval_folder(tmp_path)), str(tmp_path / "mmlu")
    benchmark = find_benchmark("semeval").make(BenchmarkConfig(root=root, args={"mmlu": mmlu}))
    whole = next(m for m in benchmark.panel if m.name == "semeval_aggregate")
    assert whole.parents["mmlu"] == "mmlu"
    assert requests(benchmark.panel).tokens["mmlu_sums"] == ("answer", "wrong")
    assert benchmark.generation["forget_Task1_knowledge"].max_new_tokens == 256
    with pytest.raises(ConfigError, match=r"^data\.args\.mmlu_accuracy=0\.3: .*data\.args\.mmlu"):
        find_benchmark("semeval").make(BenchmarkConfig(root=root, args={"mmlu": mmlu, "mmlu_accuracy": 0.3}))


def test_semeval_settings(tmp_path: Path) -> None:
    semeval = find_benchmark("semeval").make
    with pytest.raises(ConfigError, match=r"^data\.args\.mmlu_accuracy: must be a share from 0 to 1, got 49"):
        semeval(BenchmarkConfig(args={"mmlu_accuracy": 49.0}))
    with pytest.raises(ConfigError, match=r"^forget_split=test: .* no such split"):
        semeval(BenchmarkConfig(root=str(tmp_path), forget_split="test"))


def rwku_folder(folder: Path) -> Path:
    levels = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
    for name in levels:
        rows = [{"query": f"{name} of {p}?", "answer": p, "subject": p} for p in PEOPLE]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    for name in ("train_original_passage", "mia_forget", "mia_retain"):
        (folder / f"{name}.json").write_text(json.dumps([{"text": f"About {p}.", "subject": p} for p in PEOPLE]))
    (folder / "forget_target.json").write_text(json.dumps([{"target": p, "intro": p} for p in PEOPLE]))
    return folder


def test_rwku(tmp_path: Path) -> None:
    rwku, root = find_benchmark("rwku").make, str(rwku_folder(tmp_path))
    result = rwku(BenchmarkConfig(root=root))
    assert result.sets["forget"][0].answer == "About Stephen King."
    assert result.sets["retain"][0].answer == "About Confucius."
    assert result.sets["forget_level1"][0].question == "Fill in the blank: forget_level1 of Stephen King?"
    assert result.sets["forget_level2"][0].question == "forget_level2 of Stephen King?"
    assert (result.full_sets, result.retain_sets, result.split) == ((), (), "Stephen King")
    assert result.notes == (f"{root}: no files of the five utility sets, so they are not measured",)
    assert {"forget_level3_ROUGE", "neighbor_level1_Prob", "model_utility", "retain_mia_loss"} < {
        m.name for m in result.panel
    }
    everybody = rwku(BenchmarkConfig(root=root, args={"targets": [], "members": False}))
    assert len(everybody.sets["forget"]) == 2 and "plain facts" in everybody.notes[0]
    assert "mia_forget" not in everybody.sets
    with pytest.raises(ConfigError, match=r"^data\.args\.corpus: has no such choice; did you mean 'train_positive"):
        rwku(BenchmarkConfig(root=root, args={"corpus": "train_positive_llama"}))


def test_knowundo(tmp_path: Path) -> None:
    (tmp_path / "privacy").mkdir()
    rows = {part: [{"text": f"{part}?", "labels": "Yes."}] for part in ("train", "val")}
    for split in ("unlearn", "retention"):
        (tmp_path / "privacy" / f"{split}.json").write_text(json.dumps([rows]))
    benchmark = find_benchmark("knowundo").make(BenchmarkConfig(root=str(tmp_path), data_split="privacy"))
    assert benchmark.split == "privacy" and benchmark.sets["forget_eval"][0].question == "val?"
    assert benchmark.retain_sets == ("retain", "retain_eval")
    assert {m.rows for m in benchmark.panel} == {"forget_eval", "retain_eval", None}
    with pytest.raises(ConfigError, match=r"^data_split=private: .*did you mean 'privacy'"):
        find_benchmark("knowundo").make(BenchmarkConfig(root=str(tmp_path), data_split="private"))
