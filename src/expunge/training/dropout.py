"""Dropout while a model is trained, for architectures whose configuration has none (Llama and its kin)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from expunge.core.errors import ConfigError
from expunge.models.packed import bare

ATTENTION = ("self_attn", "attention", "attn")
FEED_FORWARD = ("mlp", "feed_forward", "ffn")
WEIGHTS = "attention_dropout"  # the attribute of transformers' attention layers


@contextmanager
def with_dropout(model: Any, probability: float) -> Iterator[None]:
    """Drop values of the embeddings, of the attention weights and of each attention's and feed-forward's output.

    These are the places of llama2.c's dropout. Only passes in training mode are affected. Raises ConfigError for a
    model without such layers.
    """
    if not probability:
        yield
        return
    inner = bare(model)
    last = {name: name.rpartition(".")[2] for name, _ in inner.named_modules()}
    attentions = [module for name, module in inner.named_modules() if last[name] in ATTENTION]
    outputs = [module for name, module in inner.named_modules() if last[name] in FEED_FORWARD]
    if not attentions or not outputs:
        raise ConfigError(
            "trainer.args.dropout: this model has no layers named "
            f"{', '.join(ATTENTION)} and {', '.join(FEED_FORWARD)}; set it to 0"
        )
    hook = functools.partial(_drop, probability)
    handles = [m.register_forward_hook(hook) for m in (inner.get_input_embeddings(), *attentions, *outputs)]
    before = [(m, getattr(m, WEIGHTS)) for m in attentions if hasattr(m, WEIGHTS)]
    for module, _ in before:
        setattr(module, WEIGHTS, probability)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, value in before:
            setattr(module, WEIGHTS, value)


def _drop(probability: float, module: nn.Module, _inputs: Any, output: Any) -> Any:
    if not module.training:
        return None
    if isinstance(output, Tensor):
        return F.dropout(output, probability)
    return (F.dropout(output[0], probability), *output[1:])
