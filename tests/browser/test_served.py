"""A page that is served takes the newer one when there is one."""

from __future__ import annotations

import dataclasses
import threading
from http.server import ThreadingHTTPServer

import pytest
from made_up import Browser, many

from expunge.cli.reporting import ReportServer
from expunge.report.page import to_html
from expunge.ui.server import handler

pytestmark = pytest.mark.browser


def test_a_served_page_follows_the_study(opened: Browser) -> None:
    model, pages = many(3, 5), ReportServer()
    pages.show(to_html(model, live=True), ())
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(pages.find)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            tab = opened(f"http://127.0.0.1:{server.server_port}/")
            assert tab.text_content("h1") == "A study of many"
            tab.evaluate("ask()")
            pages.show(to_html(dataclasses.replace(model, title="One job later"), live=True), ())
            tab.evaluate("void ask()")
            tab.wait_for_selector("h1:text('One job later')", timeout=20_000)
            tab.wait_for_selector("html[data-drawn]", state="attached")
            tab.context.close()
        finally:
            server.shutdown()
