"""Settings of scoring, and the sizes of its batches. Importing this module loads no torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError

TRUNCATED = "truncated_answers"  # in the metadata of token records: the number of truncated answers
SCORED_TOKENS = 8192
"""Tokens of a batch of scoring, on an accelerator."""
SCORED_LOGITS = 2**28
"""Logits of a batch of scoring: a GiB in float32."""
FLOAT32_LOGITS = 2**24
"""Logits that are converted to float32 at a time, on an accelerator."""
CACHED_PER_TOKEN = 4
"""Cached tokens that need as much memory as one token of the batch."""
GENERATED_TOKENS = 16384
"""Tokens of a batch of generations at its end, or the tokens of CACHE_BYTES."""
CACHE_BYTES = 2**28
"""Bytes of cache of a batch of generations: each step has a fixed cost, so large batches are faster."""
GRADIENT_BYTES = 2**30
"""Bytes of the gradients of a backward, on an accelerator."""
GRADIENT_ANSWERS = 32
"""Answers of a backward."""


@strict
@dataclass(frozen=True, kw_only=True)
class Generation:
    """Settings of text generation."""

    max_new_tokens: int = 200
    """The maximum number of tokens of a generation."""
    temperature: float = 0.0
    """The sampling temperature. 0: greedy."""
    samples: int = 1
    """Samples per question; more than 1 needs a temperature."""
    seed: int = 0
    """The seed of sampling."""
    stop: tuple[str, ...] = ()
    """Texts that end a generation; the generation is cut before the first of them."""
    backend: Literal["hf", "vllm"] = "hf"
    """hf (transformers, in this process) or vllm (an optional dependency that loads the model's folder again)."""

    def __post_init__(self) -> None:
        for key, most in (("max_new_tokens", 10**6), ("temperature", 1e3), ("samples", 10**5)):
            if getattr(self, key) > most:
                raise ValueError(f"{key} must be at most {most:g}")
        if self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError("temperature must be a number >= 0")
        if self.samples < 1 or (self.samples > 1 and self.temperature == 0):
            raise ValueError("samples must be at least 1, and 1 with greedy decoding (temperature 0)")
        if any(not text for text in self.stop):
            raise ValueError("stop must list texts of at least one character")


def check_backend(generation: Generation, *, where: str = "eval.generation") -> None:
    """Raise ConfigError if the package of the backend is not installed. Imports nothing."""
    if generation.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"{where}.backend: vllm is not installed: pip install 'expunge[vllm]', or use {where}.backend=hf"
        )
