"""Modules that are imported when one of their names is first used.

A plan, a wrong setting and a cached result need the names and settings of methods and jobs, and no tensors. So files
that describe work take torch, and the modules that do the work, from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["F", "ModuleOnUse", "torch", "transformers"]


class ModuleOnUse:
    """A module that is imported when one of its names is first read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    import transformers
else:
    torch = ModuleOnUse("torch")
    F = ModuleOnUse("torch.nn.functional")
    transformers = ModuleOnUse("transformers")
