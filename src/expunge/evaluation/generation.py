"""The generation pass: prompts continued, greedily or sampled, in length-sorted batches that finished rows leave.

A text does not depend on the others of its batch: a sampled token is drawn with a number that comes from the seed, the
row, the sample and the place alone. What all prompts begin with (solved examples) is read once for the whole set. What
scoring has shown of a greedy text is read, not made again (`drafts`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.records import Floats, GeneratedText
from expunge.data.batch import budget_batches, pad
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.evaluation.config import Generation, check_backend
from expunge.evaluation.loglikelihood import CACHED, SHOTS, context_length
from expunge.evaluation.prefix_cache import PrefixCache, common_length, new_cache, read_on, shareable, slides
from expunge.evaluation.prompts import Prompt, PromptBatch, draws, make_prompts
from expunge.evaluation.speculative import DraftTexts, with_drafts
from expunge.evaluation.stop_strings import StopStrings
from expunge.evaluation.token_stats import greedy
from expunge.evaluation.vllm_generation import continue_prompts

BUDGET = 16384  # tokens a batch may come to hold,
CACHE = 2**28  # or as many as take this many bytes of cache: each step has a price of its own, so few batches are best


def generate_texts(
    model: Any,
    rows: ExampleSet,
    reference: str,
    encoder: Encoder,
    generation: Generation,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
    only: Collection[int] | None = None,
    drafts: DraftTexts | None = None,
) -> list[GeneratedText]:
    """Generations for every row's question; `reference` names the variant kept beside them as the truth.

    A text ends at an end token, at a stop text (which is cut off), at `max_new_tokens`, or where the model's context
    does. A model whose logits are not numbers gives an empty text of 0 tokens. token_budget: the tokens that a batch
    may come to hold; None: BUDGET, or more where a small model's cache has room. only: the ids of the rows to take.
    drafts: what this model is known to say first, by row, from its scores of `reference`; the texts are the same.
    Raises DataError for a prompt that fills the model's context, ConfigError for a backend that is not installed.
    """
    check_backend(generation)
    prompts = make_prompts(rows, encoder, generation, context_length(model), only)
    truth = {r.row_id: r.answers[reference] for r in rows.rows}
    ends = _ends(model, encoder)
    if generation.backend == "vllm":
        batches = [list(prompts)]
        decode = continue_prompts(model, generation, ends)
    else:
        model.eval()
        start = _read_start(model, prompts, encoder.tokenizer.pad_token_id)
        n_all = 0 if start is None else start.mask_BT.shape[1]
        if drafts and generation.temperature == 0:
            prompts = with_drafts(prompts, drafts, rows, reference, encoder)
        lengths = [len(p.ids) + p.limit for p in prompts]
        costs = [max(n - n_all, n // CACHED) for n in lengths]
        batches = budget_batches(prompts, costs, token_budget or max(BUDGET, CACHE // _cache_bytes(model)))
        decode = _Decoder(model, encoder, generation, ends, start)
    out: list[GeneratedText] = []
    for batch in batches:
        for prompt, made in zip(batch, decode(batch), strict=True):
            text, n = _text(made, encoder, generation), len(made.ids or [])
            out.append(
                GeneratedText(prompt.row_id, prompt.sample, prompt.text, text, truth[prompt.row_id], n, made.stopped)
            )
        if progress:
            progress(len(batch))
    return sorted(out, key=lambda t: (t.row_id, t.sample))


def _cache_bytes(model: Any) -> int:
    """Bytes that a model's cache keeps for a token at most; a large number where its configuration does not say."""
    config = model.config.get_text_config()
    layers, width = (getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size"))
    if not isinstance(layers, int) or not isinstance(width, int):
        return CACHE
    return 2 * layers * width * int(next(model.parameters()).element_size())


def continued(
    model: Any,
    prompts: Sequence[Sequence[int]],
    encoder: Encoder,
    generation: Generation,
    *,
    token_budget: int = BUDGET,
) -> list[str]:
    """What follows each of some prompts of token ids, as `generate_texts` makes it: one text each, by this model here.

    A prompt that fills the model's context is continued by nothing.
    """
    model.eval()
    context = context_length(model) or sum(map(len, prompts)) + generation.max_new_tokens
    limits = [min(generation.max_new_tokens, context - len(p)) for p in prompts]
    asked = [Prompt(i, 0, "", tuple(p), n) for i, (p, n) in enumerate(zip(prompts, limits, strict=True)) if n > 0]
    decode = _Decoder(model, encoder, generation, _ends(model, encoder), None)
    out = [""] * len(prompts)
    for batch in budget_batches(asked, [len(p.ids) + p.limit for p in asked], token_budget):
        for prompt, made in zip(batch, decode(batch), strict=True):
            out[prompt.row_id] = _text(made, encoder, generation)
    return out


def _text(made: PromptBatch, encoder: Encoder, generation: Generation) -> str:
    """What was made, as text: without special tokens, and without stop texts and what follows them."""
    ids = made.ids or []
    if ids and ids[-1] in encoder.end_ids:  # an end token that the tokenizer does not name as special
        ids = ids[:-1]
    text: str = encoder.tokenizer.decode(ids, skip_special_tokens=True)
    for end in generation.stop:
        text = text.partition(end)[0]
    return text.strip()


def _ends(model: Any, encoder: Encoder) -> frozenset[int]:
    """Return the ids that end a text: EOS, the template's end token, and those of the model's generation_config."""
    config = getattr(model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    more = [] if listed is None else [listed] if isinstance(listed, int) else listed
    return frozenset({*encoder.end_ids, *(int(i) for i in more)})


def _read_start(model: Any, prompts: Sequence[Prompt], pad_id: int) -> PrefixCache | None:
    """What all prompts begin with, read once; None where that is little, or the model could not go on from it."""
    if len(prompts) < 2 or not shareable(model) or slides(model):
        return None
    n = common_length([p.ids for p in prompts])
    n = min(n, min(len(p.ids) for p in prompts) - 1)
    if n < SHOTS:
        return None
    nowhere = torch.zeros(0, dtype=torch.long)
    with torch.inference_mode():
        return read_on(model, None, [prompts[0].ids[:n]], (nowhere, nowhere), pad_id=pad_id, side="left")[0]


class _Decoder:
    """Continues batches of prompts with one model."""

    def __init__(
        self, model: Any, encoder: Encoder, generation: Generation, ends: frozenset[int], start: PrefixCache | None
    ) -> None:
        self.model, self.ends, self.start, self.generation = model, ends, start, generation
        self.pad_id = encoder.tokenizer.pad_token_id
        self.stops = StopStrings(generation.stop, encoder.tokenizer)
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt]) -> list[PromptBatch]:
        """The new tokens of each prompt. Rows that have ended leave the batch."""
        new: list[list[int]] = [[] for _ in prompts]
        made = [self._known(ids, p) for ids, p in zip(new, prompts, strict=True)]
        rows = [row for row, done in enumerate(made) if done is None]
        if not rows:
            return [done for done in made if done is not None]
        cache, step_ids, mask, position = self._begin([prompts[row] for row in rows])
        uniform = self._draws(prompts)
        for step in range(max(prompts[row].limit - len(new[row]) for row in rows)):
            out = self.model(
                input_ids=step_ids,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = out.logits[:, -1]
            chosen = self._pick(logits, None if uniform is None else uniform[rows, step])
            broken = logits.amax(-1).isnan().tolist()
            for row, token, bad in zip(rows, chosen.tolist(), broken, strict=True):
                if made[row] is None:
                    made[row] = self._ended(new[row], token, bad, limit=prompts[row].limit)
            going = [k for k, row in enumerate(rows) if made[row] is None]
            if not going:
                break
            step_ids, position = chosen[:, None], position[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            if len(going) <= len(rows) * 3 // 4:  # compacting copies the cache: only when it pays
                keep = torch.tensor(going, device=self.device)
                cache.batch_select_indices(keep)
                step_ids, position, mask = step_ids[keep], position[keep], mask[keep]
                rows = [rows[k] for k in going]
        return [done for done in made if done is not None]

    def _known(self, ids: list[int], prompt: Prompt) -> PromptBatch | None:
        """Add a prompt's draft to its text; the text if it has ended."""
        for token in prompt.draft:
            if (made := self._ended(ids, token, False, limit=prompt.limit)) is not None:
                return made
        return None

    def _ended(self, ids: list[int], token: int, bad: bool, *, limit: int) -> PromptBatch | None:
        """Add a token to a text; the text if it has ended."""
        if bad:
            return PromptBatch(None, False)
        ids.append(token)
        stopped = token in self.ends or self.stops.ended(ids)
        return PromptBatch(ids, stopped) if stopped or len(ids) == limit else None

    def _begin(self, prompts: Sequence[Prompt]) -> tuple[Any, Tensor, Tensor, Tensor]:
        """The cache to go on from, and ids, mask and positions of the first step: prompts padded at the left."""
        n_all = 0 if self.start is None else self.start.mask_BT.shape[1]
        padded, there = pad([(*p.ids[n_all:], *p.draft) for p in prompts], pad_id=self.pad_id, side="left")
        ids, mask = padded.to(self.device), there.long().to(self.device)
        position = (mask.cumsum(1) - 1).clamp(min=0) + n_all
        if self.start is None:
            return new_cache(self.model), ids, mask, position
        before = self.start.rows(torch.zeros(len(prompts), dtype=torch.long, device=self.device))
        return before.cache, ids, torch.cat([before.mask_BT, mask], dim=1), position

    def _draws(self, prompts: Sequence[Prompt]) -> Floats | None:
        if self.generation.temperature == 0:
            return None
        uniform = np.zeros((len(prompts), max(p.limit for p in prompts)))
        for i, p in enumerate(prompts):
            uniform[i, : p.limit] = draws(self.generation.seed, p)
        return uniform

    def _pick(self, logits: Tensor, uniform: Floats | None) -> Tensor:
        """From next-token logits (rows, V) to token ids: the largest, or where a number falls in the distribution."""
        if uniform is None:
            return greedy(logits)
        # In float64, so that a draw changes with the rounding of the logits only once in about 1e7 tokens.
        summed = torch.softmax(logits.double() / self.generation.temperature, dim=-1).cumsum(-1)
        at = torch.from_numpy(uniform)[:, None].to(logits.device) * summed[:, -1:]
        return torch.searchsorted(summed, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
