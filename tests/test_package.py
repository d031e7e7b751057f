"""`import expunge` by itself, and the start of the program."""

from __future__ import annotations

import logging
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
