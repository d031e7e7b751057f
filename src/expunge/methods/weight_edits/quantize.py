from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import State, each, weight_edit

if TYPE_CHECKING:
    from torch import Tensor

KEPT = ("embed", "lm_head", "wte", "wpe")


@weight_edit(
    "quantize",
    revision=1,
    others="",
    paper="round to nearest; as an audit of forgetting arXiv:2410.16454",
    fidelity="reading",
)
@strict
@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Quantisation: round every weight matrix to a few levels, and write it back in its own dtype.

    Formula: s = max |w| / (2^(bits-1) - 1) over a group;  w' = s round(w / s)
    For 8 bits a group is a row of the matrix: one output of a linear layer. For 4 bits it is `group` neighbouring
    entries of a row; the last group of a row may be shorter. Levels are symmetric about 0, and 0 stays 0. There is no
    calibration on data. Vectors (norms, biases) never change.

    Pitfalls: GPT-2 stores its matrices transposed, so there a row is an input.
    """

    bits: int = 8
    """Bits per weight: 4 or 8."""
    group: int = 64
    """Entries per group for 4 bits."""
    keep: tuple[str, ...] = KEPT
    """Parts of names; a tensor whose name contains one does not change, as is usual for embeddings and the LM head."""

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError("bits must be 4 or 8")
        if self.group < 1:
            raise ValueError("group must be at least 1")

    def __call__(self, base: State, others: Sequence[State] = ()) -> dict[str, Tensor]:
        """Return theta' from theta. Raises ConfigError if there is another model."""
        if others:
            raise ConfigError(f"quantize: reads no other model, got {len(others)}")
        return each(base, self._one)

    def _one(self, name: str, theta: Tensor) -> Tensor:
        if theta.dim() != 2 or theta.numel() == 0 or any(part in name for part in self.keep):
            return theta.clone()
        return nearest_levels(theta, self.bits, theta.shape[1] if self.bits == 8 else self.group)


def nearest_levels(theta_OI: Tensor, bits: int, group: int) -> Tensor:
    """Round each group of `group` entries of a row to the nearest of 2^bits - 1 levels."""
    n_out, n_in = theta_OI.shape
    padded = torch.nn.functional.pad(theta_OI, (0, -n_in % group)).reshape(n_out, -1, group)
    scale = padded.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    levels = torch.round(padded / torch.where(scale > 0, scale, 1))
    rounded: Tensor = (levels * scale).reshape(n_out, -1)[:, :n_in]
    return rounded
