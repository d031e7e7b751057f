from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.grad_transforms.api import GradientRequest, grad_transform
from expunge.methods.grad_transforms.vectors import add, restored
from expunge.methods.weight_edits.api import seeded

if TYPE_CHECKING:
    from torch import Tensor


@grad_transform("tar", revision=2, needs=("forget", "retain", "relearn"), paper="arXiv:2408.00761", fidelity="code")
@strict
@dataclass(frozen=True, kw_only=True)
class TAR:
    """Tamper-attack resistance (Tamirisa et al. 2024, arXiv:2408.00761): forget at the weights that an attack reaches.

    Formula: g = scale * sum over k of w_k g_f(w_k) + g_r(w), summed over k = 1 ... K
        w_k  the weights after k steps of AdamW that relearn the forget answers, from w_0 = w
        w_k  (as a factor) exp(weight_decay (k - K)) with `weighted`, else 1 / K; only each `every`-th k counts
        g_f  the gradient of the forget term there; first order: derivatives through the attack are left out
    The rate of the attack is drawn for each optimiser step from `adversary_lrs`, with `seed`.

    The paper's forget term is the negative entropy: use trainer=ME. Weights, K, rates and scale are confirmed in the
    authors' script for WMDP: 64 steps, every 4th, scale 4, decay 1/16, rates 2e-6, 2e-5, 4e-5. A test compares the
    gradient g with that of their training loop, with the same examples for the attack and g_f. Our reading: both read
    the examples of this step (the authors hold out others for g_f), and each attack relearns; half of theirs begin with
    retain data. The retain term is the method's; theirs is the NLL plus the distance of hidden states.

    Cost per step: K + K / every + 1 forwards and backwards, and three further copies of the trained weights.

    Pitfalls: the authors begin from a model that was unlearned before. With few steps K the attack is a weak one.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=ME task_name=mine +trainer.args.grad_transform=tar
    """

    steps: int = 64
    """K, the number of steps of the attack."""
    every: int = 4
    """The forget gradient is read after each `every`-th step."""
    scale: float = 4.0
    """Factor of the sum of forget gradients."""
    weighted: bool = True
    """Whether later steps count more; if false, each has the factor 1 / K."""
    weight_decay: float = 0.0625
    """Decay of the factors from the last step backwards."""
    adversary_lrs: tuple[float, ...] = (2e-6, 2e-5, 4e-5)
    """Learning rates of the attack; each optimiser step draws one."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")
        if not 1 <= self.every <= self.steps:
            raise ValueError("every must be at least 1 and at most steps")
        if not 0 < self.scale < math.inf:
            raise ValueError("scale must be a number > 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError("weight_decay must be a number >= 0")
        if not self.adversary_lrs or not all(0 < rate < math.inf for rate in self.adversary_lrs):
            raise ValueError("adversary_lrs must be numbers > 0")
        if not 0 <= self.seed < 2**31:
            raise ValueError("seed must be a whole number from 0 to 2**31 - 1")

    def factors(self) -> list[float]:
        """Return the factor of the forget gradient after each step of the attack, without `scale`; 0: not read."""
        last = self.steps - 1
        each = [math.exp(self.weight_decay * (k - last)) if self.weighted else 1 / self.steps for k in range(last + 1)]
        return [factor if (k + 1) % self.every == 0 else 0.0 for k, factor in enumerate(each)]

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the weighted forget gradients along the attack, plus the retain gradient, per parameter."""
        n_steps = memory["tar_steps"] = memory.get("tar_steps", -1) + 1
        generator = seeded(self.seed, n_steps)
        rate = self.adversary_lrs[int(torch.randint(len(self.adversary_lrs), (1,), generator=generator))]
        total = gradient("retain")
        with restored(params):
            attack = torch.optim.AdamW([torch.nn.Parameter(p.detach()) for p in params], lr=rate)
            copies: list[Tensor] = attack.param_groups[0]["params"]  # they share the weights' memory
            for factor in self.factors():
                for copy, slope in zip(copies, gradient("relearn"), strict=True):
                    copy.grad = slope
                attack.step()
                if factor:
                    total = add(total, gradient("forget"), self.scale * factor)
        return total
