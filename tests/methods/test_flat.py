from __future__ import annotations

import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.flat import FLAT, bound

NAMES = ("TV", "KL", "JS", "Pearson")


def at(v_alternate: float, v_forget: float, name: str) -> float:
    reached, conjugate = bound(
        torch.tensor(v_alternate, dtype=torch.float64), torch.tensor(v_forget, dtype=torch.float64), name
    )  # type: ignore[arg-type]
    return (conjugate - reached).item()


def test_the_losses_by_hand(side) -> None:
    # alternate: probabilities 1/2, 1 -> v = 3/4; forget: 1/4 -> v = 1/4 (the mean of probabilities, not of logs)
    view = LossInputs(alternate=side([[math.log(0.5), 0.0]]), forget=side([[math.log(0.25)]]))
    expected = {
        "TV": (math.tanh(0.25) - math.tanh(0.75)) / 2,
        "KL": math.exp(-0.75) - 0.75,
        "JS": -math.log(2 - 2 / (1 + math.exp(-0.25))) - math.log(2 / (1 + math.exp(-0.75))),
        "Pearson": 0.25**2 / 4 + 0.25 - 0.75,
    }
    for name, value in expected.items():
        assert FLAT(divergence=name).forget_loss(view).item() == pytest.approx(value, rel=1e-13), name


# f-GAN's generators: f(u) with u = p / q, of which f*(t) = sup_u (t u - f(u)) is the conjugate
GENERATORS = {
    "TV": lambda u: (u - 1).abs() / 2,
    "KL": lambda u: u * u.log(),
    "JS": lambda u: -(u + 1) * ((1 + u) / 2).log() + u * u.log(),
    "Pearson": lambda u: (u - 1) ** 2,
}
ACTIVATIONS = {
    "TV": lambda v: math.tanh(v) / 2,
    "KL": lambda v: v,
    "JS": lambda v: math.log(2) - math.log1p(math.exp(-v)),
    "Pearson": lambda v: v,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
def test_the_conjugate_is_the_supremum_of_its_definition(name: str, v: float) -> None:
    u = torch.logspace(-6, 6, 400_001, dtype=torch.float64)
    t = ACTIVATIONS[name](v)
    supremum = (t * u - GENERATORS[name](u)).max().item()
    reached, conjugate = bound(torch.tensor(v, dtype=torch.float64), torch.tensor(v, dtype=torch.float64), name)  # type: ignore[arg-type]
    assert conjugate.item() == pytest.approx(supremum, abs=2e-6)
    assert reached.item() == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_it_raises_the_template_and_lowers_the_forget_answer(name: str) -> None:
    v_alternate = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    v_forget = torch.tensor([0.8, 0.1], dtype=torch.float64, requires_grad=True)

    def loss(a: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        reached, conjugate = bound(a, f, name)  # type: ignore[arg-type]
        return conjugate.mean() - reached.mean()

    loss(v_alternate, v_forget).backward()
    assert v_alternate.grad is not None and (v_alternate.grad < 0).all()
    assert v_forget.grad is not None and (v_forget.grad > 0).all()
    assert torch.autograd.gradcheck(loss, (v_alternate, v_forget))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_lowest_where_the_template_is_sure_and_the_answer_gone(name: str) -> None:
    assert at(1.0, 0.0, name) < at(0.5, 0.5, name) < at(0.0, 1.0, name)


def test_defaults_and_ranges() -> None:
    assert objective("FLAT").needs.retain is None
    with pytest.raises(ConfigError, match=r"divergence: should be 'TV', 'KL', 'JS' or 'Pearson', got 'Hellinger'"):
        objective("FLAT", {"divergence": "Hellinger"})
