"""Two processes that share a model in FSDP's shards, as accelerate cuts it: the numbers of one, also after a break."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import transformers

from expunge.core import ranks
from expunge.data.template import Encoded
from expunge.methods import objective
from expunge.training.config import CheckpointArgs, EvaluateArgs, TrainArgs
from expunge.training.evaluate import Selection, Watch
from expunge.training.loop import train
from expunge.training.lora import LoraArgs, with_lora
from expunge.training.schedule import Schedule

pytestmark = pytest.mark.slow
FAST: dict[str, Any] = {
    "learning_rate": 1e-2, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "logging_steps": 1,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ascent": ("GradDiff", {}, {}),
    "reference": ("NPO", {"retain_loss_type": "KL"}, {}),
    "checkpointed": ("GradDiff", {}, {"activation_checkpointing": True}),
    "phases": ("GradDiff", {}, {"schedule": Schedule(kind="alternating", chunk_size=4, anneal_epochs=1.0)}),
    "adapters": ("GradDiff", {}, {"lora": LoraArgs(r=2)}),
}  # fmt: skip
BEST = {"evaluate": EvaluateArgs(steps=1, keep="best"), "checkpoint": CheckpointArgs(steps=1)}


def tiny(**keys: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": 67, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": True, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **keys})).eval()


def rows_here() -> dict[str, list[Encoded]]:
    """7 forget and 11 retain rows of mixed lengths: 4 steps of 4 samples, the last of 2."""
    made = torch.Generator().manual_seed(1)

    def row(n: int) -> Encoded:
        return Encoded((1, *torch.randint(3, 67, (n - 2,), generator=made).tolist(), 2), 3)

    return {
        "forget": [row(n) for n in (6, 9, 13, 7, 8, 11, 6)],
        "retain": [row(n) for n in (8, 5, 12, 9, 7, 15, 6, 10, 8, 9, 14)],
    }


def rising() -> Watch:
    """A watch of which the second evaluation is the best, without a look at the model."""
    values = iter([9.0, 1.0, 5.0, 6.0, 7.0, 8.0])
    choice = Selection("u", "f", 0.9, -math.inf)
    return Watch(EvaluateArgs(steps=1, keep="best"), lambda _: {"u": 1.0, "f": next(values)}, choice)


def run(name: str, *, model: Any = None, break_at: int = 0, **keys: Any) -> tuple[list[Any], list[float], int | None]:
    """The log, all weights (of the first process) and the step that the run went on from."""
    method, method_args, own = CASES[name]
    folder, watch = keys.pop("folder", None), keys.pop("watch", None)
    args = TrainArgs(**{**FAST, **own, **keys})
    model = tiny() if model is None else model
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)

    def progress(done: int, _total: int) -> None:
        if break_at and done == break_at:
            raise KeyboardInterrupt

    done = train(
        model, objective(method, method_args), rows_here(), args, pad_id=0, watch=watch, checkpoints=folder,
        progress=progress,
    )  # fmt: skip
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist() if ranks.here().first else []
    return done.history, weights, done.resumed_at


def scenarios(folder: Path) -> dict[str, Any]:
    """All that two processes do, so that they are started once."""
    said: dict[str, Any] = {name: run(name) for name in CASES}

    def drops(**keys: Any) -> Any:  # each process draws its own
        return run("ascent", model=tiny(attention_dropout=0.3), watch=rising(), **{**BEST, **keys})

    said["unbroken"] = drops()
    for name in ("kept", "torn"):
        try:
            drops(folder=folder / name, break_at=3)
        except KeyboardInterrupt:
            ranks.meet()
    if not ranks.here().first:
        (folder / "torn/shard-1/step-00000002/state.safetensors").write_bytes(b"torn")
    ranks.meet()
    for name in ("kept", "torn"):
        said[name] = run("ascent", model=tiny(attention_dropout=0.3), watch=rising(), folder=folder / name, **BEST)
    return said


def process(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    }  # fmt: skip
    with ranks.joined():
        Path(folder, f"{rank}.json").write_text(json.dumps(scenarios(Path(folder))))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes says."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, args=(str(folder), port), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_equal_loss_curves_and_weights(two: list[dict[str, Any]], name: str) -> None:
    history, weights, _ = run(name)
    for said in two:
        assert len(said[name][0]) == len(history) >= 4
        for mine, theirs in zip(history, said[name][0], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(two[0][name][1], weights, rtol=1e-4, atol=2e-5)


def test_a_broken_run_goes_on_to_the_same_bits(two: list[dict[str, Any]]) -> None:
    """Weights, the optimiser's state, the best weights and the random numbers are each process's own."""
    history, weights, began = two[0]["unbroken"]
    assert began is None
    assert two[0]["kept"] == [history, weights, 2]
    assert two[1]["kept"][0] == two[1]["unbroken"][0]


def test_a_shard_that_is_torn_sends_all_to_the_checkpoint_before(two: list[dict[str, Any]]) -> None:
    assert two[0]["torn"] == [*two[0]["unbroken"][:2], 1]
    assert two[1]["torn"][2] == 1
