from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.names import ModuleName
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Requirements, method
from expunge.methods.terms import check_modules, hidden_and_reference, require, wide

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = ("model.layers.9", "model.layers.19")


@method(
    "RR",
    revision=1,
    needs=hidden_and_reference(LAYERS),
    paper="arXiv:2406.04313",
    fidelity="code",
    reduction="token",
    gamma=10.0,
    alpha=10.0,
    retain_loss_type="EMBED_NORM",
    aliases=("circuit_breakers",),
)
@strict
@dataclass(frozen=True, kw_only=True)
class RR:
    """Representation rerouting, or circuit breakers (Zou et al. 2024, arXiv:2406.04313): turn hidden states away.

    Loss: gamma (1 - t/2T) E[relu(cos(h, h_ref))] + alpha (t/2T) E[||h - h_ref||]. h is the output of each of `layers`
    at the answer tokens' own positions, h_ref the same of the model before unlearning. The first term is the mean over
    tokens and layers of the forget examples, the second (`EMBED_NORM`) that of the retain examples. t is the step, T
    their number. So a run begins by rerouting and ends with both terms.

    Both terms and the schedule equal the authors' code on the same states (run from a copy of their repository).
    Defaults: gamma = alpha = 10 and 150 steps of 16 with LoRA adapters of rank 16 are those of their script for
    Llama-3-8B. Its target layers 10 and 20 count the embeddings as layer 0, so they are `model.layers.9` and
    `model.layers.19`. That code reads every token, and all layers of the retain examples. Our reading: both terms read
    `layers` and the answer.

    Pitfalls: a model needs that many layers. The forget term is 0 once a state is orthogonal to its reference, so a
    longer run only repairs the retain examples.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=RR task_name=mine \
trainer.method_args.layers=[model.layers.8,model.layers.12]
    """

    layers: tuple[ModuleName, ...] = LAYERS
    """Names of the modules whose hidden states are rerouted. `NAME:input` is the input of a module."""

    def __post_init__(self) -> None:
        check_modules(self.layers)

    @property
    def needs(self) -> Requirements:
        """Hidden states of `layers` on the forget examples, and the reference's."""
        return hidden_and_reference(self.layers)

    def schedule(self, progress: float) -> tuple[float, float]:
        """Return the factors of the forget and of the retain term: (1 - t/2T, t/2T)."""
        return 1 - progress / 2, progress / 2

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the mean over tokens and layers of relu(cos(h, h_ref))."""
        now, ref = require(view.forget, "forget").layers_ND, require(view.forget_ref, "forget_ref").layers_ND
        cosines = [
            torch.nn.functional.cosine_similarity(wide(h), wide(r.to(h)), dim=-1) for h, r in zip(now, ref, strict=True)
        ]
        return torch.stack(cosines).relu().mean()
