from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, Quantity, ScoredPositions, SideOutputs, objective
from expunge.methods.rmu import RMU, control_vector


def hidden_side(rows: list[list[list[float]]] | list[Tensor]) -> SideOutputs:
    tensors = [torch.as_tensor(r, dtype=torch.float64) for r in rows]
    row_N = torch.repeat_interleave(torch.arange(len(tensors)), torch.tensor([len(t) for t in tensors]))
    h_ND = torch.cat(tensors)
    return SideOutputs(h_ND.new_zeros(0), row_N, len(rows), hidden_ND=h_ND)


def along_x() -> dict[str, Any]:
    return {"control": torch.tensor([1.0, 0.0], dtype=torch.float64)}


ROWS = [[[2.0, 2.0], [4.0, 0.0]], [[0.0, 0.0]]]


def test_the_loss_by_hand() -> None:
    # target (2, 0): squared distances / D of row 0: 4/2, 4/2; of row 1: 4/2. Row means 2 and 2: 2.
    # With target (4, 0): row 0: (4 + 4)/2, 0/2 -> mean 2; row 1: 16/2 = 8 -> mean over rows 5 (over tokens 4)
    side = hidden_side(ROWS)
    assert RMU(steering_coeff=2).forget_loss(LossInputs(forget=side, memory=along_x())).item() == pytest.approx(2.0)
    assert RMU(steering_coeff=4).forget_loss(LossInputs(forget=side, memory=along_x())).item() == pytest.approx(5.0)


def test_the_peers_form_by_hand() -> None:
    # rows' sums 4 and 8, mean 6; rows' 1/n: 1/2 and 1, mean 3/4; product 4.5
    result = RMU(steering_coeff=4, compat="openunlearning")
    assert result.forget_loss(LossInputs(forget=hidden_side(ROWS), memory=along_x())).item() == pytest.approx(4.5)


def test_adaptive_takes_the_references_mean_length_of_each_row() -> None:
    # reference lengths of row 0: 3 and 5, mean 4; of row 1: 1. With coefficient 1/2 the targets are (2, 0), (1/2, 0):
    # row 0: 4/2 and 4/2 -> 2; row 1: 0.25/2 -> mean over rows 1.0625
    ref = hidden_side([[[3.0, 0.0], [3.0, 4.0]], [[0.0, 1.0]]])
    result = RMU(steering_coeff=0.5, adaptive=True)
    actual = result.forget_loss(LossInputs(forget=hidden_side(ROWS), forget_ref=ref, memory=along_x()))
    assert actual.item() == pytest.approx(1.0625)
    assert result.needs.forget_ref is Quantity.HIDDEN


def test_activations_at_the_target_give_zero_and_no_gradient() -> None:
    h = torch.tensor([[2.0, 0.0], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = RMU(steering_coeff=2).forget_loss(LossInputs(forget=hidden_side([h]), memory=along_x()))
    loss.backward()
    assert loss.item() == 0.0
    assert h.grad is not None and h.grad.abs().max().item() == 0.0


def test_the_gradient_in_closed_form_and_by_differences() -> None:
    # d/d h of mean_rows mean_n ||h - c||^2 / D = 2 (h - c) / (B n D)
    h = torch.tensor([[2.0, 2.0], [4.0, 0.5], [0.1, 0.2]], dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return RMU(steering_coeff=2).forget_loss(LossInputs(forget=hidden_side([x[:2], x[2:]]), memory=along_x()))

    loss(h).backward()
    n = torch.tensor([[2.0], [2.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(h.grad, (h.detach() - torch.tensor([2.0, 0.0])) * 2 / (2 * n * 2))
    assert torch.autograd.gradcheck(loss, (h,))


def test_the_whole_objective_by_hand() -> None:
    # forget 2 (as above); retain: squared differences (1 + 1)/2 = 1, twice -> 1; 3 * 2 + 5 * 1
    view = LossInputs(
        forget=hidden_side(ROWS),
        retain=hidden_side([[[1.0, 1.0]], [[2.0, 2.0]]]),
        retain_ref=hidden_side([[[0.0, 0.0]], [[1.0, 3.0]]]),
        memory=along_x(),
    )
    assert objective("RMU", {"gamma": 3, "alpha": 5})(view).total.item() == pytest.approx(11.0)


def test_the_control_vector_is_drawn_once_and_is_the_same_in_every_run() -> None:
    memory: dict[str, Any] = {}
    RMU().forget_loss(LossInputs(forget=hidden_side(ROWS), memory=memory))
    first = memory["control"]
    RMU(control_seed=1).forget_loss(LossInputs(forget=hidden_side(ROWS), memory=memory))
    assert memory["control"] is first
    torch.testing.assert_close(first, control_vector(2, 0), rtol=0, atol=0)
    u = control_vector(4096, 3)
    assert u.norm().item() == pytest.approx(1.0, rel=1e-6)
    # uniform on [0, 1]: the mean over the length is (1/2) / sqrt(1/3) / sqrt(D)
    assert u.mean().item() * 64 == pytest.approx(0.5 * 3**0.5, rel=0.02)
    assert u.min().item() >= 0 and not torch.equal(u, control_vector(4096, 4))


def test_the_layer_may_be_written_in_the_peers_form() -> None:
    needs = objective("RMU", {"module_regex": r"model\.layers\.1", "trainable_params_regex": [".*"]}).needs
    assert (needs.layer, needs.forget_positions, needs.retain_positions) == (
        "model.layers.1",
        ScoredPositions.OWN,
        ScoredPositions.OWN,
    )
    assert needs.forget is needs.retain is needs.retain_ref is Quantity.HIDDEN and needs.forget_ref is None
    assert objective("RMU", {"module_regex": "model.layers.1"}).needs == needs


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ({"steering_coeff": 0}, "trainer.method_args.steering_coeff: must be a number > 0, got 0"),
        ({"module_regex": "model.layers.(5|6)"}, "trainer.method_args.module_regex: must name one module, such as"),
        ({"trainable_params_regex": []}, "trainer.method_args.trainable_params_regex: must have an entry, such as"),
        ({"trainable_params_regex": ["("]}, "trainer.method_args.trainable_params_regex: must be regular expressions"),
        ({"control_seed": -1}, "trainer.method_args.control_seed: must be a whole number >= 0, got -1"),
    ],
)
def test_wrong_settings_are_told_in_one_line(args: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        objective("RMU", args)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
