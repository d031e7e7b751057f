from __future__ import annotations

from typing import Any

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods.weight_edits import Moments, make_weight_edit
from expunge.methods.weight_edits.lunar import LUNAR

FORGET = tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0]])
RETAIN = tensor([[0.0, 1.0, 1.0], [2.0, 0.0, -1.0], [1.0, 1.0, 0.5], [0.3, 0.0, 1.0]])


class Keys:
    """Keys of both sides; the layer's states are (1, 1) at declined prompts and (0, 4) at forget prompts."""

    def states(self, name: str, of: Any, at: str, changed: Any) -> Any:
        assert name == "l.0" and at == "last" and not changed
        return tensor([[0.0, 4.0]]) if of == "forget" else tensor([[1.0, 0.0], [1.0, 2.0]])

    def moments(self, names: Any, of: str, at: str) -> Any:
        assert at == "prompt"
        keys = FORGET if of == "forget" else RETAIN
        return {name: Moments(len(keys), keys.sum(0), keys.T @ keys) for name in names}


def test_the_update_is_the_minimum_of_the_loss() -> None:
    weight = tensor([[0.2, -0.1, 0.4], [1.0, 0.0, -0.3]])
    rule = LUNAR(modules=("l.0.w",), strength=2.0, ridge=0.01)
    (edited,) = rule({"l.0.w.weight": weight}, Keys()).values()
    edited.requires_grad_()
    moved = FORGET @ weight.T + 2.0 * tensor([1.0, -3.0])  # (1, 1) - (0, 4)
    scale = (FORGET.T @ FORGET + RETAIN.T @ RETAIN).diagonal().mean()
    loss = (
        (FORGET @ edited.T - moved).square().sum()
        + (RETAIN @ edited.T - RETAIN @ weight.T).square().sum()
        + 0.01 * scale * (edited - weight).square().sum()
    )
    loss.backward()
    assert edited.grad is not None and edited.grad.abs().max() < 1e-12
    assert (edited - weight).abs().max() > 0.1


def test_one_key_by_hand() -> None:
    # one forget key (2, 0), no retain keys: s = (2, 0), S = 4 at the first entry, mean of the diagonal 2, ridge 1:
    # D = c r (2, 0) / (4 + 1), with c r = 0.5 (1, -3)
    class One(Keys):
        def moments(self, names: Any, of: str, at: str) -> Any:
            key = tensor([[2.0, 0.0]]) if of == "forget" else tensor([[0.0, 0.0]])
            return {name: Moments(1, key.sum(0), key.T @ key) for name in names}

    base = {"l.0.w.weight": torch.zeros(2, 2, dtype=torch.float64)}
    (edited,) = LUNAR(modules=("l.0.w",), strength=0.5, ridge=0.5)(base, One()).values()
    assert edited.flatten().tolist() == pytest.approx([0.2, 0, -0.6, 0], abs=1e-15)


def test_the_update_is_the_end_of_the_authors_training() -> None:
    measured = cases("lunar")["minimum"]
    inputs = measured["inputs"]

    class Measured(Keys):
        def states(self, name: str, of: Any, at: str, changed: Any) -> Any:
            return tensor(inputs["forget_states"] if of == "forget" else inputs["declined"])

        def moments(self, names: Any, of: str, at: str) -> Any:
            keys = tensor(inputs[of])
            return {name: Moments(len(keys), keys.sum(0), keys.T @ keys) for name in names}

    rule = LUNAR(modules=("l.0.w",), strength=inputs["strength"], ridge=1e-12)
    (edited,) = rule({"l.0.w.weight": tensor(inputs["weight"])}, Measured()).values()
    torch.testing.assert_close(edited, tensor(measured["outputs"]), rtol=1e-9, atol=1e-9)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"^edit_args.declined: must have an entry"):
        make_weight_edit("LUNAR", {"declined": []})
    with pytest.raises(ConfigError, match=r"^edit_args.modules: must be inside numbered layers, such as [\w.]+, got"):
        make_weight_edit("LUNAR", {"modules": ["head"]})
