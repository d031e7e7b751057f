"""Observe a model: check which ways of reading it give the numbers of plain transformers, `model(ids)` of one row.

Each way reads a few rows of random tokens, shorter and longer than the model's attention window. It is compared with
one row at a time. A way with other numbers, or an error, is not used for this model (`models.capabilities`), and a note
records it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core import distributed
from expunge.core.errors import ConfigError, first_line
from expunge.data.batch import Batch, collate
from expunge.data.encoder import Encoded
from expunge.evaluation.config import Generation
from expunge.evaluation.decoding import Decoder
from expunge.evaluation.prefix_cache import read_on, shareable, slides
from expunge.evaluation.prompts import Prompt
from expunge.models.capabilities import (
    Capabilities,
    GenerationMode,
    capabilities_of,
    forward_options,
    kept_modes,
    logits_in,
    n_embeddings,
    n_logits,
    observed_capabilities,
    plain_model,
    register_capabilities,
)
from expunge.models.load import context_in
from expunge.models.packed import BatchPositions, forward_at_once

LENGTHS = (3, 26, 9, 17)  # tokens of the rows
NEW = (4, 2, 4, 2)  # tokens to generate after each, so that rows leave the batch
LONGEST = {"cpu": 1024}  # maximum tokens of a row that exceeds an attention window,
WIDE_LONGEST = 16384  # or on an accelerator
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention", "attention_window_size")
# Errors that a model's own code may raise if it does not support a way of reading.
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError, AssertionError)


def capabilities(model: Any) -> Capabilities:
    """Return the capabilities of a model; observe it first if they are unknown.

    A model whose weights are in shards over several processes is not observed, because one process cannot run it alone.
    Raises ConfigError for a model that cannot be scored at all.
    """
    known = observed_capabilities(model)
    if known is not None:
        return known
    if distributed.sharded() or not hasattr(model, "config"):
        return capabilities_of(model)
    observed = observe(model)
    register_capabilities(model, observed)
    return observed


def attention_window(config: Any) -> int | None:
    """Return the widest attention window of a configuration, in tokens; None if it names none."""
    text = config.get_text_config()
    values = [getattr(text, name, None) for name in WINDOWS]
    sizes = [n for n in values if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    return max(sizes, default=None)


def observe(model: Any) -> Capabilities:
    """Observe a model on a few random rows; its mode and all random generators are restored.

    Raises ConfigError for a model whose plain forward fails, gives too few logits, or lets a token see later ones.
    """
    with kept_modes(model), _kept_random(), torch.no_grad():
        model.eval()
        return _Observer(model).capabilities()


@contextlib.contextmanager
def _kept_random() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


@dataclass(frozen=True)
class _Row:
    """One row of random ids, and log p of each id after the first by the plain forward."""

    ids: tuple[int, ...]
    logps: Tensor


class _Observer:
    """The checks of one model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = type(plain_model(model)).__name__
        if getattr(plain_model(model).config, "is_encoder_decoder", False):
            raise ConfigError(
                f"model: {self.name} is an encoder-decoder; only causal language models (decoders alone) are supported"
            )
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, _floating(model)
        self.window = attention_window(model.config)
        self.notes: list[str] = []
        self.largest = 0.0  # the largest size of a logit
        self.rows = [self._row(ids) for ids in self._random_rows()]
        self._check_causal()

    def capabilities(self) -> Capabilities:
        """Run all checks."""
        head = self._holds(lambda: [self._alone_packed(self.rows[1])], self.rows[1:2])
        if not head:
            self.notes.append("All logits of a row are computed: the LM head does not run on chosen positions alone.")
        padded = self._holds(lambda: self._padded("right", head), self.rows)
        masked = self._holds(lambda: self._padded("left", head), self.rows)
        if not padded:
            self.notes.append("Rows are read one by one: a padded batch gives other numbers.")
        elif not masked:
            self.notes.append("Batches whose padding is masked are read row by row: they give other numbers.")
        shared = shareable(self.model) and self._holds_shared()
        if not shared:
            self.notes.append("Each answer is read with its whole question: a shared prefix cannot be kept.")
        mode = self._generation_mode()
        if mode != "batched":
            how = "with a cache" if mode == "single" else "without a cache"
            self.notes.append(f"Texts are generated one by one, {how}: a padded batch gives other tokens.")
        return Capabilities(head, padded, masked, shared, mode, tuple(self.notes))

    def _random_rows(self) -> list[tuple[int, ...]]:
        """Return rows of different lengths within the model's context, one longer than its attention window."""
        longest = LONGEST.get(self.device.type, WIDE_LONGEST)
        lengths = list(LENGTHS)
        if self.window is not None and self.window + 9 <= longest:
            lengths[1] = max(lengths[1], self.window + 9)
        elif self.window is not None:
            self.notes.append(f"Not checked on rows longer than the attention window of {self.window} tokens.")
        context = context_in(self.model.config)
        if context is not None:
            lengths = [max(2, min(n, context - max(NEW))) for n in lengths]
        config = self.model.config.get_text_config()
        n = min(n_embeddings(self.model) or n_logits(self.model), n_logits(self.model))
        special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
        usable = torch.tensor([i for i in range(min(n, 4096)) if i not in special] or [0])
        draw = torch.Generator().manual_seed(0)
        return [tuple(usable[torch.randint(len(usable), (k,), generator=draw)].tolist()) for k in lengths]

    def _row(self, ids: tuple[int, ...]) -> _Row:
        return _Row(ids, _next_logps(self._plain_logits(ids), ids))

    def _plain_logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of one row by the model's plain forward, (T, V). Raises ConfigError if there are none."""
        try:
            out = self.model(input_ids=torch.tensor([list(ids)], device=self.device), **forward_options(self.model))
            logits: Tensor = logits_in(out)[0]
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            raise ConfigError(f"model: {self.name} cannot be scored: its forward fails: {first_line(error)}") from None
        if logits.shape[0] != len(ids):
            raise ConfigError(
                f"model: {self.name} cannot be scored: it returns logits of {logits.shape[0]} of {len(ids)} tokens"
            )
        sizes = logits[logits.isfinite()].abs()
        self.largest = max(self.largest, float(sizes.max()) if len(sizes) else 0.0)
        return logits

    def _check_causal(self) -> None:
        """Raise ConfigError if a later token changes earlier predictions."""
        row = self.rows[3]
        other = self.rows[0].ids[0] if self.rows[0].ids[0] != row.ids[-1] else self.rows[1].ids[0]
        changed = (*row.ids[:-1], other)
        # The last prediction is that of the row's own last id: a model may look one token ahead, and no further.
        if not self._close(_next_logps(self._plain_logits(changed), row.ids), row.logps):
            raise ConfigError(
                f"model: {self.name} cannot be scored: a later token changes the predictions before it, so it is no "
                "causal language model"
            )

    def _holds(self, read: Callable[[], list[Tensor]], rows: Sequence[_Row]) -> bool:
        """Return whether a way of reading rows gives the plain log-probs of each."""
        try:
            logps = read()
        except torch.OutOfMemoryError:
            raise
        except FAILURES:
            return False
        return all(self._close(mine, row.logps) for mine, row in zip(logps, rows, strict=True))

    def _close(self, mine: Tensor, plain: Tensor) -> bool:
        """Return whether log-probs are equal up to the rounding of the model's arithmetic.

        In half precision the mean difference is at most 0.1, or the spacing of the numbers at the largest logit. At 35,
        neighbouring numbers of bfloat16 are 0.25 apart.
        """
        mine, plain = mine.cpu().double(), plain.cpu().double()
        if mine.shape != plain.shape:
            return False
        if self.dtype in (torch.float32, torch.float64):
            within = 1e-4 if self.dtype == torch.float32 else 1e-9
            return torch.allclose(mine, plain, rtol=within, atol=within, equal_nan=True)
        both = mine.isfinite() & plain.isfinite()
        most = max(0.1, torch.finfo(self.dtype).eps * self.largest)
        return not bool(both.any()) or float((mine - plain)[both].abs().mean()) <= most

    def _alone_packed(self, row: _Row) -> Tensor:
        return self._read(collate([Encoded(row.ids, 1)], pad_id=0), head=True)[0]

    def _padded(self, side: Any, head: bool) -> list[Tensor]:
        """Read all rows in one padded batch: on the right without a mask, on the left with one."""
        batch = collate([Encoded(r.ids, 1) for r in self.rows], pad_id=0, padding_side=side)
        return self._read(batch, head=head, use_mask=side == "left")

    def _read(self, batch: Batch, *, head: bool, use_mask: bool = False) -> list[Tensor]:
        here = batch.to(self.device)
        at = BatchPositions(here.ids_BT, here.mask_BT, here.row_N, here.pos_N)
        logits_NV = forward_at_once(self.model, at, use_mask=use_mask, head=head).logits_NV
        logps_N = _logps(logits_NV, here.token_N)
        return [logps_N[here.row_N == row] for row in range(batch.n_rows)]

    def _holds_shared(self) -> bool:
        """Return whether rows that continue from a cached prefix give the plain numbers, as scoring reads them."""
        long, short = self.rows[1], self.rows[3]
        cuts = (max(1, len(long.ids) - 8), max(1, len(short.ids) - 5))
        other = self._row((*long.ids[: cuts[0]], *short.ids[cuts[1] :]))
        continuations = [(long, 0), (other, 0), (short, 1)]

        def read() -> list[Tensor]:
            prefixes = [long.ids[: cuts[0]], short.ids[: cuts[1]]]
            nowhere = torch.zeros(0, dtype=torch.long)
            read_prefix, _ = read_on(self.model, None, prefixes, (nowhere, nowhere), pad_id=0, side="left")
            ids = [row.ids[cuts[k] : -1] for row, k in continuations]
            at = torch.tensor([(i, place) for i, row in enumerate(ids) for place in range(len(row))])
            before = read_prefix.rows(torch.tensor([k for _, k in continuations], device=self.device))
            _, logits_NV = read_on(self.model, before, ids, (at[:, 0], at[:, 1]), pad_id=0, side="right")
            tokens = torch.tensor([ids for row, k in continuations for ids in row.ids[cuts[k] + 1 :]])
            logps_N = _logps(logits_NV, tokens.to(logits_NV.device))
            return [logps_N[(at[:, 0] == i).to(logps_N.device)] for i in range(len(continuations))]

        tails = [_Row(row.ids, row.logps[cuts[k] :]) for row, k in continuations]
        return self._holds(read, tails) and (slides(self.model) or self._holds(*self._start_then_rows()))

    def _start_then_rows(self) -> tuple[Callable[[], list[Tensor]], list[_Row]]:
        """Return the check of a prefix of all rows, read once; shorter rows are padded on the left after it."""
        row = self.rows[1]
        cut = len(row.ids) // 2
        shorter = _Row(row.ids[: cut + 4], row.logps[: cut + 3])
        rows = [row, shorter]

        def read() -> list[Tensor]:
            nowhere = torch.zeros(0, dtype=torch.long)
            start, _ = read_on(self.model, None, [row.ids[:cut]], (nowhere, nowhere), pad_id=0, side="left")
            before = start.rows(torch.zeros(2, dtype=torch.long, device=self.device))
            ids = [r.ids[cut:-1] for r in rows]
            at = torch.tensor([(i, place) for i, some in enumerate(ids) for place in range(len(some))])
            _, logits_NV = read_on(self.model, before, ids, (at[:, 0], at[:, 1]), pad_id=0, side="left")
            tokens = torch.tensor([token for r in rows for token in r.ids[cut + 1 :]])
            logps_N = _logps(logits_NV, tokens.to(logits_NV.device))
            return [logps_N[(at[:, 0] == i).to(logps_N.device)] for i in range(len(rows))]

        return read, [_Row(r.ids, r.logps[cut:]) for r in rows]

    def _generation_mode(self) -> GenerationMode:
        """Return the fastest way to decode that gives the plain greedy tokens, and their log-probs."""
        modes: tuple[GenerationMode, ...] = ("batched", "single")
        return next((mode for mode in modes if self._decodes(mode)), "uncached")

    def _decodes(self, mode: GenerationMode) -> bool:
        prompts = [Prompt(i, 0, "", row.ids, n) for i, (row, n) in enumerate(zip(self.rows, NEW, strict=True))]
        steps: list[list[Tensor]] = [[] for _ in prompts]

        def keep(rows: Sequence[int], logits: Tensor) -> None:
            for row, one in zip(rows, logits, strict=True):
                steps[row].append(one)

        decode = Decoder(
            self.model, None, Generation(max_new_tokens=max(NEW)), frozenset(), None, mode=mode, on_logits=keep
        )
        try:
            ended = decode(prompts)
        except torch.OutOfMemoryError:
            raise
        except FAILURES:
            return False
        return all(self._greedy(row, b.ids, one) for row, b, one in zip(self.rows, ended, steps, strict=True))

    def _greedy(self, row: _Row, new: list[int] | None, steps: Sequence[Tensor]) -> bool:
        """Return whether each new token is the plain forward's first choice, up to rounding, with the same log-prob."""
        if new is None:
            return bool(row.logps.isnan().any())  # such a model has no first choice either way
        plain = self._plain_logits((*row.ids, *new))[len(row.ids) - 1 : -1].float()
        token_N = torch.tensor(new, device=plain.device)
        mine = _logps(torch.stack(list(steps[: len(new)])).to(plain.device).float(), token_N)
        gap_N = plain.amax(1) - plain.gather(1, token_N[:, None])[:, 0]
        within = 1e-3 if self.dtype in (torch.float32, torch.float64) else 0.5
        return bool((gap_N <= within).all()) and self._close(mine, _logps(plain, token_N))


def _logps(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    wide = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return wide.gather(1, token_N[:, None])[:, 0] - wide.logsumexp(-1)


def _next_logps(logits_TV: Tensor, ids: Sequence[int]) -> Tensor:
    """Return log p of each id but the first, shape (T - 1,)."""
    return _logps(logits_TV[:-1], torch.tensor(list(ids[1:]), device=logits_TV.device))


def _floating(model: Any) -> torch.dtype:
    """Return the type of the arithmetic: the narrowest float type of the weights, bfloat16 if some are quantised."""
    if any(not p.is_floating_point() for p in model.parameters()):
        return torch.bfloat16
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return min(types, key=lambda t: torch.finfo(t).bits, default=torch.float32)
