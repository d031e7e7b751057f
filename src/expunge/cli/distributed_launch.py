"""Run a command in several processes of a launcher: one process prints, and one failure ends all."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec

from expunge.core.distributed import first_to_fail, joined, launched, sharding
from expunge.core.errors import ConfigError, ExpungeError
from expunge.core.terminal import complain

NO_DEEPSPEED = "which is not installed: pip install 'expunge[deepspeed]'"
COMMANDS = ("train", "unlearn", "eval")


def run_distributed(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Run the command together with the other processes. Returns the exit code if it is refused; otherwise exits.

    The first process that fails prints the reason and exits. The launcher ends the processes that wait for it; the
    others exit without a message. After success the process exits without the interpreter's clean-up of objects.
    Communication threads of a sharded model still run then, and abort the process in some runs.
    """
    mode = getattr(parsed, "mode", "")
    if mode not in COMMANDS or getattr(parsed, "refresh", None):
        if launched().first:
            raise ConfigError(f"{words[0]}: runs in one process; commands for several processes: {', '.join(COMMANDS)}")
        return 2
    if sharding() == "deepspeed" and find_spec("deepspeed") is None:
        if launched().first:
            raise ConfigError(f"{words[0]}: the launcher requests DeepSpeed, {NO_DEEPSPEED}; or use fsdp2")
        return 2
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # hides the hints that the model wrapper prints in every run
    try:
        with joined() as rank:
            if not rank.first:
                logging.getLogger("expunge").setLevel(logging.ERROR)  # all processes have the same warnings
            code = int(parsed.command(parsed, words))
        atexit._run_exitfuncs()  # trackers send their last values here
    except BaseException as error:
        code = _code(error)
        if first_to_fail():
            _say(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # after an error, a normal exit would block on a pending collective


def _code(error: BaseException) -> int:
    if isinstance(error, ExpungeError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _say(error: BaseException) -> None:
    if isinstance(error, ExpungeError):
        complain(f"expunge: error: {error}")
    elif isinstance(error, KeyboardInterrupt):
        complain("expunge: interrupted; run the same command again to continue")
    elif _is_disconnect(error):
        complain("expunge: error: another process of this launch has died without a message (killed?)")
    else:
        traceback.print_exception(error)


def _is_disconnect(error: BaseException) -> bool:
    """Return whether a collective failed because another process died."""
    message = str(error).lower()
    return isinstance(error, RuntimeError) and ("connection" in message or "gloo" in message or "nccl" in message)
