from __future__ import annotations

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, Quantity, SideOutputs, objective
from expunge.methods.rr import RR


def two_layers(rows: list[list[float]]) -> SideOutputs:
    """One row per position; the first two numbers are the first layer's state, the others the second's."""
    h_ND = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    n = len(rows)
    return SideOutputs(h_ND.new_zeros(0), torch.zeros(n, dtype=torch.long), 1, hidden_ND=h_ND, widths=(2, 2))


def test_the_loss_and_its_gradient_by_hand() -> None:
    # layer 1: cos((3, 4), (1, 0)) = 0.6 and cos((0, 1), (1, 0)) = 0; layer 2: cos((1, 0), (1, 0)) = 1 and
    # cos((-1, 0), (1, 0)) = -1 -> 0. The mean over positions and layers is (0.6 + 0 + 1 + 0) / 4 = 0.4
    now, ref = two_layers([[3, 4, 1, 0], [0, 1, -1, 0]]), two_layers([[1, 0, 1, 0], [1, 0, 1, 0]])
    loss = RR().forget_loss(LossInputs(forget=now, forget_ref=ref))
    loss.backward()
    assert loss.item() == pytest.approx(0.4, rel=1e-15)
    # d cos / dh = (u_ref - cos * u) / |h|: ((1, 0) - 0.6 (0.6, 0.8)) / 5 = (0.128, -0.096); a quarter of it
    assert now.hidden_ND is not None and now.hidden_ND.grad is not None
    assert now.hidden_ND.grad[0].tolist() == pytest.approx([0.032, -0.024, 0, 0], abs=1e-15)
    assert now.hidden_ND.grad[1, 2:].tolist() == [0, 0]


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 4.0), (0.5, 4 * 0.75 + 0.25 * 2 * 3.0)])
def test_the_terms_change_their_weights_during_the_run(progress: float, expected: float) -> None:
    # forget 0.4, gamma 10: 4. The retain states are (0, 3) from (0, 0) and 3 from 3: lengths 3 and 3, mean 3, alpha 2
    loss = objective("RR", {"alpha": 2})
    view = LossInputs(
        forget=two_layers([[3, 4, 1, 0], [0, 1, -1, 0]]),
        forget_ref=two_layers([[1, 0, 1, 0], [1, 0, 1, 0]]),
        retain=two_layers([[0, 3, 3, 0]]),
        retain_ref=two_layers([[0, 0, 0, 0]]),
        memory={"progress": progress},
    )
    assert loss(view).total.item() == pytest.approx(expected, rel=1e-15)


def test_the_loss_equals_the_authors() -> None:
    measured = cases("rr")["terms"]
    inputs = measured["inputs"]

    def side(key: str) -> SideOutputs:
        h_LND = tensor(inputs[key])
        n = h_LND.shape[1]
        h_ND, row_N = torch.cat([*h_LND], -1), torch.zeros(n, dtype=torch.long)
        return SideOutputs(h_ND.new_zeros(0), row_N, 1, hidden_ND=h_ND, widths=(4, 4))

    sides = {key: side(key) for key in ("forget", "forget_ref", "retain", "retain_ref")}
    view = LossInputs(**sides, memory={"progress": 2 * inputs["progress"]})  # theirs ends at 1/2
    loss = objective("RR", {"gamma": inputs["alpha"], "alpha": inputs["alpha"]})(view)
    assert loss.total.item() == pytest.approx(measured["outputs"], rel=1e-12)


def test_it_reads_its_layers_on_both_sides() -> None:
    needs = objective("circuit_breakers", {"layers": ["a.0", "a.1:input"]}).needs
    assert needs.layer == ("a.0", "a.1:input")
    assert {needs.forget, needs.forget_ref, needs.retain, needs.retain_ref} == {Quantity.HIDDEN}


@pytest.mark.parametrize("layers", [[], ["a", "a"], ["a b"], ["a:output"]])
def test_wrong_layers_are_refused(layers: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^trainer.method_args.layers: must name"):
        objective("RR", {"layers": layers})
