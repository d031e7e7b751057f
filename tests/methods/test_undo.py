from __future__ import annotations

import math

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, Quantity, objective
from expunge.methods.undo import UNDO
from expunge.methods.weight_edits.noise import Noise


def logits(n: int, v: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(n, v, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TOKENS, ROWS = torch.tensor([4, 0, 2]), torch.tensor([0, 0, 1])


def test_the_loss_by_hand_and_its_direction(logit_side) -> None:
    # KL(teacher || student) of (1/2, 1/2) from (1/4, 3/4) is (log 2 + log 2/3) / 2 = log(4/3) / 2; the other direction
    # would be log(1/2) / 4 + 3/4 log(3/2)
    one = torch.tensor([0])
    now, teacher = (
        logit_side(torch.tensor([p], dtype=torch.float64).log(), one, one) for p in ([0.25, 0.75], [0.5, 0.5])
    )
    actual = UNDO().forget_loss(LossInputs(forget=now, forget_teacher=teacher)).item()
    assert actual == pytest.approx(math.log(4 / 3) / 2, rel=1e-14)
    other = UNDO().forget_loss(LossInputs(forget=teacher, forget_teacher=now)).item()
    assert other == pytest.approx(math.log(0.5) / 4 + 0.75 * math.log(1.5), rel=1e-14)


def test_the_loss_equals_the_authors(logit_side) -> None:
    case = cases("undo")["loss"]
    now, teacher = (logit_side(tensor(case["inputs"][key]), TOKENS, ROWS) for key in ("student", "teacher"))
    loss = UNDO().forget_loss(LossInputs(forget=now, forget_teacher=teacher))
    assert loss.item() == pytest.approx(case["outputs"], rel=1e-12)


def test_the_total_and_its_gradient_in_closed_form(logit_side) -> None:
    z_f, z_r = logits(3, 5, 0).requires_grad_(), logits(3, 5, 1).requires_grad_()
    t_f, t_r = logits(3, 5, 2), logits(3, 5, 3)
    view = LossInputs(**{
        name: logit_side(z, TOKENS, ROWS)
        for name, z in (("forget", z_f), ("forget_teacher", t_f), ("retain", z_r), ("retain_teacher", t_r))
    })  # fmt: skip
    terms = objective("UNDO", {"gamma": 0.5, "alpha": 2.0})(view)
    terms.total.backward()
    for z, t, weight, part in ((z_f, t_f, 0.5, "forget"), (z_r, t_r, 2.0, "retain")):
        torch.testing.assert_close(
            z.grad, weight * (z.detach().softmax(-1) - t.softmax(-1)) / 3, rtol=1e-12, atol=1e-15
        )
        p, q = t.softmax(-1), z.detach().softmax(-1)
        assert terms.parts[part].item() == pytest.approx(((p * (p.log() - q.log())).sum(-1)).mean().item(), rel=1e-12)


def test_the_teacher_is_the_minimum(logit_side) -> None:
    z = logits(3, 5, 0).requires_grad_()
    teacher = logit_side(z.detach() - 3.0, TOKENS, ROWS)
    loss = UNDO().forget_loss(LossInputs(forget=logit_side(z, TOKENS, ROWS), forget_teacher=teacher))
    loss.backward()
    assert abs(loss.item()) < 1e-15
    assert z.grad is not None and z.grad.abs().max().item() < 1e-15


def test_it_reads_the_teacher_on_both_sides_and_no_reference() -> None:
    needs = objective("UNDO").needs
    assert needs.forget_teacher is needs.retain_teacher is needs.retain is Quantity.LOGITS
    assert needs.forget_ref is needs.retain_ref is None
    plain = objective("UNDO", {"retain_loss_type": "NLL"}).needs
    assert plain.retain_teacher is None and plain.forget_teacher is Quantity.LOGITS


def test_the_noise_is_the_edits() -> None:
    result = UNDO(a=0.2, beta=0.5, vectors=False, distribution="width").noise(7)
    assert result == Noise(a=0.2, beta=0.5, vectors=False, distribution="width", seed=7)
    with pytest.raises(ConfigError, match=r"^trainer\.method_args\.a: must be at least 0 and at most 1, got 2$"):
        objective("UNDO", {"a": 2})


@pytest.mark.parametrize("name", ["NPO", "WHP"])
def test_only_a_method_with_a_teacher_to_stay_near_distils_the_retain_rows(name: str) -> None:
    with pytest.raises(ConfigError, match="retain_loss_type: "):
        objective(name, {"retain_loss_type": "TEACHER_KL"})
