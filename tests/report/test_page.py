"""The page: nothing from outside, nothing unescaped, and it says what it must."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from plotly.offline import get_plotlyjs

from expunge.metrics.api import Result
from expunge.report.model import ReportModel, Run
from expunge.report.page import to_html
from expunge.report.text import to_csv


class Seen(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text.append(data)


@pytest.fixture
def page(model: ReportModel) -> str:
    return to_html(model)


def test_loads_nothing_from_outside(page: str) -> None:
    seen = Seen(page)
    for tag, attributes in seen.tags:
        assert "src" not in attributes, tag
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert re.match(r"#|data:", attributes.get("href") or "#"), attributes
    own = page.replace(get_plotlyjs(), "")
    assert len(own) < 200_000 < len(page)  # the library is inside, once
    assert 'src="http' not in own and 'href="http' not in own
    policy = next(a["content"] for t, a in seen.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_no_button_that_sends_data_away(page: str) -> None:
    own = page.replace(get_plotlyjs(), "")
    assert '"modeBarButtons"' in own and "sendChartToCloud" not in own


def test_labels_and_generations_are_escaped(page: str) -> None:
    own = page.replace(get_plotlyjs(), "")
    assert "<script>alert(" not in own and "<b>authors" not in own
    seen = Seen(page)
    assert not any("alert('said')" in script for script in seen.scripts)
    text = "".join(seen.text)
    assert "<script>alert('label')</script> [red]|x" in text
    assert "He.</dd><script>alert('said')</script>" in text
    assert "Forgetting <b>authors</b>" in text


def test_figures_escape_labels_twice(model: ReportModel) -> None:
    """plotly decodes its JSON and then reads HTML in it, so the label must be escaped for both."""
    hostile = Run("<a href='x'>y</a>", "unlearn", results=model.runs[0].results)
    own = to_html(dataclasses.replace(model, runs=(hostile,))).replace(get_plotlyjs(), "")
    assert r"\u003ca href" not in own
    assert "&lt;a href" in own


def test_shows_table_reading_samples_and_missing(page: str) -> None:
    text = " ".join("".join(Seen(page).text).split())
    for part in (
        "3.4e-35", "[0.438, 0.562]", "below the utility floor", "not an effect size", "0.354", "(nothing)", 
        "a note & more",
        "the loss was not finite at step 3", "generation was switched off", "forget: 8 rows",
    ):  # fmt: skip
        assert part in text, part
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_four_figures_with_captions(page: str) -> None:
    names = [a.get("id") for t, a in Seen(page).tags if t == "div" and a.get("class") == "plotly-graph-div"]
    assert names == ["plane-p", "plane-ks", "ecdf", "strips"]
    text = "".join(Seen(page).text)
    assert "lie outside" in text and "drawn at the edge" in text


def test_the_data_link_holds_the_csv(model: ReportModel, page: str) -> None:
    link = next(a["href"] for t, a in Seen(page).tags if t == "a" and a.get("download") == "results.csv")
    assert link is not None and unquote(link.split(",", 1)[1]) == to_csv(model)


def test_a_report_without_runs_is_still_a_page(model: ReportModel) -> None:
    page = to_html(dataclasses.replace(model, runs=(), samples=()))
    assert "rmu" in page and get_plotlyjs() not in page
    assert "No run has truth ratios of single rows." in page


def test_extreme_numbers_do_not_stop_the_page(model: ReportModel) -> None:
    rows = {0: {"score": 0.0}, 1: {"score": 1e308}, 2: {"score": float("nan")}, 3: {"score": float("inf")}}
    wild = {
        "forget_truth_ratio": Result(0.5, per_row=rows),
        "forget_quality": Result(0.0),
        "model_utility": Result(0.0),
    }
    assert "plane-p" in to_html(dataclasses.replace(model, runs=(Run("wild", "unlearn", results=wild),)))


def test_other_metrics_have_their_own_figures(model: ReportModel) -> None:
    def run(name: str, role: str, forget: float, retain: float) -> Run:
        results = {"forget_knowmem_ROUGE": Result(forget), "retain_knowmem_ROUGE": Result(retain)}
        return Run(name, role, results=results)  # type: ignore[arg-type]

    runs = (run("full", "full", 0.8, 0.7), run("retain", "retain", 0.3, 0.7), run("<b>npo</b>", "unlearn", 0.4, 0.6))
    shown = ("forget_knowmem_ROUGE", "privleak", "retain_knowmem_ROUGE")
    muse = dataclasses.replace(model, runs=runs, shown=shown, utility="retain_knowmem_ROUGE")
    seen = Seen(to_html(muse))
    names = [a.get("id") for t, a in seen.tags if t == "div" and a.get("class") == "plotly-graph-div"]
    assert names == ["plane", "strips"]
    text = "".join(seen.text)
    assert "forget knowledge and utility" in text and "Privacy leakage" in text and "KS distance" not in text


def test_metrics_without_figures_make_a_page_without_them(model: ReportModel) -> None:
    runs = (Run("a", "unlearn", results={"x": Result(1.0)}),)
    page = to_html(dataclasses.replace(model, runs=runs, samples=(), shown=("x",), utility="y"))
    assert get_plotlyjs() not in page and "1.000" in page
