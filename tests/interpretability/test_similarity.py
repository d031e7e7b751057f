from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from expunge.core.errors import DataError
from expunge.interpretability.hidden import HiddenStates, hidden_states
from expunge.interpretability.inputs import AnalysisInputs
from expunge.interpretability.similarity import compare_layers, layer_cka, linear_cka

BOTH = pytest.mark.parametrize("unbiased", [False, True])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x: torch.Tensor, y: torch.Tensor, unbiased: bool) -> float:
    """From Gram matrices: centred, or U-centred (Szekely and Rizzo), whose inner product HSIC_1 is."""
    n = len(x)

    def kernel(v: torch.Tensor) -> torch.Tensor:
        k = v @ v.T
        if not unbiased:
            h = torch.eye(n, dtype=torch.float64) - 1 / n
            return h @ k @ h
        k = k - torch.diag(k.diag())
        rows = k.sum(1, keepdim=True)
        k = k - rows / (n - 2) - rows.T / (n - 2) + k.sum() / ((n - 1) * (n - 2))
        return k - torch.diag(k.diag())

    a, b = kernel(x), kernel(y)
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())


@BOTH
@pytest.mark.parametrize(("n", "d", "e"), [(30, 6, 9), (8, 20, 15), (12, 3, 40)])
def test_equals_its_definition(unbiased: bool, n: int, d: int, e: int) -> None:
    x = noise(n, d) + 3.0
    y = noise(n, e, seed=1) + x @ noise(d, e, seed=2)
    assert linear_cka(x, y, unbiased=unbiased) == pytest.approx(by_definition(x, y, unbiased), rel=1e-9)


@BOTH
def test_rotations_scales_and_shifts_do_not_count(unbiased: bool) -> None:
    x = noise(40, 7)
    rotation = torch.linalg.qr(noise(7, 7, seed=3))[0]
    assert linear_cka(x, x, unbiased=unbiased) == pytest.approx(1.0, rel=1e-12)
    assert linear_cka(x, 2.5 * x @ rotation + 100, unbiased=unbiased) == pytest.approx(1.0, rel=1e-9)


def test_unlike_layers_are_at_zero_only_without_bias() -> None:
    result = [(linear_cka(noise(30, 60, seed=s), noise(30, 60, seed=s + 50), unbiased=u)) for s in range(20) for u in
             (True, False)]  # fmt: skip
    assert abs(sum(result[0::2]) / 20) < 0.05
    assert min(result[1::2]) > 0.5


def test_identical_models_and_different_ones(
    make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs]
) -> None:
    same = compare_layers(make_model(0), make_model(0), read)
    assert [line.cka for line in same.lines] == pytest.approx([1.0] * 3, rel=1e-12)
    other = compare_layers(make_model(0), make_model(1), read, at="own", unbiased=False)
    assert all(line.cka < 0.9 for line in other.lines)
    for v in variants:
        again = compare_layers(make_model(0), make_model(1), v, at="own", unbiased=False)
        assert [line.cka for line in again.lines] == pytest.approx([line.cka for line in other.lines], rel=1e-9)


def test_what_is_not_defined_is_missing_with_a_reason(make_model: Any, read: AnalysisInputs) -> None:
    assert math.isnan(linear_cka(noise(3, 5), noise(3, 5), unbiased=True))
    flat = HiddenStates(torch.ones(1, 6, 4, dtype=torch.float64) * 0.1, (0,), torch.arange(6))
    line = layer_cka(flat, flat).lines[0]
    assert math.isnan(line.cka)
    assert line.reason == "the states are equal at all positions"
    a = hidden_states(make_model(0), read, at="last")
    with pytest.raises(DataError, match=r"^layer_cka: "):
        layer_cka(a, hidden_states(make_model(0), read, at="own"))
