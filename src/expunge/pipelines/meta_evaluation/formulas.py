"""Meta-evaluation: which metrics separate models with the knowledge from models without, and are robust?

After OpenUnlearning (arXiv:2506.12618, section 4.1, equations 2 to 4): faithfulness over pools of models trained with
(P) and without (N) the forget rows; robustness of a metric's values of unlearned models under relearning and
quantisation. With m oriented so that more means more knowledge, before (b) and after (a):

    R = clip((m_retain^a - m_retain^b) / (m_unlearned^a - m_unlearned^b), 0, 1)     left out at a denominator of 0
    Q = clip(m_unlearned^b / m_unlearned^a, 0, 1)

Unlearned models that the metric itself takes for models with the knowledge are left out (section 4.2.1). The threshold
is the one that separates P from N with the best accuracy. `two_sided`: the formulas of Lee et al. (arXiv:2605.24614):

    R = 1 - |d_unlearned - d_retain| / (|d_unlearned| + |d_retain|)   with d = m^a - m^b
    Q = 1 - |m^a - m^b| / (|m^a| + |m^b|)

A metric that falls with knowledge is read as 1 - m if all its values lie in [0, 1], as both projects do; for others R
changes its sign and the fraction of Q is inverted, which is our own. Pure functions.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from expunge.metrics.membership import auc_interval
from expunge.report.markup import markdown_table


@dataclass(frozen=True)
class MetaLine:
    """One metric. NaN if there is no number; then `note` has the reason.

    faithfulness: the AUC of separating P from N, with its 95 % interval. known: the end of the range that means
    knowledge (the end near P, so an AUC is at least 0.5). If the interval reaches 0.5, all else is missing. relearn,
    quantize: R and Q, means over the n_relearn and n_quantize unlearned models. robustness: the harmonic mean of R and
    Q. overall: the harmonic mean of faithfulness and robustness.
    """

    metric: str
    faithfulness: float = math.nan
    low: float = math.nan
    high: float = math.nan
    known: str = ""
    relearn: float = math.nan
    quantize: float = math.nan
    robustness: float = math.nan
    overall: float = math.nan
    n_p: int = 0
    n_n: int = 0
    n_relearn: int = 0
    n_quantize: int = 0
    note: str = ""


@dataclass(frozen=True)
class AttackedModel:
    """A metric of one model: as it is, relearned, and quantised."""

    before: float
    relearned: float
    quantized: float


Formula = Literal["openunlearning", "two_sided"]
LEAST = 1e-8  # a smaller denominator counts as 0


def oriented(models: Sequence[AttackedModel], sign: float) -> tuple[list[AttackedModel], float]:
    """Return the models with 1 - m and the sign 1, if the metric falls with knowledge and lies in [0, 1]."""
    values = [v for m in models for v in (m.before, m.relearned, m.quantized) if math.isfinite(v)]
    if sign > 0 or any(not 0 <= v <= 1 for v in values):
        return list(models), sign
    return [AttackedModel(1 - m.before, 1 - m.relearned, 1 - m.quantized) for m in models], 1.0


def relearn_score(
    unlearned: AttackedModel, retain: AttackedModel, sign: float, formula: Formula = "openunlearning"
) -> float:
    """Compute R. sign: 1 if a larger value means more knowledge, else -1.

    NaN if a number is missing, or if the formula divides by 0.
    """
    rise, theirs = (sign * (m.relearned - m.before) for m in (unlearned, retain))
    if math.isnan(rise + theirs):
        return math.nan
    if formula == "two_sided":
        total = abs(rise) + abs(theirs)
        return 1.0 if total < LEAST else 1.0 - abs(rise - theirs) / total
    return math.nan if abs(rise) < LEAST else min(max(theirs / rise, 0.0), 1.0)


def quantize_score(unlearned: AttackedModel, sign: float, formula: Formula = "openunlearning") -> float:
    """Compute Q. For a metric that falls with knowledge (sign -1) the fraction is inverted.

    NaN if a number is missing; of the one-sided formula also if one is below 0.
    """
    before, after = (unlearned.before, unlearned.quantized)[:: 1 if sign > 0 else -1]
    if math.isnan(before + after):
        return math.nan
    if formula == "two_sided":
        total = abs(before) + abs(after)
        return 1.0 if total < LEAST else 1.0 - abs(after - before) / total
    if not (before >= 0 and after >= 0):
        return math.nan
    return 1.0 if after < LEAST else min(before / after, 1.0)


def knowledge_threshold(with_P: Sequence[float], without_N: Sequence[float]) -> float:
    """Return the threshold that separates P (at least it) from N (below it) with the best accuracy.

    Candidates lie between neighbouring values; the smallest of equally good ones counts. Larger means more knowledge.
    """
    values = sorted({*with_P, *without_N})
    cuts = [(a + b) / 2 for a, b in itertools.pairwise(values)] or values
    return max(cuts, key=lambda cut: (sum(v >= cut for v in with_P) + sum(v < cut for v in without_N), -cut))


def harmonic(values: Sequence[float]) -> float:
    """Return the harmonic mean of numbers >= 0; 0 if one is 0, NaN if one is."""
    if any(math.isnan(v) for v in values):
        return math.nan
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / v for v in values)


def meta_line(
    metric: str,
    with_P: Sequence[float],
    without_N: Sequence[float],
    unlearned: Sequence[AttackedModel],
    retain: AttackedModel,
    formula: Formula = "openunlearning",
) -> MetaLine:
    """Return the line of a metric, from its value on every model."""
    p, n = (np.array([v for v in values if math.isfinite(v)]) for values in (with_P, without_N))
    if min(len(p), len(n)) < 2:
        return MetaLine(metric, note=f"{len(p)} models with and {len(n)} without the knowledge have a value")
    auc = float((np.sign(p[:, None] - n[None, :]) / 2 + 0.5).mean())
    sign = 1.0 if auc >= 0.5 else -1.0
    ranks = np.unique(-sign * np.concatenate([p, n]), return_inverse=True)[1]
    low, high = auc_interval(ranks[: len(p)], ranks[len(p) :])
    faithfulness = max(auc, 1 - auc)
    if low <= 0.5:  # then the direction is a guess, and so are R and Q
        why = "it does not separate the models with the knowledge from the models without"
        return MetaLine(metric, faithfulness, low, high, n_p=len(p), n_n=len(n), note=why)
    limit = knowledge_threshold([sign * v for v in p], [sign * v for v in n])
    passing = [m for m in unlearned if not sign * m.before > limit]
    (control, *models), sign_used = oriented([retain, *passing], sign)
    scores = {
        "relearn": [relearn_score(m, control, sign_used, formula) for m in models],
        "quantize": [quantize_score(m, sign_used, formula) for m in models],
    }
    finite = {name: [v for v in values if not math.isnan(v)] for name, values in scores.items()}
    r, q = (sum(values) / len(values) if values else math.nan for values in finite.values())
    robust = harmonic([r, q])
    return MetaLine(
        metric, faithfulness, low, high, "high" if sign > 0 else "low", r, q, robust, harmonic([faithfulness, robust]),
        len(p), len(n), len(finite["relearn"]), len(finite["quantize"]),
        _none_left(len(unlearned), len(passing)),
    )  # fmt: skip


def _none_left(n_useful: int, n_passing: int) -> str:
    """Return why there is no unlearned model to attack, or an empty text."""
    if n_useful and not n_passing:
        return "by this metric no unlearned model has lost the knowledge"
    return "" if n_useful else "no unlearned model is above the utility floor"


def to_csv(lines: Sequence[MetaLine]) -> str:
    """Return a CSV line per metric; an empty cell for NaN."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(MetaLine)], lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(line).items()})
    return out.getvalue()


