"""Continue prompts token by token with one model: in padded batches, one by one, or without a cache.

`evaluation.observation` checks which modes give the model's own tokens. A token depends on its prompt's logits alone,
so the modes give the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.core.records import Floats
from expunge.data.batch import pad
from expunge.evaluation.config import Generation
from expunge.evaluation.prefix_cache import PrefixCache, new_cache, selectable
from expunge.evaluation.prompts import Prompt, PromptBatch, draws
from expunge.evaluation.token_stats import greedy
from expunge.models.capabilities import GenerationMode, forward_options, logits_in, padding_id


class Decoder:
    """Continues batches of prompts with one model.

    on_logits: receives the next-token logits of each step, (rows, V), and the prompts that the rows belong to.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        generation: Generation,
        ends: frozenset[int],
        start: PrefixCache | None,
        *,
        mode: GenerationMode = "batched",
        on_logits: Callable[[Sequence[int], Tensor], None] | None = None,
    ) -> None:
        self.on_logits = on_logits
        self.model, self.ends, self.start, self.generation, self.mode = model, ends, start, generation, mode
        self.pad_id = padding_id(model, getattr(tokenizer, "pad_token_id", None))
        self.stops = StopStrings(generation.stop, tokenizer)
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt]) -> list[PromptBatch]:
        """Return the new tokens of each prompt. Finished rows leave the batch."""
        new: list[list[int]] = [[] for _ in prompts]
        ended = [self._known(ids, p) for ids, p in zip(new, prompts, strict=True)]
        rows = [row for row, done in enumerate(ended) if done is None]
        if self.mode == "batched" and rows:
            self._batch(prompts, rows, new, ended)
        for row in rows:
            if ended[row] is None:
                ended[row] = self._alone(prompts[row], new[row], row)
        return [done for done in ended if done is not None]

    def _batch(
        self, prompts: Sequence[Prompt], rows: list[int], new: list[list[int]], ended: list[PromptBatch | None]
    ) -> None:
        """Continue the prompts `rows` together, until each is in `ended`."""
        cache, step_ids, mask, position = self._begin([prompts[row] for row in rows])
        uniform = self._draws(prompts)
        for step in range(max(prompts[row].limit - len(new[row]) for row in rows)):
            out = self._forward(step_ids, cache, attention_mask=mask, position_ids=position)
            logits = logits_in(out)[:, -1]
            if self.on_logits is not None:
                self.on_logits(rows, logits)
            tokens = self._pick(logits, None if uniform is None else uniform[rows, step])
            broken = logits.amax(-1).isnan().tolist()
            for row, token, bad in zip(rows, tokens.tolist(), broken, strict=True):
                if ended[row] is None:
                    ended[row] = self._ended(new[row], token, bad, limit=prompts[row].limit)
            going = [k for k, row in enumerate(rows) if ended[row] is None]
            if not going:
                break
            step_ids, position = tokens[:, None], position[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            # selecting rows copies the cache: worthwhile only with enough finished rows
            if len(going) <= len(rows) * 3 // 4 and selectable(cache):
                going_B = torch.tensor(going, device=self.device)
                cache.batch_select_indices(going_B)
                step_ids, position, mask = step_ids[going_B], position[going_B], mask[going_B]
                rows = [rows[k] for k in going]

    def _alone(self, prompt: Prompt, new: list[int], row: int) -> PromptBatch:
        """Continue one prompt without padding, mask or position ids, as `model(ids)` reads it."""
        cache = new_cache(self.model) if self.mode == "single" else None
        ids = torch.tensor([[*prompt.ids, *prompt.draft]], device=self.device)
        uniform = self._draws([prompt])
        for step in range(prompt.limit - len(new)):
            logits = logits_in(self._forward(ids, cache))[:, -1]
            if self.on_logits is not None:
                self.on_logits([row], logits)
            token = self._pick(logits, None if uniform is None else uniform[:, step])
            bad = bool(logits.isnan().any())
            if (ended := self._ended(new, int(token), bad, limit=prompt.limit)) is not None:
                return ended
            ids = token[:, None] if cache is not None else torch.cat([ids, token[:, None]], dim=1)
        raise AssertionError("a text ends at its limit at the latest")

    def _forward(self, ids: Tensor, cache: Any, **options: Any) -> Any:
        """Run one step of the model; its last logits are those of each row's next token."""
        if cache is not None:
            options["past_key_values"] = cache
        options = forward_options(self.model, use_cache=cache is not None, logits_to_keep=1, **options)
        return self.model(input_ids=ids, **options)

    def _known(self, ids: list[int], prompt: Prompt) -> PromptBatch | None:
        """Add a prompt's draft to its text; return the text if it ends within the draft."""
        for token in prompt.draft:
            if (ended := self._ended(ids, token, False, limit=prompt.limit)) is not None:
                return ended
        return None

    def _ended(self, ids: list[int], token: int, bad: bool, *, limit: int) -> PromptBatch | None:
        """Add a token to a text; return the text if the token ends it."""
        if bad:
            return PromptBatch(None, False)
        ids.append(token)
        stopped = token in self.ends or self.stops.ended(ids)
        return PromptBatch(ids, stopped) if stopped or len(ids) == limit else None

    def _begin(self, prompts: Sequence[Prompt]) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Return the cache, ids, mask and positions of the first step, with prompts padded on the left."""
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
        """Return a token id per row of next-token logits (rows, V): the largest, or the one that a number draws."""
        if uniform is None:
            return greedy(logits)
        # In float64, so that a draw changes with the rounding of the logits only once in about 1e7 tokens.
        wide = (logits.cpu() if logits.device.type == "mps" else logits).double()  # Apple's GPUs have no float64
        summed = torch.softmax(wide / self.generation.temperature, dim=-1).cumsum(-1)
        at = torch.from_numpy(uniform)[:, None].to(wide.device) * summed[:, -1:]
        token = torch.searchsorted(summed, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
        return token.to(logits.device)


class StopStrings:
    """Stop texts under one tokenizer."""

    def __init__(self, stop: Sequence[str], tokenizer: Any) -> None:
        self.stop, self.tokenizer = tuple(stop), tokenizer
        # A token that is not special has at least one byte, so this many tokens contain the longest stop text.
        self.tail = max((len(text.encode()) for text in stop), default=0) + 4
        self._may_end: dict[int, bool] = {}

    def ended(self, ids: Sequence[int]) -> bool:
        """Return whether the last token completes a stop text in the text of the new tokens."""
        if not self.stop or not self._can_end(ids[-1]):
            return False
        text = self.tokenizer.decode(ids[-self.tail :], skip_special_tokens=True)
        return any(stop in text for stop in self.stop)

    def _can_end(self, token: int) -> bool:
        """Return whether a stop text could end in this token; the answer is cached per token."""
        if token not in self._may_end:
            text = self.tokenizer.decode([token])
            partial = not text or "\ufffd" in text  # a piece of a character, or a blank that decoding drops
            self._may_end[token] = partial or any(s[-1].isspace() or s[-1] in text for s in self.stop)
        return self._may_end[token]
