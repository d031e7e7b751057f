"""Settings of the phases of a run. Importing this module loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from expunge.core.decode import strict

ALTERNATING_ONLY = ("anneal_every", "anneal_share", "anneal_epochs")


@strict
@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The phases of a run. Each phase has a new optimiser, its own warm-up and its own learning-rate schedule."""

    kind: Literal["interleaved", "chunks", "alternating"] = "interleaved"
    """interleaved: one phase, forget and retain rows in the same steps, in seeded order. chunks: a phase per chunk of
    forget rows, in their order, with retain rows from a cursor that wraps around (SUGD, arXiv:2503.02443). alternating:
    the forget term alone on a chunk; after every `anneal_every` whole chunks the retain term alone on a random share of
    the retain rows; at the end the same on all of them (AGAD, the same paper).
    """
    retain_ratio: int = 1
    """Retain rows next to each forget row."""
    chunk_size: int | None = None
    """Forget rows of a chunk, for chunks and alternating."""
    shuffle: bool = False
    """Shuffle both sides with the seed before they are divided into chunks."""
    anneal_every: int = 1
    """Whole chunks between two phases of the retain term."""
    anneal_share: float = 0.25
    """The share of the retain rows of such a phase."""
    anneal_epochs: float = 3.0
    """Passes of each phase of the retain term; num_train_epochs counts the passes of the other phases."""

    def __post_init__(self) -> None:
        for key in ("retain_ratio", "chunk_size", "anneal_every"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if not 0 < self.anneal_share <= 1:
            raise ValueError("anneal_share must be above 0 and at most 1")
        if not 0 < self.anneal_epochs < math.inf:
            raise ValueError("anneal_epochs must be a number > 0")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind == "interleaved" and self.chunk_size is not None:
            raise ValueError("chunk_size belongs to kind=chunks or kind=alternating, and kind is interleaved")
        if self.kind == "interleaved" and self.shuffle:
            raise ValueError("shuffle belongs to kind=chunks or kind=alternating; interleaved rows always are shuffled")
        if self.kind != "interleaved" and self.chunk_size is None:
            raise ValueError(f"kind {self.kind} needs chunk_size, the forget rows of a phase (such as 32)")
        if self.kind != "alternating":
            standard = {f.name: f.default for f in fields(self)}
            for key in ALTERNATING_ONLY:
                if getattr(self, key) != standard[key]:
                    raise ValueError(f"{key} belongs to kind=alternating, and kind is {self.kind}")
        elif self.retain_ratio != 1:
            raise ValueError("retain_ratio must be 1 with kind=alternating, which never has both sides in one step")
