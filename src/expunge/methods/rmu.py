from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from expunge.core.decode import strict
from expunge.core.names import ModuleName, ParameterPattern
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, ScoredPositions, method
from expunge.methods.objective import embed_diff
from expunge.methods.reduction import Reduction
from expunge.methods.terms import hidden, require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "RMU",
    revision=1,
    needs=Requirements(forget=Quantity.HIDDEN, forget_positions=ScoredPositions.OWN),
    paper="arXiv:2403.03218",
    reduction="row",
    retain_loss_type="EMBED_DIFF",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class RMU:
    """Representation misdirection (Li et al. 2024, arXiv:2403.03218): scramble a layer's output on forget text.

    Loss: gamma E[||h - c u||^2 / D] + alpha E[||h - h_ref||^2 / D]. h is the output of one layer at the answer tokens'
    own positions. The first term is on forget examples, the second (`EMBED_DIFF`) on retain examples; each is the mean
    over examples of an example's mean. u is a random direction, uniform in [0, 1]^D and scaled to length 1, drawn once
    from `control_seed`. c = `steering_coeff`; with `adaptive=true` (arXiv:2408.06223) c = steering_coeff times the mean
    length of the reference's h over the example, so one coefficient fits every layer.

    Defaults: steering_coeff 2, layer 7, all parameters, gamma = alpha = 1 are OpenUnlearning's. The paper trains the
    MLP down projections of three layers, and tunes c and alpha to the model.

    `compat=openunlearning` averages the examples' sums and the examples' 1/n separately and multiplies the two means,
    in both terms.

    Pitfalls: if c does not suit the length of h at that layer, little happens. Models of up to 7 layers have no layer
    7. With adapters, `lora.target_modules` selects the trained weights instead of `trainable_params_regex`.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=RMU task_name=x \
trainer.method_args.module_regex=model.layers.3
    """

    module_regex: ModuleName = r"model\.layers\.7"
    """Name of the layer: `model.layers.7`, or OpenUnlearning's form with escaped dots. Layers above it do not run."""
    trainable_params_regex: tuple[ParameterPattern, ...] = (".*",)
    """Regular expressions of the parameters to train; a parameter is trained if one of them matches its name."""
    steering_coeff: float = 2.0
    """c, the length of the control vector, or its multiple of the mean length of h if `adaptive`."""
    adaptive: bool = False
    """Whether c scales with the length of the reference's hidden states (arXiv:2408.06223)."""
    control_seed: int = 0
    """Seed of the random direction u."""
    compat: Literal["paper", "openunlearning"] = "paper"
    """How the squared distances are averaged over examples (see above)."""

    def __post_init__(self) -> None:
        check_steering(self, "module_regex")

    @property
    def layer(self) -> str:
        """The layer's plain name in the model."""
        return self.module_regex.replace("\\", "")

    @property
    def needs(self) -> Requirements:
        """Hidden states of the forget examples at their own positions; the reference's too if `adaptive`."""
        ref = Quantity.HIDDEN if self.adaptive else None
        return Requirements(
            forget=Quantity.HIDDEN, forget_ref=ref, forget_positions=ScoredPositions.OWN, layer=self.layer
        )

    @property
    def reduction(self) -> Reduction:
        """The mean over rows; `compat=openunlearning` multiplies two means of a micro-batch."""
        return "row" if self.compat == "paper" else "micro_batch"

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the mean squared distance of the forget examples' hidden states from the control vector."""
        side = require(view.forget, "forget")
        h_ND = hidden(side)
        target = steered(view, h_ND, self)
        if self.adaptive:
            ref = require(view.forget_ref, "forget_ref")
            target = side.row_means(hidden(ref).to(h_ND).norm(dim=-1))[side.row_N, None] * target
        return embed_diff(side, target, compat=self.compat)


class SteeringSettings(Protocol):
    """The settings of a loss that moves the states of one layer towards a random direction."""

    @property
    def layer(self) -> str:
        """The name of the layer."""
        ...

    @property
    def steering_coeff(self) -> float:
        """The length of the control vector, c."""
        ...

    @property
    def control_seed(self) -> int:
        """The seed of the direction u."""
        ...

    @property
    def trainable_params_regex(self) -> tuple[str, ...]:
        """Regular expressions of the trained parameters."""
        ...


def check_steering(settings: SteeringSettings, key: str) -> None:
    """Raise ValueError for wrong settings. key: the setting that names the layer."""
    if not 0 < settings.steering_coeff < float("inf"):
        raise ValueError("steering_coeff must be a number > 0")
    if not re.fullmatch(r"\w+(\.\w+)*", settings.layer):
        raise ValueError(f"{key} must name one module, such as model.layers.7")
    if not settings.trainable_params_regex:
        raise ValueError("trainable_params_regex must have an entry, such as .*")
    if not 0 <= settings.control_seed < 2**63:
        raise ValueError("control_seed must be a whole number >= 0")
    for pattern in settings.trainable_params_regex:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"trainable_params_regex must be regular expressions: {error}") from None


def steered(view: LossInputs, h_ND: Tensor, settings: SteeringSettings) -> Tensor:
    """Return c u, the control vector of the run, shape (D,), in the dtype of the states."""
    if "control" not in view.memory:
        view.memory["control"] = control_vector(h_ND.shape[1], settings.control_seed)
    control: Tensor = view.memory["control"]
    return settings.steering_coeff * control.to(h_ND)


def control_vector(d: int, seed: int) -> Tensor:
    """Return a random direction of length 1 in the positive orthant, shape (D,), equal on every device and run."""
    u_D: Tensor = torch.rand(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(u_D, dim=0).float()
