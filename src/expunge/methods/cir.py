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

LAYERS = tuple(f"model.layers.{i}.mlp" for i in range(6, 12))


@method(
    "CIR",
    revision=1,
    needs=hidden_and_reference(LAYERS),
    paper="arXiv:2509.11816",
    fidelity="code",
    retain_loss_type="EMBED_NORM",
)
@strict
@dataclass(frozen=True, kw_only=True)
class CIR:
    """Collapse of irrelevant representations (Sondej and Yang 2025, arXiv:2509.11816): break the outputs of MLPs.

    Loss: gamma mean over modules of E[relu(<h, h_ref>)] / (E||h_ref||)^2 + alpha E||h - h_ref||. h is the output of
    each of `layers` at the answer tokens' own positions, h_ref the same of the model before unlearning; E is the mean
    over tokens. The first term is on forget examples, the second (`EMBED_NORM`) on retain examples.

    The other half of the method is the gradient transform `cir`, which removes directions that many tokens share from
    the forget gradient: +trainer.args.grad_transform=cir.

    Defaults: layers 6 to 11 of Llama-3.2-1B and Llama-3.1-8B are the authors'. They train the MLPs' weights alone by
    SGD: forget updates of norm 0.2, a retain rate of 3e-4. The forget term equals the authors' code on the same
    tensors. Our reading: it counts the answer's tokens (all but the first in the code); ||h_ref|| is the mean over the
    micro-batch, not over the batch that the code stores; the retain term reads `layers`, without the authors' division
    by E||h_ref||, and not the residual stream of layer 12.

    Pitfalls: the model must have these layers. The forget term is 0 once an output is orthogonal to its reference.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=CIR task_name=mine +trainer.args.grad_transform=cir \
trainer.method_args.layers=[model.layers.3.mlp]
    """

    layers: tuple[ModuleName, ...] = LAYERS
    """Names of the modules whose outputs are broken. `NAME:input` is the input of a module."""

    def __post_init__(self) -> None:
        check_modules(self.layers)

    @property
    def needs(self) -> Requirements:
        """Hidden states of `layers` on the forget examples, and the reference's."""
        return hidden_and_reference(self.layers)

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the mean over modules of the normalised, positive scalar products; a scalar."""
        now, ref = require(view.forget, "forget").layers_ND, require(view.forget_ref, "forget_ref").layers_ND
        pairs = [(wide(h), wide(r.to(h))) for h, r in zip(now, ref, strict=True)]
        tiny = torch.finfo(pairs[0][0].dtype).tiny
        parts = [(h * r).sum(-1).relu().mean() / r.norm(dim=-1).mean().square().clamp(min=tiny) for h, r in pairs]
        return torch.stack(parts).mean()
