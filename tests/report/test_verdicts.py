"""The first screen of a report: what to choose, the ranking, broken models below a line, at any width."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import compare_to_controls
from expunge.report.model import AuditLine, ReportModel, ReportRun
from expunge.report.page import to_html
from expunge.report.table import table
from expunge.report.text import to_markdown, to_rich
from expunge.report.verdicts import folded, judgement

PROBABILITY = {"full": 0.9, "retain": 0.12, "same": 0.12, "half": 0.45, "low": 0.02, "dead": 0.0}
UTILITY = {"full": 0.6, "retain": 0.6, "same": 0.58, "half": 0.6, "low": 0.6, "dead": 0.1}
RNG = np.random.default_rng(0)


def numbers(label: str) -> MetricResult:
    values = RNG.normal(PROBABILITY[label], 0.01, 40)
    return MetricResult(float(values.mean()), per_row={i: {"prob": float(v)} for i, v in enumerate(values)})


def run(label: str, seed: int | None = None, **more: str) -> ReportRun:
    role = label if label in ("full", "retain") else "unlearn"
    results = {"forget_Q_A_Prob": numbers(label), "model_utility": MetricResult(UTILITY[label])}
    return ReportRun(label, role, seed=seed, results=results, **more)  # type: ignore[arg-type]


@pytest.fixture
def judged(model: ReportModel) -> ReportModel:
    runs = tuple(run(label, seed) for label in ("low", "half", "dead", "same") for seed in (0, 1))
    return dataclasses.replace(model, runs=(run("full"), run("retain"), *runs))


def test_models_are_ranked_and_broken_ones_are_not(judged: ReportModel) -> None:
    text = judgement(judged)
    assert text is not None
    assert [v.model for v in text.ranked] == ["same", "low", "half"] and [v.model for v in text.broken] == ["dead"]
    assert [v.forgot.word for v in text.all] == ["no trace", "over-forgotten", "trace", "over-forgotten"]
    assert [row[0] for row in text.table] == ["1", "2", "3", "\u2013"]
    assert text.choice == "Choose same: no trace, 97% of the utility is left. Broken and not ranked: dead."
    assert "2 seeds" in text.ranked[0].certainty.sentence


def test_a_terminal_continues_an_answer_under_its_beginning(judged: ReportModel) -> None:
    text = judgement(judged)
    assert text is not None
    verdict = text.ranked[0]
    for width, indent in ((100, 17), (80, 17), (40, 4)):
        lines = folded(verdict, width).splitlines()
        assert max(map(len, lines)) <= width and " ".join(" ".join(lines).split()) == " ".join(str(verdict).split())
        begins = [line for line in lines if line.startswith("  ") and line[2] != " "]
        assert len(begins) == 5 and lines[0] == "same"
        assert {len(line) - len(line.lstrip()) for line in lines if line not in begins[:] + lines[:1]} == {indent}


def test_models_without_any_answer_have_no_rank(judged: ReportModel) -> None:
    bare = {"task_aggregate": MetricResult(0.3)}
    unpaired = dataclasses.replace(judged, runs=tuple(dataclasses.replace(r, results=bare) for r in judged.runs))
    text = judgement(unpaired)
    assert text is not None and not text.broken
    assert {row[0] for row in text.table} == {"\u2013"}
    assert text.choice.startswith("No choice: nothing could be compared, so the models have no rank.")
    assert "listed first" not in to_markdown(unpaired)


def test_each_cell_of_a_grid_is_judged_by_its_own_controls(model: ReportModel) -> None:
    def cell(name: str, **levels: float) -> list[ReportRun]:
        out = []
        for label, level in levels.items():
            rows = np.random.default_rng(int(level * 100)).normal(level, 0.01, 40)
            result = MetricResult(float(rows.mean()), per_row={i: {"prob": float(v)} for i, v in enumerate(rows)})
            role = label if label in ("full", "retain") else "unlearn"
            results = {"forget_Q_A_Prob": result, "retain_Q_A_Prob": result}
            out.append(ReportRun(f"{name}/{label}", role, results=results, cell=name))  # type: ignore[arg-type]
        return out

    runs = (*cell("size=1", full=0.8, retain=0.1, NPO=0.1), *cell("size=2", full=0.9, retain=0.5, NPO=0.5))
    of_all = dataclasses.replace(model, runs=runs, utility="retain_Q_A_Prob", shown=("retain_Q_A_Prob",))
    text = judgement(of_all)
    assert text is not None and {v.model: v.forgot.word for v in text.all} == dict.fromkeys(
        ("size=1/NPO", "size=2/NPO"), "no trace"
    )
    assert {v.model: round(v.kept.number, 2) for v in text.all} == {"size=1/NPO": 0.12, "size=2/NPO": 0.55}
    drops = {row.name: row.cells[1] for row in table(of_all).rows}
    assert [drops[f"size={k}/NPO"].text for k in (1, 2)] == ["87.7 %", "44.7 %"]
    assert drops["size=1/NPO"].interval == "[87.4, 88.1]" and not drops["size=1/full"].interval
    assert "of the target model of the same cell" in to_markdown(of_all)


def test_gibberish_is_broken_whatever_its_utility(judged: ReportModel) -> None:
    runs = tuple(dataclasses.replace(r, gibberish="gibberish: 90%") if r.label == "same" else r for r in judged.runs)
    text = judgement(dataclasses.replace(judged, runs=runs))
    assert text is not None and {v.model for v in text.broken} == {"same", "dead"}
    assert "same" not in [v.model for v in text.ranked]


def test_an_audit_and_its_figure_say_the_same(judged: ReportModel) -> None:
    sides = (RNG.normal(0.39, 0.02, 40), RNG.normal(0.13, 0.02, 40), RNG.normal(0.9, 0.02, 40))
    one = compare_to_controls("same_rows", sides)
    line = AuditLine(**vars(one), audit="relearn", label="same", seed=0)
    text = judgement(dataclasses.replace(judged, audits=(line,)))
    assert text is not None
    answer = next(v for v in text.all if v.model == "same").robust
    assert answer.word == "recoverable" and (answer.number, answer.control) == (line.value, line.retain)
    assert line.low > line.retain
    assert "but recoverable under attack (relearn same_rows)" in text.choice


def test_the_page_begins_with_the_choice_and_the_ranking(judged: ReportModel) -> None:
    page = to_html(judged)
    first = page[page.index("<h1>") : page.index('id="h-results"')]
    assert "Choose same: no trace" in first and first.count('class="card') == 5  # the cards' box, and four cards
    assert first.count('<tr class="broken">') == 1 and 'href="#h-verdict"' in page
    assert all("scope=" in head for head in re.findall(r"<th[^>e][^>]*>", first))
    text = to_markdown(judged)
    assert text.index("Choose same") < text.index("| run |") and "- Forgot? **no trace**." in text


@pytest.mark.parametrize("width", [50, 120])
def test_the_terminal_begins_with_the_verdicts(judged: ReportModel, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_rich(judged))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert output.splitlines()[1].startswith("Choose same: no trace")
    assert output.index("---- broken, not ranked") < output.rindex("dead: broken")
    assert max(len(line) for line in output.splitlines()) <= width and " nan" not in output.lower()


def test_many_models_have_a_line_each_in_the_terminal(judged: ReportModel) -> None:
    more = tuple(dataclasses.replace(run("half", 0), label=f"half {k}") for k in range(4))
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(to_rich(dataclasses.replace(judged, runs=(*judged.runs, *more))))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1. same: forgot: no trace; kept the rest: kept; " in output and "Forgot? " not in output


def test_a_report_without_unlearned_models_has_no_verdict(judged: ReportModel) -> None:
    bare = dataclasses.replace(judged, runs=judged.runs[:2], missing=())
    assert judgement(bare) is None and "h-verdict" not in to_html(bare) and "## Verdict" not in to_markdown(bare)


def test_privacy_leakage_beyond_100_names_the_two_aucs(judged: ReportModel) -> None:
    leak = MetricResult(300.0, extra={"auc_ref": 0.8})  # 1 - (1 - 0.8) (1 + 3) = 0.2
    runs = tuple(dataclasses.replace(r, results={**r.results, "privleak": leak}) for r in judged.runs[2:3])
    text = table(dataclasses.replace(judged, runs=(*judged.runs[:2], *runs), shown=("privleak",)))
    assert any("retain model's AUC is 0.800" in note and "this model's AUC is 0.200" in note for note in text.footnotes)
    usual = dataclasses.replace(leak, value=-40.0)
    runs = (dataclasses.replace(runs[0], results={"privleak": usual}),)
    text = table(dataclasses.replace(judged, runs=runs, shown=("privleak",)))
    assert not any("AUC" in note for note in text.footnotes) and math.isfinite(text.rows[0].cells[0].value)
