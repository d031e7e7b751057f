"""The generation pass: prompts continued, greedily or sampled, in length-sorted batches that finished rows leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from expunge.core.records import Text
from expunge.data.batch import budget_batches
from expunge.data.rows import RowSet
from expunge.data.template import Encoder
from expunge.scoring.config import Generation


@dataclass(frozen=True)
class _Prompt:
    row_id: int
    sample: int
    text: str
    ids: list[int]


def generate_texts(
    model: Any,
    rows: RowSet,
    reference: str,
    encoder: Encoder,
    generation: Generation,
    *,
    token_budget: int = 16384,
    progress: Callable[[int], None] | None = None,
) -> list[Text]:
    """Generations for every row's question; `reference` names the variant kept beside them as the truth."""
    prompts = [
        _Prompt(r.row_id, sample, r.question, encoder.row_prompt(rows, r))
        for r in rows.rows
        for sample in range(generation.samples)
    ]
    truth = {r.row_id: r.answers[reference] for r in rows.rows}
    lengths = [len(p.ids) + generation.max_new_tokens for p in prompts]
    ends = _ends(model, encoder)
    pick = _picker(generation, next(model.parameters()).device)
    out: list[Text] = []
    model.eval()
    with torch.inference_mode():
        for batch in budget_batches(prompts, lengths, token_budget):
            made = _decode(model, batch, encoder, ends, generation.max_new_tokens, pick)
            for prompt, new in zip(batch, made, strict=True):
                stopped = bool(new) and new[-1] in ends
                text = encoder.tokenizer.decode(new, skip_special_tokens=True).strip()
                out.append(
                    Text(prompt.row_id, prompt.sample, prompt.text, text, truth[prompt.row_id], len(new), stopped)
                )
            if progress:
                progress(len(batch))
    return sorted(out, key=lambda t: (t.row_id, t.sample))


def _picker(generation: Generation, device: Any) -> Callable[[Tensor], Tensor]:
    """From next-token logits (rows, V) to token ids: the largest, or a draw at the temperature."""
    if generation.temperature == 0:
        return lambda logits: logits.argmax(-1)
    source = torch.Generator(device=device).manual_seed(generation.seed)

    def draw(logits: Tensor) -> Tensor:
        p = torch.softmax(logits.float() / generation.temperature, dim=-1)
        return torch.multinomial(p, 1, generator=source)[:, 0]

    return draw


def _ends(model: Any, encoder: Encoder) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's EOS, and those the model's generation_config lists (end of turn)."""
    config = getattr(model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    more = [] if listed is None else [listed] if isinstance(listed, int) else listed
    return frozenset({encoder.eos, *(int(i) for i in more)})


def _decode(
    model: Any,
    prompts: Sequence[_Prompt],
    encoder: Encoder,
    ends: frozenset[int],
    limit: int,
    pick: Callable[[Tensor], Tensor],
) -> list[list[int]]:
    """New token ids of each prompt, the end included where it came. Rows that have ended leave the batch."""
    device = next(model.parameters()).device
    width = max(len(p.ids) for p in prompts)
    ids = torch.full((len(prompts), width), encoder.tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for i, p in enumerate(prompts):
        ids[i, width - len(p.ids) :] = torch.tensor(p.ids)
        mask[i, width - len(p.ids) :] = 1
    step_ids, mask = ids.to(device), mask.to(device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    rows = list(range(len(prompts)))
    new: list[list[int]] = [[] for _ in prompts]
    ended: set[int] = set()
    for _ in range(limit):
        out = model(
            input_ids=step_ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = pick(out.logits[:, -1])
        picked = chosen.tolist()
        for row, token in zip(rows, picked, strict=True):
            if row not in ended:
                new[row].append(token)
                if token in ends:
                    ended.add(row)
        going = [k for k, row in enumerate(rows) if row not in ended]
        if not going:
            break
        step_ids, position = chosen[:, None], position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        if len(going) <= len(rows) * 3 // 4:  # compacting copies the cache: only when it pays
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            step_ids, position, mask = step_ids[keep], position[keep], mask[keep]
            rows = [rows[k] for k in going]
    return new
