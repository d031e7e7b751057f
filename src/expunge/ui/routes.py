"""The addresses of the workspace. A path is looked up in the list of files that were found, never on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from expunge.core.errors import ConfigError, DataError, JobError
from expunge.ui import pages
from expunge.ui.server import TYPES, Response
from expunge.ui.workspace import Workspace, scan

# The own pages load their own style and script. Reports have both inside: they run in an origin of their own, so that
# a page from somebody else cannot read the workspace, and they load nothing.
OWN = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
REPORT = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
Words = Mapping[str, Sequence[str]]  # of an address, after the question mark
FRESH_S = 1.5  # seconds that a look at the folders counts


class Routes:
    """Answers to the addresses of one workspace."""

    def __init__(self, folders: Sequence[Path], stores: Sequence[Path]) -> None:
        self._folders, self._stores = tuple(folders), tuple(stores)
        self._seen = -FRESH_S
        self._now: Workspace | None = None
        self._style = Response(pages.style().encode(), TYPES[".css"], OWN)
        self._script = Response(pages.script().encode(), TYPES[".js"], OWN)

    def workspace(self) -> Workspace:
        """Return the present contents of the folders."""
        if self._now is None or time.monotonic() - self._seen > FRESH_S:
            self._now = scan(self._folders, self._stores)
            self._seen = time.monotonic()
        return self._now

    def find(self, address: str) -> Response | None:
        """Return the answer to an address, or None."""
        try:
            parts = urlsplit(address)
            path = unquote(parts.path, errors="strict")
            words = parse_qs(parts.query, max_num_fields=8)
        except ValueError:
            return None
        match path.split("/"):
            case ["", ""]:
                return _own(pages.home(self.workspace()))
            case ["", "style.css"]:
                return self._style
            case ["", "script.js"]:
                return self._script
            case ["", "runs.json"]:
                return Response(pages.live(self.workspace()).encode(), TYPES[".json"], OWN)
            case ["", "compare"]:
                return self._answer(lambda: Response(self._comparison(words).encode(), policy=REPORT))
            case ["", "rows"]:
                return self._answer(lambda: _own(self._rows(words)))
            case ["", "page", page, *name]:
                return self._file(page, "/".join(name))
        return None

    def _comparison(self, words: Words) -> str:
        return pages.comparison(self.workspace(), *(_word(words, key) for key in ("a", "b")))

    def _rows(self, words: Words) -> str:
        return pages.rows(self.workspace(), *(_word(words, key) for key in ("a", "b", "set", "q", "page")))

    def _answer(self, page: Callable[[], Response]) -> Response:
        """Return a page, or a page with the reason if there is none."""
        try:
            return page()
        except ConfigError as error:
            return _own(pages.message("No such page", str(error)), HTTPStatus.BAD_REQUEST)
        except (JobError, DataError) as error:
            return _own(pages.message("A damaged result", str(error)), HTTPStatus.CONFLICT)

    def _file(self, page: str, name: str) -> Response | None:
        known = self.workspace().page(page)
        file = known.files.get(name) if known else None
        if file is None or file.is_symlink():
            return None
        try:
            return Response(file.read_bytes(), TYPES.get(file.suffix, "application/octet-stream"), REPORT)
        except OSError:
            return None


def _word(words: Words, key: str) -> str:
    return words.get(key, [""])[0]


def _own(page: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(page.encode(), policy=OWN, status=status)
