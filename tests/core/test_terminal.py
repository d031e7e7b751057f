"""No word of a user reaches the terminal as a control character."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.core.console import Console
from expunge.core.terminal import printable, say, say_json

HOSTILE = "a\x1b[31mb\x07\x9b2J\u202ec\r"


def test_printable_shows_codes_and_keeps_lines() -> None:
    assert printable(HOSTILE) == r"a\x1b[31mb\x07\x9b2J\u202ec\r"
    assert printable("a\tb\n日 年 é") == "a\tb\n日 年 é"


def test_say_replaces_what_the_stream_cannot_encode() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    say("é \ud800", file=stream)
    assert raw.getvalue() == b"\\xe9 \\ud800\n"


def test_json_for_programs_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"nan": float("nan"), "far": [float("inf"), 0.5], "none": None, "yes": True, "path": Path("a/é")})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    line = capsys.readouterr().out
    assert line.isascii() and line.count("\n") == 1
    assert json.loads(line, parse_constant=refuse) == {
        "nan": None, "far": [None, 0.5], "none": None, "yes": True, "path": "a/é"
    }  # fmt: skip


def test_a_console_writes_only_its_own_codes() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard")
    console.print(HOSTILE, style="red", markup=False, highlight=False)
    output = out.getvalue()
    assert output.startswith("\x1b[31ma\\x1b[31mb") and output.count("\x1b") == 2 and "\x9b" not in output


INTERRUPTED_IN_A_DEL = """
import signal, time
from expunge.core.terminal import keep_interrupts
class Held:
    def __del__(self): signal.raise_signal(signal.SIGINT); [None for _ in range(9)]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for commands in the background
keep_interrupts()
try:
    Held()
    time.sleep(20)
    print("lost")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_in_the_removal_of_an_object_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IN_A_DEL], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


WARNED_AGAIN = """
import logging
from expunge.core.terminal import warn_once
warn_once()
for rate in (1, 1, 2, 1):
    logging.getLogger("expunge.training").warning("rate %d", rate)
"""


def test_a_warning_of_each_job_is_printed_once() -> None:
    done = subprocess.run([sys.executable, "-c", WARNED_AGAIN], capture_output=True, text=True, timeout=60)
    assert done.stderr == "rate 1\nrate 2\n"
