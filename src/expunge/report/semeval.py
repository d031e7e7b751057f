"""The score table of SemEval-2025 Task 4: the parts, their terms, and the MMLU floor."""

from __future__ import annotations

import math
from collections.abc import Mapping

from expunge.metrics.api import MetricResult
from expunge.metrics.semeval import MMLU_FLOOR, TERMS
from expunge.report.model import ReportModel, ReportRun, run_names
from expunge.report.section import GridSection, Section

AGGREGATE = "semeval_aggregate"
ABSENT = "\u2013"
SHARE = 0.75  # of the MMLU before unlearning; the task's floor is that share of its 7B model's
ABOUT = (
    "The official score is the mean of three parts: the harmonic mean of the twelve terms (1 - x on the forget side); "
    "the membership part 1 - 2 |AUC - 0.5|; MMLU. It sorts the entries. A ruined model can rank high in it, so "
    f"also read the floor. The task required MMLU above {MMLU_FLOOR} of its 7B model, which is {SHARE:.0%} of that "
    "model's before unlearning. The target model (full) is the one before; the retain model never saw the forget rows."
)


def parts_of(results: Mapping[str, MetricResult]) -> list[tuple[str, str]]:
    """Return the official numbers of one model, by name, as text; a missing one contains its reason."""
    names = {
        AGGREGATE: "aggregate",
        "task_aggregate": "task aggregate",
        "mia_auc": "attack AUC",
        "mia_score": "MIA score",
    }
    out = [(head, _text(results, name)) for name, head in names.items()]
    out.append(("MMLU", _number(_mmlu(results))))
    out.append((f"MMLU > {MMLU_FLOOR}", _flag(_mmlu(results), MMLU_FLOOR)))
    terms = results.get("task_aggregate", MetricResult(math.nan)).extra
    return out + [(name, _number(terms.get(name, math.nan))) for name in TERMS]


def score_section(model: ReportModel) -> Section | None:
    """Return the score table, the best aggregate first; None if no run has such a score."""
    if not any(AGGREGATE in run.results for run in model.runs):
        return None
    named = [pair for group in model.groups() for pair in zip(group, run_names(group), strict=True)]
    entries = sorted((p for p in named if p[0].role == "unlearn"), key=_order)
    ranked = _ranked(entries, named)
    before = model.mean_of("full", "mmlu")
    heads = ("rank", "entry", "aggregate", "task aggregate", "MIA score", "attack AUC", "MMLU", f"MMLU > {MMLU_FLOOR}")
    score = GridSection(
        "The official score of each entry, the best first.",
        (*heads, f"> {SHARE:.0%} of before"),
        tuple(
            (rank, name, *(_number(_value(run, n)) for n in (AGGREGATE, "task_aggregate", "mia_score", "mia_auc")),
             _number(_mmlu(run.results)), _flag(_mmlu(run.results), MMLU_FLOOR),
             _flag(_mmlu(run.results), SHARE * before))
            for rank, (run, name) in ranked
        ),
        "entry",
    )  # fmt: skip
    short = (f"{t.split('_')[0]} {t.split('_')[1].removeprefix('Task')}{t.split('_')[2][0].upper()}" for t in TERMS)
    terms = GridSection(
        "The twelve terms, as they enter the harmonic mean (R: regurgitation, K: knowledge).",
        ("entry", *short),
        tuple((name, *(_number(_term(run, term)) for term in TERMS)) for _, (run, name) in ranked),
        "entry",
    )
    return Section("semeval", "Official score of SemEval-2025 Task 4", "Official score", ABOUT, (score, terms))


def _ranked(
    entries: list[tuple[ReportRun, str]], named: list[tuple[ReportRun, str]]
) -> list[tuple[str, tuple[ReportRun, str]]]:
    """Return the entries with their ranks, then the models to compare them with, without rank."""
    ranked = [(str(i), entry) for i, entry in enumerate(entries, 1)]
    return ranked + [("", pair) for pair in named if pair[0].role != "unlearn"]


def _order(pair: tuple[ReportRun, str]) -> tuple[bool, float, str]:
    value = _value(pair[0], AGGREGATE)
    return math.isnan(value), -value if math.isfinite(value) else 0.0, pair[1]


def _value(run: ReportRun, name: str) -> float:
    return run.results[name].value if name in run.results else math.nan


def _term(run: ReportRun, term: str) -> float:
    tasks = run.results.get("task_aggregate")
    return math.nan if tasks is None else tasks.extra.get(term, math.nan)


def _mmlu(results: Mapping[str, MetricResult]) -> float:
    """Return MMLU as it entered the aggregate, from a measurement or from the settings."""
    return results[AGGREGATE].extra.get("mmlu_part", math.nan) if AGGREGATE in results else math.nan


def _text(results: Mapping[str, MetricResult], name: str) -> str:
    result = results.get(name)
    if result is None:
        return f"{ABSENT} (not measured)"
    return _number(result.value) if math.isfinite(result.value) else f"{ABSENT} ({result.reason})"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ABSENT


def _flag(value: float, floor: float) -> str:
    """Return whether a value reaches a floor, as text."""
    if not (math.isfinite(value) and math.isfinite(floor)):
        return ABSENT
    return "yes" if value > floor else "no"
