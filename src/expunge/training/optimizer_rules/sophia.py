from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.training.optimizers import optimizer


@optimizer("sophia", revision=1, paper="arXiv:2404.18239, arXiv:2305.14342")
class Sophia(torch.optim.Optimizer):
    """Sophia with squared gradients as the curvature: the second-order optimizer of SOUL (Jia et al. 2024).

    Formula: theta <- (1 - lr wd) theta - lr sign(m) min(|m| / (rho batch h + 1e-15), 1)
        m = beta1 m + (1 - beta1) g;  h = beta2 h + (1 - beta2) g^2, both after each step
    SOUL is any loss with this optimizer: `trainer=GradDiff trainer.args.optim=sophia`.

    Defaults: betas (0.9, 0.95), rho 0.04 and batch 5120 are those of the authors' TOFU settings and code. Their
    learning rates are 5e-6 to 1e-5, with weight decay 0.1 and 5 epochs. `compat=authors` equals their code on the same
    gradients: it adds g to m twice in each step. The papers add it once.

    Args:
        params: The parameters to train.
        lr: Learning rate; no weight moves further than this in a step.
        betas: Momentum of m and of h.
        rho: Scale of the curvature; a larger value makes smaller steps.
        batch: Factor of h, the number of tokens of a batch in Sophia.
        weight_decay: Decay of the weights per step, relative to lr.
        compat: "paper", or "authors" for the double update of m.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.95),
        rho: float = 0.04,
        batch: float = 5120.0,
        weight_decay: float = 0.1,
        compat: Literal["paper", "authors"] = "paper",
    ) -> None:
        for name, value in (("rho", rho), ("batch", batch)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a number > 0, got {value}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {betas}")
        if compat not in ("paper", "authors"):
            raise ValueError(f"compat must be paper or authors, got {compat!r}")
        settings = {"lr": lr, "betas": tuple(betas), "rho": rho, "batch": batch, "weight_decay": weight_decay}
        super().__init__(params, settings | {"compat": compat})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move each weight by at most the learning rate. m and h are saved in checkpoints with `state`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["mean"], state["curvature"] = torch.zeros_like(p), torch.zeros_like(p)
        mean, curvature, (beta1, beta2) = state["mean"], state["curvature"], group["betas"]
        curvature.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        for _ in range(2 if group["compat"] == "authors" else 1):
            mean.mul_(beta1).add_(p.grad, alpha=1 - beta1)
        ratio = (mean.abs() / (group["rho"] * group["batch"] * curvature + 1e-15)).clamp(max=1)
        p.mul_(1 - group["lr"] * group["weight_decay"]).addcmul_(mean.sign(), ratio, value=-group["lr"])
