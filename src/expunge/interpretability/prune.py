"""Revival without training: remove the few weights or neurons that suppress an unlearned answer, and score again.

To first order, moving weight w to w' changes the loss of some rows by (w' - w) g, with g its gradient. With w' = 0 that
is pruning by saliency, as in arXiv:2311.12786; with w' the weight before unlearning it undoes the change. If answers
come back after a handful of weights, they were suppressed, not removed. Compare with the same curve of a model that
never learned the rows: answers that it "revives" too are an artefact of the attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.interpretability.inputs import AnalysisInputs, mean_loss, swapped
from expunge.interpretability.model_layout import mlp_outputs, model_layout
from expunge.interpretability.weights import State, loss_gradients, parameters
from expunge.methods.weight_edits.api import check_same

Unit = Literal["weight", "neuron"]
Rank = Literal["lowers", "matters"]


@dataclass(frozen=True)
class Saliency:
    """First-order decrease of the loss, in nats, from moving each unit to its target: positive lowers the loss.

    scores: by parameter. unit "weight": the parameter's shape; "neuron": one score for each neuron of an MLP's output
    projection; `axes` has the axis of its neurons. target: new values of the units (None: zero).
    """

    unit: Unit
    loss: float
    scores: Mapping[str, Tensor]
    axes: Mapping[str, int]
    target: State | None

    @property
    def n_units(self) -> int:
        """The number of units."""
        return sum(s.numel() for s in self.scores.values())


def saliency(
    model: Any,
    inputs: AnalysisInputs,
    *,
    unit: Unit = "weight",
    reference: Any = None,
    layers: Sequence[int] | None = None,
) -> Saliency:
    """Compute first-order saliency of every weight matrix in the blocks, or of every MLP neuron, for a loss.

    Args:
        model: A decoder.
        inputs: Rows whose mean loss is differentiated.
        unit: Weights or neurons. A neuron's score is the sum of its weights', exact for scaling the neuron.
        reference: A model of the same shape whose weights are the target, such as the one before unlearning; None
            prunes to zero.
        layers: Only these blocks; None selects all.

    Raises:
        ConfigError: If the models differ in shape, or a layer does not exist.
        JobError: If the blocks have no neurons.
    """
    body = model_layout(model)
    for layer in layers or ():
        if not 0 <= layer < len(body.blocks):
            raise ConfigError(f"layers: the model has layers 0 to {len(body.blocks) - 1}, got {layer}")
    axes = mlp_outputs(model) if unit == "neuron" else {}
    own = parameters(model)
    target = None
    if reference is not None:
        target = {n: p.detach() for n, p in parameters(reference).items()}
        check_same(own, [target], what="reference")
    loss, grads = loss_gradients(model, inputs)
    scores = {}
    for name, weight in own.items():
        at = body.part(name).layer
        if at is None or weight.dim() < 2 or (layers is not None and at not in layers):
            continue
        if unit == "neuron" and name not in axes:
            continue
        w, g = weight.detach().double(), grads[name].double()
        moved = w if target is None else w - target[name].to(w)
        score = moved * g
        scores[name] = (score.sum(1 - axes[name]) if unit == "neuron" else score).cpu()
    return Saliency(unit, loss, scores, axes, target)


def edited(
    model: Any, by: Saliency, count: int, *, rank: Rank = "lowers", per_layer: bool = False
) -> dict[str, Tensor]:
    """Return new tensors of the parameters in which the first `count` units are moved to their target.

    The model does not change. Ties prefer the earlier unit.

    Args:
        model: A decoder.
        by: Saliency of its units.
        count: Number of units to move.
        rank: "lowers": by how much moving a unit lowers the loss (units that raise it never move); "matters": by the
            absolute change.
        per_layer: Whether to move `count` units of every block.

    Raises:
        ConfigError: If count is below 0.
    """
    if count < 0:
        raise ConfigError(f"count must be at least 0, got {count}")
    body, own = model_layout(model), parameters(model)
    out: dict[str, Tensor] = {}
    groups: dict[int | None, list[str]] = {}
    for name in by.scores:
        groups.setdefault(body.part(name).layer if per_layer else None, []).append(name)
    for names in groups.values():
        for name, rows_of_batch in _first(by, names, count, rank).items():
            weight = own[name].detach()
            target = torch.zeros_like(weight) if by.target is None else by.target[name].to(weight)
            mask = rows_of_batch.to(weight.device)
            if by.unit == "neuron":
                mask = mask.unsqueeze(1 - by.axes[name]).expand_as(weight)
            out[name] = torch.where(mask, target, weight)
    return out


def _first(by: Saliency, names: Sequence[str], count: int, rank: Rank) -> dict[str, Tensor]:
    """Return masks of the first units of some parameters, for the parameters that have any."""
    flat = torch.cat([by.scores[n].flatten() for n in names])
    if rank == "matters":
        flat = flat.abs()
    order = torch.sort(flat, descending=True, stable=True).indices[:count]
    order = order[flat[order] > 0]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[order] = True
    masks, start = {}, 0
    for name in names:
        end = start + by.scores[name].numel()
        if bool(mask[start:end].any()):
            masks[name] = mask[start:end].view(by.scores[name].shape)
        start = end
    return masks


@dataclass(frozen=True)
class PruneLine:
    """The loss of one set (mean NLL, nats per token) after moving `count` units; `share` is of all units."""

    count: int
    share: float
    moved: int
    rows: str
    loss: float


@dataclass(frozen=True)
class PruneResult:
    """A curve of losses over counts. n_units: number of movable units. target: "zero" or "reference"."""

    unit: str
    rank: str
    target: str
    n_units: int
    lines: tuple[PruneLine, ...]

    def losses(self, rows: str) -> list[float]:
        """Return the losses of one set, by count."""
        return [line.loss for line in self.lines if line.rows == rows]


def prune_curve(
    model: Any,
    by: Saliency,
    counts: Sequence[int],
    readings: Mapping[str, AnalysisInputs],
    *,
    rank: Rank = "lowers",
    per_layer: bool = False,
    score: Callable[[Any, AnalysisInputs], float] = mean_loss,
) -> PruneResult:
    """Compute losses of named sets (forget, retain, ...) with more and more units moved; the model is restored.

    Counts are sorted and always include 0. `score` replaces the mean loss.
    """
    lines = []
    own = parameters(model)
    for count in sorted({0, *counts}):
        changed = edited(model, by, count, rank=rank, per_layer=per_layer)
        moved = _moved(by, changed, own)
        with swapped(model, changed):
            for name, inputs in readings.items():
                share = count / by.n_units if by.n_units else math.nan
                lines.append(PruneLine(count, share, moved, name, score(model, inputs)))
    return PruneResult(by.unit, rank, "zero" if by.target is None else "reference", by.n_units, tuple(lines))


def _moved(by: Saliency, changed: State, own: State) -> int:
    """Count the units whose weights really changed."""
    total = 0
    for name, tensor in changed.items():
        other = tensor != own[name]
        total += int((other.any(1 - by.axes[name]) if by.unit == "neuron" else other).sum())
    return total
