"""A report with everything in it, made of numbers from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from expunge.metrics.api import MetricResult
from expunge.report.model import (
    AuditLine,
    Explorer,
    MissingResult,
    ReportEntry,
    ReportModel,
    ReportProvenance,
    ReportRun,
    ReportSample,
    RowScore,
)

Browser = Callable[..., Any]
HOSTILE = "<script>window.__pwned = 1</script><img src=x onerror='window.__pwned = 2'></script>"
WORDS = ("author", "book", "was born in", "a small town", "near the sea", "wrote", "stories", "lost letters", "rain")
SCORES = (RowScore("probability"), RowScore("ROUGE"), RowScore("truth ratio", "low"), RowScore("extraction strength"))


def many(models: int, rows: int, seed: int = 0) -> ReportModel:
    """`models` models (full, retain, then methods of two seeds each) and `rows` rows in three sets."""
    source = random.Random(seed)
    runs = [_run(source, "full", "full", None, rows), _run(source, "retain", "retain", None, rows)]
    for k in range(models - 2):
        runs.append(_run(source, f"Method {k // 2}", "unlearn", k % 2, rows))
    names = tuple(run.label if run.seed is None else f"{run.label}, seed {run.seed}" for run in runs)
    entries = tuple(_entry(source, k, rows, len(names)) for k in range(rows))
    return ReportModel(
        title="A study of many",
        study="many",
        command="expunge run study=many",
        created="2026-01-01",
        sets={"forget": rows // 2, "retain": rows - rows // 2},
        runs=tuple(runs),
        missing=(MissingResult("RMU", "the loss was not finite at step 3"),),
        samples=(ReportSample(HOSTILE, HOSTILE, {names[0]: HOSTILE}),),
        audits=tuple(_audit(source, run.label) for run in runs if run.seed in (None, 0)),
        explorer=Explorer(names, SCORES, entries, full=0, retain=1),
        making=ReportProvenance("study: many\nseeds: [0, 1]\n", ("expunge 0.1.0",), ("cpus 2",), "0, 1", ("make it",)),
        directions={"forget_Q_A_Prob": "more knowledge"},
    )  # fmt: skip


def _run(source: random.Random, label: str, role: str, seed: int | None, rows: int) -> ReportRun:
    ratios = {k: {"score": math.exp(source.gauss(0, 1))} for k in range(min(rows, 4000))}
    ks, utility = source.random(), 0.4 + 0.3 * source.random()
    results = {
        "forget_quality": MetricResult(10 ** (-9 * ks), extra={"ks_distance": ks, "log10_p": -9 * ks}),
        "forget_truth_ratio": MetricResult(source.random(), per_row=ratios),
        "forget_Q_A_Prob": MetricResult(ks, extra={"ci_low": ks * 0.9, "ci_high": min(1.0, ks * 1.1)}),
        "model_utility": MetricResult(utility),
    }
    points = tuple({"step": 10.0 * k, "forget_Q_A_Prob": 0.9 - 0.2 * k * ks} for k in range(4))
    return ReportRun(label, role, label, "lr 1e-5", seed, results, 60 + 60 * ks, 40, trajectory=points)  # type: ignore[arg-type]


def _audit(source: random.Random, label: str) -> AuditLine:
    value = source.random()
    curve = {f"model_at_{step}": value * step / 50 for step in range(0, 51, 10)}
    ends = (value, value - 0.05, value + 0.05)
    return AuditLine(
        "same rows", *ends, 0.0, 1.0, *ends, "known", "50 steps", curve, audit="relearn", label=label, seed=None
    )


def _entry(source: random.Random, k: int, rows: int, n_models: int) -> ReportEntry:
    def text(n: int) -> str:
        return " ".join(source.choices(WORDS, k=n))

    output = tuple(text(12) for _ in range(n_models))
    scores = tuple(tuple(source.random() for _ in SCORES) for _ in range(n_models))
    question = f"Question {k}: {text(9)}?"
    if k == 1:
        question, output, scores = (
            f"Question 1: {HOSTILE}",
            (HOSTILE,) * n_models,
            ((math.nan,) * len(SCORES),) * n_models,
        )
    return ReportEntry("forget" if k < rows // 2 else "retain", k, question, text(10), output, scores)
