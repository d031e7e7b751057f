from __future__ import annotations

import pytest
import torch
from toy_ask import fixed, vector

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.methods.grad_transforms.gru import GRU

CONFLICT = [vector(1.0), vector(-2.0)], [vector(0.0), vector(4.0)]  # <g_f, g_r> = -8, |g_r|^2 = 16: c = -1/2
AGREE = [vector(1.0), vector(2.0)], [vector(0.0), vector(4.0)]


def flat(gradient) -> list[float]:
    return torch.cat(gradient).tolist()


def test_without_conflict_nothing_is_changed() -> None:
    toy = fixed(*AGREE)
    assert flat(GRU(keep_retain=False)(toy, toy.params, {})) == [1.0, 2.0]
    assert flat(GRU()(toy, toy.params, {})) == [1.0, 6.0]


def test_in_conflict_the_forget_part_is_orthogonal_to_the_retain_gradient() -> None:
    # g_f + (1/2) g_r = (1, -2) + (0, 2) = (1, 0)
    toy = fixed(*CONFLICT)
    assert flat(GRU(keep_retain=False)(toy, toy.params, {})) == [1.0, 0.0]
    assert flat(GRU()(toy, toy.params, {})) == [1.0, 4.0]


def test_in_many_dimensions_the_overlap_vanishes() -> None:
    generator = torch.Generator().manual_seed(0)
    f, r = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(2))
    f = f - 3 * r  # surely in conflict
    toy = fixed([f[:20], f[20:]], [r[:20], r[20:]])
    actual = torch.cat(GRU(keep_retain=False)(toy, toy.params, {}))
    assert abs(float(actual @ r)) < 1e-12 * float(actual.norm() * r.norm())
    torch.testing.assert_close(actual - f, r * float((actual - f) @ r / (r @ r)), rtol=1e-10, atol=1e-12)


def test_a_zero_retain_gradient_leaves_the_forget_gradient() -> None:
    toy = fixed([vector(1.0, -2.0)], [vector(0.0, 0.0)])
    assert flat(GRU()(toy, toy.params, {})) == [1.0, -2.0]


def test_with_momentum_conflict_is_judged_against_the_running_mean() -> None:
    # first (0, 4) is remembered; then (0, -2): the mean is 1/2 (0, 4) + 1/2 (0, -2) = (0, 1), still in conflict
    rule, memory = GRU(momentum=0.5, keep_retain=False), {}
    toy = fixed(*CONFLICT)
    rule(toy, toy.params, memory)
    toy = fixed([vector(1.0), vector(-2.0)], [vector(0.0), vector(-2.0)])
    assert flat(rule(toy, toy.params, memory)) == [1.0, 0.0]
    assert flat(rule(toy, toy.params, {})) == [1.0, -2.0]  # which against (0, -2) alone there would be none of


@pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan")])
def test_momentum_is_checked(momentum: float) -> None:
    with pytest.raises(ConfigError, match="momentum"):
        decode(GRU, {"momentum": momentum}, where="grad_transform_args")
