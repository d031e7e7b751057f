"""Activation patching: how deep unlearning goes, layer by layer.

The Unlearning Depth Score (Lee, Kim and Jo 2026, arXiv:2605.24614, equations 1 to 6). The states of the target model
after layer l are replaced by those of a source model, at the positions that predict the answer's tokens. The loss of
log-probability gives the score:

    d(source)[i, l] = mean_t log p_full(y_t) - log p_full<-source,l(y_t)           row i, layer l
    K[i]            = { l : d(retain)[i, l] > tau },  tau = 0.05                   layers that encode the answer
    UDS[i]          = sum_K d(retain) clip(d(unlearned) / d(retain), 0, 1) / sum_K d(retain)
    UDS             = mean of UDS[i] over the rows whose K is not empty

0: the target model predicts the answer from the unlearned model's states as well as from its own. 1: no better than
from those of a model that never learned it. By construction the target model has 0 and the retain model 1.

The other direction uses the retain model as the host. Then d changes its sign and measures how much a source's states
add, and the control is the target model. `carried` is that share: 1 for the target model, 0 for the retain model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from expunge.core.errors import ConfigError, DataError
from expunge.core.records import Floats
from expunge.data.batch import Batch
from expunge.interpretability.hidden import HiddenStates, first, hidden_states
from expunge.interpretability.inputs import AnalysisInputs, answer_logps, forward, row_means
from expunge.interpretability.model_layout import model_layout
from expunge.metrics.aggregate import bootstrap_interval
from expunge.models.capabilities import capabilities_of
from expunge.models.packed import BatchPositions, LmHead, forward_at_once, token_logps

TAU = 0.05
LOGITS = 2**24  # logits in memory at once


@dataclass(frozen=True)
class DepthLine:
    """A row at a layer: effect of patching the control's and the source's states (nats per token), and if it counts.

    ratio: clip(source / control, 0, 1), NaN at a layer that does not count.
    """

    row_id: int
    layer: int
    control: float
    source: float
    counts: bool
    ratio: float


@dataclass(frozen=True)
class DepthResult:
    """The score over rows, its 95 % bootstrap interval, and by row (NaN for a row that no layer encodes).

    value is NaN with a `reason` if no row has a layer that counts.
    """

    value: float
    ci_low: float
    ci_high: float
    n_rows: int
    n_scored: int
    tau: float
    reason: str | None
    by_row: dict[int, float]
    by_layer: dict[int, float]
    lines: tuple[DepthLine, ...]


def patched_logps(host: Any, states: HiddenStates, inputs: AnalysisInputs) -> Floats:
    """Return log p of every counted token in the host, with one layer's states replaced by a source's; shape (L, N).

    Args:
        host: The model to patch.
        states: The source's, from `hidden_states(source, inputs, at="predicts")`. The source itself is no longer
            needed, so one model is in memory at a time.
        inputs: The rows to score.

    Raises:
        DataError: If the states belong to other inputs, or to a deeper model.
    """
    blocks = model_layout(host).blocks
    n = int(inputs.offsets[-1])
    if states.values_LND.shape[1] != n or any(layer >= len(blocks) for layer in states.layers):
        raise DataError(
            "patched_logps: the states must be those of these inputs' predicting positions, of a model as deep as this"
        )
    host.eval()
    inputs = _without_rest(inputs)
    with torch.inference_mode():
        shortest = sorted(range(len(inputs.rows)), key=lambda i: len(inputs.rows[i].ids))[:2]
        together = capabilities_of(host).padded and _agree(host, blocks, states, inputs, shortest)
        if not together:
            return _layer_by_layer(host, blocks, states, inputs)
        # The batch grows by its own rows at each layer, so the average forward has half as many as the last block.
        budget = max(1, 2 * inputs.token_budget // (len(states.layers) + 2))
        out = np.full((len(states.layers), n), np.nan)
        for rows_of_batch, batch in dataclasses.replace(inputs, token_budget=budget).batches(host):
            places = inputs.flat(rows_of_batch)
            out[:, places] = _all_layers(host, blocks, states.layers, states.values_LND[:, places], batch)
    return out


def _without_rest(inputs: AnalysisInputs) -> AnalysisInputs:
    """Return the rows without the tokens after their last counted one, which no counted token depends on."""
    rows = tuple(
        dataclasses.replace(row, ids=row.ids[: inputs.positions(i, "own")[-1] + 1]) for i, row in enumerate(inputs.rows)
    )
    return dataclasses.replace(inputs, rows=rows)


def _layer_by_layer(host: Any, blocks: Sequence[Any], states: HiddenStates, inputs: AnalysisInputs) -> Floats:
    """Return `patched_logps` from one forward of the host for each layer."""
    out = np.full((len(states.layers), int(inputs.offsets[-1])), np.nan)
    for rows_of_batch, batch in inputs.batches(host):
        places = inputs.flat(rows_of_batch)
        for k, layer in enumerate(states.layers):
            source = states.values_LND[k, torch.from_numpy(places)].to(batch.ids_BT.device)

            def patch(_module: Any, _args: Any, output: Any, source: Any = source, batch: Batch = batch) -> Any:
                hidden = first(output).clone()
                hidden[batch.row_N, batch.pos_N] = source.to(hidden.dtype)
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            with _hooked([(blocks[layer], patch)]):
                logps = token_logps(forward(host, batch).logits_NV, batch.token_N)
            out[k, places] = logps.double().cpu().numpy()
    return out


def _all_layers(
    host: Any, blocks: Sequence[Any], layers: Sequence[int], source_LND: torch.Tensor, batch: Batch
) -> Floats:
    """Return log p of a batch's N tokens for each patched layer, (L, N), from one forward.

    After block l a patched copy of the first B rows joins the batch, so blocks below a patch do not run again for it.
    """
    n_rows = batch.n_rows

    def grow(k: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            hidden = first(output)
            patched = hidden[:n_rows].clone()
            patched[batch.row_N, batch.pos_N] = source_LND[k].to(device=hidden.device, dtype=hidden.dtype)
            grown = torch.cat([hidden, patched])
            return (grown, *output[1:]) if isinstance(output, tuple) else grown

        return hook

    n = len(batch.row_N)
    copies = torch.arange(1, len(layers) + 1, device=batch.row_N.device).repeat_interleave(n)
    row_M, pos_M = batch.row_N.repeat(len(layers)) + copies * n_rows, batch.pos_N.repeat(len(layers))
    at = BatchPositions(batch.ids_BT, batch.mask_BT, row_M, pos_M)
    head = LmHead(host)
    with _hooked([(blocks[layer], grow(k)) for k, layer in enumerate(layers)]):
        hidden_MD = forward_at_once(host, at, use_mask=False, n_head=0).hidden_ND
    tokens_M = batch.token_N.repeat(len(layers))
    step = max(1, LOGITS // head.weight.shape[0])
    logps = [
        token_logps(head(hidden_MD[i : i + step]), tokens_M[i : i + step]).double().cpu()
        for i in range(0, len(tokens_M), step)
    ]
    values: Floats = torch.cat(logps).numpy().reshape(len(layers), n)
    return values


def _agree(host: Any, blocks: Sequence[Any], states: HiddenStates, inputs: AnalysisInputs, some: Sequence[int]) -> bool:
    """Return whether one forward for all layers gives the numbers of one forward for each, on some rows.

    A model whose blocks read the size of the batch (masks, caches, states of their own) may not.
    """
    places = inputs.flat(some)
    spans = None if inputs.spans is None else tuple(inputs.spans[i] for i in some)
    one = dataclasses.replace(
        inputs, rows=tuple(inputs.rows[i] for i in some), row_ids=tuple(range(len(some))), spans=spans
    )
    part = HiddenStates(states.values_LND[:, places], states.layers, torch.zeros(len(places), dtype=torch.long))
    expected = _layer_by_layer(host, blocks, part, one)
    rows_of_batch, batch = next(one.batches(host))
    index = one.flat(rows_of_batch)
    try:
        together = _all_layers(host, blocks, states.layers, part.values_LND[:, index], batch)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        return False
    eps = torch.finfo(next(host.parameters()).dtype).eps
    return bool(np.allclose(together, expected[:, index], rtol=0, atol=max(1e-4, 10 * eps)))


@contextlib.contextmanager
def _hooked(hooks: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Register forward hooks within the block."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def patch_drops(host: Any, states: HiddenStates, inputs: AnalysisInputs) -> Floats:
    """Return the host's loss through patching, d[i, l] in nats per token, shape (R, L)."""
    differences = answer_logps(host, inputs)[None, :] - patched_logps(host, states, inputs)
    drops: Floats = row_means(differences, inputs).T
    return drops


