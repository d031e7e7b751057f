"""The mean of a judge's scores of generations."""

from __future__ import annotations

from collections import Counter

from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family


@family(
    "judgement",
    revision=1,
    higher_is="more texts have the judged property",
    range="[0, 1]",
    paper="none: the judge is yours (eval.judge)",
    reads={"texts": "answer", "judgements": "answer"},
)
def judgement(inputs: MetricInputs) -> MetricResult:
    """Compute the mean over rows of a judge's score of the generated answer.

    Reads: generations and their judgements. `eval.judge` is the judge: rules, a classifier, a chat server, or a local
    model; without one the result is missing with a reason. Per row: `score`.
    Good direction: that of the judged property.
    Pitfalls: a judge errs. Measure its agreement with labels first (`expunge judge calibrate`). A text without a score
    is missing, in no mean. Values of different judges never compare.
    """
    numbers = inputs.numbers("judgements")
    scores = numbers.columns["score"]
    reasons = Counter(numbers.reasons.values()).most_common(1)
    unscored = f"the judge gave no score ({reasons[0][0]})" if reasons else "the judge gave no score"
    return mean_over_rows(numbers.row_ids, scores, {"score": scores.tolist()}, unscored=unscored)
