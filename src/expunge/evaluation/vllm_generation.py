"""Generation by vLLM, an extra: the same prompts, ends and stop texts as the built-in way, another engine.

vLLM loads the model's folder by itself. Greedy texts are those of the built-in way up to rounding; sampled ones are
other draws, since the engine has its own generator (seeded for each row and sample).
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
    """What continues a list of prompts, by an engine that reads the model's folder. Raises ConfigError without one."""
    from vllm import LLM, SamplingParams  # an extra: imported where it is asked for

    source = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not source:
        raise ConfigError("eval.generation.backend: vllm reads a model's folder, and this model came from none")
    engine = LLM(model=source, seed=generation.seed, dtype=str(model.dtype).removeprefix("torch."))

    def run(prompts: Sequence[Prompt]) -> list[PromptBatch]:
        asked = [{"prompt_token_ids": list(p.ids)} for p in prompts]
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
        done = engine.generate(asked, how, use_tqdm=False)
        return [PromptBatch(list(d.outputs[0].token_ids), d.outputs[0].finish_reason == "stop") for d in done]

    return run


def _seed(key: bytes) -> int:
    """A seed of 31 bits for one text."""
    return int.from_bytes(key[:4], "little") >> 1
