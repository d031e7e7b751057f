"""Activation patching: how deep unlearning goes, layer by layer.

The Unlearning Depth Score (Lee, Kim and Jo 2026, arXiv:2605.24614, equations 1 to 6). Put the states of a source model
after layer l into the full model, at the positions that predict the answer's tokens, and see what it loses:

    d(source)[i, l] = mean_t log p_full(y_t) - log p_full<-source,l(y_t)           row i, layer l
    K[i]            = { l : d(retain)[i, l] > tau },  tau = 0.05                   layers that encode the answer
    UDS[i]          = sum_K d(retain) clip(d(unlearned) / d(retain), 0, 1) / sum_K d(retain)
    UDS             = mean of UDS[i] over the rows whose K is not empty

0: the full model reads the answer off the unlearned model's states as it does off its own. 1: no more than off those of
a model that never learned it. By construction the full model has 0 and the retain model 1.

The other direction asks the model that never learned: with the retain model as the host, d changes its sign and is what
a source's states add, and the control is the full model. `carried` is that share: 1 for the full model, 0 for retain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from expunge.core.errors import ConfigError, DataError
from expunge.core.records import Floats
from expunge.interpretability.hidden import HiddenStates, first, hidden_states
from expunge.interpretability.inputs import AnalysisInputs, answer_logps, device_of, forward, row_means
from expunge.interpretability.model_layout import model_layout
from expunge.metrics.aggregate import bootstrap_interval
from expunge.models.packed import token_logps

TAU = 0.05


@dataclass(frozen=True)
class DepthLine:
    """A row at a layer: what patching the control's and the source's states changes (nats per token), and if it counts.

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

    value is NaN with a `reason` where no row has a layer that counts.
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


def patched_logps(host: Any, states: HiddenStates, read: AnalysisInputs) -> Floats:
    """log p of every counted token in the host with one layer's states replaced by a source's, shape (L, N).

    states: the source's, read with `hidden_states(source, read, at="predicts")`; the source itself is no longer needed,
    so one model is in memory at a time. Raises DataError where the states are of another reading or shape.
    """
    blocks = model_layout(host).blocks
    n = int(read.offsets[-1])
    if states.values_LND.shape[1] != n or any(layer >= len(blocks) for layer in states.layers):
        raise DataError(
            "patched_logps: the states are not of this reading's predicting positions, or of a deeper model"
        )
    out = np.full((len(states.layers), n), np.nan)
    host.eval()
    with torch.inference_mode():
        for chosen, batch in read.batches(device_of(host)):
            places = read.flat(chosen)
            for k, layer in enumerate(states.layers):
                given = states.values_LND[k, torch.from_numpy(places)].to(batch.ids_BT.device)

                def put(_module: Any, _args: Any, output: Any, given: Any = given, batch: Any = batch) -> Any:
                    hidden = first(output).clone()
                    hidden[batch.row_N, batch.pos_N] = given.to(hidden.dtype)
                    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

                handle = blocks[layer].register_forward_hook(put)
                try:
                    logps = token_logps(forward(host, batch).logits_NV, batch.token_N)
                finally:
                    handle.remove()
                out[k, places] = logps.double().cpu().numpy()
    return out


def patch_drops(host: Any, states: HiddenStates, read: AnalysisInputs) -> Floats:
    """What the host loses by patching, d[i, l] in nats per token, shape (R, L)."""
    lost = answer_logps(host, read)[None, :] - patched_logps(host, states, read)
    drops: Floats = row_means(lost, read).T
    return drops


def depth_score(
    control_RL: Floats, source_RL: Floats, *, row_ids: tuple[int, ...], layers: tuple[int, ...], tau: float = TAU
) -> DepthResult:
    """Equations 2 to 6 from the changes that patching a control's and a source's states makes, each (R, L).

    Raises DataError where shapes differ, ConfigError for a tau that is not a number >= 0.
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
        reason=None if len(scored) else f"in no row does patching the control change more than {tau} nats per token",
        by_row={row: float(v) for row, v in zip(row_ids, by_row, strict=True)},
        by_layer={layer: float(v) for layer, v in zip(layers, by_layer, strict=True)},
        lines=lines,
    )


def unlearning_depth(full: Any, retain: Any, unlearned: Any, read: AnalysisInputs, *, tau: float = TAU) -> DepthResult:
    """UDS of a model: 0, the answers can still be read off its states; 1, no more than off the retain model's.

    All three models must be in memory; `patch_drops` and `depth_score` do the same one model at a time.
    """
    return _score(full, retain, unlearned, read, tau, sign=1.0)


def knowledge_carried(full: Any, retain: Any, unlearned: Any, read: AnalysisInputs, *, tau: float = TAU) -> DepthResult:
    """The other direction: which share of what the full model's states tell a retain model do the unlearned one's?"""
    return _score(retain, full, unlearned, read, tau, sign=-1.0)


def _score(host: Any, control: Any, source: Any, read: AnalysisInputs, tau: float, *, sign: float) -> DepthResult:
    states = {id(m): hidden_states(m, read, at="predicts") for m in (control, source)}
    drops = [sign * patch_drops(host, states[id(m)], read) for m in (control, source)]
    return depth_score(*drops, row_ids=read.row_ids, layers=states[id(control)].layers, tau=tau)
