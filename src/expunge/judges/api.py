"""What a judge is: generations in, one score from 0 to 1 for each, or a reason why there is none.

Everything a judge reads was written by a model and is untrusted: it is text to be scored and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from expunge.core.errors import DataError
from expunge.core.records import GeneratedText
from expunge.metrics.aggregate import bootstrap_interval

ENOUGH = 64  # texts below which an interval is too wide to tell models apart


@dataclass(frozen=True)
class JudgeReply:
    """A generation, what it answers, and the true answer where there is one."""

    text: str
    prompt: str = ""
    reference: str = ""


@dataclass(frozen=True)
class JudgeScores:
    """A score from 0 (no) to 1 (yes); NaN with a `reason` where there is none."""

    score: float
    reason: str | None = None


class Judge(Protocol):
    """Scores generations. The same text gets the same score, whatever stands beside it."""

    @property
    def name(self) -> str:
        """What is judged, in a word or two, for tables."""
        ...

    def judge(self, said: Sequence[JudgeReply]) -> list[JudgeScores]:
        """One verdict for each, in order."""
        ...


def score(
    judge: Judge, texts: Sequence[str], *, prompts: Sequence[str] | None = None, references: Sequence[str] | None = None
) -> list[float]:
    """Plain scores of texts, NaN where there is none. Raises DataError where the lists differ in length."""
    for name, given in (("prompts", prompts), ("references", references)):
        if given is not None and len(given) != len(texts):
            raise DataError(f"{name}: {len(given)} for {len(texts)} texts")
    said = [
        JudgeReply(text, prompts[i] if prompts else "", references[i] if references else "")
        for i, text in enumerate(texts)
    ]
    return [verdict.score for verdict in judge.judge(said)]


@dataclass(frozen=True)
class JudgementLine:
    """The verdict on one generation."""

    row_id: int
    sample: int
    score: float
    reason: str | None


@dataclass(frozen=True)
class JudgementTable:
    """A judge's mean over rows, with its 95 % interval.

    n: rows with a score; n_missing: generations without one (in no mean). interval: "wilson" where every row has one
    score of 0 or 1, else "bootstrap" over rows, a row's value being the mean of its samples; "none" below two rows.
    mean is NaN with a `reason` where no row has a score. warning: a line on what the reader should know (few rows, many
    missing).
    """

    judge: str
    mean: float
    ci_low: float
    ci_high: float
    interval: str
    n: int
    n_missing: int
    reason: str | None
    warning: str | None
    lines: tuple[JudgementLine, ...]


def judge_texts(judge: Judge, texts: Sequence[GeneratedText]) -> JudgementTable:
    """Judge generations as scoring stores them. Does not depend on their order."""
    ordered = sorted(texts, key=lambda t: (t.row_id, t.sample))
    verdicts = judge.judge([JudgeReply(t.generation, t.prompt, t.reference) for t in ordered])
    lines = tuple(JudgementLine(t.row_id, t.sample, v.score, v.reason) for t, v in zip(ordered, verdicts, strict=True))
    by_row: dict[int, list[float]] = {}
    for line in lines:
        if not math.isnan(line.score):
            by_row.setdefault(line.row_id, []).append(line.score)
    missing = sum(math.isnan(line.score) for line in lines)
    if not by_row:
        why = next((line.reason for line in lines if line.reason), "there are no texts")
        nan = math.nan
        return JudgementTable(judge.name, nan, nan, nan, "none", 0, missing, f"no text has a score: {why}", None, lines)
    values = np.array([sum(scores) / len(scores) for scores in by_row.values()])
    low, high, kind = interval(values, single=all(len(scores) == 1 for scores in by_row.values()))
    warning = _warning(len(values), missing, len(lines))
    return JudgementTable(judge.name, float(values.mean()), low, high, kind, len(values), missing, None, warning, lines)


def interval(values: np.ndarray, *, single: bool = True) -> tuple[float, float, str]:
    """95 % interval of a mean: Wilson's for a share of yes among rows judged once, else the bootstrap's over rows."""
    if single and bool(np.isin(values, (0.0, 1.0)).all()):
        from scipy.stats import binomtest  # takes half a second to import

        found = binomtest(int(values.sum()), len(values)).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high), "wilson"
    if len(values) < 2:
        return math.nan, math.nan, "none"
    low, high = bootstrap_interval(values)
    return low, high, "bootstrap"


def _warning(n: int, missing: int, total: int) -> str | None:
    said = []
    if n < ENOUGH:
        judged = "1 row was" if n == 1 else f"{n} rows were"
        said.append(f"only {judged} judged: with fewer than {ENOUGH} the interval is too wide to rank models")
    if missing:
        said.append(f"{missing} of {total} generations have no score and are in no mean")
    return "; ".join(said) or None
