"""Generation by vLLM, an optional dependency, with the same prompts, end tokens and stop texts as the built-in engine.

vLLM loads the model's folder itself. Greedy texts equal the built-in engine's up to rounding. Sampled texts are other
draws, because vLLM has its own random generator (seeded for each row and sample).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from expunge.core.errors import ConfigError
from expunge.evaluation.config import Generation
from expunge.evaluation.prompts import Prompt, PromptBatch


def continue_prompts(
    model: Any, generation: Generation, ends: frozenset[int]
) -> Callable[[Sequence[Prompt]], list[PromptBatch]]:
    """Return a function that continues a list of prompts. Raises ConfigError if the model comes from no folder."""
    from vllm import LLM, SamplingParams  # an optional dependency

    source = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not source:
        raise ConfigError(
            "eval.generation.backend: vllm reads a model's folder, but this model comes from none; use backend=hf"
        )
    engine = LLM(model=source, seed=generation.seed, dtype=str(model.dtype).removeprefix("torch."))

    def run(prompts: Sequence[Prompt]) -> list[PromptBatch]:
        inputs = [{"prompt_token_ids": list(p.ids)} for p in prompts]
        how = [
            SamplingParams(
                temperature=generation.temperature,
                max_tokens=p.limit,
                stop=list(generation.stop) or None,
                stop_token_ids=sorted(ends),
                seed=None if generation.temperature == 0 else _seed(p.key(generation.seed)),
            )
            for p in prompts
        ]
        done = engine.generate(inputs, how, use_tqdm=False)
        return [PromptBatch(list(d.outputs[0].token_ids), d.outputs[0].finish_reason == "stop") for d in done]

    return run


def _seed(key: bytes) -> int:
    """Return a seed of 31 bits for one text."""
    return int.from_bytes(key[:4], "little") >> 1
