"""Settings of each method, as classes that an editor completes. Generated; do not edit.

`python -m expunge.training.in_memory.method_config_source` writes this file from the registered methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge.core.decode import strict
from expunge.training.in_memory.unlearn_config import UnlearnConfig

__all__ = [
    "AltPOConfig",
    "CEUConfig",
    "CIRConfig",
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
    "PURGEConfig",
    "R2MUConfig",
    "RepNoiseConfig",
    "RMUConfig",
    "RRConfig",
    "RULEConfig",
    "SatImpConfig",
    "SemEvalGAConfig",
    "SimNPOConfig",
    "TPOConfig",
    "UNDIALConfig",
    "UNDOConfig",
    "UnilogitConfig",
    "WGAConfig",
    "WHPConfig",
]


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class AltPOConfig(UnlearnConfig):
    """Alternate preference optimisation (Mekala et al. 2024, arXiv:2409.13474): prefer plausible other answers.

    `expunge list methods AltPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "AltPO"

    beta: float = 0.1
    """Sharpness of the preference. A larger beta lets the gradient vanish at a smaller difference of rewards."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class CEUConfig(UnlearnConfig):
    """Cross-entropy unlearning (CE-U, Yang 2025, arXiv:2503.01224): learn the model's own answer minus the ...

    `expunge list methods CEU` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "CEU"

    ignore_first_n_answer_tokens: int = 1
    """Number of tokens at the start of each forget answer that the loss excludes."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class CIRConfig(UnlearnConfig):
    """Collapse of irrelevant representations (Sondej and Yang 2025, arXiv:2509.11816): break the outputs of MLPs.

    `expunge list methods CIR` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "CIR"

    layers: tuple[str, ...] = (
        "model.layers.6.mlp",
        "model.layers.7.mlp",
        "model.layers.8.mlp",
        "model.layers.9.mlp",
        "model.layers.10.mlp",
        "model.layers.11.mlp",
    )
    """Names of the modules whose outputs are broken. `NAME:input` is the input of a module."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class DPOConfig(UnlearnConfig):
    """Direct preference optimisation for forgetting (arXiv:2305.18290; for TOFU in arXiv:2404.05868).

    `expunge list methods DPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "DPO"

    beta: float = 0.1
    """Sharpness of the preference. A larger beta lets the gradient vanish at a smaller difference of rewards."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class FinetuneConfig(UnlearnConfig):
    """Supervised fine-tuning: the token-mean negative log-likelihood of the answers.

    `expunge list methods finetune` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "finetune"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class FLATConfig(UnlearnConfig):
    """Forget-data-only loss adjustment (FLAT, Wang et al. 2024, arXiv:2410.11143).

    `expunge list methods FLAT` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "FLAT"

    divergence: Literal["TV", "KL", "JS", "Pearson"] = "TV"
    """The f-divergence to maximise: TV, KL, JS or Pearson (table above)."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class GradAscentConfig(UnlearnConfig):
    """Gradient ascent (Jang et al. 2022, arXiv:2210.01504): increase the loss of the forget answers.

    `expunge list methods GradAscent` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "GradAscent"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class GradDiffConfig(UnlearnConfig):
    """Gradient difference (Liu et al. 2022, arXiv:2203.12817): ascend on forget, descend on retain.

    `expunge list methods GradDiff` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "GradDiff"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class IdkNLLConfig(UnlearnConfig):
    """Refusal training (TOFU, arXiv:2401.06121): learn to answer the forget questions with "I don't know".

    `expunge list methods IdkNLL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "IdkNLL"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class IHLConfig(UnlearnConfig):
    """Inverted hinge loss (Cha et al. 2024, LoKU, arXiv:2408.06621): swap the true token for the runner-up.

    `expunge list methods IHL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "IHL"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class JensUnConfig(UnlearnConfig):
    """Jensen-Shannon unlearning (Singh et al. 2025, arXiv:2509.02820): move to a refusal, with a bounded loss.

    `expunge list methods JensUn` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "JensUn"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class KLConfig(UnlearnConfig):
    """KL minimisation (TOFU, arXiv:2401.06121): ascend on forget, stay near the old model on retain.

    `expunge list methods KL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "KL"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class MEConfig(UnlearnConfig):
    """Maximum entropy (Yuan et al. 2024, arXiv:2410.08109, ME+GD): move forget answers to the uniform distribution.

    `expunge list methods ME` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "ME"

    divergence: Literal["to_uniform", "from_uniform"] = "to_uniform"
    """to_uniform: KL(p || uniform), the paper's. from_uniform: KL(uniform || p), the authors' code, has no
    bound."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class NPOConfig(UnlearnConfig):
    """Negative preference optimisation (Zhang et al. 2024, arXiv:2404.05868, eq. 3).

    `expunge list methods NPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "NPO"

    beta: float = 0.1
    """Inverse temperature. A larger beta stops the ascent earlier; beta -> 0 is gradient ascent."""

    level: Literal["sequence", "token"] = "sequence"
    """Unit of the loss: a whole answer (the paper's form) or each answer token."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class PDUConfig(UnlearnConfig):
    """Primal-dual unlearning (Entesari et al. 2025, arXiv:2506.05314): forget under a bound on the retain loss.

    `expunge list methods PDU` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "PDU"

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


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class PURGEConfig(UnlearnConfig):
    """Policy unlearning (Zaradoukas et al. 2026, arXiv:2601.20568): sample answers, and prefer those without ...

    `expunge list methods PURGE` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "PURGE"

    num_generations: int = 8
    """Rollouts of each question at each step, 2 or more (TRL's name)."""

    max_completion_length: int = 64
    """The maximum number of tokens of a rollout (TRL's name)."""

    rewards: tuple[str, ...] = ("no_answer",)
    """Names of the rewards: no_answer, no_forbidden, refusal, rouge, length, or one of a plugin."""

    reward_weights: tuple[float, ...] = ()
    """The weight of each reward, in the same order. Empty: 1 each. A negative weight is a penalty."""

    forbidden: tuple[str, ...] = ()
    """Terms of the reward no_forbidden: names, titles and other words that a text must not have."""

    beta: float = 0.0
    """Weight of the KL divergence from the model before unlearning (TRL's name). Above 0 a copy of it is held."""

    loss_type: Literal["grpo", "bnpo"] = "grpo"
    """grpo: the mean over texts of their token means. bnpo: the mean over all tokens of a micro-batch (TRL's
    names)."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class R2MUConfig(UnlearnConfig):
    """Reasoning-aware misdirection (Wang et al. 2025, arXiv:2506.12963): RMU on the answer and on its ...

    `expunge list methods R2MU` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "R2MU"

    layer: str = "model.layers.7"
    """Name of the module whose output is misdirected. Layers above it do not run."""

    trainable_params_regex: tuple[str, ...] = (".*",)
    """Regular expressions of the parameters to train; a parameter is trained if one of them matches its name."""

    steering_coeff: float = 6.5
    """c, the length of the control vector."""

    trace: float = 1.0
    """Weight of the forget examples' traces, relative to their answers."""

    reasoning: float = 0.7142857142857143
    """Weight of the retain examples' traces, relative to their answers."""

    control_seed: int = 0
    """Seed of the random direction u."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class RepNoiseConfig(UnlearnConfig):
    """Representation noising (Rosati et al. 2024, arXiv:2405.14577): make hidden states look like Gaussian noise.

    `expunge list methods RepNoise` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "RepNoise"

    layers: tuple[str, ...] = ("model.layers.10.mlp", "model.layers.20.mlp")
    """Names of the modules whose hidden states become noise. `NAME:input` is the input of a module."""

    beta: float = 0.001
    """Weight of the distance from noise."""

    ascent: float = 1.0
    """Weight of the logarithmic gradient ascent on the forget answers."""

    noise_seed: int = 0
    """Seed of the noise; each call draws new noise from it."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class RMUConfig(UnlearnConfig):
    """Representation misdirection (Li et al. 2024, arXiv:2403.03218): scramble a layer's output on forget text.

    `expunge list methods RMU` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "RMU"

    module_regex: str = "model\\.layers\\.7"
    """Name of the layer: `model.layers.7`, or OpenUnlearning's form with escaped dots. Layers above it do not
    run."""

    trainable_params_regex: tuple[str, ...] = (".*",)
    """Regular expressions of the parameters to train; a parameter is trained if one of them matches its name."""

    steering_coeff: float = 2.0
    """c, the length of the control vector, or its multiple of the mean length of h if `adaptive`."""

    adaptive: bool = False
    """Whether c scales with the length of the reference's hidden states (arXiv:2408.06223)."""

    control_seed: int = 0
    """Seed of the random direction u."""

    compat: Literal["paper", "openunlearning"] = "paper"
    """How the squared distances are averaged over examples (see above)."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class RRConfig(UnlearnConfig):
    """Representation rerouting, or circuit breakers (Zou et al. 2024, arXiv:2406.04313): turn hidden states away.

    `expunge list methods RR` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "RR"

    layers: tuple[str, ...] = ("model.layers.9", "model.layers.19")
    """Names of the modules whose hidden states are rerouted. `NAME:input` is the input of a module."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class RULEConfig(UnlearnConfig):
    """Reinforcement unlearning (Zhang et al. 2025, arXiv:2506.07171): learn the boundary of refusal from rewards.

    `expunge list methods RULE` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "RULE"

    num_generations: int = 8
    """Texts of each question at each step, 2 or more (TRL's name)."""

    max_completion_length: int = 64
    """The maximum number of tokens of a text (TRL's name)."""

    reward: str = "refusal_boundary"
    """The name of the reward: refusal_boundary, or one of a plugin, which reads `Rollout.side`."""

    beta: float = 0.0
    """Weight of the KL divergence from the model before unlearning (TRL's name). Above 0 a copy of it is held."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class SatImpConfig(UnlearnConfig):
    """Saturation and importance (Yang et al. 2025, arXiv:2505.11953): a weight for every forget token.

    `expunge list methods SatImp` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "SatImp"

    beta1: float = 5.0
    """Exponent of p, the saturation factor. Larger values skip unlikely tokens more."""

    beta2: float = 1.0
    """Exponent of 1 - p, the importance factor. Larger values skip confident tokens more."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class SemEvalGAConfig(UnlearnConfig):
    """Ascent on answers, KL to the old model, and optionally the retain answers: three weighted terms.

    `expunge list methods SemEvalGA` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "SemEvalGA"


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class SimNPOConfig(UnlearnConfig):
    """Simple negative preference optimisation (Fan et al. 2024, arXiv:2410.07163): NPO without a reference.

    `expunge list methods SimNPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "SimNPO"

    beta: float = 4.5
    """Inverse temperature of the sigmoid. A larger beta stops at a smaller loss."""

    delta: float = 0.0
    """Margin in nats per token: answers with a mean NLL above it get little weight."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class TPOConfig(UnlearnConfig):
    """Targeted preference optimisation (Zhou et al. 2025, arXiv:2506.03142): forget the unwanted words of an ...

    `expunge list methods TPO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "TPO"

    beta: float = 0.32
    """Sharpness of the preference. A larger beta lets the gradient vanish at a smaller difference of logits."""

    preservation: float = 1.0
    """Weight of the negative log-likelihood of the other words of the forget answers."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class UNDIALConfig(UnlearnConfig):
    """Self-distillation with adjusted logits (Dong et al. 2024, arXiv:2402.10052).

    `expunge list methods UNDIAL` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "UNDIAL"

    beta: float = 10.0
    """Amount to subtract from the true token's logit in the target, in nats."""

    compat: Literal["paper", "openunlearning"] = "paper"
    """Positions to average over: answer tokens (paper), or the whole padded batch (openunlearning)."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class UNDOConfig(UnlearnConfig):
    """Unlearn, noise, distil on outputs (Lee et al. 2025, arXiv:2506.06278): make another method's unlearning last.

    `expunge list methods UNDO` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "UNDO"

    a: float = 0.1
    """Share of noise, between 0 (weights unchanged) and 1 (noise only)."""

    beta: float = 0.1
    """Scale of the noise."""

    distribution: Literal["xavier", "width"] = "xavier"
    """xavier: the paper's initialisation of each matrix. width: normal, as wide as the tensor's own entries."""

    vectors: bool = True
    """Whether biases and norm gains change too."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class UnilogitConfig(UnlearnConfig):
    """Uniform-target self-distillation (Vasilev et al. 2025, arXiv:2505.06027): give the true token ...

    `expunge list methods Unilogit` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "Unilogit"

    divergence: Literal["forward", "reverse"] = "reverse"
    """reverse: KL(model || target); forward: KL(target || model)."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class WGAConfig(UnlearnConfig):
    """Weighted gradient ascent (Wang et al. 2025, arXiv:2502.19301): ascend on tokens that are still likely.

    `expunge list methods WGA` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "WGA"

    beta: float = 1.0
    """Exponent of the weight p^beta. Larger values skip unlikely tokens more."""


@strict
@dataclass(frozen=True, kw_only=True, repr=False)
class WHPConfig(UnlearnConfig):
    """Who's Harry Potter (Eldan and Russinovich 2023, arXiv:2310.02238): learn a generic answer.

    `expunge list methods WHP` shows the equation and the pitfalls.
    """

    METHOD: ClassVar[str | None] = "WHP"

    alpha: float = 5.0
    """Strength of the offset: how much of the reinforced rise is subtracted. 0 distils the old model."""

    target: Literal["argmax", "softmax"] = "argmax"
    """Training target: the most likely token of v, or the whole softmax(v)."""

    reinforce_epochs: float | None = None
    """Epochs of the reinforced model; null uses those of this run."""

    reinforce_learning_rate: float | None = None
    """Learning rate of the reinforced model; null uses that of this run."""
