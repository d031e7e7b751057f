"""`expunge ui`: show studies, models and pages in a browser of this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.terminal import complain, say

PORT = 8100
SAVES = Path("saves")


def add_ui(commands: Any) -> None:
    """Add `ui` to the commands of a parser."""
    text = "show all studies, models and pages in a browser of this machine; changes nothing"
    sub = commands.add_parser("ui", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help=f"folders with reports and results (default: {SAVES})"
    )
    sub.add_argument(
        "--store", action="append", default=[], type=Path, metavar="DIR", help="a store that is in no such folder"
    )
    sub.add_argument("--port", type=int, default=PORT, help=f"0: any free port (default: {PORT})")
    sub.set_defaults(command=_ui)


def _ui(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    folders = parsed.folders or ([] if parsed.store else [SAVES])
    for name, paths in (("FOLDER", folders), ("--store", parsed.store)):
        for path in paths:
            if not path.is_dir():
                hint = "; run a study first, or name a folder" if not parsed.folders and name == "FOLDER" else ""
                raise ConfigError(f"{name}: {path} is no folder{hint}")
    from expunge.ui.routes import Routes
    from expunge.ui.server import serve

    routes = Routes(folders, parsed.store)
    try:
        server = serve(routes.find, parsed.port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--port: cannot listen on port {parsed.port}: {reason}; --port 0 takes any free one"
        ) from None
    with server:
        shown = routes.workspace()
        say(f"{len(shown.studies)} studies, {len(shown.models)} measured models, {len(shown.pages)} other pages")
        say(f"open http://127.0.0.1:{server.server_port}/ in a browser of this machine (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            complain("ended")
    return 0
