"""Settings of each method, as classes that an editor completes. Generated; do not edit.

`python -m expunge.training.method_config_source` writes this file from the registered methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge.core.decode import strict
from expunge.training.unlearn_config import UnlearnConfig

__all__ = [
    "AltPOConfig",
    "CEUConfig",
    "DPOConfig",
    "FinetuneConfig",
    "FLATConfig",
    "GradAscentConfig",
    "GradDiffConfig",
    "IdkNLLConfig",
    "IHLConfig",
    "JensUnConfig",
    "KLConfig",
    "MEConfig",
    "NPOConfig",
    "PDUConfig",
    "RMUConfig",
    "SatImpConfig",
    "SemEvalGAConfig",
    "SimNPOConfig",
    "UNDIALConfig",
    "UNDOConfig",
    "WGAConfig",
    "WHPConfig",
]


@strict
@dataclass(frozen=True, kw_only=True)
class AltPOConfig(UnlearnConfig):
    """Alternate preference optimisation (Mekala et al. 2024, arXiv:2409.13474): prefer plausible other answers.

    `expunge methods AltPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "AltPO"

    beta: float = 0.1
    """Inverse temperature of the loss. Larger values stay nearer to the model before unlearning."""


@strict
@dataclass(frozen=True, kw_only=True)
class CEUConfig(UnlearnConfig):
    """Cross-entropy unlearning (CE-U, Yang 2025, arXiv:2503.01224): learn one's own answer without the true token.

    `expunge methods CEU` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "CEU"

    ignore_first_n_answer_tokens: int = 1
    """How many first tokens of each answer the loss leaves out."""


@strict
@dataclass(frozen=True, kw_only=True)
class DPOConfig(UnlearnConfig):
    """Direct preference optimisation for forgetting (arXiv:2305.18290; for TOFU in arXiv:2404.05868).

    `expunge methods DPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "DPO"

    beta: float = 0.1
    """Inverse temperature of the loss. Larger values stay nearer to the model before unlearning."""


@strict
@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(UnlearnConfig):
    """Supervised fine-tuning: the token-mean negative log-likelihood of the answers.

    `expunge methods finetune` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "finetune"


@strict
@dataclass(frozen=True, kw_only=True)
class FLATConfig(UnlearnConfig):
    """Forget-data-only loss adjustment (FLAT, Wang et al. 2024, arXiv:2410.11143).

    `expunge methods FLAT` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "FLAT"

    divergence: Literal["TV", "KL", "JS", "Pearson"] = "TV"
    """The f-divergence that the loss is made of."""


@strict
@dataclass(frozen=True, kw_only=True)
class GradAscentConfig(UnlearnConfig):
    """Gradient ascent (Jang et al. 2022, arXiv:2210.01504): climb the loss of the forget answers.

    `expunge methods GradAscent` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "GradAscent"


@strict
@dataclass(frozen=True, kw_only=True)
class GradDiffConfig(UnlearnConfig):
    """Gradient difference (Liu et al. 2022, arXiv:2203.12817): ascend on forget, descend on retain.

    `expunge methods GradDiff` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "GradDiff"


@strict
@dataclass(frozen=True, kw_only=True)
class IdkNLLConfig(UnlearnConfig):
    """Refusal training (TOFU, arXiv:2401.06121): learn to answer the forget questions with "I don't know".

    `expunge methods IdkNLL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "IdkNLL"


@strict
@dataclass(frozen=True, kw_only=True)
class IHLConfig(UnlearnConfig):
    """Inverted hinge loss (Cha et al. 2024, LoKU, arXiv:2408.06621): swap the true token for the runner-up.

    `expunge methods IHL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "IHL"


@strict
@dataclass(frozen=True, kw_only=True)
class JensUnConfig(UnlearnConfig):
    """Jensen-Shannon unlearning (Singh et al. 2025, arXiv:2509.02820): towards a refusal, with a bounded loss.

    `expunge methods JensUn` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "JensUn"


@strict
@dataclass(frozen=True, kw_only=True)
class KLConfig(UnlearnConfig):
    """KL minimisation (TOFU, arXiv:2401.06121): ascend on forget, stay near the old model on retain.

    `expunge methods KL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "KL"


