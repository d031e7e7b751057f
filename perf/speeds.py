"""Speeds of one model that several scripts measure: scoring, generation and training, each next to the plain way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from expunge.data.batch import budget_batches, collate
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.evaluation.config import SCORED_TOKENS, Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import BUDGET, encode_items, score_tokens
from expunge.evaluation.token_stats import empty_columns, fill
from expunge.methods import objective
from expunge.training.config import TrainArgs
from expunge.training.loop import train

Call = Callable[[], Any]


def qa_rows(n: int) -> ExampleSet:
    """Made-up questions of about 12 words, and answers of 14 to 45, as in TOFU."""
    draw = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(
            f"{draw.choice('bdfgklmnprst')}{draw.choice('aeiou')}{draw.choice('lmnrst')}{draw.choice('aeiou')}"
            for _ in range(draw.randint(low, high))
        )

    return ExampleSet("rows", tuple(Example(i, words(7, 17) + "?", {"answer": words(14, 45)}) for i in range(n)))


def seconds(call: Call, device: str) -> tuple[Any, float]:
    """The result, and seconds: of the processor on a CPU, which others may use too, else of the clock."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    wait(device)
    began = clock()
    out = call()
    wait(device)
    return out, clock() - began


def wait(device: str) -> None:
    if device != "cpu":
        getattr(torch, device).synchronize()


def in_turns(calls: dict[str, Call], device: str, rounds: int) -> dict[str, float]:
    """The least seconds of each call; the calls take turns."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best.get(name, float("inf")), seconds(call, device)[1])
    return best


@dataclass
class Bench:
    """A model, its encoder and rows."""

    model: Any
    encoder: Encoder
    rows: ExampleSet
    new_tokens: int

    @property
    def device(self) -> str:
        return str(self.model.device.type)

    @property
    def items(self) -> list[Any]:
        return encode_items(self.rows, ("answer",), self.encoder)

    def score(self) -> Any:
        return score_tokens(self.model, self.rows, ("answer",), self.encoder, shared_prefix=False)

    def bare(self, *, statistics: bool) -> Call:
        """The body over the same padded batches, and the head at the scored positions; ready batches, no records.

        statistics: with the statistics of each token as well, the part of scoring that is not the model's own.
        """
        items = self.items
        parts = budget_batches(items, [len(i.encoded.ids) for i in items], BUDGET.get(self.device, SCORED_TOKENS))
        batches = [collate([i.encoded for i in some], pad_id=0).to(self.model.device) for some in parts]
        columns = empty_columns(max(len(b.token_N) for b in batches), self.model.dtype)

        def call() -> None:
            with torch.inference_mode():
                for b in batches:
                    states = self.model.model(input_ids=b.ids_BT, use_cache=False).last_hidden_state
                    logits = self.model.lm_head(states[b.row_N, b.pos_N])
                    if statistics:
                        every = torch.arange(len(b.token_N)).numpy()
                        fill(columns, logits, every, b.token_N.cpu().numpy(), every)

        return call

    @property
    def n_tokens(self) -> int:
        return sum(len(i.encoded.ids) for i in self.items)

    def generate(self) -> Any:
        return generate_texts(self.model, self.rows, "answer", self.encoder, Generation(max_new_tokens=self.new_tokens))

    def generate_plainly(self, batch: int = 16) -> Any:
        """transformers' own generate, batches of one length order, left padding, greedy."""
        prompts = sorted((self.encoder.row_prompt(self.rows, r) for r in self.rows), key=len)
        n = 0
        for k in range(0, len(prompts), batch):
            some = prompts[k : k + batch]
            width = max(map(len, some))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in some], device=self.model.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in some], device=self.model.device)
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=self.new_tokens, pad_token_id=0,
                    eos_token_id=sorted(self.encoder.end_ids),
                )  # fmt: skip
            n += out[:, width:].numel()
        return n


def training(
    model: Any, encoder: Encoder, rows: ExampleSet, args: TrainArgs, *, method: str = "finetune"
) -> tuple[list[float], float, int]:
    """Train: the losses of the log, seconds of the processor (of the clock on a GPU), and the tokens read."""
    encoded = encoder.rows(rows, [(row, "answer") for row in rows])
    half = len(encoded) // 2
    sides = {"forget": encoded[:half], "retain": encoded[half:]}
    done, took = seconds(
        lambda: train(model, objective(method), sides, args, pad_id=0), str(next(model.parameters()).device.type)
    )
    return [line["loss"] for line in done.history], took, int(sum(line["tokens"] or 0 for line in done.speed_lines))


def table(heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    text = [" | ".join(map(str, line)) for line in (heads, ["---"] * len(heads), *lines)]
    return "\n".join(f"| {line} |" for line in text)
