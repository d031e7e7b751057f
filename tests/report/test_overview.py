"""The matrix of verdicts: seeds together, nothing said by colour alone, reasons for what is missing."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import pytest
from rich.console import Console

from expunge.report.model import AuditLine, ReportModel
from expunge.report.overview import by_audit, overview
from expunge.report.page import to_html
from expunge.report.text import to_markdown, to_rich

NAN = math.nan


def line(audit: str, name: str, label: str, seed: int, verdict: str, note: str = "") -> AuditLine:
    numbers = (NAN,) * 8 if verdict == "not measurable" else (0.5, 0.4, 0.6, 0.0, 1.0, 0.5, 0.4, 0.6)
    return AuditLine(name, *numbers, verdict, note, audit=audit, label=label, seed=seed)


LINES = (
    line("relearn", "same_rows", "npo", 0, "known"),
    line("relearn", "same_rows", "<b>ga</b>", 0, "no trace"),
    line("probe", "truth", "npo", 0, "not measurable", "no layer <i>differs</i>"),
    line("relearn", "same_rows", "npo", 1, "trace"),
    line("relearn", "same_rows", "<b>ga</b>", 1, "no trace"),
    line("probe", "truth", "npo", 1, "trace"),
    line("relearn", "other_rows", "npo", 0, "trace"),
    line("relearn", "other_rows", "npo", 1, "undecided"),
    line("relearn", "other_rows", "npo", 2, "trace"),
)


@pytest.fixture
def audited(model: ReportModel) -> ReportModel:
    return dataclasses.replace(model, audits=LINES)


def test_seeds_are_one_cell_and_say_where_they_disagree(audited: ReportModel) -> None:
    text = overview(audited)
    assert text.columns == (("relearn", "same_rows"), ("relearn", "other_rows"), ("probe", "truth"))
    assert text.spans == [("relearn", 2), ("probe", 1)]
    content = {label: [[str(v) for v in cell.verdicts] for cell in cells] for label, cells in text.rows}
    assert content == {
        "npo": [
            ["\u25d0 trace", "\u25cf known"],
            ["\u25d0 trace (n=2)", "? undecided (n=1)"],
            ["\u25d0 trace", "\u2013"],
        ],
        "<b>ga</b>": [["\u25cb no trace"], ["\u2013"], ["\u2013"]],
    }
    assert text.footnotes == ("no layer <i>differs</i>", "not run on this model")
    assert [cell.notes for cell in text.rows[0][1]] == [(), (), (1,)]
    assert [cell.notes for cell in text.rows[1][1]] == [(), (2,), (2,)]


def test_the_findings_of_an_audit_stand_together_and_so_do_seeds(audited: ReportModel) -> None:
    result = by_audit(audited)
    assert list(result) == ["relearn", "probe"]
    assert [(x.name, x.label, x.seed) for x in result["relearn"]][:4] == [
        ("same_rows", "npo", 0), ("same_rows", "npo", 1), ("same_rows", "<b>ga</b>", 0), ("same_rows", "<b>ga</b>", 1),
    ]  # fmt: skip


def test_the_page_shows_the_matrix_first_and_folds_the_findings(audited: ReportModel) -> None:
    page = to_html(audited)
    part = page[page.index('<h2 id="h-audits">') :]
    part = part[: part.index("</section>")]
    matrix, folded = part.split("<details", 1)
    assert "<details" in page and matrix.count("<table") == 1 and folded.count("<table") == 2
    assert '<th scope="colgroup" colspan="2">relearn</th>' in matrix
    assert all("scope=" in head for head in re.findall(r"<th[^>e][^>]*>", part))
    plain = " ".join(re.sub(r"<[^>]+>", "", matrix).split())
    assert "\u25d0 trace and \u25cf known" in plain and "\u2013 not measurable 1" in plain
    assert "<b>ga" not in part and "<i>differs" not in part and "&lt;i&gt;differs" in matrix
    assert 'href="#audit-note-1"' in matrix and 'id="audit-note-1"' in matrix
    assert folded.count("<tr>") == len(LINES) + 2


def test_markdown_has_the_matrix_its_footnotes_and_all_findings(audited: ReportModel) -> None:
    text = to_markdown(audited)
    assert "| model | relearn: same_rows | relearn: other_rows | probe: truth |" in text
    assert "| npo | \u25d0 trace / \u25cf known | " in text and "\u2013[^audit-1] |" in text
    assert "[^audit-1]: no layer &lt;i&gt;differs" in text
    folded = text[text.index("<details>") : text.index("</details>")]
    assert folded.count("(seed ") == len(LINES) and "### relearn" in folded


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_prints_the_matrix_and_says_where_the_rest_is(audited: ReportModel, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_rich(audited))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\u25cf known" in output and "(1) no layer <i>differs" in output and "audits.json" in output
    assert max(len(text) for text in output.splitlines()) <= width
    assert "position" not in output


def test_the_terminal_prints_few_findings_whole(audited: ReportModel) -> None:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(to_rich(dataclasses.replace(audited, audits=LINES[:3])))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "- npo (seed 0), relearn: same_rows: known, position 0.5 [0.4, 0.6]" in output
    assert "- npo (seed 0), probe: truth: not measurable, position \u2013; no layer" in output


def test_a_collapsed_model_is_said_to_be_one_beside_its_verdicts(model: ReportModel) -> None:
    lines = tuple(line("relearn", "same_rows", label, 0, "no trace") for label in ("npo", "ga"))
    model = dataclasses.replace(model, audits=lines, utility_floor=0.64)
    # npo has utilities of 0.5 and 0.375, ga one of 0.125; the full model's is 0.625 and the floor 0.64 of it, 0.4
    assert overview(model).flags == {"npo": "below the utility floor (n=1 of 2)", "ga": "below the utility floor"}
    assert "| ga (below the utility floor) | \u25cb no trace |" in to_markdown(model)
    page = to_html(model)
    assert re.search(r'ga(?:</span>)? <span class="flag">below the utility floor</span></th>\s*<td', page)
    out = io.StringIO()
    Console(file=out, width=200).print(to_rich(model))
    assert re.search(r"^ga ! +\u25cb no trace", out.getvalue(), re.MULTILINE)
