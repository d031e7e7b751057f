"""The files of `expunge erase --verify-commitment`: keys and cards that no erasure has written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expunge.core.errors import ConfigError
from expunge.pipelines.erase.commitment import MOST_BYTES, read_key, stated_commitment

KEYS = {
    "nothing": (None, "cannot be read: No such file or directory"),
    "no JSON": (b"{", "not JSON"),
    "bytes": (b"\xff\xfe", "not JSON"),
    "deep": (b"[" * 200_000, "not JSON"),
    "a list": (b"[]", "no key of 64 hex digits"),
    "a number": (b'{"key": 5}', "no key of 64 hex digits"),
    "a short key": (b'{"key": "ab"}', "no key of 64 hex digits"),
    "too long": (b" " * (MOST_BYTES + 1), "more than 10000000 bytes"),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_wrong_key_file_is_one_line(tmp_path: Path, case: str) -> None:
    content, reason = KEYS[case]
    if content is not None:
        (tmp_path / "key.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^--key: .*key.json .*{reason}; name the erasure_key.json of the erasure$"):
        read_key(tmp_path / "key.json")


def test_a_device_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a file"):
        read_key(Path("/dev/zero"))
    os.mkfifo(tmp_path / "README.md")
    with pytest.raises(ConfigError, match=r"^--verify-commitment: .*README.md cannot be read: not a file$"):
        stated_commitment(tmp_path)


def test_a_card_without_a_commitment_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("erasure_commitment: abc\n")
    with pytest.raises(ConfigError, match="has no line erasure_commitment"):
        stated_commitment(tmp_path)
