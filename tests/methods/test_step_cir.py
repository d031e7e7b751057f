from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from key_value_toy import cases, tensor
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.methods.grad_transforms import make_grad_transform
from expunge.methods.grad_transforms.cir import IrrelevantCollapse, collapsed, directions


def sums(x_ND: Tensor) -> tuple[int, Tensor, Tensor]:
    return len(x_ND), x_ND.sum(0), x_ND.T @ x_ND


def test_directions_and_products_equal_the_authors() -> None:
    case = cases("cir")["collapse"]
    acts, grads = tensor(case["inputs"]["acts"]), tensor(case["inputs"]["grads"])
    actual = collapsed(grads.T @ acts, directions(*sums(acts), 3), directions(*sums(grads), 3))
    # theirs finds the components by iteration, with an error of this size
    torch.testing.assert_close(actual, tensor(case["outputs"]), rtol=1e-6, atol=1e-7)


def test_directions_by_hand() -> None:
    # the mean is (1, 0); around it the vectors are (0, 2) and (0, -2): one component, (0, 1)
    x = tensor([[1.0, 2.0], [1.0, -2.0]])
    assert directions(*sums(x), 2).abs().tolist() == [[1, 0], [0, 1]]
    assert len(directions(*sums(x), 5)) == 2  # the second component has no length
    assert directions(*sums(x), 1).tolist() == [[1, 0]]
    assert directions(*sums(x), 0).shape == (0, 2)
    assert len(directions(*sums(tensor([[1.0, 0.0], [-1.0, 0.0]])), 2)) == 1  # a mean of 0 is no direction


class Tokens:
    """Two linear modules; the gradient of each weight is the sum of g a^T over its tokens."""

    def __init__(self, of: dict[str, tuple[Tensor, Tensor]], retain: float = 0.0) -> None:
        self.of, self.retain = of, retain
        self.names = ["embed.weight", *(f"{name}.weight" for name in of)]
        self.params = [torch.zeros(2, 2, dtype=torch.float64)]
        self.params += [torch.zeros(g.shape[1], a.shape[1], dtype=torch.float64) for a, g in of.values()]

    def __call__(self, which: str) -> list[Tensor]:
        assert which == "retain"
        return [torch.full_like(p, self.retain) for p in self.params]

    def with_tokens(self, which: str, modules: Sequence[str]) -> tuple[list[Tensor], Any]:
        assert which == "forget"
        plain = [torch.ones_like(self.params[0]), *(g.T @ a for a, g in self.of.values())]
        return plain, {name: self.of[name] for name in modules}


def random_tokens(seed: int, retain: float = 0.0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int, d: int) -> Tensor:
        return torch.randn(n, d, generator=generator, dtype=torch.float64) + 1

    return Tokens({"l.0.up_proj": (draw(9, 4), draw(9, 3)), "l.0.down_proj": (draw(7, 5), draw(7, 2))}, retain)


def test_the_first_steps_collect_and_later_ones_use_their_directions() -> None:
    rule, memory = IrrelevantCollapse(n_inputs=2, n_outputs=1, refresh=2, forget_norm=None), {}
    first, second, third = random_tokens(0, 0.5), random_tokens(1), random_tokens(2, 0.25)
    for step in (first, second):
        actual = rule(step, step.params, memory)
        assert all(torch.equal(g, torch.full_like(g, step.retain)) for g in actual)
    actual = rule(third, third.params, memory)
    assert torch.equal(
        actual[0], torch.full_like(actual[0], 0.25)
    )  # no module of the pattern: the retain gradient alone
    for place, name in enumerate(third.of, start=1):
        acts = torch.cat([first.of[name][0], second.of[name][0]])
        slopes = torch.cat([first.of[name][1], second.of[name][1]])
        a, g = third.of[name]
        for c in directions(*sums(acts), 2):
            a = a - (a @ c)[:, None] * c
        for c in directions(*sums(slopes), 1):
            g = g - (g @ c)[:, None] * c
        torch.testing.assert_close(actual[place], g.T @ a + 0.25, rtol=1e-10, atol=1e-12)


def test_the_norm_is_over_all_weights_and_no_directions_change_nothing() -> None:
    rule, memory = IrrelevantCollapse(n_inputs=0, n_outputs=0, refresh=1, forget_norm=0.3), {}
    step = random_tokens(0)
    rule(step, step.params, memory)
    actual = rule(step, step.params, memory)
    plain = [g.T @ a for a, g in step.of.values()]
    size = torch.stack([g.square().sum() for g in plain]).sum().sqrt()
    for mine, full in zip(actual[1:], plain, strict=True):
        torch.testing.assert_close(mine, 0.3 * full / size)


def test_a_transposed_weight_is_collapsed_as_its_transpose() -> None:
    a, g = random_tokens(0).of["l.0.up_proj"]
    into, out = directions(*sums(a), 2), directions(*sums(g), 2)
    torch.testing.assert_close(collapsed((g.T @ a).T, into, out), collapsed(g.T @ a, into, out).T)


def test_settings_are_checked() -> None:
    step = random_tokens(0)
    with pytest.raises(ConfigError, match=r"^grad_transform_args.modules: no trained weight's module matches 'x'"):
        IrrelevantCollapse(modules="x")(step, step.params, {})
    with pytest.raises(ConfigError, match=r"grad_transform_args.modules: must be a regular expression"):
        make_grad_transform("cir", {"modules": "("})
    with pytest.raises(ConfigError, match=r"grad_transform_args.refresh: must be at least 1"):
        make_grad_transform("cir", {"refresh": 0})
