"""A command that a launcher has started in several processes: one of them speaks, and one failure ends them all."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec

from expunge.core.distributed import first_to_fail, joined, launched, sharding
from expunge.core.errors import ConfigError, ExpungeError

NO_DEEPSPEED = "which is not installed: pip install 'expunge[deepspeed]'"
COMMANDS = ("train", "unlearn", "eval")


def in_several(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Do the command together with the other processes. The first that fails says why, and ends; the launcher ends
    those that still wait for it, and those that notice end in silence."""
    mode = getattr(parsed, "mode", "")
    if mode not in COMMANDS or getattr(parsed, "refresh", None):
        if launched().first:
            raise ConfigError(
                f"{words[0]}: is done by one process; under a launcher of several these work: {', '.join(COMMANDS)}"
            )
        return 2
    if sharding() == "deepspeed" and find_spec("deepspeed") is None:
        if launched().first:
            raise ConfigError(f"{words[0]}: the launcher asks for DeepSpeed, {NO_DEEPSPEED}; or use fsdp2")
        return 2
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what wraps the model tells of each run what it could save
    try:
        with joined() as rank:
            if not rank.first:
                logging.getLogger("expunge").setLevel(logging.ERROR)  # what is worth a warning is so in all of them
            return int(parsed.command(parsed, words))
    except BaseException as error:
        code = _code(error)
        if first_to_fail():
            _say(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # an exchange that is still under way would keep a plain exit waiting


def _code(error: BaseException) -> int:
    if isinstance(error, ExpungeError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _say(error: BaseException) -> None:
    if isinstance(error, ExpungeError):
        print(f"expunge: error: {error}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print("expunge: interrupted; run the same command again to go on", file=sys.stderr)
    elif _lost(error):
        print("expunge: error: another process of this launch has gone without a word (killed?)", file=sys.stderr)
    else:
        traceback.print_exception(error)


def _lost(error: BaseException) -> bool:
    """Return whether an exchange broke because another process is no longer there."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("connection" in said or "gloo" in said or "nccl" in said)
