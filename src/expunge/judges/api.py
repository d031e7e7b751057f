"""The interface of a judge: generations in, one score from 0 to 1 for each, or a reason for its absence.

A judge reads only untrusted text from models: it scores the text and never follows it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from expunge.core.errors import DataError
from expunge.core.records import GeneratedText
from expunge.metrics.aggregate import bootstrap_interval

if TYPE_CHECKING:
    import pandas as pd

ENOUGH = 64  # texts below which an interval is too wide to rank models


@dataclass(frozen=True)
class JudgeReply:
    """A generation, its prompt, and the true answer if there is one."""

    text: str
    prompt: str = ""
    reference: str = ""


@dataclass(frozen=True)
class JudgeScores:
    """A score from 0 (no) to 1 (yes); NaN with a `reason` if there is none."""

    score: float
    reason: str | None = None


class Judge(Protocol):
    """Scores generations. The score of a text does not depend on the other texts."""

    @property
    def name(self) -> str:
        """The judged property, in a word or two, for tables."""
        ...

    def judge(self, replies: Sequence[JudgeReply]) -> list[JudgeScores]:
        """Return one verdict for each text, in order."""
        ...


def score(
    judge: Judge, texts: Sequence[str], *, prompts: Sequence[str] | None = None, references: Sequence[str] | None = None
) -> list[float]:
    """Return plain scores of texts, NaN for a missing one. Raises DataError if the lists differ in length."""
    for name, values in (("prompts", prompts), ("references", references)):
        if values is not None and len(values) != len(texts):
            raise DataError(f"{name}: {len(values)} for {len(texts)} texts")
    replies = [
        JudgeReply(text, prompts[i] if prompts else "", references[i] if references else "")
        for i, text in enumerate(texts)
    ]
    return [verdict.score for verdict in judge.judge(replies)]


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

    n: rows with a score; n_missing: generations without one (in no mean). interval: "wilson" if every row has one score
    of 0 or 1, else "bootstrap" over rows, with the mean of its samples as a row's value; "none" below two rows. mean is
    NaN with a `reason` if no row has a score. warning: a caution for the reader (few rows, many missing).
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

    def __repr__(self) -> str:
        interval = "" if self.interval == "none" else f", 95 % [{self.ci_low:.3g}, {self.ci_high:.3g}]"
        notes = "; ".join(note for note in (self.reason, self.warning) if note)
        return f"JudgementTable({self.judge}: {self.mean:.3g}{interval}, n = {self.n})" + (
            f"\n  {notes}" if notes else ""
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return one line per judged text: row_id, sample, score (NaN without one) and the reason."""
        import pandas as pd

        columns = ["row_id", "sample", "score", "reason"]
        return pd.DataFrame([[getattr(line, name) for name in columns] for line in self.lines], columns=columns)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>" + str(self.to_pandas()._repr_html_())


def judge_texts(judge: Judge, texts: Sequence[GeneratedText]) -> JudgementTable:
    """Judge stored generations. The result does not depend on their order."""
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
    """Return a 95 % interval of a mean: Wilson's for a share of yes of rows judged once, else a bootstrap."""
    if single and bool(np.isin(values, (0.0, 1.0)).all()):
        from scipy.stats import binomtest  # takes half a second to import

        wilson = binomtest(int(values.sum()), len(values)).proportion_ci(0.95, method="wilson")
        return float(wilson.low), float(wilson.high), "wilson"
    if len(values) < 2:
        return math.nan, math.nan, "none"
    low, high = bootstrap_interval(values)
    return low, high, "bootstrap"


def _warning(n: int, missing: int, total: int) -> str | None:
    parts = []
    if n < ENOUGH:
        judged = "1 row was" if n == 1 else f"{n} rows were"
        parts.append(f"only {judged} judged: with fewer than {ENOUGH} the interval is too wide to rank models")
    if missing:
        parts.append(f"{missing} of {total} generations have no score and are in no mean")
    return "; ".join(parts) or None
