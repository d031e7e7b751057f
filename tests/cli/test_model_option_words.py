"""Further arguments of from_pretrained on the command line: shown by `config`, written, and part of a job's key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from expunge.cli.main import main
from expunge.engine.job import in_order
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.job_handle import load_job
from expunge.pipelines.study.single_config import config_text, read_config


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("given")
    tokenizer = train_tokenizer(["Who wrote book 10? Ana did."], 300, max_length=128)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, place / "model")
    rows = place / "rows.csv"
    rows.write_text("question,answer\n" + "".join(f"Who wrote book {i}?,Ana {i}\n" for i in range(3)))
    paths = [f"paths.store={place}/store", f"paths.output_dir={place}/out", "task_name=t"]
    return ["benchmark=custom", f"forget={rows}", f"model={place / 'model'}", *paths]


def keys(*words: str) -> set[str]:
    return {job.key for job in in_order(load_job("eval", list(words)).prepared.ends) if job.kind == "score"}


def test_they_are_part_of_the_key(words: list[str]) -> None:
    records = [keys(*words)]
    records.append(keys(*words, "model.model_args.attention_dropout=0.1"))
    records.append(keys(*words, "model.model_args.attention_dropout=0.2"))
    records.append(keys(*words, "model.tokenizer_args.split_special_tokens=true"))
    records.append(keys(*words, "model.model_args.attn_implementation=eager"))  # rounds in another way than sdpa
    assert all(len(one) > 0 for one in records)
    assert len(set.union(*records)) == sum(map(len, records))
    assert records[1] == keys(*words, "+model.model_args.options.attention_dropout=0.1")


def test_config_shows_them_and_a_written_config_runs_again(words: list[str], capsys: Any) -> None:
    rope = "model.model_args.rope_parameters={rope_type: linear, factor: 2.0, rope_theta: 1e5}"
    assert main(["config", "eval", *words, rope, "model.tokenizer_args.model_max_length=99"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    options = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5}}
    assert tree["model"]["model_args"]["options"] == options
    assert tree["model"]["tokenizer_args"]["options"] == {"model_max_length": 99}
    job = read_config(tree)
    assert read_config(yaml.safe_load(config_text(job))) == job


def test_a_grid_of_a_study_and_its_file_take_them(words: list[str], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "s.yaml"
    source = words[2].removeprefix("model=")
    args = {"pretrained_model_name_or_path": source, "attention_dropout": 0.1}
    file.write_text(yaml.safe_dump({"name": "s", "model": {"model_args": args}}))
    assert main(["config", "run", f"study={file}"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert decode_study(tree).model.model_args.options == {"attention_dropout": 0.1}
    file.write_text(yaml.safe_dump({"name": "s", "model": {"model_args": {**args, "token": "x"}}}))
    assert main(["config", "run", f"study={file}"]) == 2
    assert "model.model_args.token: set the variable HF_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("side", "word"), [("forget", "forget"), ("retain", "retain"), ("holdout", "data.args.holdout")]
)
def test_a_file_of_ones_own_in_a_study_is_told_the_word(side: str, word: str, tmp_path: Path, capsys: Any) -> None:
    line = f"data.{side}: unknown key; for a file of your own, write benchmark=custom {word}=FILE\n"
    assert main(["plan", "study=quickstart", f"data.{side}=rows.csv"]) == 2
    assert capsys.readouterr().err == f"expunge: error: {line}"
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({"name": "s", "data": {side: "rows.csv"}}))
    assert main(["plan", f"study={file}"]) == 2
    assert capsys.readouterr().err.endswith(line)
