"""Runs of losses that read several layers, and of stacks of gradient transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.core.plugins import load_plugins
from expunge.methods import objective
from expunge.methods.grad_transforms import GradientRequest, grad_transform
from expunge.training.config import TrainArgs
from expunge.training.loop import train

SHORT = TrainArgs(num_train_epochs=2, per_device_train_batch_size=2, learning_rate=1e-2, logging_steps=1)
LAYERS = ["model.layers.0", "model.layers.1"]
PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "two_layers.py"


@pytest.fixture
def blend() -> None:
    """The example plugin's method."""
    load_plugins([str(PLUGIN)])


def test_rerouting_turns_the_states_away(make_model, rows) -> None:
    """The first step has cosine 1 and an unchanged retain side; the last has a smaller cosine."""
    done = train(make_model(), objective("RR", {"layers": LAYERS}), rows, SHORT, pad_id=0)
    first, last = done.history[0], done.history[-1]
    assert first["forget"] == pytest.approx(1.0, abs=1e-5) and first["retain"] == pytest.approx(0.0, abs=1e-5)
    assert last["forget"] < 0.95


def test_noising_trains_states_and_answers_in_one_forward(make_model, rows) -> None:
    goal = objective("RepNoise", {"layers": [f"{name}.mlp" for name in LAYERS], "beta": 0.1, "alpha": 0})
    done = train(make_model(), goal, rows, SHORT, pad_id=0)
    assert done.history[-1]["forget"] < done.history[0]["forget"]


def test_the_example_plugin_runs(make_model, rows, blend) -> None:
    done = train(make_model(), objective("Blend", {}), rows, SHORT, pad_id=0)
    assert done.history[-1]["forget"] < done.history[0]["forget"]


def test_a_stack_reads_named_gradients(make_model, rows) -> None:
    names: list[Sequence[str]] = []

    @grad_transform("first_layer", revision=1, needs=("forget",), paper="none")
    @dataclass(frozen=True)
    class FirstLayer:
        """Keep the gradients of the first layer alone."""

        def __call__(self, ask: GradientRequest, params: Sequence[Any], memory: dict[str, Any]) -> list[torch.Tensor]:
            names.append(ask.names)
            pairs = zip(ask("forget"), ask.names, strict=True)
            return [g if "layers.0." in name else torch.zeros_like(g) for g, name in pairs]

    model, start = make_model(), make_model()
    args = {"grad_transform": ("first_layer", "gru"), "grad_transform_args": {"gru": {"keep_retain": False}}}
    values = {f: getattr(SHORT, f) for f in ("per_device_train_batch_size", "learning_rate", "logging_steps")}
    train(model, objective("NPO"), rows, TrainArgs(**values, **args, max_steps=1, optim="sgd"), pad_id=0)
    assert list(names[0]) == [name for name, _ in model.named_parameters()]
    moved = {n for (n, p), q in zip(model.named_parameters(), start.parameters(), strict=True) if not torch.equal(p, q)}
    assert any("layers.0." in name for name in moved)
