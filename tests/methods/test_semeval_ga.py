from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective


def view_of(side, logit_side) -> LossInputs:
    one = torch.tensor([0])
    now = logit_side(torch.tensor([[0.25, 0.75]], dtype=torch.float64).log(), one, one)
    ref = logit_side(torch.zeros(1, 2, dtype=torch.float64), one, one)
    return LossInputs(forget=side([[-1.0, -2.0], [-6.0]]), retain=now, retain_ref=ref)


def test_the_three_terms_by_hand(side, logit_side) -> None:
    # forget: row means 1.5 and 6, mean 3.75 (over tokens 3), negated; KL((1/2, 1/2) || (1/4, 3/4)) = log(4/3) / 2;
    # retain NLL = -log(1/4) = 2 log 2, weight 0.25
    view = view_of(side, logit_side)
    kl = 0.5 * math.log(4 / 3)
    two = objective("SemEvalGA")(view)
    assert two.total.item() == pytest.approx(-0.5 * 3.75 + kl, rel=1e-14)
    assert set(two.parts) == {"forget", "retain"}
    three = objective("iterative", {"nll_weight": 0.25})(view)
    assert three.total.item() == pytest.approx(-0.5 * 3.75 + kl + 0.25 * 2 * math.log(2), rel=1e-14)
    assert {k: v.item() for k, v in three.parts.items()} == {
        "forget": pytest.approx(-3.75),
        "retain": pytest.approx(kl),
        "retain_nll": pytest.approx(2 * math.log(2)),
    }


def test_every_row_weighs_the_same(side, logit_side) -> None:
    # d/d logp = 1 / (B n_row)
    logps = torch.tensor([-1.0, -2.0, -6.0], dtype=torch.float64, requires_grad=True)
    loss = objective("SemEvalGA")
    loss.method.forget_loss(LossInputs(forget=side([logps[:2], logps[2:]]))).backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [0.25, 0.25, 0.5]


def test_the_third_weight_joins_a_divergence_only() -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("GradDiff", {"nll_weight": 1}),
        ("SemEvalGA", {"nll_weight": 1, "retain_loss_type": "NLL"}),
        ("SemEvalGA", {"nll_weight": 1, "alpha": 0}),
    ]
    for name, args in wrong:
        with pytest.raises(ConfigError, match=r"nll_weight: adds to a retain loss of type KL or JSD with alpha > 0"):
            objective(name, args)
    with pytest.raises(ConfigError, match=r"nll_weight: must be a number >= 0, got -1"):
        objective("NPO", {"nll_weight": -1})
    # NPO with KL and NLL on the retain rows: the three terms of the task's second team
    assert objective(
        "NPO", {"retain_loss_type": "KL", "gamma": 0.4, "alpha": 0.4, "nll_weight": 0.2}
    ).weights.nll_weight
