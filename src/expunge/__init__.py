"""Expunge makes a language model forget chosen data, and measures whether it did."""

from __future__ import annotations

import importlib
import logging
from typing import Any

__version__ = "0.1.0"
__all__ = ["load_job", "load_study"]

# peft imports bitsandbytes where it is installed, which on a CPU then tells of a kernel that it does without
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda said: "from kernels-community" not in str(said.msg))


def __getattr__(name: str) -> Any:
    """The API, loaded when first used: importing `expunge` alone stays quick."""
    if name in __all__:
        return getattr(importlib.import_module("expunge.cli.api"), name)
    raise AttributeError(f"module 'expunge' has no attribute {name!r}")
