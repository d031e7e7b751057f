from __future__ import annotations

import math

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.methods import LossInputs, Quantity, objective
from expunge.methods.jensun import jsd_to_token
from expunge.methods.objective import jsd_to_reference


def jsd(p: torch.Tensor, q: torch.Tensor) -> float:
    """The definition, over whole distributions."""
    middle = (p + q) / 2
    terms = [torch.where(x > 0, x * (x / middle).log(), torch.zeros_like(x)).sum() for x in (p, q)]
    return (sum(terms) / 2).item()  # type: ignore[union-attr]


def test_the_loss_by_hand(side) -> None:
    # p = 1/2: log 2 + (1/2 log 1/2 - 3/2 log 3/2) / 2 = log 2 - 1/4 log 2 - 3/4 log 3 + 3/4 log 2
    # = 3/2 log 2 - 3/4 log 3
    expected = 1.5 * math.log(2) - 0.75 * math.log(3)
    terms = objective("JensUn", {"alpha": 0})(LossInputs(alternate=side([[math.log(0.5)], [0.0, 0.0]])))
    assert terms.total.item() == pytest.approx(expected / 3, rel=1e-13)  # p = 1 gives 0; the mean is over tokens


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_divergence_to_a_one_hot(seed: int) -> None:
    p = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(0)
    for token in range(9):
        one_hot = torch.nn.functional.one_hot(torch.tensor(token), 9).double()
        assert jsd_to_token(p[token].log()).item() == pytest.approx(jsd(p, one_hot), rel=1e-11)


def test_the_gradient_in_closed_form_and_by_differences() -> None:
    # d/d log p = p/2 log(p / (1 + p))
    logp = torch.tensor([-0.1, -2.0, -9.0], dtype=torch.float64, requires_grad=True)
    jsd_to_token(logp).sum().backward()
    p = logp.detach().exp()
    torch.testing.assert_close(logp.grad, p / 2 * (p / (1 + p)).log(), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(jsd_to_token, (logp,))


def test_it_is_bounded_by_zero_and_log_two() -> None:
    ends = jsd_to_token(torch.tensor([0.0, -1e4], dtype=torch.float64))
    assert ends[0].item() == pytest.approx(0.0, abs=1e-15)
    assert ends[1].item() == pytest.approx(math.log(2), rel=1e-15)


def test_the_retain_term_is_the_divergence_to_the_reference(side, logit_side) -> None:
    # p = (1/4, 3/4), p_ref = (3/4, 1/4): middle (1/2, 1/2); JSD = 1/4 log 1/2 + 3/4 log 3/2, the same from both sides
    one = torch.tensor([0])
    now = logit_side(torch.tensor([[0.25, 0.75]], dtype=torch.float64).log(), one, one)
    ref = logit_side(torch.tensor([[0.75, 0.25]], dtype=torch.float64).log() + 2, one, one)
    loss = objective("JensUn")
    terms = loss(LossInputs(alternate=side([[0.0]]), retain=now, retain_ref=ref))
    assert terms.parts["retain"].item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-13)
    assert terms.total.item() == pytest.approx(terms.parts["retain"].item(), rel=1e-13)
    assert loss.needs.retain is loss.needs.retain_ref is Quantity.LOGITS
    assert loss.needs.forget is None and loss.needs.alternate is Quantity.LOGPS


def test_both_terms_equal_the_authors(logit_side) -> None:
    case = cases("jensun")["forget"]
    z = tensor(case["inputs"]["logits"])
    logp_N = torch.log_softmax(z, -1)[:, case["inputs"]["token"]]
    assert jsd_to_token(logp_N).mean().item() == pytest.approx(case["outputs"], rel=1e-7)  # theirs clamps p at 1e-9
    case = cases("jensun")["retain"]
    tokens = torch.zeros(len(z), dtype=torch.long)
    now, ref = (logit_side(tensor(case["inputs"][key]), tokens, tokens) for key in ("logits", "reference"))
    assert jsd_to_reference(ref, now).item() == pytest.approx(case["outputs"], rel=1e-12)
