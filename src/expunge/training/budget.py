"""A time limit: when a run must end so that its model can still be saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SHARE, MOST_S = 0.05, 60.0  # of the limit that stays unused, and at most so many seconds


class Budget:
    """Counts the time of a run against its limit.

    What is kept back is twice the longest save and twice the longest step so far (evaluations counted in), beside a
    margin of 5 % of the limit, 60 s at most. The first step is not counted among the steps once there is another: it
    holds what is done once, such as reading the references.
    """

    def __init__(self, limit_s: float | None, *, began: float | None = None, clock: Callable[[], float] | None = None):
        self._clock = clock or time.monotonic
        self._began = self._clock() if began is None else began
        self.limit_s = math.inf if limit_s is None else limit_s
        self.save_s = 0.0
        self._steps: list[float] = []  # the first, and the longest of the others
        self._last = self._clock()

    @property
    def used_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        """Seconds to the limit."""
        return self.limit_s - self.used_s

    @property
    def margin_s(self) -> float:
        """What stays unused whatever happens."""
        return 0.0 if math.isinf(self.limit_s) else min(MOST_S, SHARE * self.limit_s)

    @property
    def reserve_s(self) -> float:
        """What must be left when another step begins."""
        return 2 * self.save_s + 2 * (self._steps[-1] if self._steps else 0.0) + self.margin_s

    @property
    def over(self) -> bool:
        """Whether no further step may begin."""
        return self.left_s <= self.reserve_s

    def begin(self) -> None:
        """What follows is a step."""
        self._last = self._clock()

    def stepped(self) -> None:
        """A step has ended, and the next begins."""
        now = self._clock()
        took, self._last = now - self._last, now
        if len(self._steps) < 2:
            self._steps.append(took)
        else:
            self._steps[1] = max(self._steps[1], took)

    def saved(self, seconds: float) -> None:
        """A save took so long; it counts as no part of a step."""
        self.save_s = max(self.save_s, seconds)
        self._last = self._clock()

    def part(self, n_left: int, keep_s: float = 0.0) -> Budget:
        """The budget of the next of so many equal parts, with `keep_s` left over for what comes after them."""
        share = (self.left_s - self.margin_s - keep_s) / n_left
        made = Budget(None if math.isinf(share) else max(0.0, share), clock=self._clock)
        made.save_s = self.save_s
        return made
