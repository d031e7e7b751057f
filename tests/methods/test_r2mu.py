from __future__ import annotations

from typing import Any

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, Quantity, ScoredPositions, SideOutputs, objective
from expunge.methods.r2mu import R2MU


def spans(*rows: tuple[Any, Any]) -> SideOutputs:
    """Rows of hidden states: those of the trace, then those of the answer."""
    states = [[*trace, *answer] for trace, answer in rows]
    row_N = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(h) for h in states]))
    marked_N = torch.cat([torch.arange(len(t) + len(a)) < len(t) for t, a in rows])
    h_ND = tensor([h for row in states for h in row]).requires_grad_()
    return SideOutputs(h_ND.new_zeros(0), row_N, len(rows), hidden_ND=h_ND, marked_N=marked_N)


def along_x() -> dict[str, Any]:
    return {"control": tensor([1.0, 0.0])}


def test_the_loss_equals_the_authors() -> None:
    case = cases("r2mu")["loss"]
    inputs = case["inputs"]
    view = LossInputs(
        forget=spans((inputs["trace"], inputs["forget"])),
        retain=spans((inputs["reasoning"], inputs["retain"])),
        retain_ref=spans((inputs["reasoning_ref"], inputs["retain_ref"])),
        memory={"control": tensor(inputs["control"])},
    )
    loss = objective("R2MU")(view)
    assert loss.total.item() == pytest.approx(case["outputs"]["loss"], rel=1e-12)
    expected = case["outputs"]["unlearn_loss"] + case["outputs"]["extent_loss"]
    assert loss.parts["forget"].item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_and_its_gradient_by_hand() -> None:
    # target (2, 0), D = 2. Row 0: trace (2, 2) -> 4/2 = 2; answer (4, 0), (2, 0) -> 4/2, 0: mean 1.
    # Row 1 has no trace: 0; answer (0, 0) -> 4/2 = 2. Answers (1 + 2)/2 = 1.5, traces (2 + 0)/2 = 1: 1.5 + 3 * 1
    side = spans(([[2, 2]], [[4, 0], [2, 0]]), ([], [[0, 0]]))
    loss = R2MU(steering_coeff=2, trace=3).forget_loss(LossInputs(forget=side, memory=along_x()))
    loss.backward()
    assert loss.item() == pytest.approx(4.5, rel=1e-15)
    # d/dh of a token: weight * 2 (h - target) / D / tokens of its span / 2 rows
    assert side.hidden_ND is not None and side.hidden_ND.grad is not None
    assert side.hidden_ND.grad.tolist() == [[0, 3], [0.5, 0], [0, 0], [-1, 0]]


def test_the_retain_term_by_hand() -> None:
    # distances from the reference: trace (1, 1) -> 1, answer (2, 0) -> 2. alpha (2 + reasoning 1) = 3 (2 + 0.5)
    method = objective("R2MU", {"alpha": 3, "reasoning": 0.5, "gamma": 0})
    view = LossInputs(
        forget=spans(([[0, 0]], [[0, 0]])),
        retain=spans(([[1, 1]], [[2, 0]])),
        retain_ref=spans(([[0, 0]], [[0, 0]])),
        memory=along_x(),
    )
    assert method(view).total.item() == pytest.approx(7.5, rel=1e-15)


def test_it_reads_one_layer_on_both_sides_and_the_marks_of_traces() -> None:
    needs = objective("R2MU", {"layer": "a.0"}).needs
    assert (needs.layer, needs.marks_of("forget"), needs.marks_of("retain")) == ("a.0", "trace", "trace")
    assert {needs.forget, needs.retain, needs.retain_ref} == {Quantity.HIDDEN} and needs.forget_ref is None
    assert needs.retain_positions is ScoredPositions.OWN


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"layer": "a b"}, "layer: must name one module"),
        ({"trace": -1}, "trace: must be a number >= 0"),
        ({"steering_coeff": 0}, "steering_coeff: must be a number > 0"),
        ({"trainable_params_regex": ["("]}, "trainable_params_regex: must be regular expressions"),
        ({"retain_loss_type": "NLL"}, "retain_loss_type: R2MU has a retain term of its own, EMBED_DIFF"),
    ],
)
def test_wrong_settings_are_refused(args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.method_args\.{words}"):
        objective("R2MU", args)
