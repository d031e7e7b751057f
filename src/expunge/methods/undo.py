from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.objective import kl_to_reference
from expunge.methods.terms import require
from expunge.methods.weight_edits.noise import Noise

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "UNDO",
    revision=2,
    needs=Requirements(forget=Quantity.LOGITS, forget_teacher=Quantity.LOGITS),
    paper="arXiv:2506.06278",
    reduction="token",
    retain_loss_type="TEACHER_KL",
    teacher="start",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class UNDO:
    """Unlearn, noise, distil on outputs (Lee et al. 2025, arXiv:2506.06278): make another method's unlearning last.

    Idea: unlearning often hides knowledge and leaves it in the weights. Noise destroys part of that knowledge.
    Distilling the unlearned model into its own noised copy restores the behaviour without the hidden knowledge.
    Loss: gamma KL(p_t || p) on the forget examples + alpha KL(p_t || p) on the retain examples
    (`retain_loss_type=TEACHER_KL`). Both are summed over the vocabulary and averaged over the answer tokens. p_t is the
    teacher, the unlearned model before the noise. Forward KL, so the student must cover all outputs of the teacher. The
    run starts from theta' = (1 - a) theta + a beta n, with n Xavier's initialisation (the `noise` edit). The run's seed
    determines the noise.

    Loss, shrinking and noise agree with the authors' code (`expunge list methods noise`). gamma = alpha = 1 weigh both
    sets equally: they distil on one mixed set. With a = 0 loss and gradient start at 0.

    In a study an entry names the unlearned model: {trainer: UNDO, from: [NPO], method_args: {a: 0.2}}. Alone, the run
    uses its initial model as the unlearned model.

    Pitfalls: more noise needs more distillation, and the paper's data are far larger than a forget set.
    `anchor: retain` makes an epoch one pass through the retain examples.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=UNDO task_name=mine trainer.method_args.a=0.2
    """

    a: float = 0.1
    """Share of noise, between 0 (weights unchanged) and 1 (noise only)."""
    beta: float = 0.1
    """Scale of the noise."""
    distribution: Literal["xavier", "width"] = "xavier"
    """xavier: the paper's initialisation of each matrix. width: normal, as wide as the tensor's own entries."""
    vectors: bool = True
    """Whether biases and norm gains change too."""

    def __post_init__(self) -> None:
        self.noise(0)

    def noise(self, seed: int) -> Noise:
        """Return the weight edit that makes the student from the teacher."""
        return Noise(a=self.a, beta=self.beta, distribution=self.distribution, vectors=self.vectors, seed=seed)

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the KL from the teacher on the forget examples; a scalar in nats."""
        teacher, now = require(view.forget_teacher, "forget_teacher"), require(view.forget, "forget")
        return kl_to_reference(teacher, now)
