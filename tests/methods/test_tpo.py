from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from key_value_toy import cases, tensor
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, SideOutputs, objective
from expunge.methods.tpo import TPO

TOKENS = torch.tensor([0, 1, 0])
ROWS = torch.tensor([0, 0, 0])


def marked_side(logit_side, logits: list[list[float]] | Tensor, marks: list[bool], rows: Tensor = ROWS) -> SideOutputs:
    logits_NV = torch.as_tensor(logits, dtype=torch.float64)
    side: SideOutputs = logit_side(logits_NV, TOKENS[: len(rows)], rows)
    return dataclasses.replace(side, logits_NV=logits_NV, marked_N=torch.tensor(marks))


def test_the_loss_by_hand(logit_side) -> None:
    # unwanted: positions 0 and 1. True logits now 0 and 0, of the reference 3 and 1: mean drop 2.
    # beta = 1/2: -(2/0.5) ln sigma(1) = 4 ln(1 + 1/e). Position 2 has logits 0, 0: -ln p = ln 2, twice that
    now = marked_side(logit_side, [[0, 0], [0, 0], [0, 0]], [True, True, False])
    ref = marked_side(logit_side, [[3, 9], [9, 1], [5, 5]], [True, True, False])
    loss = TPO(beta=0.5, preservation=2).forget_loss(LossInputs(forget=now, forget_ref=ref))
    assert loss.item() == pytest.approx(4 * math.log1p(math.exp(-1)) + 2 * math.log(2), rel=1e-14)


def test_the_loss_of_an_example_equals_the_authors(logit_side) -> None:
    measured = cases("tpo")["loss"]
    inputs, rows = measured["inputs"], torch.zeros(4, dtype=torch.long)
    now, ref = (
        dataclasses.replace(
            logit_side(tensor(inputs[key]), torch.tensor(inputs["tokens"]), rows),
            marked_N=torch.tensor(inputs["unwanted"]),
        )
        for key in ("logits", "reference")
    )
    loss = TPO(beta=inputs["beta"]).forget_loss(LossInputs(forget=now, forget_ref=ref))
    assert loss.item() == pytest.approx(measured["outputs"], rel=1e-12)


def test_the_gradient_by_hand_and_by_differences(logit_side) -> None:
    # d/dl of an unwanted true logit at drop 0: (2/beta) sigma(0) beta / 2 tokens = 1/2, whatever beta is; its other
    # logits have none. Position 2: softmax - one-hot = (-1/2, 1/2)
    logits = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    ref = marked_side(logit_side, torch.zeros(3, 2), [True, True, False])

    def loss(logits_NV: Tensor) -> Tensor:
        now = marked_side(logit_side, logits_NV, [True, True, False])
        return TPO(beta=0.3).forget_loss(LossInputs(forget=now, forget_ref=ref))

    loss(logits).backward()
    assert logits.grad is not None
    expected = torch.tensor([[0.5, 0.0], [0.0, 0.5], [-0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-14, atol=1e-15)
    start = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(loss, (start,))


def test_an_example_without_unwanted_words_only_preserves(logit_side) -> None:
    # drop 0: (2/beta) ln 2, a constant; one token of NLL ln 2
    now = marked_side(logit_side, [[0, 0]], [False], torch.tensor([0]))
    loss = TPO(beta=1).forget_loss(LossInputs(forget=now, forget_ref=now))
    assert loss.item() == pytest.approx(3 * math.log(2), rel=1e-14)


def test_there_is_no_retain_term_unless_it_has_a_weight() -> None:
    assert objective("TPO").needs.retain is None
    assert objective("TPO", {"alpha": 1}).needs.retain is not None
    needs = objective("TPO", {"alpha": 1}).needs
    assert (needs.marks_of("forget"), needs.marks_of("retain")) == ("unwanted", "")


@pytest.mark.parametrize("args", [{"beta": 0}, {"preservation": -1}])
def test_wrong_settings_are_refused(args: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.method_args\.{next(iter(args))}: must be a number"):
        objective("TPO", args)


def test_marks_that_are_missing_are_named(logit_side) -> None:
    now = dataclasses.replace(marked_side(logit_side, [[0, 0]], [True], torch.tensor([0])), marked_N=None)
    with pytest.raises(ValueError, match="reads the marks of tokens"):
        TPO().forget_loss(LossInputs(forget=now, forget_ref=now))
