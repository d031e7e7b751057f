"""Measurements on named sets of rows during a run: their mean token loss, and continuations of their prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from expunge.data.batch import budget_batches, collate
from expunge.data.encoder import Encoded, Encoder
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import continued
from expunge.models.capabilities import kept_modes, padding_id
from expunge.models.packed import BatchPositions, packed_forward, token_logps
from expunge.training.checkpoint import kept_random

BUDGET = 8192  # padded tokens of a forward


@dataclass(frozen=True)
class EvalLosses:
    """The mean negative log-likelihood of the scored tokens of each set, in nats, as `loss/<set>`.

    It is the sum over all scored tokens of the set's rows, divided by their number; batches and padding change nothing.
    """

    rows: Mapping[str, Sequence[Encoded]]
    pad_id: int

    def __call__(self, model: Any) -> dict[str, float]:
        """Return each set's loss. The training mode and all random generators are restored."""
        with kept_modes(model), kept_random(), torch.inference_mode():
            model.eval()
            losses = {f"loss/{name}": self._loss(model, rows) for name, rows in self.rows.items()}
        return losses

    def _loss(self, model: Any, rows: Sequence[Encoded]) -> float:
        device = next(model.parameters()).device
        total, n = 0.0, 0
        for part in budget_batches(rows, [len(r.ids) for r in rows], BUDGET):
            batch = collate(part, pad_id=padding_id(model, self.pad_id)).to(device)
            at = BatchPositions(batch.ids_BT, batch.mask_BT, batch.row_N, batch.pos_N)
            logits_NV = packed_forward(model, at, use_mask=False).logits_NV
            total -= float(token_logps(logits_NV, batch.token_N).cpu().double().sum())
            n += len(batch.token_N)
        return total / n if n else float("nan")


@dataclass
class GenerationTable:
    """Continues prompts at every `every`-th evaluation: one line per prompt, with the step.

    prompts: rows by set; the first `n_prompt` ids are the prompt, the others the target. always: up to this step every
    evaluation generates. tell: receives all lines, and the new ones.
    """

    prompts: Mapping[str, Sequence[Encoded]]
    encoder: Encoder
    generation: Generation
    every: int = 1
    always: int = 0
    tell: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], None] | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, model: Any, step: int, number: int) -> None:
        """Generate at evaluation `number` (from 0) if it is due."""
        if number % self.every and step > self.always:
            return
        decode = self.encoder.tokenizer.decode
        new: list[dict[str, Any]] = []
        with kept_modes(model), kept_random():
            for name, rows in self.prompts.items():
                prompts = [r.ids[: r.n_prompt] for r in rows]
                for row, text in zip(rows, continued(model, prompts, self.encoder, self.generation), strict=True):
                    prompt, target = (
                        decode(i, skip_special_tokens=True) for i in (row.ids[: row.n_prompt], row.ids[row.n_prompt :])
                    )
                    new.append({"step": step, "set": name, "prompt": prompt, "generation": text, "target": target})
        self.lines += new
        if self.tell is not None:
            self.tell(self.lines, new)
