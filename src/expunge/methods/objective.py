"""The shared half of every method: total = gamma * forget + alpha * retain, and the retain losses.

retain_loss_type
    NLL  token-mean negative log-likelihood of the retain answers
    EMBED_DIFF  mean squared difference of a layer's output from the reference's (RMU's retain term)
    EMBED_NORM  length of that difference, averaged over several layers (the retain term of circuit breakers, RR)
    TEACHER_KL  KL(teacher || model), averaged as KL is, for methods with a teacher (UNDO)
    JSD  Jensen-Shannon divergence of model and reference, averaged as KL is (JensUn's retain term)
    KL   KL(reference || model), summed over the vocabulary, averaged over the positions that predict an answer token.
         `compat=openunlearning` averages over every position of the padded batch, including prompt and padding.

nll_weight adds the NLL of the retain answers to KL or JSD as a third term. The total is then
gamma * forget + alpha * retain + nll_weight * retain_nll.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from expunge.core.decode import decode, field_names, strict
from expunge.core.errors import ConfigError, nearest, one_line
from expunge.core.on_use import torch
from expunge.methods.api import (
    LossInputs,
    LossOutput,
    MethodSpec,
    Quantity,
    Requirements,
    ScoredPositions,
    SideOutputs,
    find,
)
from expunge.methods.reduction import Reduction, TermMean, every_token
from expunge.methods.terms import hidden, log_probs, require, wide

if TYPE_CHECKING:
    from torch import Tensor

OF_LAYERS = ("EMBED_DIFF", "EMBED_NORM")
SHARED = ("gamma", "alpha", "retain_loss_type", "nll_weight", "compat")


@strict
@dataclass(frozen=True, kw_only=True)
class TermWeights:
    """The weights and the retain loss, shared by all methods."""

    gamma: float = 1.0
    """Weight of the forget term."""
    alpha: float = 1.0
    """Weight of the retain term; 0 drops it."""
    retain_loss_type: Literal["NLL", "KL", "EMBED_DIFF", "EMBED_NORM", "JSD", "TEACHER_KL"] | None = None
    """Loss on the retain examples; null uses the method's default."""
    nll_weight: float = 0.0
    """Weight of the retain NLL as a third term next to KL or JSD."""
    compat: Literal["paper", "openunlearning"] = "paper"
    """Averaging of the retain KL: over answer tokens (paper), or over the whole padded batch (openunlearning)."""

    def __post_init__(self) -> None:
        for key in ("gamma", "alpha", "nll_weight"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number >= 0")
        if self.nll_weight and (self.retain_loss_type not in ("KL", "JSD") or self.alpha == 0):
            raise ValueError("nll_weight adds to a retain loss of type KL or JSD with alpha > 0; leave it 0 otherwise")


@dataclass(frozen=True)
class Objective:
    """A method with its settings: the requirements of each step, and the loss to call."""

    spec: MethodSpec
    method: Any
    weights: TermWeights

    @property
    def needs(self) -> Requirements:
        """Requirements of the method, plus those of the retain loss unless its weight is a constant 0."""
        own: Requirements = getattr(self.method, "needs", self.spec.needs)
        idle = self.weights.alpha == 0 and not hasattr(self.method, "total")
        if self.weights.retain_loss_type is None or idle:
            return own
        if self.weights.retain_loss_type == "NLL":
            return dataclasses.replace(own, retain=own.retain or Quantity.LOGPS)
        if self.weights.retain_loss_type in OF_LAYERS:
            return dataclasses.replace(
                own, retain=Quantity.HIDDEN, retain_ref=Quantity.HIDDEN, retain_positions=ScoredPositions.OWN
            )
        if self.weights.retain_loss_type == "TEACHER_KL":
            return dataclasses.replace(own, retain=Quantity.LOGITS, retain_teacher=Quantity.LOGITS)
        whole_batch = self.weights.compat == "openunlearning" and self.weights.retain_loss_type == "KL"
        return dataclasses.replace(
            own,
            retain=Quantity.LOGITS,
            retain_ref=Quantity.LOGITS,
            retain_positions=ScoredPositions.ALL if whole_batch else own.retain_positions,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Content of the fingerprint: name, revision and every setting."""
        return {
            "method": self.spec.name,
            "revision": self.spec.revision,
            "args": dataclasses.asdict(self.method),
            "weights": dataclasses.asdict(self.weights),
        }

    @property
    def forgets(self) -> bool:
        """Whether there is a forget term; fine-tuning has none."""
        needs = self.needs
        return any(of is not None for of in (needs.forget, needs.alternate, needs.rollout))

    @property
    def means(self) -> dict[str, TermMean]:
        """The mean of each term of the loss."""
        out: dict[str, TermMean] = {}
        needs = self.needs
        if self.forgets:
            reduction: Reduction = getattr(self.method, "reduction", self.spec.reduction)
            side = "alternate" if needs.forget is None and needs.rollout is None else "forget"
            out["forget"] = TermMean(side, reduction, getattr(self.method, "counted", every_token))
        if needs.retain is not None:
            out["retain"] = TermMean("retain", self._retain_reduction)
        if self.weights.nll_weight:
            out["retain_nll"] = TermMean("retain", "token")
        return out

    @property
    def _retain_reduction(self) -> Reduction:
        padded = self.weights.compat == "openunlearning" and self.weights.retain_loss_type in ("KL", "EMBED_DIFF")
        if padded:  # it depends on how long the other rows of the micro-batch are
            return "micro_batch"
        return "row" if self.weights.retain_loss_type == "EMBED_DIFF" else "token"

    def __call__(self, view: LossInputs, shares: Mapping[str, float] | None = None) -> LossOutput:
        """Compute the loss of a micro-batch: `total = gamma * forget + alpha * retain`.

        shares: the factor of each term (`TermMean.share`); None for a step of one micro-batch.
        """
        parts: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        schedule = getattr(self.method, "schedule", None)
        of_forget, of_retain = (1.0, 1.0) if schedule is None else schedule(float(view.memory.get("progress", 0.0)))

        def note(name: str, term: Tensor) -> Tensor:
            share = 1.0 if shares is None else shares.get(name, 1.0)
            parts[name] = term if share == 1.0 else share * term
            return parts[name]

        if self.forgets:
            try:
                loss = self.method.forget_loss(view)
            except (AttributeError, TypeError, ValueError) as error:
                if (undeclared := self._undeclared(error)) is not None:
                    raise undeclared from error
                raise
            weighted.append(of_forget * self.weights.gamma * note("forget", self._one_number(loss)))
        if self.needs.retain is not None:
            own = getattr(self.method, "retain_loss", None)
            term = retain_loss(self.weights, view) if own is None else own(view)
            weighted.append(of_retain * self.weights.alpha * note("retain", term))
        if hasattr(self.method, "total"):
            weighted = [self.method.total(parts["forget"], parts.get("retain"), self.weights, view.memory)]
        if self.weights.nll_weight:
            weighted.append(self.weights.nll_weight * note("retain_nll", require(view.retain, "retain").nll))
        return LossOutput(total=torch.stack(weighted).sum(), parts=parts)

    def _undeclared(self, error: Exception) -> ConfigError | None:
        """Return the error of a user's loss that reads an input which is None; None for any other error."""
        if "NoneType" not in str(error) and "not provided" not in str(error):
            return None
        needs = dataclasses.asdict(self.needs).items()
        declared = ", ".join(f"{side}={of.value!r}" for side, of in needs if isinstance(of, Quantity))
        return ConfigError(
            f"method {self.spec.name}: its loss reads an input that is None ({one_line(error):.120}); "
            f"its requirements are {declared}"
        )

    def _one_number(self, loss: Any) -> Tensor:
        """Return the result of `forget_loss`. Raises ConfigError unless it is a scalar: users also write methods."""
        if isinstance(loss, torch.Tensor) and loss.dim() == 0:
            return loss
        actual = (
            f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"{type(loss).__name__}"
        )
        raise ConfigError(f"method {self.spec.name}: forget_loss returned {actual}; a loss is one number: a 0-d tensor")


def retain_loss(weights: TermWeights, view: LossInputs) -> Tensor:
    """Compute the retain term of one step; a scalar."""
    model = require(view.retain, "retain")
    if weights.retain_loss_type in (None, "NLL"):
        return model.nll
    if weights.retain_loss_type == "TEACHER_KL":
        return kl_to_reference(require(view.retain_teacher, "retain_teacher"), model)
    reference = require(view.retain_ref, "retain_ref")
    if weights.retain_loss_type == "KL":
        return kl_to_reference(reference, model)
    if weights.retain_loss_type == "JSD":
        return jsd_to_reference(reference, model)
    if weights.retain_loss_type == "EMBED_NORM":
        return embed_norm(model, reference)
    return embed_diff(model, hidden(reference), compat=weights.compat)


def jsd_to_reference(reference: SideOutputs, model: SideOutputs) -> Tensor:
    """Compute the mean over positions of the Jensen-Shannon divergence of reference and model, in nats (0 to ln 2)."""
    return model.per_token(_jsd, reference).mean()


def _jsd(now_NV: Tensor, ref_NV: Tensor) -> Tensor:
    logp_NV, logref_NV = log_probs(now_NV), log_probs(ref_NV)
    logmid_NV = torch.logaddexp(logp_NV, logref_NV) - math.log(2)
    left = (logp_NV.exp() * (logp_NV - logmid_NV)).sum(-1)
    right = (logref_NV.exp() * (logref_NV - logmid_NV)).sum(-1)
    return (left + right) / 2


def embed_diff(model: SideOutputs, target_ND: Tensor, *, compat: str = "paper") -> Tensor:
    """Compute the mean over rows of the mean over a row's positions of ||h - target||^2 / D; a scalar.

    `compat=openunlearning` multiplies two batch means instead: (mean of the rows' sums) x (mean of 1/n_row).
    """
    square_N = (hidden(model) - target_ND).square().mean(-1)
    if compat == "openunlearning":
        return model.row_sums(square_N).mean() * (1 / model.row_sums(torch.ones_like(square_N))).mean()
    return model.row_means(square_N).mean()


def embed_norm(model: SideOutputs, reference: SideOutputs) -> Tensor:
    """Compute the mean over positions and layers of ||h - h_ref||; a scalar."""
    pairs = zip(model.layers_ND, reference.layers_ND, strict=True)
    return torch.stack([torch.linalg.vector_norm(wide(h - ref.to(h)), dim=-1) for h, ref in pairs]).mean()


def kl_to_reference(reference: SideOutputs, model: SideOutputs) -> Tensor:
    """Compute the mean over positions of KL(reference || model) = sum_v p_ref (log p_ref - log p), in nats."""
    return model.per_token(_kl, reference).mean()


def _kl(now_NV: Tensor, ref_NV: Tensor) -> Tensor:
    logp_NV, logref_NV = log_probs(now_NV), log_probs(ref_NV)
    return (logref_NV.exp() * (logref_NV - logp_NV)).sum(-1)


def objective(name: str, args: Mapping[str, Any] | None = None, *, where: str = "trainer") -> Objective:
    """Decode a method's name and `method_args` into an Objective.

    Args:
        name: Name or alias of a registered method.
        args: The method's own keys and the shared ones (`TermWeights`) in one mapping.
        where: Key of the section in error messages.

    Raises:
        ConfigError: If a key or value is not allowed, or no term is left to minimise.
    """
    spec = find(name, f"{where}.handler" if where == "trainer" else where)
    settings = dict(args or {})
    own = field_names(spec.cls)
    shared = [k for k in SHARED if spec.retain_loss_type is not None or k in ("gamma", "compat")]
    for key in settings:
        if key not in own and key not in shared:
            raise ConfigError(
                f"{where}.method_args.{key}: {spec.name} has no such setting{nearest(key, [*own, *shared])}"
            )
    base = {"gamma": spec.gamma, "alpha": spec.alpha, "retain_loss_type": spec.retain_loss_type}
    if spec.retain_loss_type is None:
        base["alpha"] = 0.0
    weights = decode(
        TermWeights, base | {k: settings[k] for k in shared if k in settings}, where=f"{where}.method_args"
    )
    rule = decode(spec.cls, {k: v for k, v in settings.items() if k in own}, where=f"{where}.method_args")
    decoded = Objective(spec=spec, method=rule, weights=weights)
    if weights.retain_loss_type in OF_LAYERS and decoded.needs.layer is None:
        raise ConfigError(
            f"{where}.method_args.retain_loss_type: {weights.retain_loss_type} compares a layer's output, and "
            f"{spec.name} names no layer (allowed: NLL, KL, JSD)"
        )
    if weights.retain_loss_type == "TEACHER_KL" and spec.teacher != "start":
        raise ConfigError(
            f"{where}.method_args.retain_loss_type: TEACHER_KL compares with a teacher, and {spec.name} has no teacher "
            "(allowed: NLL, KL, JSD)"
        )
    if hasattr(rule, "retain_loss") and weights.retain_loss_type != spec.retain_loss_type:
        raise ConfigError(
            f"{where}.method_args.retain_loss_type: {spec.name} has a retain term of its own, {spec.retain_loss_type}; "
            "leave retain_loss_type out"
        )
    if (not decoded.forgets or weights.gamma == 0) and (decoded.needs.retain is None or weights.alpha == 0):
        raise ConfigError(f"{where}.method_args: {spec.name} has nothing to minimise with these weights")
    return decoded
