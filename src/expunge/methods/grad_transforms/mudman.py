from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.grad_transforms.api import GradientRequest, Which, grad_transform
from expunge.methods.grad_transforms.vectors import add, norm, over, restored, running_mean, scaled, shift, write

if TYPE_CHECKING:
    from torch import Tensor

SEEN, ADVERSARY = "mudman_seen", "mudman_adversary"  # keys of the state carried between steps


@grad_transform(
    "mudman", revision=4, needs=("forget", "retain", "relearn"), paper="arXiv:2506.12484", fidelity="formula"
)
@strict
@dataclass(frozen=True, kw_only=True)
class MUDMAN:
    """Meta-unlearning with disruption masking and normalisation (MUDMAN, Sondej et al. 2025, arXiv:2506.12484).

    Idea: train against an adversary that relearns the forget examples all the time. Change a weight only if that does
    not hurt retaining, by an amount that does not fade with the forget gradient.
    Formula: g_f at w_a;  w_a <- w_a - adversary_lr * d NLL_f / d w_a, relearn_steps times;
        u = g_f where sign(g_f) = sign(m_r), else 0;  g = forget_norm * u / ||g_f|| + g_r at w
        w_a          the adversary: a copy of the weights w, copied again every fork_every steps
        NLL_f        the forget answers' negative log-likelihood on the examples of this step, for any wrapped loss
        m_r          the retain gradient, as a running mean over steps (momentum; 0: of this one alone)
        forget_norm  the norm of the forget gradient over all parameters before the mask; null does not change it
    meta=false reads g_f at w, without adversary. keep_retain=false removes g_r.

    Defaults: adversary_lr = 1e-3, fork_every = 32, one relearning step, momentum = 0.9, the norm before the mask: those
    of the authors' reference code. The paper's own runs search adversary_lr from 3e-4, and fork_every from 6 to 42 (on
    WMDP 60 to 400), once per model.

    Cost per step: relearn_steps + 2 forwards and backwards, and two further copies of the trained weights.

    Pitfalls: the log shows the adversary's forget loss, not the model's. The adversary uses plain gradient descent. If
    forget_norm is set, gamma has no effect on the result. Adam divides much of a gradient's size out again, so the
    normalisation counts most with optim=sgd.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=NPO task_name=mine +trainer.args.grad_transform=mudman
    """

    forget_norm: float | None = 1.0
    """Norm of the forget gradient before the mask; null does not change it."""
    momentum: float = 0.9
    """Momentum of the running mean of the retain gradient; 0 uses only this micro-batch."""
    keep_retain: bool = True
    """Whether the retain gradient is added to the result."""
    meta: bool = True
    """Whether the forget gradient is taken at the adversary's weights."""
    adversary_lr: float = 1e-3
    """Learning rate of the adversary's gradient descent."""
    relearn_steps: int = 1
    """Number of relearning steps per micro-batch."""
    fork_every: int = 32
    """Number of micro-batches until the adversary starts again from the model's weights."""

    def __post_init__(self) -> None:
        if self.forget_norm is not None and not 0 < self.forget_norm < float("inf"):
            raise ValueError("forget_norm must be a number > 0, or null")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must be at least 0 and less than 1")
        if not 0 < self.adversary_lr < float("inf"):
            raise ValueError("adversary_lr must be a number > 0")
        if self.relearn_steps < 1:
            raise ValueError("relearn_steps must be at least 1 (meta=false: no adversary)")
        if self.fork_every < 2:
            raise ValueError("fork_every must be at least 2, because an adversary of one micro-batch never relearns")

    @property
    def needs(self) -> tuple[Which, ...]:
        """The two terms, plus with an adversary the forget answers that it relearns."""
        return ("forget", "retain", "relearn") if self.meta else ("forget", "retain")

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the masked, normalised forget gradient, plus the retain gradient, per parameter."""
        retain = gradient("retain")
        steer = running_mean(memory, "mudman_retain", retain, self.momentum)
        forget = self._at_the_adversary(gradient, params, memory) if self.meta else gradient("forget")
        masked = [torch.where(f.sign() == s.sign(), f, torch.zeros_like(f)) for f, s in zip(forget, steer, strict=True)]
        if self.forget_norm is not None:
            size = norm(forget)
            masked = scaled(masked, over(size.new_tensor(self.forget_norm), size))
        return add(masked, retain) if self.keep_retain else masked

    def _at_the_adversary(
        self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]
    ) -> list[Tensor]:
        """Return the forget gradient at the adversary's weights, which then relearn this step's examples."""
        seen = memory.get(SEEN, 0)
        memory[SEEN] = seen + 1
        if seen % self.fork_every == 0:
            memory[ADVERSARY] = [p.detach().clone() for p in params]
        with restored(params):
            write(params, memory[ADVERSARY])
            forget = gradient("forget")
            for _ in range(self.relearn_steps):
                shift(params, gradient("relearn"), -self.adversary_lr)
            write(memory[ADVERSARY], params)
        return forget
