"""Nested mappings of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def merge(below: Any, above: Any) -> Any:
    """Return a new tree: groups of keys are joined, any other value of `above` replaces the one below."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        out = {**below}
        for key, value in above.items():
            out[key] = merge(out[key], value) if key in out else value
        return out
    return above


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each entry that is no group of keys; an empty group is an entry."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
