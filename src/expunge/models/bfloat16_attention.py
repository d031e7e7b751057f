"""Attention in float32 within models that compute in bfloat16 on a CPU.

torch's fused attention for CPUs is slower in bfloat16 than in float32, several times so in the backward
(docs/results/cpu_bf16.md). Attention has few of a model's products, so the model's other products decide its speed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from expunge.core.on_use import transformers

FUSED = "sdpa"


_LAYERS: WeakSet[Any] = WeakSet()  # the modules of the models whose attention computes in float32


def compute_attention_in_float32(model: Any) -> None:
    """Make a model's `sdpa` attention compute in float32 where tensors or autocast are in bfloat16 on a CPU.

    Other models of this process do not change, and neither do models that call torch's fused attention by themselves.
    """
    _LAYERS.update(model.modules())
    current = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS[FUSED]
    if not isinstance(current, _InFloat32):
        transformers.AttentionInterface.register(FUSED, _InFloat32(current))


class _InFloat32:
    """An attention function that computes in float32 in place of bfloat16 on a CPU."""

    def __init__(self, attention: Callable[..., tuple[Tensor, Any]]) -> None:
        functools.update_wrapper(self, attention)
        self._attention = attention

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Any]:
        """Return the outputs in the type of `value`, and the attention weights or None."""
        if module not in _LAYERS or query.device.type != "cpu" or not _in_bfloat16(query, value):
            return self._attention(module, query, key, value, attention_mask, **options)
        mask = attention_mask
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
        with torch.autocast("cpu", enabled=False):
            output, weights = self._attention(module, query.float(), key.float(), value.float(), mask, **options)
        return output.to(value.dtype), weights


def _in_bfloat16(*tensors: Tensor) -> bool:
    """Return whether torch would compute with these tensors in bfloat16."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return any(x.dtype == torch.bfloat16 for x in tensors)
