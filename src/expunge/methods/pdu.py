from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, ScoredPositions, method
from expunge.methods.objective import TermWeights
from expunge.methods.terms import require, wide

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "PDU",
    revision=3,
    needs=Requirements(forget=Quantity.LOGITS),
    paper="arXiv:2506.05314",
    reduction="token",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class PDU:
    """Primal-dual unlearning (Entesari et al. 2025, arXiv:2506.05314): forget under a bound on the retain loss.

    Minimise F = E[(max_v z - mean_v z)^2], which flattens the forget tokens' logits z, subject to R <= eps; R is the
    retain loss.
    Loss: gamma F + lambda (R - eps). lambda starts at alpha. After `dual_warmup_epochs` it follows
    lambda <- max(0, lambda + dual_step_size (R - eps)), after each step, or after each epoch with R averaged over it.
    `primal_dual=false` keeps lambda = alpha.

    Defaults: dual_step_size = 1, gamma = alpha = 1 are OpenUnlearning's settings. `retain_loss_eps` must be somewhat
    above the retain loss of the model before unlearning, otherwise lambda only grows. The authors set it by hand, and
    their code has no default. Their TOFU script has 0.3, alpha = 100, dual_step_size = 5 and 5 warm-up epochs as its
    final parameters (the experiment `unlearn/tofu/published_PDU`). Their MUSE script has alpha = 50, dual_step_size =
    1, 3 warm-up epochs, and for Llama-2-7B 1.5 (News) or 0.1 (Books).

    `compat=openunlearning` reads logits at the answer tokens' own positions, one too late. The `epoch` mode of that
    project evaluates the whole retain set again; this one averages the retain losses of the steps.

    Pitfalls: F has the size of squared logits (hundreds), so alpha = 1 hardly restrains the model until lambda grows.
    R is the mean over the micro-batches of an optimiser step in one process, so only one process can train. With
    alpha = 0 the bound starts to count after the warm-up.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=PDU task_name=mine trainer.method_args.alpha=50
    """

    retain_loss_eps: float = 0.3
    """Upper bound on the retain loss, in nats per token. Set it somewhat above the loss before unlearning."""
    primal_dual: bool = True
    """Whether lambda changes during training; if false, lambda stays at alpha."""
    dual_step_size: float = 1.0
    """Step size of the dual ascent on lambda."""
    dual_update_upon: Literal["step", "epoch"] = "step"
    """When lambda changes: after each step, or after each epoch."""
    dual_warmup_epochs: int = 5
    """Number of epochs, counted over the forget examples, before lambda first changes."""
    compat: Literal["paper", "openunlearning"] = "paper"
    """Positions of the logits: before each answer token (paper), or one later (openunlearning)."""

    def __post_init__(self) -> None:
        for key in ("retain_loss_eps", "dual_warmup_epochs"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number >= 0")
        if not 0 < self.dual_step_size < float("inf"):
            raise ValueError("dual_step_size must be a number > 0")

    @property
    def needs(self) -> Requirements:
        """Logits of the forget answers, at the positions that `compat` selects."""
        where = ScoredPositions.OWN if self.compat == "openunlearning" else ScoredPositions.ANSWER
        return Requirements(forget=Quantity.LOGITS, forget_positions=where)

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the squared logit margin, averaged over the forget tokens; a scalar."""
        return require(view.forget, "forget").per_token(margin).square().mean()

    def total(self, forget: Tensor, retain: Tensor | None, weights: TermWeights, memory: dict[str, Any]) -> Tensor:
        """Compute gamma F + lambda (R - eps). The last micro-batch of a training step updates the dual."""
        if retain is None:
            return weights.gamma * forget
        excess = retain - self.retain_loss_eps
        dual: Tensor = memory.setdefault("dual", excess.new_tensor(weights.alpha))
        if self.primal_dual and torch.is_grad_enabled():
            number, count = memory.get("micro_batch", (0, 1))
            if number == 0:
                self._begin_step(memory)
            dual = torch.as_tensor(memory["dual"])
            self._add(memory, excess.detach(), number, count)
        return weights.gamma * forget + dual * excess

    def _begin_step(self, memory: dict[str, Any]) -> None:
        """Move the dual variable if an epoch has ended, by the mean of R - eps over that epoch's steps."""
        if "epoch" not in memory:
            raise ValueError("PDU reads memory['epoch']: the training loop must set it before each step")
        if self.dual_update_upon == "step":
            return
        epoch = int(memory["epoch"])
        begun, seen = memory.get("dual_epoch", epoch), memory.get("dual_seen", 0)
        if epoch > begun:
            if begun >= self.dual_warmup_epochs:
                memory["dual"] = self._moved(memory["dual"], memory["dual_sum"] / seen)
            seen = 0
        memory["dual_epoch"], memory["dual_seen"] = epoch, seen

    def _add(self, memory: dict[str, Any], excess: Tensor, number: int, count: int) -> None:
        """Take in R - eps of a micro-batch. The mean over the step counts once the step is complete."""
        if number:
            excess = excess + memory.pop("dual_partial")
        if number < count - 1:
            memory["dual_partial"] = excess
            return
        excess = excess / count
        if self.dual_update_upon == "epoch":
            memory["dual_sum"] = excess + memory["dual_sum"] if memory["dual_seen"] else excess
            memory["dual_seen"] += 1
        elif int(memory["epoch"]) >= self.dual_warmup_epochs:
            memory["dual"] = self._moved(memory["dual"], excess)

    def _moved(self, dual: Tensor, excess: Tensor) -> Tensor:
        return (dual + self.dual_step_size * excess).clamp(min=0)


def margin(logits_NV: Tensor) -> Tensor:
    """Return max_v z - mean_v z at each position, shape (N,)."""
    z_NV = wide(logits_NV)
    return z_NV.amax(-1) - z_NV.mean(-1)
