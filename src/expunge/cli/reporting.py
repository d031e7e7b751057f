"""`expunge report`: write the report of a study from its present results, and serve it while the study runs."""

from __future__ import annotations

import hashlib
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, say
from expunge.pipelines.study.grid_reports import in_one, write_reports
from expunge.pipelines.study.handle import StudyHandle, load_study
from expunge.report.model import ReportModel
from expunge.report.page import to_html
from expunge.report.static import check_formats, write_figures

HOST = "127.0.0.1"
EVERY_S = 5.0  # seconds between looks at the store
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".pdf": "application/pdf",
}


def report(overrides: Sequence[str], plugins: Sequence[str], port: int | None, formats: str | None) -> int:
    """Write the report and, with a port, serve it until an interrupt."""
    kinds = tuple(part.strip() for part in (formats or "").split(",") if part.strip())
    check_formats(kinds)
    study = load_study(overrides, plugins)
    command = shlex.join(["expunge", "run", *overrides])
    if port is None:
        if not study.has_results:
            raise ConfigError(
                f"study: {study.graph.study.name} has no results in {study.store.root} yet; first run: {command}"
            )
        _, paths = _write(study, command, kinds)
        say(f"report: {next(path for path in paths if path.name == 'report.html')}")
        return print_damage(study)
    pages = ReportServer()
    try:
        server = ThreadingHTTPServer((HOST, port), handler(pages))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--serve: cannot listen on port {port}: {error}") from None
    with server:
        done = _refresh(study, command, kinds, pages, None)
        say(f"serving http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            while True:
                time.sleep(EVERY_S)
                done = _refresh(study, command, kinds, pages, done)
        except KeyboardInterrupt:
            complain("ended")
        finally:
            server.shutdown()
    return 0


def _write(study: StudyHandle, command: str, kinds: tuple[str, ...]) -> tuple[ReportModel, tuple[Path, ...]]:
    reports, folder = study.stored_reports(command), study.graph.study.output_dir
    model = in_one(reports)
    paths = write_reports(reports, folder, study.graph.axes)
    return model, (*paths, *(write_figures(model, folder, kinds) if kinds else ()))


def print_damage(study: StudyHandle) -> int:
    """Name the jobs whose stored results cannot be used, on standard error. Returns 1 if there are any."""
    for name, reason in study.damage.items():
        complain(f"lost: {name}: {reason}")
    return 1 if study.damage else 0


def _refresh(
    study: StudyHandle, command: str, kinds: tuple[str, ...], pages: ReportServer, before: frozenset[str] | None
) -> frozenset[str]:
    """Write the report again if more jobs are done. Returns the keys of the finished jobs."""
    done = frozenset(planned.job.key for planned in study.plan() if planned.state == "hit")
    if done != before:
        model, paths = _write(study, command, kinds)
        pages.show(to_html(model, live=True), paths)
    return done


class ReportServer:
    """The page and the files of a report. The server returns no other file of the folder."""

    def __init__(self) -> None:
        self._page = b""
        self._files: Mapping[str, Path] = {}

    def show(self, page: str, files: Sequence[Path]) -> None:
        """Replace the page, and the files by their names."""
        self._files = {path.name: path for path in files}
        self._page = page.encode()

    def find(self, path: str) -> tuple[str, bytes] | None:
        """Return the media type and contents of an address, or None."""
        name = unquote(urlsplit(path).path).removeprefix("/")
        if name in ("", "report.html"):
            return KINDS[".html"], self._page
        file = self._files.get(name)
        if file is None:
            return None
        try:
            return KINDS.get(file.suffix, "application/octet-stream"), file.read_bytes()
        except OSError:
            return None


def handler(pages: ReportServer) -> Callable[..., BaseHTTPRequestHandler]:
    """Return a read-only request handler of `pages`."""

    class Handler(BaseHTTPRequestHandler):
        server_version = "expunge"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            # Another site may point its host name to this server (DNS rebinding); its pages must not read the report.
            if (self.headers.get("Host") or "").partition(":")[0] not in (HOST, "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            response = pages.find(self.path)
            if response is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            kind, body = response
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            same = self.headers.get("If-None-Match") == tag
            self.send_response(HTTPStatus.NOT_MODIFIED if same else HTTPStatus.OK)
            for name, value in (
                ("ETag", tag),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
            ):
                self.send_header(name, value)
            if not same:
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body and not same:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing, because the terminal shows the study."""

    return Handler
