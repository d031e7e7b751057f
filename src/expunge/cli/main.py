"""The command line. Each command imports its modules when it runs, so that `expunge --help` is quick."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import time
from collections.abc import Sequence

from expunge.cli.arguments import build_parser
from expunge.cli.commands.short import show_notes
from expunge.cli.parser import START
from expunge.core.distributed import launched
from expunge.core.errors import ExpungeError, UserError
from expunge.core.renamed import rename_flags
from expunge.core.terminal import complain, say

# The system refuses to write a file: one line for every command. (Jobs raise their own errors.)
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
KEYED = ("run", "plan", "train", "unlearn", "eval", "semeval", "config")  # commands that take all settings
NO_HOME = "Could not determine home directory."  # the words of pathlib


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 1 a job failed, 2 wrong input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        say(START.rstrip())
        return 0
    try:
        words, parsed = _read(words)
        # Without words from a caller the process has no other task, so its age is the command's.
        parsed.program, parsed.began = argv is None, time.monotonic()
        with _environment(getattr(parsed, "allow_env", False)):
            if getattr(parsed, "out", None) is not None:
                from expunge.cli.outputs import check_outputs

                check_outputs(parsed)
            _load_plugins(parsed.plugin)
            if launched().world > 1:
                from expunge.cli.distributed_launch import run_distributed

                return run_distributed(parsed, words)
            code = int(parsed.command(parsed, words))
        sys.stdout.flush()  # raises BrokenPipeError here, not at the end of the program
        return code
    except ExpungeError as error:
        complain(f"expunge: error: {error}")
        return error.exit_code
    except BrokenPipeError:  # the reader has closed the pipe (| head); the last flush must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        complain("expunge: interrupted; run the same command again to continue")
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            complain(f"expunge: error: {error.filename!s:.60}...: {error.strerror}")
            return 2
        if isinstance(error, RuntimeError) and str(error) == NO_HOME:
            complain("expunge: error: a path starts with ~ and a name that no user of this machine has; write it whole")
            return 2
        if isinstance(error, OSError) and error.errno in REFUSED:
            complain(f"expunge: error: cannot write {error.filename or 'a file'}: {error.strerror}")
            return 1
        from expunge.cli.crash import report_crash

        return report_crash(error, words)


def _environment(allowed: bool) -> contextlib.AbstractContextManager[None]:
    if not allowed:
        return contextlib.nullcontext()
    from expunge.cli.references import environment_readable

    return environment_readable(allowed)


def _read(words: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
    """Return the words of a command under their present names, and the parsed command."""
    for word in words:
        if "\0" in word or (not word.isascii() and word.encode("utf-8", "replace").decode() != word):
            raise UserError(f"{word!r:.80}: is not UTF-8 text, or contains NUL")
    notices: list[str] = []
    named = rename_flags(list(words), notices)
    parsed = _parsed(named)
    show_notes(notices)
    return named, parsed


def _load_plugins(files: Sequence[str]) -> None:
    from importlib.metadata import entry_points

    if files or entry_points(group="expunge.plugins"):
        from expunge.core.plugins import load_plugins

        load_plugins(files)


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words of a command. Settings may stand anywhere: argparse alone accepts only consecutive ones."""
    parser = build_parser(next((word for word in words if not word.startswith("-")), ""))
    parsed, rest = parser.parse_known_args(words)
    settings = next(
        (settings for name in ("overrides", "settings") if (settings := getattr(parsed, name, None)) is not None), None
    )
    if rest and not rest[0].startswith("-") and getattr(parsed, "name", "") is None:
        parsed.name = rest.pop(0)  # argparse reads no optional word that follows an option
    wrong = [word for word in rest if settings is None or word.startswith("-") or "=" not in word]
    if wrong:
        from expunge.cli.projects import answer_of

        takes_keys = parsed.parser.prog.split()[-1] in KEYED
        names = [word.lstrip("-").partition("=")[0] for word in wrong if takes_keys]
        hints = "".join(f"; for {name}, {answer}" for name in names if (answer := answer_of(name)))
        parsed.parser.error(f"unrecognized arguments: {' '.join(wrong)}{hints}")
    if settings is not None:
        settings += rest
    return parsed


if __name__ == "__main__":
    sys.exit(main())
