"""Refuse a chat template that does not end, or that fills the memory, before the process itself renders it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from expunge.core.errors import ConfigError
from expunge.core.limited import LimitError, ProcessLimits, run_limited

CPU_S = 2  # a published template needs milliseconds
WALL_S = 60.0  # on a busy machine
MEMORY = 1 << 30
MOST_CHARACTERS = 1_000_000
PROGRAM = Path(__file__).with_name("template_child.py")


def check_template(text: str, variables: Mapping[str, object], key: str) -> None:
    """Render a template in a limited process, once for each text. Raises ConfigError if it exceeds the limits."""
    plain = {name: value for name, value in variables.items() if isinstance(value, str | int | float | bool)}
    fault = _fault(text, json.dumps(plain, sort_keys=True))
    if fault is not None:
        raise ConfigError(f"{key}: the chat template {fault} on a short conversation; correct it, or use another one")


@functools.lru_cache(maxsize=64)
def _fault(text: str, variables: str) -> str | None:
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text)} characters, more than {MOST_CHARACTERS}, and cannot be tried"
    try:
        run_limited(
            PROGRAM, {"template": text, "variables": json.loads(variables)}, ProcessLimits(CPU_S, WALL_S, MEMORY)
        )
    except LimitError as error:
        return str(error)
    return None
