"""A page of every kind, made of made-up numbers and texts."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
from made_up import HOSTILE, many

from expunge.core.files import write_text
from expunge.core.records import GeneratedText, texts_table
from expunge.evaluation.compare import compare
from expunge.interpretability.lens import LensLine, LensResult
from expunge.metrics.api import MetricResult
from expunge.metrics.results import write_results as write_metrics
from expunge.metrics.semeval import TERMS
from expunge.metrics.verdict import Verdict, VerdictAnswer
from expunge.report.audit_report import AuditedRow, ModelAnswer, ModelAudit, audit_html
from expunge.report.compare_page import ComparedPair, compare_page
from expunge.report.erasure import Erasure, ErasureRequest, Finding, erasure_report
from expunge.report.grid_page import grid_page
from expunge.report.inspect_page import inspect_page
from expunge.report.model import AuditLine, ReportModel, ReportRun
from expunge.report.page import to_html
from expunge.report.protocol import ProbeCurve, Protocol, ProtocolCourse
from expunge.report.query import write_results
from expunge.report.write import write_report


def grid() -> str:
    axes = {f"{a},{b}": {"data.split": a, "unlearn.learning_rate": b} for a in ("small", "large") for b in ("1", "2")}
    links = {cell: f"cells/{k}/report.html" for k, cell in enumerate(axes)}
    return grid_page({cell: many(4, 20, k) for k, cell in enumerate(axes)}, axes, links)


def comparison() -> str:
    draws = random.Random(0)
    a, b = ({row: {"prob": draws.random()} for row in range(60)} for _ in range(2))
    first, second = ({"forget_Q_A_Prob": MetricResult(sum(r["prob"] for r in rows.values()) / 60, per_row=rows),
                      "an_auc_of_an_attack": MetricResult(0.7)} for rows in (a, b))  # fmt: skip
    pair = ComparedPair("NPO", "quickstart: NPO", HOSTILE, first, second, compare(first, second))
    return compare_page([pair], {"forget_Q_A_Prob": "more knowledge of the answer"}, "expunge compare A B")


def layers() -> str:
    lines = tuple(LensLine(row, layer, -1.0 - row + layer, 0.5) for row in range(20) for layer in range(24))
    numbers = tuple(float(layer) - 24 for layer in range(24))
    result = LensResult("logit", tuple(range(24)), numbers, (0.5,) * 24, lines)
    columns = {f"log p, {HOSTILE}": dict(enumerate(numbers)), "retain": {k: -9.0 + k / 4 for k in range(24)}}
    return inspect_page("lens", "Log p by layer", "layer", columns, {"lens_model": result}, "", "expunge inspect lens")


def erasure() -> str:
    answer = VerdictAnswer("no trace", "The probability is 0.3 [0.25, 0.35], 0.25 in the retain model.", 0.3)
    words = ("no trace", "kept", "not tested", "robust", "one seed")
    verdict = Verdict("m", *[dataclasses.replace(answer, word=word) for word in words])
    findings = (Finding("forget probability", "how likely the true answers are", 0.3, 0.25, 0.35, 0.9, 0.25),)
    requests = (ErasureRequest("forget", 400, "ab" * 32, (HOSTILE,)),)
    result = Erasure(
        title="Erasure of " + "x" * 60, created="2026-01-01", asked=requests,
        method="NPO", settings=(("learning_rate", "3e-05"),), steps=60, seconds=61.2,
        models=(("the model before", "cd" * 32),), findings=findings, kept=findings, verdict=verdict,
        missing=(("relearning", "the job failed: out of memory"),),
    )  # fmt: skip
    return erasure_report(result).html


def audit() -> str:
    answer = VerdictAnswer("not measurable", "The texts contain the answers of 3 of 6 rows: a share of 0.5 [0.2, 0.8].")
    verdict = Verdict("m", answer, answer, answer, answer, answer)
    line = AuditLine(audit="quantize", label="model", seed=None, name="int8", value=0.3, low=0.25, high=0.35)
    compared = dataclasses.replace(
        line, audit="relearn", name="same_rows_" + "x" * 40, retain=0.2, full=0.9, position=0.1, position_low=0.05,
        position_high=0.15, verdict="trace", note="judged by the end of the curve; " * 6,
    )  # fmt: skip
    answers = tuple(ModelAnswer(name, HOSTILE, 0.5, True) for name in ("this model", "retain model", "target model"))
    rows = tuple(AuditedRow(k, f"{HOSTILE} {k}?", "y" * 200, answers) for k in range(8))
    return audit_html(
        ModelAudit(
            title="Audit of " + "x" * 60, created="2026-01-01", command="expunge audit m --forget rows.csv",
            verdict=verdict, unknown=("Not known without a control: whether it has forgotten.",), rows=rows, n_rows=8,
            findings=(line, compared), meanings={"quantize": "Rounded weights."}, not_run=(("depth", "no control"),),
            models=(("this model", "m " + "ab" * 32),), sets={"rows to forget": 6},
        )
    )  # fmt: skip


def stories() -> str:
    def course(label: str, role: str, start: float) -> ProtocolCourse:
        points = tuple(
            {"step": float(s), "feature_score": max(0.0, start - s / 90), "loss_x": 1 + s / 80} for s in (0, 10, 80)
        )
        return ProtocolCourse(label, role, points)  # type: ignore[arg-type]

    courses = (course("present", "full", 0.9), course("never learned", "retain", 0.1), course("NPO", "unlearn", 0.5))
    probes = tuple(ProbeCurve(c.label, c.role, "Twist", (0, 1, 2), (0.5, 0.6, 0.8)) for c in courses)
    protocol = Protocol(feature="Twist", task="x", losses=("x",), deletions=courses[2:], recoveries=courses,
                        probes=probes, shown_at=(0, 10, 80), findings=("NPO: score 0.25",))  # fmt: skip
    runs = tuple(ReportRun(c.label, c.role, results={"feature_score": MetricResult(0.5)}) for c in courses)
    return to_html(ReportModel("Stories", "s", "expunge run study=s", "2026-01-01", {"stories": 9}, runs,
                               shown=("feature_score",), utility="", protocol=protocol))  # fmt: skip


def semeval() -> str:
    def run(label: str, role: str, aggregate: float) -> ReportRun:
        terms = {name: i / 100 for i, name in enumerate(TERMS)}
        values = {
            "semeval_aggregate": MetricResult(aggregate, extra={"mmlu_part": 0.4}),
            "task_aggregate": MetricResult(0.25, extra=terms), "mia_score": MetricResult(0.5),
            "mia_auc": MetricResult(0.75), "mmlu": MetricResult(0.4),
        }  # fmt: skip
        return ReportRun(label, role, results=values)  # type: ignore[arg-type]

    runs = (run("full", "full", 0.1), run("retain", "retain", 0.9), run("iterative", "unlearn", 0.4))
    return to_html(ReportModel("SemEval", "s", "c", "now", {"forget": 1}, runs, shown=("semeval_aggregate",)))


KINDS: Mapping[str, Callable[[], str]] = {
    "report": lambda: to_html(many(6, 120)),
    "grid": grid,
    "comparison": comparison,
    "layers": layers,
    "erasure": erasure,
    "audit": audit,
    "stories": stories,
    "semeval": semeval,
}


def saves(folder: Path) -> Path:
    """Write a folder of studies and pages that a workspace shows. Returns it."""
    for name, models in (("first", 3), ("second-" + "y" * 60, 6)):
        model = dataclasses.replace(many(models, 10), study=name)
        write_report(model, folder / "study" / name)
        write_results(model, folder / "study" / name)
    write_text(folder / "erased" / "erasure_report.html", erasure())
    write_text(folder / "layers" / "inspect.html", layers())
    for name in ("before", "after"):
        place = folder / "eval" / name
        write_metrics(place, {"an_auc": MetricResult(0.5)}, {}, prefix="X_")
        (place / "records").mkdir()
        texts = [GeneratedText(k, 0, f"Question {k}?", f"{HOSTILE} {name} {k}", "truth", 4, True) for k in range(30)]
        pq.write_table(texts_table(texts), place / "records" / "forget_eval.texts.parquet")
    (folder / "store" / ".locks").mkdir(parents=True)
    (folder / "store" / "metrics" / "broken-abc").mkdir(parents=True)
    return folder
