"""A page of every kind fits a desk and a phone, in light and dark, runs nothing of its texts, and passes axe."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up import Browser
from page_kinds import KINDS, saves

from expunge.ui.routes import Routes
from expunge.ui.server import serve

pytestmark = pytest.mark.browser
SIZES = {"desk": (1280, 900, "light"), "phone": (390, 844, "light"), "dark": (1280, 900, "dark")}


def check(tab: Any, width: int, tmp_path: Path) -> None:
    """The page is not wider than the screen, its texts ran nothing, and axe finds nothing."""
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("window.__pwned") is None
    assert tab.locator("h1").count() == 1
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    file = os.environ.get("EXPUNGE_AXE")
    if file is not None:  # axe-core is not installed by pip
        tab.evaluate(Path(file).read_text("utf-8"))
        violations = tab.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
        assert violations == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_fits(opened: Browser, tmp_path: Path, kind: str, size: str) -> None:
    width, height, scheme = SIZES[size]
    check(opened(KINDS[kind](), width, height, scheme), width, tmp_path)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(Routes([saves(tmp_path_factory.mktemp("made") / "saves")], []).find, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("size", SIZES)
def test_the_workspace_fits(opened: Browser, address: str, tmp_path: Path, size: str) -> None:
    width, height, scheme = SIZES[size]
    check(opened(address, width, height, scheme), width, tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_the_rows_of_two_models_fit(opened: Browser, address: str, tmp_path: Path, size: str) -> None:
    width, height, scheme = SIZES[size]
    tab = opened(address, width, height, scheme)
    tab.select_option("select[name=a]", label="eval: before")
    tab.select_option("select[name=b]", label="eval: after")
    tab.click("button >> text=Rows before and after")
    tab.wait_for_selector("article .diff ins")
    assert "30 rows" in tab.inner_text("[role=status]")
    check(tab, width, tmp_path)
    tab.click("text=Next rows")
    tab.wait_for_selector("text=Page 2 of 2")
    assert tab.locator("article").count() == 5


def test_the_studies_are_filtered_by_the_keyboard(opened: Browser, address: str) -> None:
    tab = opened(address)
    assert tab.text_content("#f-count") == "2 studies"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.focus("#f-words")
    tab.keyboard.type("second")
    assert tab.text_content("#f-count") == "1 of 2 studies"
    tab.reload()
    assert tab.input_value("#f-words") == "second" and tab.text_content("#f-count") == "1 of 2 studies"
    tab.select_option("#f-method", "Method 1")
    tab.fill("#f-words", "no such study")
    assert tab.text_content("#f-count") == "0 of 2 studies"


def test_a_report_opens_in_an_origin_of_its_own(opened: Browser, address: str) -> None:
    tab = opened(address)
    tab.click("#studies a >> text=first")
    tab.wait_for_selector("html[data-drawn]", state="attached", timeout=30_000)
    assert tab.text_content("h1") == "A study of many" and tab.locator(".plot .main-svg").count() >= 7
    assert tab.evaluate("self.origin") == "null"
    tab.select_option("#x-set", label="all sets")  # its own script runs
    tab.go_back()
    assert tab.text_content("h1") == "Workspace"
