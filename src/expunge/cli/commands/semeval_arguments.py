"""The arguments of `expunge semeval`. The command's modules are imported when it runs."""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core.process_age import process_began
from expunge.core.terminal import complain

SEMEVAL_EXPERIMENT = "experiment=semeval/iterative"  # the default


def add_semeval(commands: Any) -> None:
    """Add `semeval` to the commands of a parser."""
    text = "SemEval-2025 Task 4: unlearn within a time limit, with a complete model in the output folder from early on"
    sub = commands.add_parser("semeval", help=text, description=f"{text}.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help=f"settings (default: {SEMEVAL_EXPERIMENT})")
    for names, needed, text in (
        (("--model", "--input_model_path"), True, "the model to unlearn from: a folder or a hub id"),
        (
            ("--forget", "--forget_set"),
            True,
            "a folder with forget.parquet, forget.jsonl or the hub's files; or a file",
        ),
        (
            ("--retain", "--retain_set"),
            True,
            "a folder with retain.parquet, retain.jsonl or the hub's files; or a file",
        ),
        (("--validation",), False, "forget and retain rows for evaluation, never trained on"),
        (("--forget-validation", "--forget_val_set"), False, "its forget rows, a folder or a file"),
        (("--retain-validation", "--retain_val_set"), False, "its retain rows, a folder or a file"),
    ):
        sub.add_argument(*names, required=needed, metavar="DIR", help=text)
    sub.add_argument(
        "--out", "--output_model_path", required=True, type=Path, metavar="DIR",
        help="a new or empty folder for the model",
    )  # fmt: skip
    sub.add_argument(
        "--time-limit", metavar="1h",
        help="wall-clock time from the start of the command, saving included: 1h, 45m, 90s (default: none)",
    )  # fmt: skip
    sub.add_argument("--save-every", default="5m", metavar="5m", help="interval between saved models (default: 5m)")
    sub.add_argument(
        "--save-steps", "--save_steps", type=int, metavar="N", help="also keep every n-th step in DIR/checkpoint-<step>"
    )
    sub.add_argument("--score", action="store_true", help="then measure it officially, outside the time limit")
    sub.add_argument("--mia", metavar="DIR", help="the membership documents, for --score")
    sub.add_argument("--mmlu", metavar="DIR", help="MMLU's questions, for --score")
    sub.set_defaults(command=_semeval)


def _semeval(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Start the clock and copy the given model, which take no heavy import, and run the command."""
    from expunge.core.durations import seconds
    from expunge.core.errors import ExpungeError, UserError
    from expunge.pipelines.hard_end import HardEnd
    from expunge.pipelines.submission_folder import SubmissionFolder, check_folder

    if parsed.program:
        parsed.began = process_began()
    out = parsed.out.expanduser()
    parsed.limit = None if parsed.time_limit is None else seconds(parsed.time_limit, "--time-limit")
    parsed.hard_end = parsed.output = None
    if parsed.limit is not None and parsed.program:
        _check_input(parsed)
        check_folder(out)
        parsed.hard_end = HardEnd.of_limit(parsed.began, parsed.limit, lambda: _nothing(out))
        output = SubmissionFolder(out)
        parsed.output = output if output.start_with(parsed.model) else None
    from expunge.cli.commands.semeval import run_semeval

    code = 1
    try:
        code = run_semeval(parsed)
        return code
    except ExpungeError as error:
        code = error.exit_code
        if isinstance(error, UserError) and parsed.output is not None:
            shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        if parsed.hard_end is not None:
            atexit.register(_leave, code)


def _check_input(parsed: argparse.Namespace) -> None:
    """Run the checks that need no torch. Raises ConfigError or DataError."""
    from expunge.cli.compose import check
    from expunge.data.loaders.semeval import load_sides
    from expunge.models.config import check_source

    if not named_model(parsed.model):
        check_source(parsed.model, "--model")
    named = any(word.startswith("experiment=") for word in parsed.overrides)
    check("unlearn", [*([] if named else [SEMEVAL_EXPERIMENT]), *parsed.overrides, "task_name=semeval"])
    load_sides({"forget": parsed.forget, "retain": parsed.retain})


def named_model(model: str) -> list[str]:
    """Return the word for a shipped name of a model with weights; none for a folder or a hub id.

    Raises ConfigError for a preset, which has no weights.
    """
    from expunge.cli.compose import options
    from expunge.models.config import looks_local, refuse_preset

    if looks_local(model):
        return []
    refuse_preset(model, "--model")
    return [f"model={model}"] if model in options("model") else []


def _leave(code: int) -> None:
    """End the process without the clean-up of its libraries, which takes seconds on a loaded machine."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _nothing(out: Path) -> int:
    """Write the status at the hard end of a run that had no step yet, and return the exit code."""
    from expunge.pipelines.submission_folder import nothing_learned, write_status

    reason = "the time limit ended the process before the first step"
    write_status(out, {"stopped": "time", "steps": 0, "planned": 0, "note": reason})
    complain(f"expunge: error: {nothing_learned(out)}")
    return 1
