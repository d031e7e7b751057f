"""A run that is broken off and goes on from its checkpoint ends with the bits of an unbroken one."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, JobError
from expunge.methods import objective
from expunge.training.checkpoint import Checkpoints, pack, put_weights, trained_weights, unpack
from expunge.training.config import CheckpointArgs, TrainArgs
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.in_memory.evaluation_callback import EvalCallback
from expunge.training.loop import TrainResult, train
from expunge.training.lora import LoraArgs, with_lora
from expunge.training.model_selection import ModelSelection
from expunge.training.schedule import Schedule

CPU = torch.device("cpu")
FAST: dict[str, Any] = {
    "learning_rate": 1e-2, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
    "logging_steps": 3, "warmup_steps": 2, "checkpoint": CheckpointArgs(steps=1),
}  # fmt: skip


class Broken(Exception):
    """What ends a run in a test, as a kill would."""


def run(
    make_model: Any, rows: Any, folder: Path | None, *, method: str = "GradDiff", break_at: int = 0,
    steps: list[int] | None = None, watch: EvalCallback | None = None, **keys: Any,
) -> tuple[dict[str, torch.Tensor], TrainResult]:  # fmt: skip
    """The weights and the log of a run that is broken off in step `break_at`, or runs to its end."""
    model_keys = {"attention_dropout": keys.pop("attention_dropout", 0.0)}
    args = TrainArgs(**{**FAST, **keys})
    model = make_model(**model_keys)
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)

    def progress(done: int, _total: int) -> None:
        if steps is not None:
            steps.append(done)
        if break_at and done == break_at:
            raise Broken

    goal = objective(method, {"retain_loss_type": "KL"} if method == "NPO" else {})
    torch.manual_seed(123 + break_at)  # a run depends on nothing drawn before it
    done = train(model, goal, rows, args, pad_id=0, progress=progress, checkpoints=folder, watch=watch)
    return {name: p.detach().clone() for name, p in model.named_parameters()}, done


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "reference and dropout": {"method": "NPO", "attention_dropout": 0.3},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "num_train_epochs": 4},
    "lora": {"lora": LoraArgs(r=2, lora_dropout=0.2)},
    "mudman": {"grad_transform": "mudman", "grad_transform_args": {"fork_every": 4}},
    "cir": {"grad_transform": "cir", "grad_transform_args": {"refresh": 2}},
    "sophia": {"optim": "sophia"},
    "dual variables": {"method": "PDU"},
    "adafactor": {"optim": "adafactor"},
    "alternating": {
        "num_train_epochs": 1, "attention_dropout": 0.3,
        "schedule": Schedule(kind="alternating", chunk_size=4, anneal_epochs=1.0),
    },
    "chunks": {"schedule": Schedule(kind="chunks", chunk_size=4)},
    "two layers of one": {"trainable_last_k_layers": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("plain", "reference and dropout") else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_a_broken_run_ends_with_the_same_bits(make_model, rows, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    whole, log = run(make_model, rows, None, **case)
    with pytest.raises(Broken):
        run(make_model, rows, tmp_path, break_at=4, **case)
    steps: list[int] = []
    result, again = run(make_model, rows, tmp_path, steps=steps, **case)
    assert again.resumed_at == 3  # the checkpoint of the step before the break
    assert steps[0] in (3, 4) and steps[-1] == log.n_steps > 4
    assert result.keys() == whole.keys()
    assert all(torch.equal(result[n], whole[n]) for n in whole)
    assert again.history == log.history
    assert again.n_steps == log.n_steps


@pytest.mark.slow
def test_every_step_is_a_place_to_go_on_from(make_model, rows, tmp_path: Path) -> None:
    """Broken off again and again, one step further each time, across the borders of phases."""
    case = {**CASES["alternating"], "num_train_epochs": 1}
    whole, log = run(make_model, rows, None, **case)
    for break_at in range(3, log.n_steps + 1, 3):
        with pytest.raises(Broken):
            run(make_model, rows, tmp_path, break_at=break_at, **case)
    result, again = run(make_model, rows, tmp_path, **case)
    assert all(torch.equal(result[n], whole[n]) for n in whole)
    assert again.history == log.history


def broken_at(make_model: Any, rows: Any, folder: Path, step: int) -> list[Path]:
    with pytest.raises(Broken):
        run(make_model, rows, folder, break_at=step)
    return sorted(folder.glob("step-*"))


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "checksums.json"])
def test_a_damaged_checkpoint_is_refused(make_model, rows, tmp_path: Path, caplog, file: str) -> None:
    whole, _ = run(make_model, rows, None)
    older, newer = broken_at(make_model, rows, tmp_path, 5)
    data = bytearray((newer / file).read_bytes())
    data[len(data) // 2] ^= 1
    (newer / file).chmod(0o644)
    (newer / file).write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        result, again = run(make_model, rows, tmp_path)
    assert again.resumed_at == 3  # the older of the two that are kept
    assert [r for r in caplog.records if "is not used" in r.message and newer.name in r.message]
    assert all(torch.equal(result[n], whole[n]) for n in whole)
    assert older.name == "step-00000003"


def test_with_none_left_it_starts_anew(make_model, rows, tmp_path: Path) -> None:
    for place in broken_at(make_model, rows, tmp_path, 5):
        (place / "state.json").unlink()
    result, again = run(make_model, rows, tmp_path)
    assert again.resumed_at is None
    whole, _ = run(make_model, rows, None)
    assert all(torch.equal(result[n], whole[n]) for n in whole)


def test_one_of_another_version_or_device_is_refused(make_model, rows, tmp_path: Path, monkeypatch) -> None:
    broken_at(make_model, rows, tmp_path, 5)
    rest = Checkpoints(tmp_path, CheckpointArgs())
    monkeypatch.setattr("expunge.training.checkpoint.FORM", 0)
    assert rest.load({"device": "cpu", "processes": 1}, CPU) is None
    monkeypatch.undo()
    broken_at(make_model, rows, tmp_path, 5)
    assert rest.load({"device": "cuda", "processes": 1}, CPU) is None


def test_where_none_can_be_written_the_run_goes_on(make_model, rows, tmp_path: Path, caplog) -> None:
    (tmp_path / "taken").write_text("")
    with caplog.at_level(logging.WARNING):
        done = run(make_model, rows, tmp_path / "taken", num_train_epochs=0.5)[1]
    assert done.n_steps == 2
    assert [r for r in caplog.records if "no checkpoint could be written" in r.message]


def test_what_a_kill_left_half_written_goes(make_model, rows, tmp_path: Path) -> None:
    (tmp_path / ".step-00000009.abc.part").mkdir()
    run(make_model, rows, tmp_path, num_train_epochs=0.5)
    assert not list(tmp_path.glob(".*"))


def test_files_are_tensors_and_json_alone(make_model, rows, tmp_path: Path) -> None:
    for place in broken_at(make_model, rows, tmp_path, 5):
        assert sorted(p.name for p in place.iterdir()) == ["checksums.json", "state.json", "state.safetensors"]
        json.loads((place / "state.json").read_text())
    assert len(list(tmp_path.iterdir())) == 2


def test_pack_and_unpack() -> None:
    rest = {
        "a": [1, 2.5, None, True, "x", (1, (2, 3))], 7: {"nan": math.nan, "inf": -math.inf, "tiny": 5e-324},
        "t": torch.tensor(0.1, dtype=torch.float64), "u": torch.arange(6, dtype=torch.uint8).reshape(2, 3).t(),
    }  # fmt: skip
    tensors: dict[str, torch.Tensor] = {}
    content = unpack(json.loads(json.dumps(pack(rest, tensors))), tensors, CPU)
    assert content["a"] == rest["a"]
    assert math.isnan(content[7]["nan"]) and content[7]["inf"] == -math.inf and content[7]["tiny"] == 5e-324
    assert torch.equal(content["t"], rest["t"]) and torch.equal(content["u"], rest["u"])
    with pytest.raises(TypeError, match="cannot contain a set"):
        pack({"a": {1}}, {})


def test_weights_of_another_run_are_refused(make_model) -> None:
    model = make_model()
    content = trained_weights(model)
    content.popitem()
    with pytest.raises(JobError, match="other parameters"):
        put_weights(model, content)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(make_model, rows, tmp_path: Path, which: int) -> None:
    """With checkpoints so rare that only the signal makes one."""
    whole, log = run(make_model, rows, None)
    steps: list[int] = []
    at = [4]
    before = signal.getsignal(which)

    class Sending(list):  # type: ignore[type-arg]
        def append(self, done: int) -> None:
            steps.append(done)
            if done == at[0]:
                os.kill(os.getpid(), which)

    rare = {"checkpoint": CheckpointArgs(every_s=1e6)}
    with pytest.raises(KeyboardInterrupt):
        run(make_model, rows, tmp_path, steps=Sending(), **rare)
    assert steps[-1] == 4
    assert signal.getsignal(which) is before
    at[0] = log.n_steps
    with pytest.raises(KeyboardInterrupt):  # now in the last step of all
        run(make_model, rows, tmp_path, steps=Sending(), **rare)
    assert steps == [1, 2, 3, 4, *range(4, log.n_steps + 1)]
    result, again = run(make_model, rows, tmp_path, **rare)
    assert again.resumed_at == again.n_steps == log.n_steps
    assert all(torch.equal(result[n], whole[n]) for n in whole)
    assert again.history == log.history


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    rest = Checkpoints(tmp_path, CheckpointArgs())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), rest.stoppable():
            os.kill(os.getpid(), signal.SIGINT)
            assert rest.stopping
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_evaluations_and_the_best_model_are_taken_along(make_model, rows, tmp_path: Path) -> None:
    """The best model may be one from before the break."""

    def watch() -> EvalCallback:
        def panel(model: Any) -> dict[str, float]:
            n = float(sum(p.detach().abs().sum() for p in model.parameters()))
            step = len(result.points)
            return {"u": 1.0, "f": 0.0 if step == 2 else 1.0 + step, "n": n}

        args = EvaluateArgs(steps=1, keep="best", panel=("u", "f", "n"))
        result = EvalCallback(args, panel, ModelSelection("u", "f", 0.9, -math.inf))
        return result

    whole, log = run(make_model, rows, None, watch=watch())
    with pytest.raises(Broken):
        run(make_model, rows, tmp_path, break_at=6, watch=watch())
    outcome, again = run(make_model, rows, tmp_path, watch=watch())
    assert again.resumed_at == 5
    assert again.trajectory == log.trajectory
    assert again.selected == log.selected
    assert log.selected["kept_step"] == 2
    assert all(torch.equal(outcome[n], whole[n]) for n in whole)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"every_s": 0}, "checkpoint.every_s: must be a number of seconds > 0, got 0"),
        ({"steps": 0}, "checkpoint.steps: must be at least 1, got 0"),
        ({"every": 3}, "checkpoint.every: unknown key; did you mean 'every_s'"),
    ],
)
def test_wrong_settings(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        decode(TrainArgs, {"checkpoint": keys})


def test_checkpoints_are_no_part_of_what_a_run_is() -> None:
    assert TrainArgs(checkpoint=None).identity == TrainArgs(checkpoint=CheckpointArgs(steps=3)).identity
