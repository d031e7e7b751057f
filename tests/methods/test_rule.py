from __future__ import annotations

import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.rule import RULE


def test_the_loss_and_its_gradient_by_hand(side) -> None:
    # two texts of a forget question (a refusal, an answer) and two of a retain question (both answered): advantages
    # A, -A, 0, 0. The ratios are 1: the loss is 0, and d/d log p_it = -A_i / (4 |o_i|) over four texts
    logps = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([-1.0, -2.0], [-3.0], [-1.0], [-4.0])]
    view = LossInputs(rollout=side(logps), rewards_B=torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    loss = RULE(num_generations=2).forget_loss(view)
    loss.backward()
    A = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert loss.item() == pytest.approx(0.0, abs=1e-15)
    assert logps[0].grad.tolist() == pytest.approx([-A / 8, -A / 8], rel=1e-14)
    assert logps[1].grad.tolist() == pytest.approx([A / 4], rel=1e-14)
    assert logps[2].grad.abs().max() < 1e-12 > logps[3].grad.abs().max()


def test_it_reads_the_questions_of_both_sides() -> None:
    needs = objective("RULE").needs
    assert needs.retain is None and needs.reads("forget") and needs.reads("retain")
    assert not objective("PURGE", {"alpha": 0}).needs.reads("retain")


@pytest.mark.parametrize("args", [{"num_generations": 1}, {"max_completion_length": 0}])
def test_wrong_settings_are_refused(args: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.method_args\.{next(iter(args))}: must be at least"):
        objective("RULE", args)
