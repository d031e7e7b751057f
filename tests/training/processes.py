"""What tests with two processes share: a tiny model, rows, one run of a case, and the two processes themselves."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.warm import Warm

from expunge.core import distributed
from expunge.data.encoder import Encoded
from expunge.methods import objective
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.lora import with_lora

Case = tuple[str, dict[str, Any], dict[str, Any]]  # method, its settings, settings of training
FAST: dict[str, Any] = {
    "learning_rate": 1e-2, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "logging_steps": 1,
}  # fmt: skip


def tiny(**keys: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": 67, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": True, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **keys})).double().eval()


def rows_here() -> dict[str, list[Encoded]]:
    """7 forget and 11 retain rows of mixed lengths."""
    generator = torch.Generator().manual_seed(1)

    def row(n: int, prompt: int) -> Encoded:
        return Encoded((1, *torch.randint(3, 67, (n - 2,), generator=generator).tolist(), 2), prompt)

    forget = [(6, 2), (9, 4), (13, 4), (7, 6), (8, 3), (11, 5), (6, 3)]
    retain = [(8, 3), (5, 2), (12, 6), (9, 3), (7, 4), (15, 8), (6, 2), (10, 5), (8, 4), (9, 2), (14, 7)]
    return {"forget": [row(*x) for x in forget], "retain": [row(*x) for x in retain]}


def fitted(
    case: Case, model: Any, rows: Any, *, watch: Any = None, folder: Path | None = None, break_at: int = 0, **keys: Any
) -> tuple[Any, Any]:
    """A run of a case, broken off after so many steps if asked for: what it says, and the model."""
    method, method_args, own = case
    args = TrainArgs(**{**FAST, **own, **keys})
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)

    def progress(done: int, _total: int) -> None:
        if break_at and done == break_at:
            raise KeyboardInterrupt

    done = train(
        model, objective(method, method_args), rows, args, pad_id=0, watch=watch, checkpoints=folder, progress=progress
    )
    return done, model


def weights_of(model: Any) -> list[float]:
    """All weights, one after another."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()  # type: ignore[no-any-return]


@contextmanager
def joined(rank: int, port: int, **more: str) -> Iterator[None]:
    """One of two processes, as a launcher starts it with these settings."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", **more,
    }  # fmt: skip
    with distributed.joined():
        yield


def said_by_two(process: Callable[..., None], folder: Path, warm: Warm) -> list[dict[str, Any]]:
    """What process(rank, folder, port) leaves in `<rank>.json`, of each of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    warm.call_each(process, [(rank, str(folder), port) for rank in (0, 1)])
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
