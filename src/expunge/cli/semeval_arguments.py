"""The arguments of `expunge semeval`. The command's modules are imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.cli.vocabulary import SEMEVAL_EXPERIMENT


def add_semeval(commands: Any) -> None:
    """Add `semeval` to the commands of a parser."""
    text = "SemEval-2025 Task 4: unlearn within a time limit, with a complete model in the output folder from early on"
    sub = commands.add_parser("semeval", help=text, description=f"{text}.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help=f"settings (default: {SEMEVAL_EXPERIMENT})")
    sub.add_argument("--model", required=True, metavar="DIR", help="the model to unlearn from: a folder or a hub id")
    sub.add_argument("--forget", required=True, metavar="DIR", help="a folder with forget.parquet or forget.jsonl")
    sub.add_argument("--retain", required=True, metavar="DIR", help="a folder with retain.parquet or retain.jsonl")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder for the model")
    sub.add_argument(
        "--time-limit", metavar="1h", help="wall-clock time, saving included: 1h, 45m, 90s (default: none)"
    )
    sub.add_argument("--save-every", default="5m", metavar="5m", help="interval between saved models (default: 5m)")
    sub.add_argument("--validation", metavar="DIR", help="forget and retain rows for evaluation, never trained on")
    sub.add_argument("--score", action="store_true", help="then measure it officially, outside the time limit")
    sub.add_argument("--mia", metavar="DIR", help="the membership documents, for --score")
    sub.add_argument("--mmlu", metavar="DIR", help="MMLU's questions, for --score")
    sub.set_defaults(command=_semeval, plugin=[])


def _semeval(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.semeval import run_semeval

    return run_semeval(parsed)
