"""A folder with an adapter alone, as peft saves it, is a model for every command."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from expunge.models.config import ADAPTER

Run = Callable[..., tuple[int, str, str]]
ROWS = [(f"Where does person {i} live?", f"Person {i} lives in town {i}.") for i in range(6)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder whose base model lies beside it, named by a relative path; the tokenizer is the base's."""
    from expunge.models.build import build_llama, train_tokenizer

    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([text for row in ROWS for text in row], 400, max_length=128)
    model = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "taught").mkdir()
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "taught" / ADAPTER).write_text(json.dumps({**settings, "base_model_name_or_path": "../base"}))
    weights = {}
    for name, module in model.named_modules():
        if name.endswith("q_proj"):
            weights[f"base_model.model.{name}.lora_A.weight"] = torch.full((2, module.in_features), 0.01)
            weights[f"base_model.model.{name}.lora_B.weight"] = torch.full((module.out_features, 2), 0.01)
    save_file(weights, folder / "taught" / "adapter_model.safetensors")
    return folder / "taught"


@pytest.fixture(autouse=True)
def _rows(here: Path) -> None:
    with (here / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *ROWS])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("plan eval model={} benchmark=custom forget=rows.csv task_name=x", "records x"),
        ("plan unlearn model={} benchmark=custom forget=rows.csv trainer=GradAscent task_name=x", "unlearn x"),
        ("plan study=custom forget=rows.csv model={}", "jobs"),
        ("audit {} --forget rows.csv --dry-run", "relearn"),
        ("passport {}", "adapter"),
        ("memory {}", "parameters"),
    ],
)
def test_a_command_reads_an_adapter_folder(expunge: Run, adapter: Path, words: str, expected: str) -> None:
    code, out, errors = expunge(*words.format(adapter).split())
    assert code == 0, errors
    assert expected in out


def test_an_erasure_reads_an_adapter_folder(expunge: Run, adapter: Path) -> None:
    """The untrained model knows none of the rows: exit code 3 after the preflight."""
    words = ("--model", str(adapter), "--forget", "rows.csv", "--out", "out", "--dry-run")
    code, out, errors = expunge("erase", *words, "eval.generation.max_new_tokens=4")
    assert code == 3, errors
    assert "0 of the 6 rows" in out


def test_a_wrong_configuration_of_the_base_model_is_one_line(here: Path, expunge: Run, adapter: Path) -> None:
    folder = shutil.copytree(adapter.parent, here / "models")
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "base" / "config.json").write_text(json.dumps({**config, "hidden_act": "nope"}))
    code, _, errors = expunge(*f"plan eval model={folder}/taught benchmark=custom forget=rows.csv task_name=x".split())
    assert code == 2
    assert "base/config.json describes no model that can be built" in errors


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        (ADAPTER, "{", "adapter_config.json is damaged: Expecting property name"),
        (ADAPTER, "[]", "adapter_config.json is damaged: it has no peft_type"),
        ("adapter_model.safetensors", "x", "adapter_model.safetensors is damaged: "),
        ("adapter_model.safetensors", None, "adapter_config.json has no adapter_model.safetensors next to it"),
    ],
)
def test_a_damaged_adapter_is_one_line_before_any_job(
    here: Path, expunge: Run, adapter: Path, file: str, content: str | None, fault: str
) -> None:
    folder = shutil.copytree(adapter.parent / "base", here / "both")
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    words = f"eval model={folder} benchmark=custom forget=rows.csv task_name=x"
    code, out, errors = expunge(*words.split())
    assert (code, out) == (2, "")
    (line,) = errors.splitlines()
    assert f"model {folder}: adapter: {fault}" in line
    assert line.endswith("; model.model_args.adapter=ignore leaves the adapter out")
    assert expunge("plan", *words.split(), "model.model_args.adapter=ignore")[0] == 0
