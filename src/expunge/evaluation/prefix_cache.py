"""Compute the common prefix of sequences once: a batch of prefixes as a cache that other sequences continue from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.core.on_use import transformers
from expunge.data.batch import pad
from expunge.models.capabilities import forward_options, logits_in, plain_model
from expunge.models.packed import head_at

ROOM = 64  # tokens by which a cache grows at a time


class _Roomy(transformers.cache_utils.DynamicLayer):
    """A cache layer that writes into spare memory; the plain one copies its whole contents at every new token."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if self.room is None or end > self.room[0].shape[-2]:
            b, h, _, d = key_states.shape
            room = (
                key_states.new_empty(b, h, end + ROOM, d),
                value_states.new_empty(b, value_states.shape[1], end + ROOM, value_states.shape[-1]),
            )
            if self.keys is not None and self.values is not None and start:
                room[0][:, :, :start], room[1][:, :, :start] = self.keys, self.values
            self.room = room
        self.room[0][:, :, start:end], self.room[1][:, :, start:end] = key_states, value_states
        self.keys, self.values = self.room[0][:, :, :end], self.room[1][:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select rows of the batch."""
        super().batch_select_indices(indices)
        self.room = None


def new_cache(model: Any) -> Any:
    """Return an empty cache of the model's kind; a plain one if its configuration does not describe it."""
    try:
        cache = transformers.DynamicCache(config=plain_model(model).config)
    except (AttributeError, KeyError, TypeError, ValueError):
        return transformers.DynamicCache()
    cache.layers = [
        _Roomy() if type(layer) is transformers.cache_utils.DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def selectable(cache: Any) -> bool:
    """Return whether rows of a cache can be selected, which every layer must support."""
    layers = getattr(cache, "layers", ())
    return hasattr(cache, "batch_select_indices") and all(hasattr(x, "batch_select_indices") for x in layers)


@dataclass(frozen=True)
class PrefixCache:
    """B sequences that a model has read: its cache, mask_BT (1 on real tokens) and real tokens per row, length_B."""

    cache: Any
    mask_BT: Tensor
    length_B: Tensor

    def rows(self, index_N: Tensor) -> PrefixCache:
        """Return some rows, each as often as it is listed; this prefix stays unchanged."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(index_N)
        return PrefixCache(cache, self.mask_BT[index_N], self.length_B[index_N])


def shareable(model: Any) -> bool:
    """Return whether the model uses a plain cache of keys and values (a recurrent state is not one)."""
    try:
        layers = transformers.DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return False  # the configuration of this architecture does not describe its cache
    return bool(layers) and all(isinstance(layer, transformers.cache_utils.DynamicLayer) for layer in layers)


def slides(model: Any) -> bool:
    """Return whether a layer has a sliding window, which padding within a sequence would shift."""
    return any(getattr(layer, "is_sliding", False) for layer in transformers.DynamicCache(config=model.config).layers)


def read_on(
    model: Any,
    before: PrefixCache | None,
    ids: Sequence[Sequence[int]],
    at: tuple[Tensor, Tensor],
    *,
    pad_id: int,
    side: Literal["left", "right"],
) -> tuple[PrefixCache, Tensor]:
    """Read more tokens after a prefix; return the longer sequences, and logits_NV.

    Args:
        model: A causal language model.
        before: The prefix; its cache is overwritten. None: the tokens begin the sequences.
        ids: B lists of tokens.
        at: Row, and position in its own list, of each of the N tokens whose predictions are returned.
        pad_id: The token id of padded positions.
        side: The side on which shorter lists are padded. Only sequences padded on the left can be continued.
    """
    device = next(model.parameters()).device
    padded, there = pad(ids, pad_id=pad_id, side=side)
    width = padded.shape[1]
    starts = torch.tensor([width - len(row) if side == "left" else 0 for row in ids])
    offset = torch.arange(width)[None] - starts[:, None]
    padded, mask, offset = padded.to(device), there.long().to(device), offset.to(device)
    cache = new_cache(model) if before is None else before.cache
    length = torch.zeros(len(ids), dtype=torch.long, device=device) if before is None else before.length_B
    whole = mask if before is None else torch.cat([before.mask_BT, mask], dim=1)
    row_N, pos_N = at[0].to(device), (at[1] + starts[at[0]]).to(device)
    with head_at(model, row_N, pos_N):
        options = forward_options(
            model,
            attention_mask=whole,
            position_ids=(offset + length[:, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        out = model(input_ids=padded, **options)
    return PrefixCache(cache, whole, length + mask.sum(1)), logits_in(out)[0]


def common_length(rows: Sequence[tuple[int, ...]]) -> int:
    """Return the length of the common prefix of all rows."""
    first, last = min(rows), max(rows)  # in lexicographic order: all rows have the common prefix of these two
    n = min(len(first), len(last))
    return next((i for i in range(n) if first[i] != last[i]), n)
