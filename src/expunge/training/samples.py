"""The rows of a training step by side, and the quantities that a loss requests of each side."""

from __future__ import annotations

from dataclasses import dataclass

from expunge.methods.api import Quantity, Requirements, ScoredPositions

SIDES = ("forget", "alternate", "retain")
ROLLOUT = "rollout"  # the side whose rows the model samples during the step
HIDDEN_STATES = (Quantity.HIDDEN, Quantity.HIDDEN_LOGPS)


@dataclass(frozen=True)
class TrainingSample:
    """One sample of a step: a row number of each side of the phase, or several on the retain side."""

    forget: int | None = None
    retain: int | tuple[int, ...] | None = None
    alternate: int | None = None

    def numbers(self, side: str) -> tuple[int, ...]:
        """Return the sample's row numbers of a side, in order."""
        rows: int | tuple[int, ...] | None = getattr(self, side)
        if rows is None:
            return ()
        return rows if isinstance(rows, tuple) else (rows,)


@dataclass(frozen=True)
class ForwardSpec:
    """The quantity that a loss requires of one side. layer: the modules whose hidden states it reads."""

    serve: Quantity
    positions: ScoredPositions = ScoredPositions.ANSWER
    layer: str | tuple[str, ...] | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the modules; empty for a quantity without hidden states."""
        return () if self.layer is None else (self.layer,) if isinstance(self.layer, str) else tuple(self.layer)


def spec_for(needs: Requirements, side: str, *, ref: bool = False, teacher: bool = False) -> ForwardSpec | None:
    """Return the quantity that a loss requires of a side, or of the reference or teacher there; None if it has none."""
    serve: Quantity | None = getattr(needs, f"{side}{'_teacher' if teacher else '_ref' if ref else ''}", None)
    if serve is None:
        return None
    positions: ScoredPositions = getattr(needs, f"{side}_positions", ScoredPositions.ANSWER)
    if serve is Quantity.HIDDEN and positions is ScoredPositions.ANSWER:
        positions = ScoredPositions.OWN
    return ForwardSpec(serve, positions, needs.layer if serve in HIDDEN_STATES else None)
