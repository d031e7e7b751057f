from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.names import ModuleName, ParameterPattern
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, ScoredPositions, SideOutputs, method
from expunge.methods.rmu import check_steering, steered
from expunge.methods.terms import hidden, marked, require, wide

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "R2MU",
    revision=1,
    needs=Requirements(forget=Quantity.HIDDEN, forget_positions=ScoredPositions.OWN, marks="trace"),
    paper="arXiv:2506.12963",
    reduction="row",
    alpha=1.4,
    retain_loss_type="EMBED_DIFF",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class R2MU:
    """Reasoning-aware misdirection (Wang et al. 2025, arXiv:2506.12963): RMU on the answer and on its reasoning trace.

    Loss: gamma (E_a[||h - c u||^2 / D] + trace E_t[||h - c u||^2 / D])
          + alpha (E_a[||h - h_ref||^2 / D] + reasoning E_t[||h - h_ref||^2 / D]).
    h is the output of one layer, u RMU's random direction, c = `steering_coeff`. E_a is the mean over examples of the
    mean over the answer's tokens, E_t that over the tokens of the trace; an example without a trace counts as 0 in
    E_t. The first line is on forget examples, the second on retain examples. Give traces on both sides: general
    reasoning among the retain examples is the paper's third term, which keeps the ability to reason.

    Defaults: layer 7, c = 6.5, alpha = 1.4 and 1 for both traces (so reasoning = 1 / 1.4) are in the authors' script.
    It trains the MLP down projections of layers 5 to 7 of DeepSeek-R1-Distill-Llama-8B. The numbers equal their code on
    the same tensors. Our reading: their four texts of a step are separate inputs, the forget trace without its answer;
    here trace and answer are parts of one conversation, and each row has the same weight.

    Pitfalls: as RMU's. It needs trainer.args.train_on=trace+answer, and forget examples with a trace.

    Try: expunge unlearn benchmark=r_tofu data.root=FOLDER trainer=R2MU task_name=mine \
trainer.args.train_on=trace+answer trainer.method_args.layer=model.layers.3
    """

    layer: ModuleName = "model.layers.7"
    """Name of the module whose output is misdirected. Layers above it do not run."""
    trainable_params_regex: tuple[ParameterPattern, ...] = (".*",)
    """Regular expressions of the parameters to train; a parameter is trained if one of them matches its name."""
    steering_coeff: float = 6.5
    """c, the length of the control vector."""
    trace: float = 1.0
    """Weight of the forget examples' traces, relative to their answers."""
    reasoning: float = 1 / 1.4
    """Weight of the retain examples' traces, relative to their answers."""
    control_seed: int = 0
    """Seed of the random direction u."""

    def __post_init__(self) -> None:
        check_steering(self, "layer")
        for key in ("trace", "reasoning"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number >= 0")

    @property
    def needs(self) -> Requirements:
        """Hidden states of the forget examples at their own positions, and which of them are in a trace."""
        return Requirements(
            forget=Quantity.HIDDEN, forget_positions=ScoredPositions.OWN, layer=self.layer, marks="trace"
        )

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the distances of answers and traces from the control vector; a scalar."""
        side = require(view.forget, "forget")
        return _by_span(side, steered(view, hidden(side), self), self.trace)

    def retain_loss(self, view: LossInputs) -> Tensor:
        """Compute the distances of the retain answers and traces from the reference's; a scalar."""
        side = require(view.retain, "retain")
        return _by_span(side, hidden(require(view.retain_ref, "retain_ref")), self.reasoning)


def _by_span(side: SideOutputs, target_ND: Tensor, weight: float) -> Tensor:
    """Return the mean squared distance from the target outside traces, plus `weight` times that in traces."""
    h_ND = hidden(side)
    square_N = wide(h_ND - target_ND.to(h_ND)).square().mean(-1)
    in_trace_N = marked(side).to(square_N)
    spans = [side.row_sums(square_N * part) / side.row_sums(part).clamp(min=1) for part in (1 - in_trace_N, in_trace_N)]
    return torch.stack([spans[0].mean(), weight * spans[1].mean()]).sum()
