"""Hidden states: what each block puts out at chosen positions, read in one pass per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.data.batch import Batch
from expunge.interpretability.inputs import AnalysisInputs, At, device_of
from expunge.interpretability.model_layout import model_layout


@dataclass(frozen=True)
class HiddenStates:
    """values_LND: outputs of L blocks at N places, on the CPU, float32 (float64 for a float64 model).

    layers: which blocks, from 0. row_N: which row of the reading each place belongs to; rows stand in order.
    """

    values_LND: Tensor
    layers: tuple[int, ...]
    row_N: Tensor


def check_layers(model: Any, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, all of them where None. Raises ConfigError for one the model does not have."""
    depth = len(model_layout(model).blocks)
    for layer in layers or ():
        if not 0 <= layer < depth:
            raise ConfigError(f"layers: the model has layers 0 to {depth - 1}, got {layer}")
    return tuple(range(depth)) if layers is None else tuple(sorted(set(layers)))


def hidden_states(
    model: Any, read: AnalysisInputs, *, at: At = "own", last: int = 10, layers: Sequence[int] | None = None
) -> HiddenStates:
    """The residual stream after each block (before the final norm), at the positions of `at`.

    at: "own", where the counted tokens stand; "predicts", one before each; "last": one vector per row, the mean over
    the row's last `last` tokens (fewer where it is shorter; padding never enters). On the device one batch is held at a
    time; the result grows with L x N x D. Nothing after the last layer asked for is run.
    """
    wanted = check_layers(model, layers)
    counts = [1 if at == "last" else len(read.positions(i, at)) for i in range(len(read.rows))]
    starts = [0]
    for n in counts:
        starts.append(starts[-1] + n)
    out = torch.empty(0)
    model.eval()
    with torch.no_grad():
        for chosen, batch in read.batches(device_of(model), at, last):
            states = states_at(model, batch, wanted).cpu()
            if at == "last":
                states = _means(states, batch.row_N.cpu(), len(chosen))
            if not len(out):
                out = states.new_empty(len(wanted), starts[-1], states.shape[-1])
            places = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in chosen])
            out[:, places] = states
    row_N = torch.arange(len(read.rows)).repeat_interleave(torch.tensor(counts))
    return HiddenStates(out, wanted, row_N)


def _means(states_LND: Tensor, row_N: Tensor, n_rows: int) -> Tensor:
    sums = states_LND.new_zeros(len(states_LND), n_rows, states_LND.shape[-1]).index_add_(1, row_N, states_LND)
    return sums / torch.bincount(row_N, minlength=n_rows)[None, :, None]


class _StopAtLayer(Exception):
    """Raised inside a forward to end it at a layer."""


def first(output: Any) -> Tensor:
    """The hidden states among a block's outputs."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def states_at(model: Any, batch: Batch, layers: Sequence[int]) -> Tensor:
    """Outputs of some blocks at a batch's positions, (L, N, D), in float32 at least."""
    blocks = model_layout(model).blocks
    kept: dict[int, Tensor] = {}
    handles = []

    def keep(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            kept[layer] = first(output)[batch.row_N, batch.pos_N]
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
    made = torch.stack([kept[layer] for layer in layers])
    return made if made.dtype == torch.float64 else made.float()