def depth_score(
    control_RL: Floats, source_RL: Floats, *, row_ids: tuple[int, ...], layers: tuple[int, ...], tau: float = TAU
) -> DepthResult:
    """Compute equations 2 to 6 from the effects of patching a control's and a source's states, each (R, L).

    Raises:
        DataError: If shapes differ.
        ConfigError: If tau is not a number >= 0.
    """
    if not 0 <= tau < math.inf:
        raise ConfigError(f"tau must be a number >= 0, got {tau}")
    if control_RL.shape != source_RL.shape or control_RL.shape != (len(row_ids), len(layers)):
        raise DataError(f"depth_score: shapes {control_RL.shape} and {source_RL.shape} do not fit the rows and layers")
    counts = control_RL > tau
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(counts, np.clip(source_RL / control_RL, 0.0, 1.0), np.nan)
        weights = np.where(counts, control_RL, 0.0)
        by_row = np.where(counts, weights * ratio, 0.0).sum(1) / weights.sum(1)
        by_layer = np.where(counts, weights * ratio, 0.0).sum(0) / weights.sum(0)
    scored = by_row[~np.isnan(by_row)]
    low, high = bootstrap_interval(scored) if len(scored) > 1 else (math.nan, math.nan)
    lines = tuple(
        DepthLine(row, layer, float(control_RL[i, k]), float(source_RL[i, k]), bool(counts[i, k]), float(ratio[i, k]))
        for i, row in enumerate(row_ids)
        for k, layer in enumerate(layers)
    )
    return DepthResult(
        value=float(scored.mean()) if len(scored) else math.nan,
        ci_low=low,
        ci_high=high,
        n_rows=len(row_ids),
        n_scored=len(scored),
        tau=tau,
        reason=None if len(scored) else f"patching the control changes no row by more than {tau} nats per token",
        by_row={row: float(v) for row, v in zip(row_ids, by_row, strict=True)},
        by_layer={layer: float(v) for layer, v in zip(layers, by_layer, strict=True)},
        lines=lines,
    )


def unlearning_depth(
    full: Any, retain: Any, unlearned: Any, inputs: AnalysisInputs, *, tau: float = TAU
) -> DepthResult:
    """Compute the UDS of a model: 0, its states still carry the answers; 1, no more than the retain model's.

    All three models must be in memory; `patch_drops` and `depth_score` do the same one model at a time.
    """
    return _score(full, retain, unlearned, inputs, tau, sign=1.0)


def knowledge_carried(
    full: Any, retain: Any, unlearned: Any, inputs: AnalysisInputs, *, tau: float = TAU
) -> DepthResult:
    """Compute the other direction: the unlearned model's share of the target states' effect on the retain model."""
    return _score(retain, full, unlearned, inputs, tau, sign=-1.0)


def _score(host: Any, control: Any, source: Any, inputs: AnalysisInputs, tau: float, *, sign: float) -> DepthResult:
    states = {id(m): hidden_states(m, inputs, at="predicts") for m in (control, source)}
    drops = [sign * patch_drops(host, states[id(m)], inputs) for m in (control, source)]
    return depth_score(*drops, row_ids=inputs.row_ids, layers=states[id(control)].layers, tau=tau)
