from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.objective import kl_to_reference
from expunge.methods.terms import require
from expunge.methods.weight_edits.noise import Noise


@method(
    "UNDO",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS, forget_teacher=Quantity.LOGITS),
    paper="arXiv:2506.06278",
    retain_loss_type="TEACHER_KL",
    teacher="start",
)
@strict
@dataclass(frozen=True, kw_only=True)
class UNDO:
    """Unlearn, noise, distil on outputs (Lee et al. 2025, arXiv:2506.06278): make another method's unlearning last.

    Idea: unlearning often hides knowledge and leaves it in the weights. Noise destroys part of what lies there, and
    distilling the unlearned model into its own noised copy brings back what it says without what it hides.
    Loss: gamma KL(p_t || p) on the forget rows + alpha KL(p_t || p) on the retain rows (`retain_loss_type=TEACHER_KL`),
    each summed over the vocabulary and averaged over the answer tokens; p_t the teacher, the unlearned model as it was
    before the noise. The direction is from the teacher (forward KL), so the student must cover all the teacher says.
    The run starts from theta' = (1 - a) theta + a beta s z, z ~ N(0, 1), s the standard deviation of a tensor's entries
    (the `noise` edit); the noise is drawn from the run's seed, and vectors stay as they are unless `vectors`.

    gamma = alpha = 1 weigh both rows alike. a = 0 changes nothing: loss and gradient start at 0.

    In a study an entry names the unlearned model: {trainer: UNDO, from: [NPO], method_args: {a: 0.2}}. Alone, the run
    takes the model it is given as the unlearned one.

    Pitfalls: more noise needs more distillation: the paper's data are far larger than a forget set; `anchor: retain`
    makes an epoch one pass through the retain rows. The paper draws noise from the initialiser's distribution.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=UNDO trainer.method_args.a=0.2
    """

    a: float = 0.1
    beta: float = 1.0
    vectors: bool = False

    def __post_init__(self) -> None:
        self.noise(0)

    def noise(self, seed: int) -> Noise:
        """The edit that makes the student from the teacher."""
        return Noise(a=self.a, beta=self.beta, vectors=self.vectors, seed=seed)

    def forget_loss(self, view: LossInputs) -> Tensor:
        """KL from the teacher on the forget rows."""
        teacher, now = require(view.forget_teacher, "forget_teacher"), require(view.forget, "forget")
        return kl_to_reference(teacher, now)
