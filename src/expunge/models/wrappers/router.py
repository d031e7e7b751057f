from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.names import ModuleName
from expunge.core.on_use import ModuleOnUse, torch
from expunge.models.wrapper_api import WrapInputs, wrapper

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.models import packed, wrapped
else:
    packed = ModuleOnUse("expunge.models.packed")
    wrapped = ModuleOnUse("expunge.models.wrapped")


@wrapper("router", revision=1, paper="arXiv:2407.10223", fidelity="reading", helper="method")
@strict
@dataclass(frozen=True, kw_only=True)
class Router:
    """A detector before an unlearned model, after O3 (Gao et al. 2024, arXiv:2407.10223): others keep the model.

    Formula: logits = l_u where max_i cos(a - m, f_i - m) > max_j cos(a - m, r_j - m) + margin, else l. l are the logits
        of the model, l_u those of the unlearned model. f_i and r_j are the means of the output of `layer` over the
        tokens of a forget and of a retain question; m is the mean of the two sides' means, a the mean over the row so
        far. So a question that is nearest to a forget question gets the unlearned model.

    In a study `from` names the unlearned model, and the target model answers the other questions. Train that method
    with `lora: {r: 8, orthogonal: 0.1}` for the orthogonal adapters of O3; with `requests` it is the model after the
    last one.

    Our reading: O3 has a detector of its own for each request: an encoder, trained by contrast, with Mahalanobis and
    cosine distances of all its layers. The scores weigh the adapter of each request. Here one layer of the model itself
    decides, and all requests share one unlearned model.

    Pitfalls: two models are in memory, and each row is read twice. A paraphrase far from all forget questions gets the
    model that still knows the answer. Retain questions near the forget questions get the unlearned one.

    Try: methods: [NPO, {trainer: router, from: [NPO], method_args: {layer: model.layers.4}}] in a study
    """

    layer: ModuleName
    """Name of the module whose output is compared, such as `model.layers.4`."""
    margin: float = 0.0
    """How much nearer a forget question must be, as a difference of cosines."""
    n_retain: int = 400
    """Retain questions that are compared with, at equal distances in their set; at most this number."""

    def __post_init__(self) -> None:
        if not -2 < self.margin < 2:
            raise ValueError("margin must be a difference of cosines: a number between -2 and 2")
        if self.n_retain < 1:
            raise ValueError("n_retain must be a whole number >= 1")

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return the directions of both sides' questions from the common mean, and that mean, in float32."""
        if not inputs.forget_ids or not inputs.retain_ids:
            raise ConfigError("router: needs forget and retain examples to compare with; pass both")
        every = max(1, -(-len(inputs.retain_ids) // self.n_retain))
        sides = (inputs.forget_ids, inputs.retain_ids[::every])
        forget_RD, retain_RD = (self._questions(inputs.model, rows) for rows in sides)
        mean_D = (forget_RD.mean(0) + retain_RD.mean(0)) / 2
        return {
            "forget": torch.nn.functional.normalize(forget_RD - mean_D, dim=-1).float(),
            "retain": torch.nn.functional.normalize(retain_RD - mean_D, dim=-1).float(),
            "mean": mean_D.float(),
        }

    def logits(self, model: Any, helper: Any, state: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
        """Return the unlearned model's logits at the positions that are nearest to forget questions."""
        states: list[Tensor] = []
        with wrapped.output_changed(packed.find_module(model, self.layer, key="router.layer"), _keep_in(states)):
            own_BTV = wrapped.next_token_logits(model, ids_BT)
        other_BTV = wrapped.helper_logits(helper, ids_BT, own_BTV, "router")
        return torch.where(routed(states[0].float(), state, self.margin)[..., None], other_BTV, own_BTV)

    @torch.no_grad()
    def _questions(self, model: Any, rows: Sequence[tuple[Sequence[int], int]]) -> Tensor:
        """Return the mean output of the layer over each question's tokens, in float64, (R, D)."""
        states: list[Tensor] = []
        device = next(model.parameters()).device
        with wrapped.output_changed(packed.find_module(model, self.layer, key="router.layer"), _keep_in(states)):
            for ids, n_prompt in rows:
                model(input_ids=torch.tensor([list(ids)[: max(n_prompt, 1)]], device=device))
        return torch.stack([h[0].double().mean(0) for h in states])


def _keep_in(states: list[Tensor]) -> Any:
    """Return a change of an output that keeps it in a list and leaves it as it is."""

    def keep(h: Tensor) -> Tensor:
        states.append(h)
        return h

    return keep


def routed(h_BTD: Tensor, state: dict[str, Tensor], margin: float) -> Tensor:
    """Return whether the row up to each position is nearest to a forget question, (B, T)."""
    seen_T = torch.arange(1, h_BTD.shape[1] + 1, device=h_BTD.device)
    away_BTD = torch.nn.functional.normalize(h_BTD.cumsum(1) / seen_T[:, None] - state["mean"], dim=-1)
    forget_BT, retain_BT = ((away_BTD @ state[side].T).amax(-1) for side in ("forget", "retain"))
    near_BT: Tensor = forget_BT > retain_BT + margin
    return near_BT
