"""Refuse a model whose files lack tensors before memory for these is allocated."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.on_use import transformers

# The step of transformers that allocates the tensors that no file has, once it has read the others. Without a method of
# this name they are refused after the allocation.
STEP = "_move_missing_keys_from_meta_to_device"
NONE = r"(?!)"  # matches no name
_replacing = threading.RLock()


def check_lacking(info: Mapping[str, Any], source: str, *, unless: str = NONE) -> None:
    """Raise ConfigError for tensors that a model's files lack, by the information of transformers on a loaded model.

    unless: a pattern of the names of tensors that are not used.
    """
    _refuse({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}, source, unless)


@contextlib.contextmanager
def lacking_refused(source: str, *, unless: str = NONE) -> Iterator[None]:
    """Raise ConfigError in `from_pretrained` if files lack tensors, before the memory for these is allocated.

    transformers initialises such tensors at random. A configuration of 7 billion parameters next to weights of a small
    model would fill the memory, before `check_lacking` could name them. Models that other threads load in the meantime
    are not refused. unless: as in `check_lacking`.
    """
    base: Any = transformers.PreTrainedModel
    if not hasattr(base, STEP):
        yield
        return
    here = threading.get_ident()

    def refuse_or_move(model: Any, missing_keys: set[str], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != here:
            return move(model, missing_keys, *args, **kwargs)
        ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
        tied = getattr(model, "all_tied_weights_keys", {})
        _refuse({k for k in missing_keys if k not in tied and not any(p.search(k) for p in ignored)}, source, unless)
        return move(model, missing_keys, *args, **kwargs)

    with _replacing:
        move = getattr(base, STEP)
        setattr(base, STEP, refuse_or_move)
        try:
            yield
        finally:
            setattr(base, STEP, move)


def _refuse(keys: set[str], source: str, unless: str) -> None:
    names = sorted(key for key in keys if not re.fullmatch(unless, key))
    if not names:
        return
    raise ConfigError(
        f"model {source}: its safetensors lack, or have in another shape, {len(names)} of the tensors that its "
        f"config.json describes: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    )
