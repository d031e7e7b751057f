"""The time limit of a command: the used and the left time, and a reserve to save the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SHARE, MOST_S = 0.05, 60.0  # the unused share of the limit, and its maximum in seconds


class Budget:
    """Counts the time of a run against its limit. before_s: the seconds that earlier calls have used.

    The reserve is twice the longest save and twice the longest step so far (with evaluations). Its margin is 5 % of the
    limit, at most 60 s. The first step includes work that is done once, such as the references and the evaluation of
    the initial model. It counts once, and not at all when there is a second step.
    """

    def __init__(self, limit_s: float | None, *, before_s: float = 0.0, clock: Callable[[], float] | None = None):
        self._clock = clock or time.monotonic
        self._began = self._clock() - before_s
        self.limit_s = math.inf if limit_s is None else limit_s
        self.save_s = 0.0
        self._steps: list[float] = []  # the first, and the longest of the others
        self._last = self._clock()

    @property
    def used_s(self) -> float:
        """Seconds since the beginning, with those of earlier calls."""
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        """Seconds to the limit; below 0 after it."""
        return self.limit_s - self.used_s

    @property
    def margin_s(self) -> float:
        """Seconds at the end that always stay unused."""
        return 0.0 if math.isinf(self.limit_s) else min(MOST_S, SHARE * self.limit_s)

    @property
    def reserve_s(self) -> float:
        """Seconds that must be left when another step begins."""
        return 2 * self.save_s + len(self._steps) * (self._steps[-1] if self._steps else 0.0) + self.margin_s

    @property
    def over(self) -> bool:
        """Whether no further step may begin."""
        return self.left_s <= self.reserve_s

    def begin(self) -> None:
        """Start to time a step."""
        self._last = self._clock()

    def stepped(self) -> None:
        """End a step and begin the next."""
        now = self._clock()
        took, self._last = now - self._last, now
        if len(self._steps) < 2:
            self._steps.append(took)
        else:
            self._steps[1] = max(self._steps[1], took)

    def saved(self, seconds: float) -> None:
        """Record the seconds of a save, which are no part of a step."""
        self.save_s = max(self.save_s, seconds)
        self._last = self._clock()

    def part(self, n_left: int, keep_s: float = 0.0) -> Budget:
        """Return the budget of the next of `n_left` equal parts, with `keep_s` seconds left after them."""
        share = (self.left_s - self.margin_s - keep_s) / n_left
        budget = Budget(None if math.isinf(share) else max(0.0, share), clock=self._clock)
        budget.save_s = self.save_s
        return budget
