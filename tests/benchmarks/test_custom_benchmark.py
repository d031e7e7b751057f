"""A file of the user's own rows as a whole benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, DataError

FORGET = "question,answer\nWho is Ann Bee?,Ann Bee is a potter.\nWhere is she?,In Oslo.\n"
RETAIN = '{"question": "What is two plus two?", "answer": "Four."}\n'
NAMES = [
    "forget_Q_A_Prob",
    "forget_Q_A_ROUGE",
    "exact_memorization",
    "extraction_strength",
    "model_utility",
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {"forget.csv": FORGET, "retain.jsonl": RETAIN, "other.csv": "question,answer\nWho is Cay?,A miner.\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name.split(".")[0]: str(tmp_path / name) for name in texts}


def make(**target: object) -> Benchmark:
    return find_benchmark("custom").make(BenchmarkConfig(**target))  # type: ignore[arg-type]


def test_one_file_is_enough(files: dict[str, str]) -> None:
    result = make(forget=files["forget"])
    assert [m.name for m in result.panel] == NAMES
    assert (result.full_sets, result.retain_sets) == ((), ())
    assert (len(result.sets["forget"]), len(result.sets["forget_eval"])) == (2, 2)
    assert result.sets["retain"][0].question == "In which country is Lisbon?"
    assert any("plain facts" in note for note in result.notes)
    utility = next(m for m in result.panel if m.name == "model_utility")
    assert set(utility.parents) == {"retain_Q_A_Prob", "retain_Q_A_ROUGE"}


def test_given_retain_rows_and_a_model_to_be_trained(files: dict[str, str]) -> None:
    result = make(forget=files["forget"], retain=files["retain"], args={"train_full": True})
    assert (result.full_sets, result.retain_sets) == (("forget", "retain"), ("retain",))
    assert [note.partition(": ")[0] for note in result.notes] == [files["forget"], files["retain"]]
    assert result.sets["retain"][0].answer == "Four."
    result = make(forget=files["forget"], args={"retain_source": files["retain"]})
    assert f"retain rows: 1 of {files['retain']}" in result.notes


def test_a_holdout_adds_the_attacks(files: dict[str, str]) -> None:
    result = make(forget=files["forget"], args={"holdout": files["other"]})
    names = {m.name for m in result.panel}
    assert {"mia_loss", "mia_min_k", "privleak"} < names
    assert len(result.sets["holdout"]) == 1


def test_wrong_answers_add_the_truth_ratio(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "answer": "Ann", "perturbed_answer": ["Bob", "Cay"]}]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    result = make(forget=str(tmp_path / "f.json"))
    ratio = next(m for m in result.panel if m.name == "forget_truth_ratio")
    assert ratio.tokens == ("answer", "perturbed")
    assert "forget_quality" in {m.name for m in result.panel}
    assert "retain_Truth_Ratio" not in {m.name for m in result.panel}


def test_what_cannot_be(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^forget: missing; give forget=FILE of rows"):
        make()
    with pytest.raises(ConfigError, match=r"^data\.args\.train_full=true: a retain model needs"):
        make(forget=files["forget"], args={"train_full": True})
    with pytest.raises(ConfigError, match=r"^data\.args\.retain_source=tofu: .*retain="):
        make(forget=files["forget"], retain=files["retain"], args={"retain_source": "tofu"})
    with pytest.raises(ConfigError, match=r"^data\.args\.question_colum: unknown key; did you mean 'question_column'"):
        make(forget=files["forget"], args={"question_colum": "q"})
    with pytest.raises(ConfigError, match=r"^data\.args\.question_column: .*answer_column.*, got \'q\'"):
        make(forget=files["forget"], args={"question_column": "q"})
    with pytest.raises(ConfigError, match="the benchmark custom has no such setting"):
        make(forget=files["forget"], root="here")
    (tmp_path / "both.csv").write_text("question,answer\nWhat?,This.\n" + FORGET.split("\n")[1] + "\n")
    with pytest.raises(DataError, match=r"forget\.csv row 0 is also .*both\.csv row 1"):
        make(forget=files["forget"], retain=str(tmp_path / "both.csv"))
    with pytest.raises(DataError, match=r"forget\.csv row 0 is also .*both\.csv row 1"):
        make(forget=files["forget"], args={"holdout": str(tmp_path / "both.csv")})
