"""Revival without training: take away the few weights or neurons that hold an unlearned answer down, and score again.

To first order, moving weight w to w' changes the loss of some rows by (w' - w) g, g its gradient. With w' = 0 that is
pruning by saliency, as in arXiv:2311.12786; with w' the weight before unlearning it takes back what unlearning added.
A model whose answers come back after a handful of weights had them covered, not removed. Read the same curve for a
model that never learned the rows: what it "revives" too is the attack's own doing.
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
    """What moving each unit to its target would take off the loss, in nats (first order): positive lowers the loss.

    scores: by parameter. unit "weight": the parameter's shape; "neuron": one score for each neuron of an MLP's output
    projection, whose `axes` says along which axis its neurons lie. target: what a unit is moved to (None: zero).
    """

    unit: Unit
    loss: float
    scores: Mapping[str, Tensor]
    axes: Mapping[str, int]
    target: State | None

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return sum(s.numel() for s in self.scores.values())


def saliency(
    model: Any,
    read: AnalysisInputs,
    *,
    unit: Unit = "weight",
    reference: Any = None,
    layers: Sequence[int] | None = None,
) -> Saliency:
    """First-order saliency of every weight matrix in the blocks, or of every MLP neuron, for the loss of some rows.

    reference: a model of the same shape whose weights are the target, such as the one before unlearning; None prunes to
    zero. layers: only these blocks. A neuron's score is the sum of its weights', which is exact for scaling the neuron.
    Raises ConfigError for models that differ in shape or layers there are none of, JobError where no neurons are found.
    """
    body = model_layout(model)
    for layer in layers or ():
        if not 0 <= layer < len(body.blocks):
            raise ConfigError(f"layers: the model has layers 0 to {len(body.blocks) - 1}, got {layer}")
    axes = mlp_outputs(model) if unit == "neuron" else {}
    held = parameters(model)
    target = None
    if reference is not None:
        target = {n: p.detach() for n, p in parameters(reference).items()}
        check_same(held, [target], what="reference")
    loss, grads = loss_gradients(model, read)
    scores = {}
    for name, weight in held.items():
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
    """New tensors for the parameters in which the first `count` units are moved to their target; the model stays as is.

    rank: "lowers", by how much moving a unit lowers the loss of the rows the saliency was taken on (units that raise it
    are never moved); "matters", by the size of the change either way. per_layer: `count` units of every block. Ties go
    to the earlier unit. Raises ConfigError for a count below 0.
    """
    if count < 0:
        raise ConfigError(f"count must be at least 0, got {count}")
    body, held = model_layout(model), parameters(model)
    out: dict[str, Tensor] = {}
    groups: dict[int | None, list[str]] = {}
    for name in by.scores:
        groups.setdefault(body.part(name).layer if per_layer else None, []).append(name)
    for names in groups.values():
        for name, chosen in _first(by, names, count, rank).items():
            weight = held[name].detach()
            target = torch.zeros_like(weight) if by.target is None else by.target[name].to(weight)
            mask = chosen.to(weight.device)
            if by.unit == "neuron":
                mask = mask.unsqueeze(1 - by.axes[name]).expand_as(weight)
            out[name] = torch.where(mask, target, weight)
    return out


def _first(by: Saliency, names: Sequence[str], count: int, rank: Rank) -> dict[str, Tensor]:
    """Masks of the chosen units of some parameters, for those in which there are any."""
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
    """One reading's loss (mean NLL, nats per token) after `count` units were moved; `share` is of all units."""

    count: int
    share: float
    moved: int
    rows: str
    loss: float


@dataclass(frozen=True)
class PruneResult:
    """A curve of losses over counts. n_units: how many could be moved. target: "zero" or "reference"."""

    unit: str
    rank: str
    target: str
    n_units: int
    lines: tuple[PruneLine, ...]

    def losses(self, rows: str) -> list[float]:
        """One reading's losses, by count."""
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
    """Losses of named readings (forget, retain, ...) with ever more units moved; the model is as before afterwards.

    Counts are sorted, and 0 is always among them. score: what is measured in place of the mean loss.
    """
    lines = []
    held = parameters(model)
    for count in sorted({0, *counts}):
        changed = edited(model, by, count, rank=rank, per_layer=per_layer)
        moved = _moved(by, changed, held)
        with swapped(model, changed):
            for name, read in readings.items():
                share = count / by.n_units if by.n_units else math.nan
                lines.append(PruneLine(count, share, moved, name, score(model, read)))
    return PruneResult(by.unit, rank, "zero" if by.target is None else "reference", by.n_units, tuple(lines))


def _moved(by: Saliency, changed: State, held: State) -> int:
    """Units whose weights really are other ones now."""
    total = 0
    for name, tensor in changed.items():
        other = tensor != held[name]
        total += int((other.any(1 - by.axes[name]) if by.unit == "neuron" else other).sum())
    return total
