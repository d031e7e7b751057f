"""Two processes that share a model in FSDP's shards, as accelerate cuts it: the numbers of one, also after a break."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Case, fitted, joined, rows_here, said_by_two, tiny, weights_of
from tests.warm import Warm

from expunge.core import distributed
from expunge.training.config import CheckpointArgs
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.in_memory.evaluation_callback import EvalCallback
from expunge.training.lora import LoraArgs
from expunge.training.model_selection import ModelSelection
from expunge.training.schedule import Schedule

pytestmark = pytest.mark.slow
CASES: dict[str, Case] = {
    "ascent": ("GradDiff", {}, {}),
    "reference": ("NPO", {"retain_loss_type": "KL"}, {}),
    "checkpointed": ("GradDiff", {}, {"activation_checkpointing": True}),
    "phases": ("GradDiff", {}, {"schedule": Schedule(kind="alternating", chunk_size=4, anneal_epochs=1.0)}),
    "adapters": ("GradDiff", {}, {"lora": LoraArgs(r=2)}),
}  # fmt: skip
BEST = {"evaluate": EvaluateArgs(steps=1, keep="best"), "checkpoint": CheckpointArgs(steps=1)}


def rising() -> EvalCallback:
    """A watch of which the second evaluation is the best, without a look at the model."""
    values = iter([9.0, 1.0, 5.0, 6.0, 7.0, 8.0])
    choice = ModelSelection("u", "f", 0.9, -math.inf)
    return EvalCallback(EvaluateArgs(steps=1, keep="best"), lambda _: {"u": 1.0, "f": next(values)}, choice)


def run(name: str, *, model: Any = None, **keys: Any) -> tuple[list[Any], list[float], int | None]:
    """The log, all weights (of the first process) and the step that the run went on from."""
    done, fit = fitted(CASES[name], tiny() if model is None else model, rows_here(), **keys)
    return done.history, weights_of(fit) if distributed.here().first else [], done.resumed_at


def scenarios(folder: Path) -> dict[str, Any]:
    """All that two processes do, so that they are started once."""
    content: dict[str, Any] = {name: run(name) for name in CASES}

    def drops(**keys: Any) -> Any:  # each process draws its own
        return run("ascent", model=tiny(attention_dropout=0.3), watch=rising(), **{**BEST, **keys})

    content["unbroken"] = drops()
    for name in ("kept", "torn"):
        try:
            drops(folder=folder / name, break_at=3)
        except KeyboardInterrupt:
            distributed.meet()
    if not distributed.here().first:
        (folder / "torn/shard-1/step-00000002/state.safetensors").write_bytes(b"torn")
    distributed.meet()
    for name in ("kept", "torn"):
        content[name] = run("ascent", model=tiny(attention_dropout=0.3), watch=rising(), folder=folder / name, **BEST)
    return content


def process(rank: int, folder: str, port: int) -> None:
    shards = {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    }  # fmt: skip
    with joined(rank, port, **shards):
        Path(folder, f"{rank}.json").write_text(json.dumps(scenarios(Path(folder))))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> list[dict[str, Any]]:
    """What each of two processes says."""
    return said_by_two(process, tmp_path_factory.mktemp("two"), warm)


@pytest.mark.parametrize("name", CASES)
def test_equal_loss_curves_and_weights(two: list[dict[str, Any]], name: str) -> None:
    history, weights, _ = run(name)
    for output in two:
        assert len(output[name][0]) == len(history) >= 4
        for mine, theirs in zip(history, output[name][0], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-9, abs=1e-10)
    np.testing.assert_allclose(two[0][name][1], weights, rtol=1e-7, atol=1e-9)


def test_a_broken_run_goes_on_to_the_same_bits(two: list[dict[str, Any]]) -> None:
    """Weights, the optimiser's state, the best weights and the random numbers are each process's own."""
    history, weights, began = two[0]["unbroken"]
    assert began is None
    assert two[0]["kept"] == [history, weights, 2]
    assert two[1]["kept"][0] == two[1]["unbroken"][0]


def test_a_shard_that_is_torn_sends_all_to_the_checkpoint_before(two: list[dict[str, Any]]) -> None:
    assert two[0]["torn"] == [*two[0]["unbroken"][:2], 1]
    assert two[1]["torn"][2] == 1
