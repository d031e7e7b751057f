"""An optimizer of your own: each weight moves by the learning rate, against the sign of its gradient's running mean.

Try: expunge unlearn --plugin sign_descent.py experiment=unlearn/tofu/default trainer=NPO task_name=mine \
trainer.args.optim=sign_descent trainer.args.learning_rate=1e-6
"""

import torch

from expunge.training.optimizers import optimizer


@optimizer("sign_descent", revision=1, paper="signSGD with momentum: arXiv:1802.04434")
class SignDescent(torch.optim.Optimizer):
    """Sign descent with momentum."""

    def __init__(self, params, lr: float = 1e-6, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Move each weight by `lr`; the running mean is saved in checkpoints with `state`."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                    mean.mul_(group["momentum"]).add_(p.grad, alpha=1 - group["momentum"])
                    p.add_(mean.sign(), alpha=-group["lr"])
