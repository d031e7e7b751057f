"""Models that a job keeps during its training, also through an interruption."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoded
from expunge.methods.objective import objective
from expunge.models.build import train_tokenizer
from expunge.training.config import CheckpointArgs, TrainArgs
from expunge.training.in_memory.unlearn_config import UnlearnConfig
from expunge.training.saved_run import TrainerState, train_and_save

Rows = dict[str, list[Encoded]]
MakeModel = Callable[..., Any]


class Broken(Exception):
    """Ends a run in a test, as a kill would."""


def run(
    make_model: MakeModel, rows: Rows, folder: Path, checkpoints: Path | None = None, *, break_at: int = 0, **keys: Any
) -> dict[int, dict[str, torch.Tensor]]:
    """Train and save. Returns the weights after each step; a run with `break_at` ends by an error in that step."""
    args = TrainArgs(
        per_device_train_batch_size=2, gradient_accumulation_steps=1, checkpoint=CheckpointArgs(steps=1), **keys
    )
    encoder: Any = SimpleNamespace(tokenizer=train_tokenizer(["a b c"], 300, max_length=64))
    weights: dict[int, dict[str, torch.Tensor]] = {}
    steps = [0]

    def progress(done: int, _total: int) -> None:
        steps[0] = done

    def after_step(state: TrainerState) -> bool:
        weights[steps[0]] = {n: p.detach().clone() for n, p in state.model.named_parameters()}
        if break_at and steps[0] == break_at:
            raise Broken
        return False

    folder.mkdir()
    train_and_save(
        folder, make_model(), encoder, objective("GradDiff"), rows, args, reload=make_model, progress=progress,
        checkpoints=checkpoints, after_step=after_step,
    )  # fmt: skip
    return weights


def kept_steps(folder: Path) -> list[int]:
    return sorted(int(p.name.partition("-")[2]) for p in folder.glob("checkpoint-*"))


def sums(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "speed.jsonl")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_models_of_steps_are_kept(make_model: MakeModel, rows: Rows, tmp_path: Path) -> None:
    weights = run(make_model, rows, tmp_path / "out", max_steps=5, save_strategy="steps", save_steps=2)
    assert kept_steps(tmp_path / "out") == [2, 4]
    for step in (2, 4):
        stored = load_file(tmp_path / "out" / f"checkpoint-{step}" / "model.safetensors")
        assert stored and all(torch.equal(stored[name], weights[step][name]) for name in stored)
    assert any(not torch.equal(weights[2][name], weights[4][name]) for name in weights[2])
    assert (tmp_path / "out" / "checkpoint-2" / "config.json").is_file()
    run(make_model, rows, tmp_path / "plain", max_steps=5)
    plain = sums(tmp_path / "plain")
    assert (
        kept_steps(tmp_path / "plain") == [] and plain.items() <= sums(tmp_path / "out").items()
    )  # training is the same


def test_a_share_of_the_steps_keeps_models(make_model: MakeModel, rows: Rows, tmp_path: Path) -> None:
    run(make_model, rows, tmp_path / "out", max_steps=5, save_strategy="steps", save_steps=0.4)
    assert kept_steps(tmp_path / "out") == [2, 4]
    assert TrainArgs(num_train_epochs=10, save_strategy="steps", save_steps=0.2).saves.every == 2.0


def test_the_model_of_each_epoch_is_kept(make_model: MakeModel, rows: Rows, tmp_path: Path) -> None:
    run(make_model, rows, tmp_path / "out", num_train_epochs=3, save_strategy="epoch")
    assert len(rows["forget"]) == 7 and kept_steps(tmp_path / "out") == [
        4,
        7,
        11,
    ]  # a pass of 7 rows ends within a step of 2


@pytest.mark.slow
@pytest.mark.parametrize("break_at", [1, 3, 4])
def test_a_resumed_run_has_the_models_of_its_first_part(
    make_model: MakeModel, rows: Rows, tmp_path: Path, break_at: int
) -> None:
    keys: dict[str, Any] = {"max_steps": 5, "save_strategy": "steps", "save_steps": 1}
    run(make_model, rows, tmp_path / "whole", tmp_path / "other", **keys)
    with pytest.raises(Broken):
        run(make_model, rows, tmp_path / "lost", tmp_path / "checkpoints", break_at=break_at, **keys)
    weights = run(make_model, rows, tmp_path / "out", tmp_path / "checkpoints", **keys)
    assert break_at == 1 or 1 not in weights  # it did resume
    assert kept_steps(tmp_path / "out") == [1, 2, 3, 4, 5] and sums(tmp_path / "out") == sums(tmp_path / "whole")


def test_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"save_steps:? goes together with save_strategy=steps"):
        TrainArgs(save_strategy="steps")
    with pytest.raises(ConfigError, match=r"save_steps:? goes together with save_strategy=steps"):
        TrainArgs(save_strategy="epoch", save_steps=3)
    with pytest.raises(ConfigError, match=r"^TrainArgs\.save_steps: must be a whole number of at least 1"):
        TrainArgs(save_strategy="steps", save_steps=0)
    with pytest.raises(ConfigError, match=r"UnlearnConfig\.save_strategy: belongs to jobs"):
        UnlearnConfig(save_strategy="epoch")
    plain = TrainArgs().identity
    assert "save_strategy" not in plain and "save_steps" not in plain
    assert TrainArgs(save_strategy="epoch").identity == {**plain, "save_strategy": "epoch"}
