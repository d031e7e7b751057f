from __future__ import annotations

import torch
from toy_ask import fixed, vector

from expunge.methods.grad_transforms.blur import BLUR


def flat(gradient) -> list[float]:
    return torch.cat(gradient).tolist()


def test_the_retain_part_is_orthogonal_to_the_forget_gradient() -> None:
    # <g_r, g_f> = 3 * 2 = 6, |g_f|^2 = 4: g_r - 1.5 g_f = (0, 5); with g_f: (2, 5). The same with the sign turned.
    for sign in (1.0, -1.0):
        toy = fixed([vector(2.0), vector(0.0)], [vector(3.0 * sign), vector(5.0)])
        assert flat(BLUR()(toy, toy.params, {})) == [2.0, 5.0]


def test_along_the_result_the_forget_loss_falls_as_without_the_retain_term() -> None:
    generator = torch.Generator().manual_seed(0)
    f, r = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(2))
    toy = fixed([f[:7], f[7:]], [r[:7], r[7:]])
    actual = torch.cat(BLUR()(toy, toy.params, {}))
    torch.testing.assert_close(actual @ f, f @ f, rtol=1e-12, atol=0)
    assert not torch.allclose(actual, f)


def test_a_zero_forget_gradient_leaves_the_retain_gradient() -> None:
    toy = fixed([vector(0.0, 0.0)], [vector(1.0, -2.0)])
    assert flat(BLUR()(toy, toy.params, {})) == [1.0, -2.0]
