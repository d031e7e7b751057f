"""`expunge leaderboard STUDY...`: one page of the methods of several studies."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError
from expunge.core.files import check_place, write_text
from expunge.core.terminal import complain, say

if TYPE_CHECKING:
    from expunge.report.leaderboard_page import LeaderboardStudy

FILE = Path("saves/leaderboard.html")


def add_leaderboard(commands: Any) -> None:
    """Add `leaderboard` to the commands of a parser."""
    text = "write one page with the methods of several studies"
    sub = commands.add_parser("leaderboard", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument(
        "studies",
        nargs="+",
        metavar="STUDY",
        help="a study that has run (NAME or FILE.yaml); its further words in quotes: 'study=NAME seeds.unlearn=[0,1]'",
    )
    sub.add_argument("--out", type=Path, default=FILE, metavar="FILE.html", help=f"the page (default: {FILE})")
    sub.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help=argparse.SUPPRESS)
    sub.set_defaults(command=_leaderboard)


def _leaderboard(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    check_place(parsed.out.parent, "--out")
    studies = [_study(text, parsed.out.parent) for text in parsed.studies]
    from expunge.report.leaderboard_page import leaderboard_page

    write_text(parsed.out, leaderboard_page(studies, shlex.join(["expunge", *words])))
    say(f"page: {parsed.out} ({len(studies)} {'study' if len(studies) == 1 else 'studies'})")
    say("next: open it; each cell leads to the report of its study")
    return 0


def _study(text: str, folder: Path) -> LeaderboardStudy:
    from expunge.cli.config_files import options, study_hint

    words = shlex.split(text) if "=" in text else [f"study={text}"]
    name = next((word.removeprefix("study=") for word in words if word.startswith("study=")), "")
    if name not in options("study") and not Path(name).expanduser().is_file():
        raise ConfigError(f"leaderboard: {text!r} is no study{study_hint(name)}")
    from expunge.pipelines.study.handle import load_study
    from expunge.report.leaderboard_page import LeaderboardStudy

    handle = load_study(words)
    stored = handle.stored()
    if not stored.runs:
        raise ConfigError(f"leaderboard: {stored.study} has no results in {handle.store.root} yet; run it first")
    if stored.missing:
        complain(f"note: {stored.study}: {len(stored.missing)} models have no results yet, or failed")
    page = handle.graph.study.output_dir / "report.html"
    link = os.path.relpath(page, folder) if page.is_file() else ""
    return LeaderboardStudy(stored.study, stored, link, shlex.join(["expunge", "run", *words]))
