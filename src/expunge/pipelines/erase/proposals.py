"""The next trial of an erasure's search, from the results of the earlier ones. Plain arithmetic, without models.

A bisection (`sweep.bisection`) searches the learning rate of each method until a model has forgotten enough. Then the
search goes to both sides of the best rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.pipelines.sweep.bisection import STEP, Strength, between, next_rate, rounded

# A large retain weight helps: utility falls in the first steps of any method, and returns while the rows stay
# forgotten.
NEAR: Mapping[str, Any] = {"alpha": 5.0, "retain_loss_type": "KL"}
ALPHA_PER_TOKEN = 4.0  # retain weight of NPO for each token of an answer
BETA_TOKENS = 2.5  # beta of NPO times the tokens of an answer; at 1 it goes on far below the target, and utility falls
# Methods of --method auto in order, and the factor of each one's first learning rate to that of the first method. The
# gradient of SimNPO vanishes early, so it needs more; that of GradDiff never vanishes.
METHODS: Mapping[str, float] = {"NPO": 1.0, "SimNPO": 4.0, "GradDiff": 0.5}
MOST_OF_METHOD = 4  # trials of one of several methods
MOST_ALONE = 6  # trials of the only method
LARGER = 2.0  # factor to the first rate above that of the best model; utility falls faster there than below
LATE = 0.8  # share of a trial's steps from which its best model counts as one whose utility still returns
GOOD = 0.98  # share of utility of a model that has forgotten enough; no other rate is tried then


@dataclass(frozen=True)
class Outcome:
    """The result of a trial as shares of the model at the start.

    left: the knowledge of the rows in its best model. kept: the utility of that model; NaN if no model keeps the floor.
    last_kept: the utility at the end. enough: whether the best model has forgotten enough. late: whether the best model
    is one of the last of its trial.
    """

    method: str
    rate: float
    left: float
    kept: float
    last_kept: float
    enough: bool
    floor: float
    late: bool = False

    @property
    def strength(self) -> Strength:
        """Whether the rate is too small, too large, or has led to a model that has forgotten enough."""
        if self.enough:
            return "enough"
        return "weak" if math.isfinite(self.kept) and self.last_kept >= self.floor else "strong"

    @property
    def rank(self) -> tuple[bool, float]:
        """Order of outcomes, the best first: forgotten enough with most utility, then least knowledge left."""
        if self.enough:
            return False, -self.kept
        return True, self.left if math.isfinite(self.kept) else math.inf


@dataclass(frozen=True)
class Proposal:
    """The method and the learning rate of a next trial."""

    method: str
    rate: float


def method_settings(method: str, answer_tokens: float) -> dict[str, Any]:
    """Return the settings of a method of --method auto for answers of this mean length.

    NPO's loss sums the log-probabilities of an answer (arXiv:2404.05868, eq. 3), and the retain loss is a mean over
    tokens. So its retain weight grows with the length, and its beta falls. The gradient vanishes at the same
    probability per token for short and long answers.
    """
    n = max(answer_tokens, 1.0)
    if method != "NPO":
        return dict(NEAR)
    return {
        **NEAR,
        "alpha": float(f"{max(ALPHA_PER_TOKEN * n, NEAR['alpha']):.2g}"),
        "beta": float(f"{BETA_TOKENS / n:.2g}"),
    }


def propose(
    methods: Mapping[str, float], first_rate: float, outcomes: Sequence[Outcome], *, fixed: bool = False
) -> Proposal | None:
    """Return the next trial; None if no other rate is worth a trial.

    The first method comes first, until it has forgotten enough or its rates are used up. The others start at a rate
    relative to its best one.

    Args:
        methods: The methods in order -> the factor of the learning rate to that of the first method.
        first_rate: The learning rate of the first trial.
        outcomes: The results so far.
        fixed: Try only `first_rate`, once for each method.
    """
    if any(outcome.enough and outcome.kept >= GOOD for outcome in outcomes):
        return None
    most = MOST_ALONE if len(methods) == 1 else MOST_OF_METHOD
    base = first_rate
    for i, (method, factor) in enumerate(methods.items()):
        own = [outcome for outcome in outcomes if outcome.method == method]
        if not own:
            return Proposal(method, rounded(first_rate if fixed else base * factor))
        rate = None if fixed or len(own) >= most else _next_rate(own)
        if rate is not None:
            return Proposal(method, rate)
        if i == 0:
            base = min(own, key=lambda outcome: outcome.rank).rate / factor
    return None


def _next_rate(own: Sequence[Outcome]) -> float | None:
    """Return the next learning rate of a method; None if no other is worth a trial.

    One of the two rates next to that of the best model may keep more utility. A side without a trial comes first. If
    there are two, the larger rate comes first where utility was still returning at the end of the best trial.
    """
    enough = [outcome for outcome in own if outcome.enough]
    if not enough:
        return next_rate(own)
    best = min(enough, key=lambda outcome: outcome.rank)
    lower = max((outcome.rate for outcome in own if outcome.rate < best.rate), default=None)
    upper = min((outcome.rate for outcome in own if outcome.rate > best.rate), default=None)
    below = rounded(best.rate / STEP) if lower is None else between(lower, best.rate)
    above = rounded(best.rate * LARGER) if upper is None else between(best.rate, upper)
    sides = [(above, upper), (below, lower)] if best.late else [(below, lower), (above, upper)]
    sides.sort(key=lambda side: side[1] is not None)
    return next((rate for rate, _ in sides if rate is not None), None)
