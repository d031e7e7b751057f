from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.names import ModuleName
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import check_modules, require, wide
from expunge.methods.weight_edits.api import seeded

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the five kernels, as multiples of the mean squared distance


@method(
    "RepNoise",
    revision=2,
    needs=Requirements(forget=Quantity.HIDDEN_LOGPS, layer=("model.layers.10.mlp", "model.layers.20.mlp")),
    paper="arXiv:2405.14577",
    fidelity="reading",
    reduction="micro_batch",
)
@strict
@dataclass(frozen=True, kw_only=True)
class RepNoise:
    """Representation noising (Rosati et al. 2024, arXiv:2405.14577): make hidden states look like Gaussian noise.

    Loss: gamma (beta MMD(h, z) - ascent ln(1 + NLL_f)) + alpha NLL_r. h is the output of each of `layers` at the
    positions that predict the forget answers, z standard Gaussian noise of that shape. MMD is the mean over layers of
    the maximum mean discrepancy. Its kernel is a sum of five Gaussians exp(-d^2 / (c s)), c = 1/4, 1/2, 1, 2, 4. Here s
    is the mean squared distance between two different points, without gradient.

    Defaults: beta = 0.001, ascent = 1 and the kernels are those of the authors' code, and the MMD equals theirs on the
    same points. Four things are our reading. The points of the MMD are token positions; in the code they are whole
    padded rows. The positions predict the answers; in the code they hold the answers. NLL_f is the model's; paper and
    code have a mean with the NLL of each layer's states through the LM head. `layers` names the MLPs; the code takes
    all.

    Pitfalls: the authors search the learning rate, ascent and beta per model. Without a good alpha the ascent wins.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=RepNoise task_name=mine \
trainer.method_args.layers=[model.layers.8.mlp]
    """

    layers: tuple[ModuleName, ...] = ("model.layers.10.mlp", "model.layers.20.mlp")
    """Names of the modules whose hidden states become noise. `NAME:input` is the input of a module."""
    beta: float = 0.001
    """Weight of the distance from noise."""
    ascent: float = 1.0
    """Weight of the logarithmic gradient ascent on the forget answers."""
    noise_seed: int = 0
    """Seed of the noise; each call draws new noise from it."""

    def __post_init__(self) -> None:
        check_modules(self.layers)
        for key in ("beta", "ascent"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number >= 0")
        if not 0 <= self.noise_seed < 2**31:
            raise ValueError("noise_seed must be a whole number from 0 to 2**31 - 1")

    @property
    def needs(self) -> Requirements:
        """Log-probabilities of the forget answers, and the hidden states that predict them."""
        return Requirements(forget=Quantity.HIDDEN_LOGPS, layer=self.layers)

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the distance from noise minus the logarithmic ascent."""
        side = require(view.forget, "forget")
        n_draws = view.memory["repnoise_draws"] = view.memory.get("repnoise_draws", -1) + 1
        generator = seeded(self.noise_seed, n_draws)
        distances = []
        for h_ND in side.layers_ND:
            noise_ND = torch.randn(h_ND.shape, generator=generator, dtype=torch.float64)
            distances.append(mmd(wide(h_ND), noise_ND.to(wide(h_ND))))
        return self.beta * torch.stack(distances).mean() - self.ascent * torch.log1p(side.nll)


def mmd(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """Compute the squared maximum mean discrepancy of two samples of N points, with a sum of five Gaussian kernels."""
    points = torch.cat([a_ND, b_ND])
    n, m = len(a_ND), len(points)
    lengths = points.square().sum(-1)
    square_MM = (lengths[:, None] + lengths[None, :] - 2 * points @ points.T).clamp(min=0)
    scale = square_MM.detach().sum() / (m * (m - 1))
    kernel_MM = torch.stack([torch.exp(-square_MM / (c * scale)) for c in WIDTHS]).sum(0)
    return kernel_MM[:n, :n].mean() + kernel_MM[n:, n:].mean() - 2 * kernel_MM[:n, n:].mean()