def from_csv(text: str) -> list[MetaLine]:
    """Read the text of `to_csv`."""
    read: dict[str, Any] = {"float": lambda cell: float(cell or "nan"), "int": int, "str": str}
    rows = csv.DictReader(io.StringIO(text))
    return [MetaLine(**{f.name: read[str(f.type)](row[f.name]) for f in fields(MetaLine)}) for row in rows]


TITLE = "Meta-evaluation of the metrics"
HEADS = ("metric", "faithfulness", "relearn R", "quantize Q", "robustness", "overall", "known is")


def cells(lines: Sequence[MetaLine]) -> list[tuple[str, ...]]:
    """Return the table as texts, below HEADS: the best metric first; metrics without a number last."""
    out = []
    rank = sorted(lines, key=lambda line: (math.isnan(line.overall), -line.overall if line.overall > 0 else 0.0))
    for line in rank:
        ends = f" [{line.low:.2f}, {line.high:.2f}]" if math.isfinite(line.low + line.high) else ""
        numbers = (_format_number(v) for v in (line.relearn, line.quantize, line.robustness, line.overall))
        known = "; ".join(text for text in (line.known, line.note) if text)
        out.append((line.metric, f"{_format_number(line.faithfulness)}{ends}", *numbers, known))
    return out


def to_markdown(lines: Sequence[MetaLine], about: str) -> str:
    """Return the table as markdown."""
    text = markdown_table(HEADS, "l" + "r" * (len(HEADS) - 2) + "l", cells(lines))
    return "\n".join([f"# {TITLE}", "", about, "", *text, ""])


def _format_number(value: float) -> str:
    return "\u2013" if math.isnan(value) else f"{value:.3f}"
