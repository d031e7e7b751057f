"""The settings of trials: LoRA by default in a large model, unless the user says which parameters are trained."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import pytest

from expunge.cli.commands.erase import add_erase, request_of
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.erase import trials
from expunge.pipelines.erase.request import prepare_erase
from expunge.pipelines.erase.trials import LORA_RATE, first_rate, own_args, trial_of
from expunge.training.lora import LoraArgs

ROWS = [(f"Which river is number {i}?", f"It is the long river {i}.") for i in range(10)]


@pytest.mark.parametrize(
    ("words", "lora"),
    [
        ([], LoraArgs()),
        (["unlearn.max_grad_norm=2"], LoraArgs()),
        (["unlearn.lora.r=4"], LoraArgs(r=4)),
        (["unlearn.lora=null"], None),
        (["unlearn.trainable_last_k_layers=1"], None),
    ],
)
def test_adapters_are_the_default_of_a_large_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], lora: LoraArgs | None
) -> None:
    for name, rows in (("forget", ROWS[:2]), ("keep", ROWS[2:])):
        with open(tmp_path / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("question", "answer"), *rows])
    tokenizer = train_tokenizer([q + a for q, a in ROWS], 400, max_length=256)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer, tmp_path / "model")
    parser = argparse.ArgumentParser()
    add_erase(parser.add_subparsers())
    inputs = ["erase", "--model", f"{tmp_path}/model", "--forget", f"{tmp_path}/forget.csv"]
    inputs += ["--retain", f"{tmp_path}/keep.csv", "--out", f"{tmp_path}/out", *words]
    erasing = prepare_erase(request_of(parser.parse_args(inputs)))
    assert own_args(erasing).lora == (lora if "unlearn.lora.r=4" in words else None)  # a small model
    small = first_rate(erasing)
    monkeypatch.setattr(trials, "LORA_FROM", 1e3)
    assert own_args(erasing).lora == lora
    if lora == LoraArgs():
        assert first_rate(erasing) == LORA_RATE * small
    trial = trial_of(erasing, "NPO", 1e-3, 40)
    assert trial.method_args["alpha"] > 5 and trial.method_args["beta"] < 1  # answers have more than two tokens
