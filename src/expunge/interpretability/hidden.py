"""Hidden states: the output of each block at selected positions, from one pass per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.data.batch import Batch
from expunge.interpretability.inputs import AnalysisInputs, At
from expunge.interpretability.model_layout import model_layout


@dataclass(frozen=True)
class HiddenStates:
    """values_LND: outputs of L blocks at N positions, on the CPU, float32 (float64 for a float64 model).

    layers: indices of the blocks, from 0. row_N: the row of each position; rows are in order.
    """

    values_LND: Tensor
    layers: tuple[int, ...]
    row_N: Tensor


def check_layers(model: Any, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Return the selected layers, or all of them for None. Raises ConfigError for one the model does not have."""
    depth = len(model_layout(model).blocks)
    for layer in layers or ():
        if not 0 <= layer < depth:
            raise ConfigError(f"layers: the model has layers 0 to {depth - 1}, got {layer}")
    return tuple(range(depth)) if layers is None else tuple(sorted(set(layers)))


def hidden_states(
    model: Any, inputs: AnalysisInputs, *, at: At = "own", last: int = 10, layers: Sequence[int] | None = None
) -> HiddenStates:
    """Return the residual stream after each block (before the final norm), at the positions of `at`.

    On the device one batch is in memory at a time; the result grows with L x N x D. Layers after the last selected one
    do not run.

    Args:
        model: A decoder.
        inputs: The rows to read.
        at: "own", the positions of the counted tokens; "predicts", one before each; "last", one vector per row.
        last: For at="last": the mean is over the row's last `last` tokens (fewer if it is shorter), without padding.
        layers: Indices of the blocks; None selects all.
    """
    selected = check_layers(model, layers)
    counts = [1 if at == "last" else len(inputs.positions(i, at)) for i in range(len(inputs.rows))]
    starts = [0]
    for n in counts:
        starts.append(starts[-1] + n)
    out = torch.empty(0)
    model.eval()
    with torch.no_grad():
        for rows_of_batch, batch in inputs.batches(model, at, last):
            states = states_at(model, batch, selected).cpu()
            if at == "last":
                states = _means(states, batch.row_N.cpu(), len(rows_of_batch))
            if not len(out):
                out = states.new_empty(len(selected), starts[-1], states.shape[-1])
            places = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in rows_of_batch])
            out[:, places] = states
    row_N = torch.arange(len(inputs.rows)).repeat_interleave(torch.tensor(counts))
    return HiddenStates(out, selected, row_N)


def _means(states_LND: Tensor, row_N: Tensor, n_rows: int) -> Tensor:
    sums = states_LND.new_zeros(len(states_LND), n_rows, states_LND.shape[-1]).index_add_(1, row_N, states_LND)
    return sums / torch.bincount(row_N, minlength=n_rows)[None, :, None]


class _StopAtLayer(Exception):
    """Stops a forward at a layer."""


def first(output: Any) -> Tensor:
    """Return the hidden states among a block's outputs."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def states_at(model: Any, batch: Batch, layers: Sequence[int]) -> Tensor:
    """Return outputs of some blocks at a batch's positions, (L, N, D), in float32 or wider."""
    blocks = model_layout(model).blocks
    saved: dict[int, Tensor] = {}
    handles = []

    def keep(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            saved[layer] = first(output)[batch.row_N, batch.pos_N]
            if layer == max(layers):
                raise _StopAtLayer

        return hook

    try:
        handles = [blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
        model(input_ids=batch.ids_BT, use_cache=False)
    except _StopAtLayer:
        pass
    finally:
        for handle in handles:
            handle.remove()
    states = torch.stack([saved[layer] for layer in layers])
    return states if states.dtype == torch.float64 else states.float()
