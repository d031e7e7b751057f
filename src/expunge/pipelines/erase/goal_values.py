"""Whether a goal of an erasure is achieved: by the whole interval of its number, or by the point value alone.

A number that is a mean over rows has a 95 % interval over rows. A goal is achieved, or not achieved, only if the whole
interval lies on one side of the limit. Otherwise the state names the point value. A count over all rows of a request is
no sample, so it has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from expunge.core.records import Floats
from expunge.metrics.equivalence import interval_alone
from expunge.metrics.verdict import share_text

State = Literal[
    "achieved", "achieved by the point value", "not known", "not achieved by the point value", "not achieved"
]
# In the order of the terminal: the most important line is the last one.
STATES: tuple[State, ...] = get_args(State)
MISSED: tuple[State, ...] = ("not achieved by the point value", "not achieved")
LITTLE = 0.05  # a smaller gap in probability leaves nothing to erase


@dataclass(frozen=True)
class GoalValue:
    """A share of the model before, with its 95 % interval over rows (NaN: none), and the limit of its goal."""

    value: float
    low: float
    high: float
    limit: float
    rows: int
    at_most: bool
    """Whether the limit is a maximum; else it is a minimum."""
    unit: str = "row"
    """The name of one row."""

    @property
    def is_met(self) -> bool:
        """Whether the point value is within the limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def is_decided(self) -> bool:
        """Whether the whole interval lies on the side of the point value."""
        return math.isfinite(self.low + self.high) and not self.low <= self.limit <= self.high

    @property
    def state(self) -> State:
        """The state of the goal."""
        if self.is_decided:
            return "achieved" if self.is_met else "not achieved"
        return "achieved by the point value" if self.is_met else "not achieved by the point value"

    @property
    def shown(self) -> str:
        """The value with its interval in percent, such as "7% [5%, 9%]"."""
        ends = ""
        if math.isfinite(self.low + self.high):
            ends = f" [{share_text(max(self.low, 0), self.limit)}, {share_text(max(self.high, 0), self.limit)}]"
        return f"{share_text(max(self.value, 0), self.limit)}{ends}"

    @property
    def remark(self) -> str:
        """The reason why only the point value decides, or an empty text."""
        if self.is_decided:
            return ""
        counted = f"{self.rows} {self.unit}{'s' if self.rows != 1 else ''}"
        if not math.isfinite(self.low + self.high):
            return f"; {counted} {'have' if self.rows != 1 else 'has'} no interval"
        return f"; the 95 % interval of {counted} includes the limit"


@dataclass(frozen=True)
class EraseFinding:
    """One of the last lines: the state of a goal or of a check, and the numbers behind it (None: there are none)."""

    state: State
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    rows: int | None = None


def goal_line(goal: GoalValue, text: str) -> EraseFinding:
    """Return the line of a goal: its state, the text with the reason if only the point value decides, its numbers."""
    low, high = (end if math.isfinite(end) else None for end in (goal.low, goal.high))
    return EraseFinding(goal.state, f"{text}{goal.remark}", goal.value, low, high, goal.limit, goal.rows)


def left_over(before: float, after: float, reference: float | None) -> float | None:
    """Return the share of knowledge left: 1 for the model before, 0 for the reference (None: a probability of 0).

    None if the model before was at most LITTLE above the reference, or a number is missing.
    """
    gap = before - (reference or 0.0)
    if not gap >= LITTLE or not math.isfinite(after):
        return None
    return (after - (reference or 0.0)) / gap


def residual(
    before: float,
    after: float,
    ends: tuple[float, float],
    *,
    limit: float,
    rows: int,
    reference: float | None = None,
    unseen_R: Floats | None = None,
) -> GoalValue | None:
    """Return the share of knowledge left as a goal. None if there was too little to erase, or a number is missing.

    The probability before is the scale and counts as fixed: it is that of the same rows.

    Args:
        before: Mean probability of the answers in the model before.
        after: The same in the new model.
        ends: 95 % interval of `after`; with a paired reference, the reference plus the interval of the difference.
        limit: Largest share that may be left.
        rows: Number of rows.
        reference: Probability in a model that never saw the rows. None: 0.
        unseen_R: The reference's values, shape (R,), if it is a mean over other rows. Its interval widens the result.
    """
    left = left_over(before, after, reference)
    if left is None:
        return None
    gap, wide = before - (reference or 0.0), 0.0
    if unseen_R is not None:
        least, most = interval_alone(unseen_R)
        wide = (1 - left) * (most - least) / 2
    low, high = (end - (reference or 0.0) for end in ends)
    middle = left * gap
    low, high = (middle - math.hypot(middle - low, wide)) / gap, (middle + math.hypot(high - middle, wide)) / gap
    return GoalValue(left, low, high, limit, rows, at_most=True)


def exit_code(lines: Sequence[EraseFinding]) -> int:
    """Return 0 if no goal was missed, 3 if a goal was missed, also if by the point value alone."""
    return 3 if any(line.state in MISSED for line in lines) else 0
