"""The page: nothing from outside, nothing unescaped, and it says what it must."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from expunge.metrics.api import MetricResult
from expunge.report import page as page_module
from expunge.report.curves import audit_figures
from expunge.report.model import AuditLine, Explorer, ReportEntry, ReportModel, ReportProvenance, ReportRun, RowScore
from expunge.report.page import packed_plotly, to_html
from expunge.report.section import GridSection, Section
from expunge.report.text import to_csv, to_markdown


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


def without_library(page: str) -> str:
    return page.replace(packed_plotly(), "")


def figures_of(page: str) -> list[str | None]:
    return [a.get("id") for t, a in Seen(page).tags if t == "div" and a.get("class") == "plot"]


@pytest.fixture
def page(model: ReportModel) -> str:
    return to_html(model)


def test_loads_nothing_from_outside(page: str) -> None:
    view = Seen(page)
    for tag, attributes in view.tags:
        assert "src" not in attributes, tag
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert re.match(r"#|data:", attributes.get("href") or "#"), attributes
    own = without_library(page)
    assert len(own) < 200_000 < len(page) < 2_500_000  # the library is inside, once, and packed
    assert 'src="http' not in own and 'href="http' not in own
    policy = next(a["content"] for t, a in view.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_no_button_that_sends_data_away(page: str) -> None:
    own = without_library(page)
    assert 'modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]]' in own and "sendChartToCloud" not in own


def test_labels_and_generations_are_escaped(page: str) -> None:
    own = without_library(page)
    assert "<script>alert(" not in own and "<b>authors" not in own
    view = Seen(page)
    assert not any("alert('said')" in script for script in view.scripts)
    text = "".join(view.text)
    assert "<script>alert('label')</script> [red]|x" in text
    assert "He.</dd><script>alert('said')</script>" in text
    assert "Forgetting <b>authors</b>" in text


def test_figures_escape_labels_twice(model: ReportModel) -> None:
    """plotly decodes its JSON and then reads HTML in it, so the label must be escaped for both."""
    hostile = ReportRun("<a href='x'>y</a>", "unlearn", results=model.runs[0].results)
    own = without_library(to_html(dataclasses.replace(model, runs=(hostile,))))
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


def test_the_choice_comes_before_links_and_a_long_command(model: ReportModel) -> None:
    page = without_library(to_html(dataclasses.replace(model, command="expunge run " + "key=value " * 40)))
    places = [page.index(part) for part in ("<h1>", '<p class="choice">', "<nav", "<summary>The command", "key=value")]
    assert places == sorted(places) and page.count('class="choice"') == 1


def test_figures_with_captions(page: str) -> None:
    assert figures_of(page) == ["plane-p", "plane-ks", "ecdf", "strips", "cost"]
    text = "".join(Seen(page).text)
    assert "lie outside" in text and "drawn at the edge" in text


def test_the_data_link_holds_the_csv(model: ReportModel, page: str) -> None:
    link = next(a["href"] for t, a in Seen(page).tags if t == "a" and a.get("download") == "results.csv")
    assert link is not None and unquote(link.split(",", 1)[1]) == to_csv(model)


def test_a_report_without_runs_is_still_a_page(model: ReportModel) -> None:
    page = to_html(dataclasses.replace(model, runs=(), samples=()))
    assert "rmu" in page and packed_plotly() not in page
    assert "No run has truth ratios of single rows." in page


def test_extreme_numbers_do_not_stop_the_page(model: ReportModel) -> None:
    rows = {0: {"score": 0.0}, 1: {"score": 1e308}, 2: {"score": float("nan")}, 3: {"score": float("inf")}}
    wild = {
        "forget_truth_ratio": MetricResult(0.5, per_row=rows),
        "forget_quality": MetricResult(0.0),
        "model_utility": MetricResult(0.0),
    }
    assert "plane-p" in to_html(dataclasses.replace(model, runs=(ReportRun("wild", "unlearn", results=wild),)))


def test_other_metrics_have_their_own_figures(model: ReportModel) -> None:
    def run(name: str, role: str, forget: float, retain: float) -> ReportRun:
        results = {"forget_knowmem_ROUGE": MetricResult(forget), "retain_knowmem_ROUGE": MetricResult(retain)}
        return ReportRun(name, role, results=results)  # type: ignore[arg-type]

    runs = (run("full", "full", 0.8, 0.7), run("retain", "retain", 0.3, 0.7), run("<b>npo</b>", "unlearn", 0.4, 0.6))
    display = ("forget_knowmem_ROUGE", "privleak", "retain_knowmem_ROUGE")
    muse = dataclasses.replace(model, runs=runs, shown=display, utility="retain_knowmem_ROUGE")
    page = to_html(muse)
    assert figures_of(page) == ["plane", "strips"]
    text = "".join(Seen(page).text)
    assert "forget knowledge and utility" in text and "Privacy leakage" in text and "KS distance" not in text


def test_metrics_without_figures_make_a_page_without_them(model: ReportModel) -> None:
    runs = (ReportRun("a", "unlearn", results={"x": MetricResult(1.0)}),)
    page = to_html(dataclasses.replace(model, runs=runs, samples=(), shown=("x",), utility="y"))
    assert packed_plotly() not in page and "1.000" in page


def test_rows_cannot_end_their_script(model: ReportModel) -> None:
    rows = tuple(
        ReportEntry("forget", k, "</script><script>alert(1)</script>", "yes", ("no",), ((0.5,),)) for k in range(3)
    )
    page = to_html(dataclasses.replace(model, explorer=Explorer(("npo",), (RowScore("probability"),), rows)))
    assert "alert(1)" not in without_library(page)  # packed: no text of a row stands in the page as it is
    data = next(script for script in Seen(page).scripts if script.startswith('"H4s') and packed_plotly() not in script)
    unpacked = json.loads(gzip.decompress(base64.b64decode(json.loads(data))))
    assert unpacked["question"] == ["</script><script>alert(1)</script>"] * 3
    assert "All 3 rows are here." in " ".join("".join(Seen(page).text).split())


def test_says_how_many_rows_are_shown(model: ReportModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "LIMIT", 0)
    monkeypatch.setattr(page_module, "MIN_ROWS", 1500)
    rows = tuple(ReportEntry("forget", k, f"{k * k}?", str(k**7), (str(k**9),), ((0.5,),)) for k in range(300))
    page = to_html(dataclasses.replace(model, explorer=Explorer(("npo",), (RowScore("probability"),), rows)))
    view = re.search(r"(\d+) of 300 rows are in this page", "".join(Seen(page).text))
    assert view is not None and 10 < int(view[1]) < 300
    assert "rows.parquet" in page


def test_all_metrics_with_direction_and_interval(model: ReportModel) -> None:
    page = to_html(dataclasses.replace(model, directions={"model_utility": "more is kept"}))
    text = "".join(Seen(page).text)
    assert "more is kept" in text and "All 6 metrics" in text


def test_how_it_was_made(model: ReportModel) -> None:
    result = ReportProvenance("study: <x>\n", ("torch 2.13",), ("cpus 2",), "training [0]", ("expunge run study=x",))
    text = "".join(Seen(to_html(dataclasses.replace(model, making=result))).text)
    for part in ("study: <x>", "torch 2.13", "cpus 2", "training [0]", "expunge run study=x"):
        assert part in text


def test_audits_in_a_table_and_as_curves(model: ReportModel) -> None:
    audit = AuditLine(
        "same rows", 0.5, 0.4, 0.6, 0.0, 1.0, 0.25, 0.2, 0.3, "trace", "comes <b>back",
        {"model_at_0": 0.1, "model_at_50": 0.5, "retain_at_0": 0.0, "retain_at_50": 0.2, "recovery_steps": 3.0},
        audit="relearn", label="npo", seed=0,
    )  # fmt: skip
    page = to_html(dataclasses.replace(model, audits=(audit,)))
    text = "".join(Seen(page).text)
    assert "comes <b>back" in text and "0.5 [0.4, 0.6]" in text and "audit-relearn-same-rows" in figures_of(page)
    assert "0, 0.1; 50, 0.5" in text  # the curve in numbers, for those who do not see it


def layered(label: str, seed: str, height: float) -> AuditLine:
    details = {f"{side}_layer_{k}": height + k for side in ("model", "retain", "full") for k in range(40)}
    ends = (0.5, 0.4, 0.6)
    return AuditLine("truth", *ends, 0.0, 1.0, *ends, "trace", "", details, audit="probe", label=label, seed=seed)


def test_figures_by_layer_have_whole_ticks_and_one_legend_entry_for_all_seeds(model: ReportModel) -> None:
    lines = (layered("npo", "0/0", 0.0), layered("npo", "1/0", 0.5), layered("ga", "0/0", 0.0))
    about = audit_figures(dataclasses.replace(model, audits=lines))[0]
    assert about.figure is not None
    assert about.figure.layout.xaxis.dtick == 4  # 40 layers, 12 ticks at most
    assert [trace.name for trace in about.figure.data if trace.showlegend] == ["npo", "ga", "retain", "full"]
    names = [name for name, _ in about.numbers]
    assert names == [
        "npo, seed 0/0", "npo, seed 1/0", "ga", "retain, seed 0", "retain, seed 1", "full, seed 0", "full, seed 1",
    ]  # fmt: skip
    few = dataclasses.replace(lines[0], details={"model_layer_0": 0.5, "model_layer_3": 0.25})
    assert audit_figures(dataclasses.replace(model, audits=(few,)))[0].figure.layout.xaxis.dtick == 1  # type: ignore[union-attr]


def test_settings_break_after_signs_and_never_within_numbers(model: ReportModel) -> None:
    run = dataclasses.replace(model.runs[2], settings="learning_rate=3e-4, x=<b>")
    page = to_html(dataclasses.replace(model, runs=(run,)))
    settings = page.partition('<span class="settings">')[2].partition("</th>")[0]
    pieces = re.findall(r'<span class="piece">(.*?)</span>', settings)
    assert pieces == ["learning_rate=", "3e-4,", "x=", "&lt;b&gt;"]


def test_every_link_within_the_page_leads_somewhere(model: ReportModel) -> None:
    grid = GridSection("All <i>.", ("metric", "value"), (("<b>m", "1"),), "metric")
    sections = (Section("meta", "Meta-evaluation", "Meta", "About <it>.", (grid,)),)
    audits = (layered("npo", "0", 0.0),)
    page = to_html(dataclasses.replace(model, sections=sections, audits=audits))
    view = Seen(page)
    ids = {a["id"] for _, a in view.tags if "id" in a}
    links = [a["href"] for tag, a in view.tags if tag == "a" and (a.get("href") or "").startswith("#")]
    assert {f"#h-{name}" for name in ("results", "meta", "reading", "audits", "figures", "notes")} <= set(links)
    assert {str(link)[1:] for link in links} <= ids
    assert "<b>m" not in page and "<i>." not in page and "&lt;b&gt;m" in page
    assert "| &lt;b&gt;m | 1 |" in to_markdown(dataclasses.replace(model, sections=sections))


def test_trajectories_and_memory(model: ReportModel) -> None:
    points = ({"step": 0, "forget_Q_A_Prob": 0.5}, {"step": 5, "forget_Q_A_Prob": 0.25})
    run = dataclasses.replace(model.runs[0], trajectory=points, memory_gb=1.5)
    page = to_html(dataclasses.replace(model, runs=(run, *model.runs[1:])))
    assert "trajectory-forget-q-a-prob" in figures_of(page)
    assert "memory GB" in page and "1.500" in page


def test_every_table_has_a_caption_and_every_figure_a_name(model: ReportModel) -> None:
    view = Seen(to_html(model))
    tags = [tag for tag, _ in view.tags]
    assert tags.count("table") == tags.count("caption") > 3
    names = {a.get("id") for _, a in view.tags}
    assert all(a["aria-labelledby"] in names for tag, a in view.tags if tag == "figure")
    assert next(tag for tag in tags if tag in ("h1", "h2")) == "h1" and tags.count("h1") == 1


def test_asks_its_server_only_when_served(model: ReportModel) -> None:
    assert "connect-src" not in to_html(model) and "ETag" not in without_library(to_html(model))
    assert "connect-src 'self'" in to_html(model, live=True)
