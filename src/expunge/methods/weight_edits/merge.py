"""Shared parts of the merging rules: differences of several models from a base, their weights, and pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from expunge.core.errors import ConfigError
from expunge.core.on_use import torch
from expunge.methods.terms import wide
from expunge.methods.weight_edits.api import State, check_same, each

if TYPE_CHECKING:
    from torch import Tensor


def check_weights(weights: tuple[float, ...] | None) -> None:
    """Raise ValueError, for a settings dataclass, unless the weights are finite numbers or None."""
    if weights is not None and (not weights or any(not abs(w) < float("inf") for w in weights)):
        raise ValueError("weights must be a list of finite numbers, one for each model, or null")


def check_count(weights: tuple[float, ...] | None, n_models: int, where: str = "") -> None:
    """Raise ConfigError at the key `where` unless there is one weight for each model."""
    if weights is not None and len(weights) != n_models:
        raise ConfigError(f"{where}weights: {len(weights)} given for {n_models} models; give one for each model")


def check_density(density: float) -> None:
    """Raise ValueError, for a settings dataclass, unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise ValueError("density must be greater than 0 and at most 1")


def merge(
    base: State,
    others: Sequence[State],
    weights: tuple[float, ...] | None,
    rule: Callable[[str, list[Tensor], list[float]], Tensor],
) -> dict[str, Tensor]:
    """Return base + rule(name, the models' differences from the base, their weights), tensor by tensor.

    If `weights` is None each weight is 1. Raises ConfigError.
    """
    if not others:
        raise ConfigError("merge: no models to merge into the base")
    check_count(weights, len(others))
    check_same(base, others, what="model")
    factors = list(weights) if weights is not None else [1.0] * len(others)

    def one(name: str, theta: Tensor) -> Tensor:
        return theta + rule(name, [wide(o[name]).to(theta.device) - theta for o in others], factors)

    return each(base, one)


def weighted_sum(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_i w_i d_i."""
    total = torch.zeros_like(deltas[0])
    for delta, weight in zip(deltas, weights, strict=True):
        total = total + weight * delta
    return total


def prune(delta: Tensor, density: float) -> Tensor:
    """Return the floor(density * n) largest entries by magnitude, at least one, with the others set to 0.

    Of equal magnitudes the earlier entry stays.
    """
    if density == 1 or delta.numel() == 0:
        return delta
    keep = max(1, int(density * delta.numel() + 1e-9))
    flat = delta.flatten()
    order = torch.sort(flat.abs(), descending=True, stable=True).indices[:keep]
    out = torch.zeros_like(flat)
    out[order] = flat[order]
    return out.reshape(delta.shape)


def elect(deltas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Compute TIES' sign election and disjoint mean of pruned differences.

    The elected sign of an entry is that of the sum of the differences. The result is the mean of w_i d_i over the
    models whose entry has that sign (a pruned entry has none). It is 0 where the sum is 0.
    """
    sign = weighted_sum(deltas, [1.0] * len(deltas)).sign()
    agree = [((d.sign() == sign) & (sign != 0)).to(d.dtype) for d in deltas]
    total = weighted_sum([d * a for d, a in zip(deltas, agree, strict=True)], weights)
    return total / torch.clamp(weighted_sum(agree, [1.0] * len(agree)), min=1)
