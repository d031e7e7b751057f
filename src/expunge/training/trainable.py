"""The parameters that a run trains, in full precision. All others are frozen: no gradient and no update."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from expunge.core.errors import ConfigError, nearest
from expunge.models.packed import bare


def set_trainable(
    model: Any, *, last_k_layers: int | None, params_regex: Sequence[str], where: str = "trainer.args"
) -> int:
    r"""Freeze all parameters except those of the last k decoder layers whose name matches one of the expressions.

    Args:
        model: The model, plain or wrapped.
        last_k_layers: None or 0: any layer, and parameters outside the layers.
        params_regex: Each must match a whole name (`model\.layers\.7\..*`); a tied parameter has several names.
            Empty: any name.
        where: The key of the settings, for the message.

    Returns:
        The number of trainable values.

    Raises:
        ConfigError: If an expression matches no parameter, or the model has fewer layers.
    """
    inner = bare(model)
    named = list(inner.named_parameters(remove_duplicate=False))
    prefixes = _last_layers(inner, last_k_layers, where) if last_k_layers else ("",)
    matching: set[int] = set()
    for i, pattern in enumerate(params_regex):
        key = f"{where}.trainable_params_regex[{i}]"
        try:
            matched = {id(p) for name, p in named if re.fullmatch(pattern, name)}
        except re.error as error:
            raise ConfigError(f"{key}: {pattern!r} is no regular expression: {error}") from None
        if not matched:
            plain = pattern.replace("\\", "")
            raise ConfigError(f"{key}: no parameter's whole name matches {pattern!r}{nearest(plain, dict(named))}")
        matching |= matched
    free = {id(p) for name, p in named if name.startswith(prefixes) and (not params_regex or id(p) in matching)}
    if not free:
        raise ConfigError(
            f"{where}.trainable_params_regex: matches no parameter of the last {last_k_layers} layers, so nothing is "
            "trained"
        )
    for p in inner.parameters():
        p.requires_grad_(id(p) in free)
    return sum(p.numel() for p in inner.parameters() if p.requires_grad)


@contextmanager
def full_precision(model: Any) -> Iterator[None]:
    """Convert half-precision weights to float32 within the block, because smaller types round small updates away.

    Of a model with adapters only the trained weights are converted. Afterwards `requires_grad` is restored as well.
    """
    adapters = hasattr(model, "peft_config")
    params = list(model.parameters())
    half = [
        (p, p.dtype) for p in params
        if p.dtype in (torch.bfloat16, torch.float16) and (p.requires_grad or not adapters)
    ]  # fmt: skip
    trained = [p.requires_grad for p in params]
    for p, _ in half:
        p.data = p.data.float()
    try:
        yield
    finally:
        for p, dtype in half:
            p.grad, p.data = None, p.data.to(dtype)
        for p, requires_grad in zip(params, trained, strict=True):
            p.requires_grad_(requires_grad)


def _last_layers(model: nn.Module, k: int, where: str) -> tuple[str, ...]:
    """Return the name prefixes of the last k decoder layers: the items of the model's longest list of modules."""
    lists = [(len(m), name) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    n, name = max(lists, default=(0, ""), key=lambda item: item[0])
    if k > n:
        raise ConfigError(f"{where}.trainable_last_k_layers: the model has {n} layers, got {k}")
    return tuple(f"{name}.{i}." for i in range(n - k, n))
