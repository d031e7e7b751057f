"""torch.compile for the layers of a model, while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from expunge.models.packed import bare


@contextmanager
def compiled_layers(model: Any) -> Iterator[None]:
    """Run the model below its LM head compiled within the block, in place: parameters keep their names.

    The head is not compiled, because it reads only scored positions by a hook that is new for each batch.
    """
    inner = bare(model)
    layers = inner.base_model if inner.base_model is not inner else inner
    layers.compile()
    try:
        yield
    finally:
        layers._compiled_call_impl = None
