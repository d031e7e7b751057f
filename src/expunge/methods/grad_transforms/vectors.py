"""Arithmetic of gradients for several transforms. A gradient is a list of tensors, treated as one long vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from expunge.core.on_use import torch

if TYPE_CHECKING:
    from torch import Tensor


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return <a, b> over all tensors together, a scalar in float32 or wider."""
    parts = [(_wide(x) * _wide(y)).sum() for x, y in zip(a, b, strict=True)]
    return torch.stack([p.to(parts[0].device) for p in parts]).sum()


def norm(a: Sequence[Tensor]) -> Tensor:
    """Return ||a|| over all tensors together, a scalar in float32 or wider."""
    return dot(a, a).sqrt()


def add(a: Sequence[Tensor], b: Sequence[Tensor], times: Tensor | float = 1.0) -> list[Tensor]:
    """Return a + times * b, tensor by tensor, in the dtypes of a."""
    return [x + (y * _as_factor(times, y)).to(x.dtype) for x, y in zip(a, b, strict=True)]


def scaled(a: Sequence[Tensor], times: Tensor | float) -> list[Tensor]:
    """Return times * a, in the dtypes of a."""
    return [(x * _as_factor(times, x)).to(x.dtype) for x in a]


def over(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is 0: a zero gradient has no direction."""
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, torch.ones_like(b), b))


def running_mean(memory: dict[str, Any], key: str, new: Sequence[Tensor], momentum: float) -> list[Tensor]:
    """Return momentum * (value in `memory`) + (1 - momentum) * new, and store it; the first call returns `new`."""
    if momentum == 0:
        return list(new)
    old = memory.get(key)
    mean = list(new) if old is None else add(scaled(old, momentum), new, 1 - momentum)
    memory[key] = mean
    return mean


@contextmanager
def restored(params: Sequence[Tensor]) -> Iterator[None]:
    """Restore the parameters bit for bit after the block, also after an exception."""
    saved = [p.detach().clone() for p in params]
    try:
        yield
    finally:
        write(params, saved)


@contextmanager
def moved(params: Sequence[Tensor], by: Sequence[Tensor]) -> Iterator[None]:
    """Move the parameters to params + by inside the block, and restore them bit for bit after it."""
    with restored(params):
        shift(params, by)
        yield


@torch.no_grad()
def write(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy `values` into `params`, in place."""
    for p, value in zip(params, values, strict=True):
        p.copy_(value)


@torch.no_grad()
def shift(params: Sequence[Tensor], by: Sequence[Tensor], times: float = 1.0) -> None:
    """Add times * by to `params`, in place."""
    for p, offset in zip(params, by, strict=True):
        p.add_(offset.to(p.dtype), alpha=times)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _as_factor(times: Tensor | float, x: Tensor) -> Tensor | float:
    return times.to(x.device) if isinstance(times, torch.Tensor) else times
