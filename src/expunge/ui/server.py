"""A read-only web server on the loopback address: it answers GET and HEAD, and only to addresses of its own list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".json": "application/json",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
TIMEOUT_S = 20  # seconds that a client may take for its request


@dataclass(frozen=True)
class Response:
    """An answer. policy: its content security policy; None: the page has its own."""

    body: bytes
    type: str = TYPES[".html"]
    policy: str | None = None
    status: HTTPStatus = HTTPStatus.OK


Find = Callable[[str], Response | None]


class LocalServer(ThreadingHTTPServer):
    """A server of the loopback address. Its threads end with the program."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing for a client that has gone."""


def serve(find: Find, port: int) -> LocalServer:
    """Return a server at a port of this machine alone (0: any free one). Raises OSError or OverflowError.

    find: returns the answer to an address with its query, or None.
    """
    return LocalServer((HOST, port), handler(find))


def handler(find: Find) -> type[BaseHTTPRequestHandler]:
    """Return the handler of requests for `find`."""

    class Handler(BaseHTTPRequestHandler):
        server_version = "expunge"
        sys_version = ""
        timeout = TIMEOUT_S

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _refuse(self) -> None:
            self.send_response(HTTPStatus.METHOD_NOT_ALLOWED)
            self.send_header("Allow", "GET, HEAD")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = _refuse

        def _answer(self, *, with_body: bool) -> None:
            # Another site may point its host name to this server (DNS rebinding); its pages must not read anything.
            hosts = self.headers.get_all("Host") or []
            if len(hosts) != 1 or (hosts[0].rpartition(":")[0] not in NAMES and hosts[0] not in NAMES):
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            response = find(self.path)
            if response is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            tag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
            same = response.status == HTTPStatus.OK and self.headers.get("If-None-Match") == tag
            self.send_response(HTTPStatus.NOT_MODIFIED if same else response.status)
            for name, value in (
                ("ETag", tag),
                ("Cache-Control", "no-cache"),
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Content-Security-Policy", response.policy),
            ):
                if value is not None:
                    self.send_header(name, value)
            if not same:
                self.send_header("Content-Type", response.type)
                self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            if with_body and not same:
                self.wfile.write(response.body)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing, because the terminal shows other things."""

    return Handler
