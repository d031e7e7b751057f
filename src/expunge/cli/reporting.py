"""`expunge report`: write the report of a study from its present results, and serve it while the study runs."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from expunge.cli.parser import command_line
from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, say
from expunge.pipelines.study.grid_reports import in_one, write_reports
from expunge.pipelines.study.handle import StudyHandle, load_study
from expunge.report.model import ReportModel
from expunge.report.page import to_html
from expunge.report.static import check_formats, write_figures
from expunge.ui.server import HOST, TYPES, Response, serve

EVERY_S = 5.0  # seconds between looks at the store


def report(parsed: argparse.Namespace) -> int:
    """Write the report and, with a port, serve it until an interrupt."""
    port = parsed.serve
    kinds = tuple(part.strip() for part in (parsed.figures or "").split(",") if part.strip())
    check_formats(kinds)
    from expunge.cli.run_folders import with_words

    words = with_words(parsed.overrides)
    study = load_study(words, parsed.plugin)
    command = command_line("run", words, parsed)
    if port is None:
        if not study.has_results:
            raise ConfigError(
                f"study: {study.graph.study.name} has no results in {study.store.root} yet; first run: {command}"
            )
        model, paths = _write(study, command, kinds)
        if model.missing:
            complain(f"note: {len(model.missing)} models have no results yet, or failed")
        say(f"report: {next(path for path in paths if path.name == 'report.html')}")
        say("next:   open the page; `expunge ui` shows it next to those of other studies")
        return print_damage(study)
    pages = ReportServer()
    try:
        server = serve(pages.find, port)
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

    def find(self, path: str) -> Response | None:
        """Return the page or a file by its address, or None."""
        name = unquote(urlsplit(path).path).removeprefix("/")
        if name in ("", "report.html"):
            return Response(self._page)
        file = self._files.get(name)
        if file is None:
            return None
        try:
            return Response(file.read_bytes(), TYPES.get(file.suffix, "application/octet-stream"))
        except OSError:
            return None
