"""`import expunge` by itself, and the start of the program."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import expunge
from expunge.__main__ import run


def test_of_bitsandbytes_one_message_alone_is_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    assert expunge.__version__
    name = "bitsandbytes.backends.cpu.ops"
    with caplog.at_level(logging.WARNING, logger=name):
        logging.getLogger(name).warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
        logging.getLogger(name).warning("Failed to load another thing: %s", "why")
    assert [record.getMessage() for record in caplog.records] == ["Failed to load another thing: why"]


def test_ctrl_c_during_the_first_imports_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "expunge.cli.main", Interrupted())
    assert run() == 130
    assert capsys.readouterr().err == "expunge: interrupted\n"


HANGS = """
import sys, threading, types
import expunge.__main__ as program

def main():
    threading.Thread(target=threading.Event().wait).start()  # waits for ever
    return 130

program.EXIT_S = 0.2
sys.modules["expunge.cli.main"] = types.SimpleNamespace(main=main)
sys.exit(program.run())
"""


def test_an_interrupted_process_ends_though_a_thread_of_it_waits() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
