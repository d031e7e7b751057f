"""Meta-evaluation: which metrics separate models with the knowledge from models without, and are robust?

After OpenUnlearning (arXiv:2506.12618): faithfulness over pools of models trained with (P) and without (N) the forget
rows; robustness of a metric's values of unlearned models under relearning and quantisation. Pure functions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from expunge.metrics.membership import auc_interval


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


def relearn_score(unlearned: AttackedModel, retain: AttackedModel, sign: float) -> float:
    """Compute R = min((retain after - before) / (unlearned after - before), 1), at least 0.

    R is 1 if the value of the unlearned model does not rise. sign: 1 if a larger value means more knowledge, else -1.
    NaN if a number is missing.
    """
    rise, theirs = (sign * (m.relearned - m.before) for m in (unlearned, retain))
    if math.isnan(rise + theirs):
        return math.nan
    return 1.0 if rise <= 0 else min(max(theirs / rise, 0.0), 1.0)


def quantize_score(unlearned: AttackedModel, sign: float) -> float:
    """Compute Q = min(before / after, 1): 1 unless the knowledge seems to return.

    For a metric that falls with knowledge the fraction is inverted. NaN if a number is missing or below 0.
    """
    over, under = (unlearned.before, unlearned.quantized)[:: 1 if sign > 0 else -1]
    if not (over >= 0 and under >= 0):
        return math.nan
    return 1.0 if under <= over else over / under


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
    scores = {
        "relearn": [relearn_score(m, retain, sign) for m in unlearned],
        "quantize": [quantize_score(m, sign) for m in unlearned],
    }
    finite = {name: [v for v in values if not math.isnan(v)] for name, values in scores.items()}
    r, q = (sum(values) / len(values) if values else math.nan for values in finite.values())
    robust = harmonic([r, q])
    return MetaLine(
        metric, faithfulness, low, high, "high" if sign > 0 else "low", r, q, robust, harmonic([faithfulness, robust]),
        len(p), len(n), len(finite["relearn"]), len(finite["quantize"]),
        "" if unlearned else "no unlearned model is above the utility floor",
    )  # fmt: skip


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
        out.append((line.metric, f"{_format_number(line.faithfulness)}{ends}", *numbers, line.known or line.note))
    return out


def to_markdown(lines: Sequence[MetaLine], about: str) -> str:
    """Return the table as markdown."""
    text = [f"| {' | '.join(HEADS)} |", "|:--|" + "--:|" * (len(HEADS) - 2) + ":--|"]
    text += [f"| {' | '.join(row)} |" for row in cells(lines)]
    return "\n".join([f"# {TITLE}", "", about, "", *text, ""])


def _format_number(value: float) -> str:
    return "\u2013" if math.isnan(value) else f"{value:.3f}"
