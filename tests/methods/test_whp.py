from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.whp import WHP, generic


def logits(n: int, v: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(n, v, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TOKENS, ROWS = torch.tensor([4, 0, 2]), torch.tensor([0, 0, 1])


def test_only_what_the_reinforced_model_raised_is_lowered() -> None:
    baseline = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    reinforced = torch.tensor([[3.0, 1.0, -1.0], [0.5, -0.5, 0.0]])
    assert generic(baseline, reinforced, alpha=5.0).tolist() == [[-9.0, 2.0, -1.0], [-2.5, 0.0, 0.0]]
    assert torch.equal(generic(baseline, reinforced, alpha=0.0), baseline)


def test_the_generic_logits_equal_those_of_the_authors_of_muse() -> None:
    case = cases("whp")["generic"]
    inputs = case["inputs"]
    actual = generic(tensor(inputs["baseline"]), tensor(inputs["reinforced"]), alpha=inputs["alpha"])
    torch.testing.assert_close(actual, tensor(case["outputs"]), rtol=1e-14, atol=1e-14)


def test_shapes_and_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"shape \(2, 3\), the reinforced model's \(3,\)"):
        generic(torch.zeros(2, 3), torch.zeros(3), alpha=5.0)
    for key in ("alpha", "reinforce_epochs", "reinforce_learning_rate"):
        with pytest.raises(ConfigError, match=rf"^trainer\.method_args\.{key}: must be a number >=? ?0"):
            objective("WHP", {key: -1})
    half = torch.tensor([256.0], dtype=torch.bfloat16)
    assert generic(half, half + 8, alpha=1.0).dtype == torch.float32


def test_the_loss_by_hand(logit_side) -> None:
    # v_b = (log 3, 0), v_r = (log 6, -5), alpha = 1: v = (log 3 - log 2, 0) = (log 3/2, 0), softmax = (3/5, 2/5).
    # model (1/4, 3/4): soft loss = 3/5 log 4 + 2/5 log(4/3); the largest v is token 0: hard loss = log 4.
    # With alpha = 2: v = (log 3/4, 0), the largest is token 1: hard loss = log(4/3).
    one = torch.tensor([0])
    now, before, reinforced = (
        logit_side(torch.tensor([z], dtype=torch.float64), one, one)
        for z in ([math.log(0.25), math.log(0.75)], [math.log(3), 0.0], [math.log(6), -5.0])
    )
    view = LossInputs(forget=now, forget_ref=before, forget_teacher=reinforced)
    soft = WHP(alpha=1.0, target="softmax").forget_loss(view).item()
    assert soft == pytest.approx(0.6 * math.log(4) + 0.4 * math.log(4 / 3), rel=1e-14)
    assert WHP(alpha=1.0).forget_loss(view).item() == pytest.approx(math.log(4), rel=1e-14)
    assert WHP(alpha=2.0).forget_loss(view).item() == pytest.approx(math.log(4 / 3), rel=1e-14)


@pytest.mark.parametrize("target", ["softmax", "argmax"])
def test_the_gradient_in_closed_form_and_by_differences(logit_side, target: str) -> None:
    z, z_b, z_r = logits(3, 5, 0).requires_grad_(), logits(3, 5, 1), logits(3, 5, 2)
    loss_of_method = objective("WHP", {"alpha": 1.5, "target": target}).method
    others = {"forget_ref": logit_side(z_b, TOKENS, ROWS), "forget_teacher": logit_side(z_r, TOKENS, ROWS)}

    def loss(x: torch.Tensor) -> torch.Tensor:
        return loss_of_method.forget_loss(LossInputs(forget=logit_side(x, TOKENS, ROWS), **others))

    loss(z).backward()
    v = z_b - 1.5 * (z_r - z_b).clamp(min=0)
    want = v.softmax(-1) if target == "softmax" else torch.nn.functional.one_hot(v.argmax(-1), 5).double()
    torch.testing.assert_close(z.grad, (z.detach().softmax(-1) - want) / 3, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(loss, (z,))


def test_without_alpha_the_reference_is_the_minimum(logit_side) -> None:
    z = logits(3, 5, 0).requires_grad_()
    view = LossInputs(
        forget=logit_side(z, TOKENS, ROWS),
        forget_ref=logit_side(z.detach() + 7.0, TOKENS, ROWS),
        forget_teacher=logit_side(logits(3, 5, 2), TOKENS, ROWS),
    )
    WHP(alpha=0.0, target="softmax").forget_loss(view).backward()
    assert z.grad is not None and z.grad.abs().max().item() < 1e-15


def test_no_gradient_reaches_the_other_models(logit_side) -> None:
    z, z_b, z_r = (logits(3, 5, k).requires_grad_() for k in range(3))
    now, before, reinforced = (logit_side(x, TOKENS, ROWS) for x in (z, z_b, z_r))
    WHP(target="softmax").forget_loss(LossInputs(forget=now, forget_ref=before, forget_teacher=reinforced)).backward()
    assert z.grad is not None and z_b.grad is None and z_r.grad is None


def test_which_token_stands_there_does_not_count(logit_side) -> None:
    one, other = (logit_side(logits(3, 5, 0), t, ROWS) for t in (TOKENS, TOKENS.flip(0)))
    ref, reinforced = (logit_side(logits(3, 5, k), TOKENS, ROWS) for k in (1, 2))
    result = WHP(target="softmax")
    views = [LossInputs(forget=x, forget_ref=ref, forget_teacher=reinforced) for x in (one, other)]
    assert result.forget_loss(views[0]).item() == result.forget_loss(views[1]).item()


def test_the_reinforced_model_may_be_trained_otherwise() -> None:
    assert WHP().reinforce == {}
    assert WHP(reinforce_epochs=3).reinforce == {"num_train_epochs": 3, "max_steps": -1}
    assert WHP(reinforce_learning_rate=1e-4).reinforce == {"learning_rate": 1e-4}
    spec = objective("WHP").spec
    assert spec.teacher == "reinforced" and spec.retain_loss_type is None
    assert dataclasses.asdict(objective("WHP", {"alpha": 2}).method)["alpha"] == 2
