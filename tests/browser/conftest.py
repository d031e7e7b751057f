"""A browser to open pages with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up import Browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine; the tests are skipped where it or playwright is absent."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    result = os.environ.get("EXPUNGE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if result is None:
        pytest.skip("needs chromium (apt-get install chromium), or its path in EXPUNGE_BROWSER")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=result, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Browser]:
    """Open an address or a page given as text, wait until its figures are drawn; no error may be told meanwhile."""
    errors: list[str] = []
    contexts = []

    def open_page(page: str, width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        if not page.startswith("http:"):
            file = tmp_path / "report.html"
            file.write_text(page, encoding="utf-8")
            page = file.as_uri()
        screen = {"viewport": {"width": width, "height": height}, "has_touch": width < 500, "color_scheme": scheme}
        context = chromium.new_context(**screen)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page)
        if tab.locator("script").count():  # pages without a script have nothing to draw
            tab.wait_for_selector("html[data-drawn]", timeout=60_000, state="attached")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
