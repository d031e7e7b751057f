"""The page in a real browser: it draws, its rows can be looked through, and nothing in them runs."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest
from made_up import HOSTILE, Browser, many

from expunge.report.page import LIMIT, to_html

pytestmark = pytest.mark.browser
HOVERED = ".hoverlayer .hovertext"


@pytest.fixture(scope="session")
def page() -> str:
    return to_html(many(6, 120))


def count(tab: Any) -> str:
    return str(tab.text_content("#x-count"))


def all_rows(tab: Any) -> None:
    tab.select_option("#x-set", label="all sets")
    tab.select_option("#x-state", "")


def find_words(tab: Any, words: str) -> None:
    tab.wait_for_function("words => document.querySelector('#x-count').textContent.includes(words)", arg=words)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_draws_without_errors_and_fits(opened: Browser, page: str, tmp_path: Path, width: int, height: int) -> None:
    tab = opened(page, width, height)
    assert tab.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out at the side
    assert tab.locator(".plot .main-svg").count() >= 7
    assert tab.locator("h1").count() == 1
    picture = tmp_path / "page.png"
    tab.screenshot(path=picture)
    assert picture.stat().st_size > 20_000


def test_nothing_in_the_rows_runs(opened: Browser, page: str) -> None:
    tab = opened(page)
    all_rows(tab)
    tab.fill("#x-search", "Question 1: ")
    find_words(tab, "1 found")
    tab.click("#x-rows summary")
    assert HOSTILE in tab.inner_text("#x-rows .inside")
    assert tab.evaluate("window.__pwned") is None
    assert tab.locator("#x-rows script, #x-rows img").count() == 0


def test_search_set_threshold_and_order(opened: Browser, page: str) -> None:
    tab = opened(page)
    all_rows(tab)
    assert count(tab) == "Rows 1 to 50 of 120 rows" and tab.locator("#x-rows > li").count() == 50
    tab.click("#x-next")
    tab.click("#x-next")
    assert count(tab) == "Rows 101 to 120 of 120 rows" and tab.is_disabled("#x-next")
    tab.fill("#x-search", "question 17:")
    find_words(tab, "1 found of 120")
    assert "Question 17:" in tab.inner_text("#x-rows")
    tab.fill("#x-search", "")
    find_words(tab, "of 120 rows")
    tab.select_option("#x-set", label="retain")
    find_words(tab, "60 found")
    tab.select_option("#x-set", label="all sets")
    tab.select_option("#x-model", label="retain")
    totals = {}
    for state in ("known", "forgotten"):
        tab.select_option("#x-state", state)
        totals[state] = int(count(tab).split(" found")[0].split()[-1])
    assert sum(totals.values()) == 119 and min(totals.values()) > 0  # all but the row that has no score
    tab.select_option("#x-state", "known")
    tab.select_option("#x-order", "desc")
    scores = [float(text.split()[-1]) for text in tab.locator("#x-rows .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and min(scores) >= 0.5
    tab.fill("#x-search", "no such words")
    find_words(tab, "No row is like that")


def test_it_starts_at_forget_rows_above_the_retain_model(opened: Browser, page: str) -> None:
    tab = opened(page)
    assert tab.input_value("#x-state") == "above" and "never saw them" in tab.text_content("#x-meaning")
    display = int(count(tab).split(" found")[0].split()[-1])
    assert 0 < display < 60  # some of the 60 forget rows
    tab.click("#x-rows summary")
    tab.wait_for_selector("#x-rows .diff", timeout=10_000)  # a page draws a row once it is open
    assert tab.locator("#x-rows .diff").count() == 1


def test_a_view_is_in_its_address(opened: Browser, page: str) -> None:
    tab = opened(page)
    all_rows(tab)
    tab.select_option("#x-score", label="ROUGE")
    tab.fill("#x-search", "question 17:")
    find_words(tab, "1 found of 120")
    tab.reload()
    tab.wait_for_selector("#x-rows > li")
    assert tab.input_value("#x-search") == "question 17:" and "1 found of 120" in count(tab)
    assert tab.locator("#x-score option:checked").text_content() == "ROUGE"


def test_columns_can_be_hidden(opened: Browser, page: str) -> None:
    tab = opened(page)
    assert tab.evaluate("(t => t.scrollWidth <= t.parentElement.clientWidth)(document.querySelector('#results'))")
    tab.click("#columns summary")
    tab.uncheck("#columns input >> nth=0")
    assert not tab.is_visible("#results thead th >> nth=1")
    tab.reload()
    assert not tab.is_visible("#results thead th >> nth=1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Browser, page: str, scheme: str) -> None:
    """axe-core is not installed by pip; its file is named in EXPUNGE_AXE (npm install axe-core: axe.min.js)."""
    file = os.environ.get("EXPUNGE_AXE")
    if file is None:
        pytest.skip("needs axe.min.js of axe-core, named in EXPUNGE_AXE")
    tab = opened(page)
    tab.emulate_media(color_scheme=scheme)
    tab.evaluate(Path(file).read_text("utf-8"))  # not a script of the page, so its policy holds
    violations = tab.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
    assert violations == []


def test_a_low_truth_ratio_is_still_known(opened: Browser, page: str) -> None:
    tab = opened(page)
    all_rows(tab)
    tab.select_option("#x-score", label="truth ratio")
    assert tab.input_value("#x-threshold") == "1" and "at 1 or less" in tab.text_content("#x-meaning")
    tab.fill("#x-threshold", "0.25")
    tab.select_option("#x-state", "known")
    assert all(float(t.split()[-1]) <= 0.25 for t in tab.locator("#x-rows .score").all_inner_texts())


def test_a_point_says_which_model_it_is(opened: Browser, page: str) -> None:
    tab = opened(page)
    point = tab.locator("#plane-ks .scatterlayer .trace .points path").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector(f"#plane-ks {HOVERED}")
    assert "retain" in tab.text_content(f"#plane-ks {HOVERED}")


def test_the_keyboard_steps_through_the_points(opened: Browser, page: str) -> None:
    tab = opened(page)
    tab.focus("#plane-ks")
    output = set()
    for _ in range(9):
        tab.wait_for_selector(f"#plane-ks {HOVERED}")
        output.add(tab.text_content("#spoken").split(",")[0])
        tab.keyboard.press("ArrowRight")
    assert {"full", "Method 0", "retain: the target"} <= output
    tab.keyboard.press("Tab")
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # where the keyboard is can be seen


def test_print_leaves_out_what_cannot_be_pressed(opened: Browser, page: str) -> None:
    tab = opened(page)
    tab.emulate_media(media="print")
    assert not tab.is_visible(".filters") and not tab.is_visible("nav") and tab.is_visible("#x-rows")


def test_ten_thousand_rows_fit_and_answer_at_once(opened: Browser) -> None:
    page = to_html(many(3, 10_000))
    assert len(page.encode()) < LIMIT
    tab = opened(page)
    all_rows(tab)
    assert count(tab) == "Rows 1 to 50 of 10000 rows"
    started = time.monotonic()
    tab.fill("#x-search", "question 9876:")
    find_words(tab, "1 found of 10000")
    tab.select_option("#x-order", "asc")
    assert time.monotonic() - started < 3


def test_a_long_name_does_not_widen_the_page(opened: Browser) -> None:
    model = many(3, 10)
    name = "x" * 300
    runs = (*model.runs[:2], dataclasses.replace(model.runs[2], label=name))
    explorer = dataclasses.replace(model.explorer, models=(*model.explorer.models[:2], name))
    tab = opened(to_html(dataclasses.replace(model, runs=runs, explorer=explorer)), width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
