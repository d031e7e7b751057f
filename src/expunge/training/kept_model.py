"""Restore the switches of a model that transformers' Trainer sets and leaves: its cache and its checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from expunge.models.capabilities import plain_model

FLAGS = ("gradient_checkpointing", "_gradient_checkpointing_func")  # of each module
HOOKS = ("_require_grads_hooks", "_require_grads_hook")  # of the model, on its embeddings
_MISSING = object()


@contextmanager
def kept_use_cache(model: Any) -> Iterator[None]:
    """Restore `config.use_cache`: a Trainer sets it to False when it is made.

    The forwards of training name the argument themselves. A saved configuration keeps the model's own value.
    """
    config = getattr(model, "config", None)
    before = getattr(config, "use_cache", _MISSING)
    try:
        yield
    finally:
        if before is not _MISSING:
            config.use_cache = before
        elif config is not None and hasattr(config, "use_cache"):
            del config.use_cache


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
