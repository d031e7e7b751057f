from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import objective
from expunge.training.config import TrainArgs
from expunge.training.optimizer_rules.sophia import Sophia
from expunge.training.optimizers import optimizer_class
from expunge.training.phases import check_run

MEASURED = Path(__file__).parents[1] / "methods" / "conformance" / "sophia.json"


def weights(gradients: list[list[float]], start: list[float], **settings: object) -> list[list[float]]:
    p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    rule, out = Sophia([p], **settings), []  # type: ignore[arg-type]
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        rule.step()
        out.append(p.tolist())
    return out


def test_the_authors_form_equals_their_code() -> None:
    case = json.loads(MEASURED.read_text())["cases"]["steps"]
    actual = weights(case["inputs"]["gradients"], case["inputs"]["p"], lr=0.01, compat="authors")
    for mine, theirs in zip(actual, case["outputs"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12)


def test_one_step_by_hand() -> None:
    # m = 0.1 g, h = 0.05 g^2. g = 2: |m| / (rho h) = 0.2 / (4 * 0.2) = 0.25. g = 0.1: 0.01 / (4 * 0.0005) = 5 -> 1.
    # g = 0: no step, only the decay 1 - 0.5 * 0.2
    (after,) = weights([[2.0, -0.1, 0.0]], [1.0, 1.0, 1.0], lr=0.5, rho=4.0, batch=1.0, weight_decay=0.2)
    assert after == pytest.approx([0.9 - 0.125, 0.9 + 0.5, 0.9], rel=1e-12)


def test_no_weight_moves_further_than_the_rate_and_the_size_of_the_loss_cancels_where_it_is_clipped() -> None:
    gradients = [[1e-3, -5.0, 30.0]] * 4
    actual = weights(gradients, [0.0, 0.0, 0.0], lr=0.1, rho=1e-9, weight_decay=0.0)
    twice = weights([[7 * g for g in row] for row in gradients], [0.0] * 3, lr=0.1, rho=1e-9, weight_decay=0.0)
    assert actual == twice == [[pytest.approx(s * 0.1 * k) for s in (-1, 1, -1)] for k in (1, 2, 3, 4)]


def test_it_is_an_optimizer_of_a_run() -> None:
    args = TrainArgs(optim="sophia", optim_args={"rho": 0.1}, learning_rate=1e-5, weight_decay=0.1)
    assert optimizer_class(args, "cpu") == (Sophia, {"lr": 1e-5, "weight_decay": 0.1, "rho": 0.1})
    check_run(objective("GradDiff"), args)
    with pytest.raises(ConfigError, match=r"^trainer.args.optim_args.roh: sophia has no such setting.*'rho'"):
        check_run(objective("GradDiff"), TrainArgs(optim="sophia", optim_args={"roh": 1}))
    with pytest.raises(ValueError, match=r"^betas must be two numbers"):
        Sophia([torch.zeros(1)], betas=(1.0, 0.9))
