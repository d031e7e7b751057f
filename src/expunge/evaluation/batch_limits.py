"""The sizes of batches in scoring. Estimates of memory read them without loading torch."""

from __future__ import annotations

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
