"""The server of this machine: hosts, methods, headers, and its command."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from expunge.cli.main import main
from expunge.ui.routes import Routes
from expunge.ui.server import LocalServer, serve


@pytest.fixture
def server(routes: Callable[[], Routes]) -> Iterator[LocalServer]:
    with serve(routes().find, 0) as result:
        threading.Thread(target=result.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield result
        result.shutdown()


def ask(server: LocalServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    link.request(method, path, headers=headers)
    answer = link.getresponse()
    out = answer.status, answer.read(), dict(answer.getheaders())
    link.close()
    return out


def test_it_listens_on_this_machine_alone(server: LocalServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_headers_of_the_start_page(server: LocalServer) -> None:
    status, body, headers = ask(server, "/")
    assert status == 200 and b"<h1>Workspace</h1>" in body
    assert headers["X-Frame-Options"] == "DENY" and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert ask(server, "/", "HEAD")[:2] == (200, b"")
    for path, kind in (
        ("/style.css", "text/css"),
        ("/script.js", "text/javascript"),
        ("/runs.json", "application/json"),
    ):
        assert ask(server, path)[2]["Content-Type"].startswith(kind)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "[::1]", "0.0.0.0"])
def test_another_host_is_refused(server: LocalServer, host: str) -> None:
    status, body, _ = ask(server, "/", Host=host)
    assert status == 403 and b"Workspace" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:9"])
def test_the_names_of_this_machine_are_served(server: LocalServer, host: str) -> None:
    assert ask(server, "/", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_reading(server: LocalServer, method: str) -> None:
    status, _, headers = ask(server, "/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/nothing", "/page"]
)
def test_an_unknown_address_is_not_found(server: LocalServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def raw(server: LocalServer, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as link:
        link.sendall(text)
        return link.recv(2000)


def test_two_hosts_and_a_broken_request(server: LocalServer) -> None:
    assert b" 403 " in raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert b"Error code: 400" in raw(server, b"GET\xff / / HTTP/9\r\n\r\n")
    assert ask(server, "/")[0] == 200  # it still answers


def test_a_port_in_use_is_one_line(server: LocalServer, saves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", str(saves), "--port", str(server.server_port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"expunge: error: --port: cannot listen on port {server.server_port}: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "FOLDER: nowhere is no folder"),
        ([], "FOLDER: saves is no folder; run a study first, or name a folder"),
        (["--store", "nowhere"], "--store: nowhere is no folder"),
        (["--port", "99999999"], "FOLDER: saves is no folder"),
    ],
)
def test_a_folder_that_is_not_there(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ui", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_command_says_where_and_ends_cleanly(
    saves: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: LocalServer, poll_interval: float = 0.5) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalServer, "serve_forever", interrupted)
    assert main(["ui", str(saves), "--port", "0"]) == 0
    out, err = capsys.readouterr()
    assert "3 studies, 3 measured models, 4 other pages" in out
    assert "open http://127.0.0.1:" in out and "Ctrl-C ends it" in out and err == "ended\n"