@strict
@dataclass(frozen=True, kw_only=True)
class MEConfig(UnlearnConfig):
    """Maximum entropy (Yuan et al. 2024, arXiv:2410.08109, ME+GD): towards the uniform distribution on forget ....

    `expunge methods ME` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "ME"


@strict
@dataclass(frozen=True, kw_only=True)
class NPOConfig(UnlearnConfig):
    """Negative preference optimisation (Zhang et al. 2024, arXiv:2404.05868, eq. 3).

    `expunge methods NPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "NPO"

    beta: float = 0.1
    """Inverse temperature of the loss. Larger values stay nearer to the model before unlearning."""

    level: Literal["sequence", "token"] = "sequence"
    """Whether the loss compares probabilities of whole answers or of single tokens."""


@strict
@dataclass(frozen=True, kw_only=True)
class PDUConfig(UnlearnConfig):
    """Primal-dual unlearning (Entesari et al. 2025, arXiv:2506.05314): forget under a bound on the retain loss.

    `expunge methods PDU` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "PDU"

    retain_loss_eps: float = 0.3
    """Largest retain loss that the constraint allows."""

    primal_dual: bool = True
    """Whether the weights of the terms are learned as dual variables."""

    dual_step_size: float = 1.0
    """Step size of the dual variable."""

    dual_update_upon: Literal["step", "epoch"] = "step"
    """When the dual variable is updated."""

    dual_warmup_epochs: int = 5
    """Epochs before the dual variable is updated for the first time."""

    compat: Literal["paper", "openunlearning"] = "paper"  # type: ignore[assignment]  # the method's own field
    """Which project's averages the loss reproduces: the paper's, or those of OpenUnlearning."""


@strict
@dataclass(frozen=True, kw_only=True)
class RMUConfig(UnlearnConfig):
    """Representation misdirection (Li et al. 2024, arXiv:2403.03218): scramble a layer's output on forget text.

    `expunge methods RMU` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "RMU"

    module_regex: str = "model\\.layers\\.7"
    """The layer whose output is read, such as `model.layers.7`."""

    trainable_params_regex: tuple[str, ...] = (".*",)
    """Regular expressions of the parameters that are trained."""

    steering_coeff: float = 2.0
    """Length of the direction that forget activations are moved to."""

    adaptive: bool = False
    """Whether the length is a multiple of the mean length of the activations before unlearning."""

    control_seed: int = 0
    """Seed of the random direction."""

    compat: Literal["paper", "openunlearning"] = "paper"  # type: ignore[assignment]  # the method's own field
    """Which project's averages the loss reproduces: the paper's, or those of OpenUnlearning."""


@strict
@dataclass(frozen=True, kw_only=True)
class SatImpConfig(UnlearnConfig):
    """Saturation and importance (Yang et al. 2025, arXiv:2505.11953): a weight for every forget token.

    `expunge methods SatImp` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "SatImp"

    beta1: float = 5.0
    """Exponent of the saturation weight of a token."""

    beta2: float = 1.0
    """Exponent of the importance weight of a token."""


@strict
@dataclass(frozen=True, kw_only=True)
class SemEvalGAConfig(UnlearnConfig):
    """Ascent on answers, KL to the old model, and optionally the retain answers: three weighted terms.

    `expunge methods SemEvalGA` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "SemEvalGA"


@strict
@dataclass(frozen=True, kw_only=True)
class SimNPOConfig(UnlearnConfig):
    """Simple negative preference optimisation (Fan et al. 2024, arXiv:2410.07163): NPO without a reference.

    `expunge methods SimNPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "SimNPO"

    beta: float = 4.5
    """Inverse temperature of the loss. Larger values stay nearer to the model before unlearning."""

    delta: float = 0.0
    """Margin that is subtracted from the length-normalised log-probability."""


@strict
@dataclass(frozen=True, kw_only=True)
class UNDIALConfig(UnlearnConfig):
    """Self-distillation with adjusted logits (Dong et al. 2024, arXiv:2402.10052).

    `expunge methods UNDIAL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "UNDIAL"

    beta: float = 10.0
    """How much the target lowers the logit of the true token."""

    compat: Literal["paper", "openunlearning"] = "paper"  # type: ignore[assignment]  # the method's own field
    """Which project's averages the loss reproduces: the paper's, or those of OpenUnlearning."""


@strict
@dataclass(frozen=True, kw_only=True)
class UNDOConfig(UnlearnConfig):
    """Unlearn, noise, distil on outputs (Lee et al. 2025, arXiv:2506.06278): make another method's unlearning last.

    `expunge methods UNDO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "UNDO"

    a: float = 0.1
    """Share of the noise: 0 keeps the weights, 1 replaces them."""

    beta: float = 1.0
    """Scale of the noise, in standard deviations of a tensor's entries."""

    vectors: bool = False
    """Whether vectors (norms, biases) receive noise as well."""


@strict
@dataclass(frozen=True, kw_only=True)
class WGAConfig(UnlearnConfig):
    """Weighted gradient ascent (Wang et al. 2025, arXiv:2502.19301): ascend on what the model still knows.

    `expunge methods WGA` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "WGA"

    beta: float = 1.0
    """Exponent of the weight that a token's probability gives to it."""


@strict
@dataclass(frozen=True, kw_only=True)
class WHPConfig(UnlearnConfig):
    """Who's Harry Potter (Eldan and Russinovich 2023, arXiv:2310.02238): learn what a stranger would have said.

    `expunge methods WHP` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "WHP"

    alpha: float = 5.0  # type: ignore[assignment]  # the method's own field
    """Weight of the reinforced model's logits in the generic target (the paper's alpha)."""

    target: Literal["argmax", "softmax"] = "argmax"
    """Whether the model learns the most likely generic token or the whole generic distribution."""

    reinforce_epochs: float | None = None
    """Epochs of the reinforced model. None: those of the run."""

    reinforce_learning_rate: float | None = None
    """Learning rate of the reinforced model. None: that of the run."""
