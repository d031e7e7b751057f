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


@wrapper("gated_rotation", revision=1, paper="arXiv:2605.12765", fidelity="code")
@strict
@dataclass(frozen=True, kw_only=True)
class GatedRotation:
    """Gated activation redirection (GUARD-IT, Conte Turani et al. 2026, arXiv:2605.12765): rotate hidden states.

    Formula: h <- (h - strength v) ||h|| / ||h - strength v||, with v the mean of the active clusters' vectors v_k;
        without an active cluster h stays. v_k is the part of m_k that is orthogonal to m_r, with the length
        (mean ||f|| + mean ||r||) / 2. f and r are the means of a forget and of a retain example's positions at the
        output of `layer`; m_k is the mean of f over the examples of cluster k, m_r that of all r.
        Cluster k is active where cos(a - m_r, m_k - m_r) > gate; a is the mean of h over the row so far.

    Vectors, rotation and the mean of active vectors equal the authors' code on the same tensors. Our reading is the
    gate: the authors compare embeddings of the text by a second model, or one hidden state. Here a position reads the
    positions up to it, so scoring and generation agree. Clusters are those of k-means, in the directions from m_r; the
    authors choose their number by silhouette scores.

    Defaults: the authors try strengths from 0 to 1, and take a layer at a quarter of the depth.

    Pitfalls: a state that is close to -v turns far. Each call reads whole rows, so texts take longer.

    Try: methods: [{trainer: gated_rotation, method_args: {layer: model.layers.4, strength: 0.5}}] in a study
    """

    layer: ModuleName
    """Name of the module whose output rotates, such as `model.layers.4`."""
    strength: float = 0.3
    """Factor of the vector, which is as long as a mean hidden state."""
    gate: float = 0.5
    """Cosine above which a cluster is active."""
    clusters: int = 4
    """Clusters of the forget examples, each with its own vector; at most the number of examples."""

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise ValueError("strength must be a number > 0")
        if not -1 <= self.gate < 1:
            raise ValueError("gate must be a cosine: a number from -1 to below 1")
        if self.clusters < 1:
            raise ValueError("clusters must be a whole number >= 1")

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return a vector and a mean for each cluster, and the retain mean, in float32."""
        if not inputs.forget_ids or not inputs.retain_ids:
            raise ConfigError("gated_rotation: needs forget and retain examples to find its vectors; pass both")
        forget_RD, retain_RD = (self._means(inputs.model, rows) for rows in (inputs.forget_ids, inputs.retain_ids))
        retain_D = retain_RD.mean(0)
        groups = [forget_RD[members] for members in _clusters(forget_RD - retain_D, self.clusters)]
        return {
            "vectors": torch.stack([redirection(group, retain_RD) for group in groups]).float(),
            "means": torch.stack([group.mean(0) for group in groups]).float(),
            "retain": retain_D.float(),
        }

    def logits(self, model: Any, helper: Any, state: dict[str, Tensor], ids_BT: Tensor) -> Tensor:
        """Return the logits of the rows with the rotation at the layer."""
        del helper

        def change(h: Tensor) -> Tensor:
            return rotated(h.float(), state, self.strength, self.gate).to(h.dtype)

        with wrapped.output_changed(packed.find_module(model, self.layer, key="gated_rotation.layer"), change):
            return wrapped.next_token_logits(model, ids_BT)

    @torch.no_grad()
    def _means(self, model: Any, rows: Sequence[tuple[Sequence[int], int]]) -> Tensor:
        """Return the mean output of the layer over each row's positions, in float64, (R, D)."""
        means: list[Tensor] = []

        def read(h: Tensor) -> Tensor:
            means.append(h[0].double().mean(0))
            return h

        device = next(model.parameters()).device
        with wrapped.output_changed(packed.find_module(model, self.layer, key="gated_rotation.layer"), read):
            for ids, _ in rows:
                model(input_ids=torch.tensor([list(ids)], device=device))
        return torch.stack(means)


def redirection(forget_RD: Tensor, retain_RD: Tensor) -> Tensor:
    """Return the vector of a cluster: its mean, orthogonal to the retain mean, as long as a mean state."""
    mean_D, retain_D = forget_RD.mean(0), retain_RD.mean(0)
    tiny = torch.finfo(mean_D.dtype).tiny
    part_D = mean_D - (mean_D @ retain_D) / (retain_D @ retain_D).clamp(min=tiny) * retain_D
    length = (forget_RD.norm(dim=-1).mean() + retain_RD.norm(dim=-1).mean()) / 2
    vector_D: Tensor = part_D * (length / part_D.norm().clamp(min=tiny))
    return vector_D


def rotated(h_BTD: Tensor, state: dict[str, Tensor], strength: float, gate: float) -> Tensor:
    """Return the states, turned away from the vectors of the clusters that are active at each position."""
    seen_T = torch.arange(1, h_BTD.shape[1] + 1, device=h_BTD.device)
    mean_BTD = h_BTD.cumsum(1) / seen_T[:, None] - state["retain"]
    cosine_BTK = torch.cosine_similarity(mean_BTD[:, :, None], state["means"] - state["retain"], dim=-1)
    active_BTK = (cosine_BTK > gate).to(h_BTD)
    vector_BTD = active_BTK @ state["vectors"] / active_BTK.sum(-1, keepdim=True).clamp(min=1)
    moved_BTD = h_BTD - strength * vector_BTD
    length_BT1 = moved_BTD.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    turned_BTD = moved_BTD * (h_BTD.norm(dim=-1, keepdim=True) / length_BT1)
    return torch.where(active_BTK.any(-1, keepdim=True), turned_BTD, h_BTD)


def _clusters(away_RD: Tensor, n: int) -> list[Tensor]:
    """Return the row numbers of at most `n` clusters of directions."""
    from sklearn.cluster import KMeans

    directions_RD = torch.nn.functional.normalize(away_RD, dim=-1).cpu()
    n = min(n, len(torch.unique(directions_RD, dim=0)))
    label_R = torch.from_numpy(KMeans(n, n_init=10, random_state=0).fit(directions_RD.numpy()).labels_)
    groups = [(label_R == k).nonzero()[:, 0].to(away_RD.device) for k in range(n)]
    return [group for group in groups if len(group)]
