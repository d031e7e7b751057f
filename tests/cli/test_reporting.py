"""`expunge report`: the report of what the store holds, and a server that gives out nothing else."""

from __future__ import annotations

import argparse
import http.client
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import plotly.graph_objects as go
import pytest

from expunge.cli import reporting
from expunge.cli.main import main
from expunge.cli.reporting import ReportServer
from expunge.core.errors import ConfigError
from expunge.ui.server import handler


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    (tmp_path / "results.csv").write_text("a,b\n")
    (tmp_path / "secret.txt").write_text("no")
    pages = ReportServer()
    pages.show("<h1>page</h1>", [tmp_path / "results.csv", tmp_path / "gone.csv"])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(pages.find)) as result:
        threading.Thread(target=result.serve_forever, daemon=True).start()
        yield result
        result.shutdown()


def ask(
    server: ThreadingHTTPServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    link.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = link.getresponse()
    findings = answer.status, answer.read(), dict(answer.getheaders())
    link.close()
    return findings


def test_gives_the_page_and_its_files(server: ThreadingHTTPServer) -> None:
    status, body, headers = ask(server, "/")
    assert (status, body, headers["Content-Type"]) == (200, b"<h1>page</h1>", "text/html; charset=utf-8")
    assert ask(server, "/report.html?x=1")[1] == body
    assert ask(server, "/results.csv")[:2] == (200, b"a,b\n")
    status, body, same = ask(server, "/", "HEAD")
    assert (status, body, same["ETag"]) == (200, b"", headers["ETag"])
    assert ask(server, "/", If_None_Match=headers["ETag"])[:2] == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "/..%2fsecret.txt",
        "/gone.csv",
        "/./results.csv",
    ],
)
def test_gives_nothing_else(server: ThreadingHTTPServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_refuses_other_names_and_other_methods(server: ThreadingHTTPServer) -> None:
    assert ask(server, "/", Host=f"evil.example:{server.server_port}")[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0] == 200
    assert ask(server, "/", Host="127.0.0.1")[0] == 200  # what a browser says where the port is 80
    assert ask(server, "/", Host="127.0.0.1.evil.example")[0] == 403
    assert ask(server, "/", "POST")[0] == 405


MICRO = ("report", "study=quickstart", "model=llama-64k", "data.world.authors=6", "data.world.questions_per_author=4")


def test_a_study_that_has_not_run_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*MICRO, f"paths.store={tmp_path / 'store'}", f"paths.output_dir={tmp_path / 'out'}"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "quickstart has no results" in err and "first run: expunge run study=quickstart" in err
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_half_a_study_counts_the_models_without_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = SimpleNamespace(has_results=True, damage={})
    monkeypatch.setattr(reporting, "load_study", lambda *_: study)
    monkeypatch.setattr(reporting, "_write", lambda *_: (SimpleNamespace(missing=[1, 2]), [Path("report.html")]))
    parsed = argparse.Namespace(overrides=["study=x"], plugin=[], serve=None, figures=None)
    assert reporting.report(parsed) == 0
    assert "note: 2 models have no results yet, or failed" in capsys.readouterr().err


def test_one_line_for_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*MICRO, f"paths.store={tmp_path / 'store'}", f"paths.output_dir={tmp_path / 'out'}"]
    assert main([*words, "--serve=99999"]) == 2
    assert main([*words, "--figures=svgg"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "--serve" in errors[0] and "did you mean 'svg'" in errors[1]


def test_serves_until_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*MICRO, f"paths.store={tmp_path / 'store'}", f"paths.output_dir={tmp_path / 'out'}", "--serve=0"]
    calls = []

    def interrupt(seconds: float) -> None:
        port = int(capsys.readouterr().out.split("127.0.0.1:")[1].split("/")[0])
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        link.request("GET", "/")
        calls.append(link.getresponse().read().decode())
        link.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(reporting.time, "sleep", interrupt)
    assert main(words) == 0
    assert "connect-src 'self'" in calls[0] and "not run yet" in calls[0]


def test_figures_need_kaleido(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.report import static

    monkeypatch.setattr(static.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"expunge\[figures\]"):
        static.write_figures(None, tmp_path, ["svg"])  # type: ignore[arg-type]


class _Kaleido:
    """A stand-in of kaleido, whose browser loses the page of each figure in its first `losses` calls."""

    def __init__(self, losses: int) -> None:
        self.losses, self.calls = losses, 0

    def write_fig_from_object_sync(
        self, drawings: list[dict[str, Any]], kopts: dict[str, Any]
    ) -> tuple[Exception, ...]:
        assert kopts["mathjax"] is False  # else the page asks a server of the internet
        self.calls += 1
        if self.calls <= self.losses:
            return (RuntimeError("the page\nwas lost"),) * len(drawings)
        for drawing in drawings:
            drawing["path"].write_text(drawing["opts"]["format"])
        return ()


def _drawn_with(kaleido: _Kaleido, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Path, ...]:
    from expunge.report import static

    plane = SimpleNamespace(name="plane", figure=go.Figure())
    monkeypatch.setattr(static, "figures", lambda model: [plane])
    monkeypatch.setitem(sys.modules, "kaleido", kaleido)
    monkeypatch.setattr(static.importlib.util, "find_spec", lambda name: True)
    return static.write_figures(None, folder, ["svg", "png"])  # type: ignore[arg-type]


def test_a_figure_that_a_busy_browser_lost_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaleido = _Kaleido(losses=1)
    files = _drawn_with(kaleido, monkeypatch, tmp_path)
    assert [(f.name, f.read_text()) for f in files] == [("plane.svg", "svg"), ("plane.png", "png")]
    assert kaleido.calls == 2


def test_a_figure_that_was_not_drawn_is_one_line_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"^--figures: plane.svg could not be drawn \(RuntimeError: the page was lost\)"
    ):
        _drawn_with(_Kaleido(losses=2), monkeypatch, tmp_path)
    assert not list(tmp_path.iterdir())
