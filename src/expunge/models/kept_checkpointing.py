"""Restore the switches of activation checkpointing, which transformers' Trainer sets and leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from expunge.models.capabilities import plain_model

FLAGS = ("gradient_checkpointing", "_gradient_checkpointing_func")  # of each module
HOOKS = ("_require_grads_hooks", "_require_grads_hook")  # of the model, on its embeddings


@contextmanager
def kept_checkpointing(model: Any) -> Iterator[None]:
    """Restore which modules use activation checkpointing, and remove the hooks that it adds to the embeddings."""
    plain = plain_model(model)
    flags = [(m, {n: vars(m)[n] for n in FLAGS if n in vars(m)}) for m in plain.modules()]
    hooks = {name: vars(plain).pop(name) for name in HOOKS if name in vars(plain)}  # those of adapters stay
    try:
        yield
    finally:
        if any(name in vars(plain) for name in HOOKS):
            plain.disable_input_require_grads()
        for name in HOOKS:
            vars(plain).pop(name, None)
        vars(plain).update(hooks)
        for module, before in flags:
            for name in FLAGS:
                vars(module).pop(name, None)
            vars(module).update(before)
