"""Settings of scoring. Importing this loads no torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError


@strict
@dataclass(frozen=True, kw_only=True)
class Generation:
    """How texts are generated."""

    max_new_tokens: int = 200
    """Tokens of a generation at most."""
    temperature: float = 0.0
    """The sampling temperature. 0: greedy."""
    samples: int = 1
    """Samples a question; more than 1 needs a temperature."""
    seed: int = 0
    """The seed of sampling."""
    stop: tuple[str, ...] = ()
    """Texts that end a generation; it is cut before the first of them."""
    backend: Literal["hf", "vllm"] = "hf"
    """hf (transformers, in this process) or vllm (an extra, which loads the model's folder again)."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError("temperature must be a number >= 0")
        if self.samples < 1 or (self.samples > 1 and self.temperature == 0):
            raise ValueError("samples must be at least 1, and greedy decoding (temperature 0) has one")
        if any(not text for text in self.stop):
            raise ValueError("stop must list texts of at least one character")


def check_backend(generation: Generation, *, where: str = "eval.generation") -> None:
    """Raise ConfigError if the backend asked for is not installed. Nothing is imported."""
    if generation.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"{where}.backend: vllm is not installed: pip install 'expunge[vllm]', or use {where}.backend=hf"
        )
