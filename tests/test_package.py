"""What `import expunge` does by itself."""

from __future__ import annotations

import logging

import pytest

import expunge


def test_of_bitsandbytes_one_message_alone_is_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    assert expunge.__version__
    name = "bitsandbytes.backends.cpu.ops"
    with caplog.at_level(logging.WARNING, logger=name):
        logging.getLogger(name).warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
        logging.getLogger(name).warning("Failed to load another thing: %s", "why")
    assert [record.getMessage() for record in caplog.records] == ["Failed to load another thing: why"]
