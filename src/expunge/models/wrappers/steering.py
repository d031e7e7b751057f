from __future__ import annotations

from contextlib import AbstractContextManager
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


@wrapper("steering", revision=1, paper="arXiv:2312.06681", fidelity="reading")
@strict
@dataclass(frozen=True, kw_only=True)
class Steering:
    """Gated activation steering: move hidden states that look like forget examples to where retain examples are.

    Formula: u = (m_f - m_r) / ||m_f - m_r||; s(h) = <h - m_r, u> / ||m_f - m_r||;
        h <- h - strength g s(h) (m_f - m_r), with g = 1 where s(h) > gate, else 0 (gate null: g = 1 everywhere).
        h is the output of `layer` at a position; m_f and m_r are its means over the positions that predict the forget
        and the retain answers. s is 1 at m_f and 0 at m_r, so strength 1 removes the difference along u.

    The direction is the mean difference of contrastive activation addition (Rimsky et al. 2024, arXiv:2312.06681). The
    gate and the removal are our reading.

    Pitfalls: one direction per layer holds one topic. A gate below 0.5 moves retain examples as well.

    Try: methods: [{trainer: steering, method_args: {layer: model.layers.8}}] in a study
    """

    layer: ModuleName
    """Name of the module whose output moves, such as `model.layers.8`."""
    strength: float = 1.0
    """Factor of the move; 1 removes the difference along the direction."""
    gate: float | None = 0.5
    """Positions above this share of the way from the retain to the forget mean move; null moves all."""

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise ValueError("strength must be a number > 0")

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return the two means, in float32."""
        if not inputs.forget_ids or not inputs.retain_ids:
            raise ConfigError("steering: needs forget and retain examples to find its direction; pass both")
        return {
            "forget": self._mean(inputs.model, inputs.forget_ids),
            "retain": self._mean(inputs.model, inputs.retain_ids),
        }

    def hooks(self, model: Any, state: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Change the output of the layer within the block."""
        away_D, retain_D = state["forget"] - state["retain"], state["retain"]
        square = away_D.square().sum().clamp(min=torch.finfo(torch.float32).tiny)

        def change(h: Tensor) -> Tensor:
            share = ((h.float() - retain_D) @ away_D / square)[..., None]
            if self.gate is not None:
                share = torch.where(share > self.gate, share, torch.zeros_like(share))
            return (h.float() - self.strength * share * away_D).to(h.dtype)

        return wrapped.output_changed(packed.find_module(model, self.layer, key="steering.layer"), change)

    @torch.no_grad()
    def _mean(self, model: Any, rows: Any) -> Tensor:
        """Return the mean output of the layer over the positions that predict answers, in float32."""
        outputs: list[Tensor] = []
        module = packed.find_module(model, self.layer, key="steering.layer")
        handle = module.register_forward_hook(
            lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        device = next(model.parameters()).device
        sums, n = None, 0
        try:
            for ids, n_prompt in rows:
                outputs.clear()
                model(input_ids=torch.tensor([list(ids)], device=device))
                part = outputs[0][0, max(n_prompt, 1) - 1 : -1].double()
                sums = part.sum(0) if sums is None else sums + part.sum(0)
                n += len(part)
        finally:
            handle.remove()
        if sums is None or n == 0:
            raise ConfigError("steering: the examples have no answer tokens")
        mean: Tensor = (sums / n).float()
        return mean
