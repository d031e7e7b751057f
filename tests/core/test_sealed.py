"""Sealed JSON files: each changed bit is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.core.files import read_sealed, write_sealed


def test_a_value_comes_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": {"c": "é\n"}, "d": "sha256"}
    write_sealed(tmp_path / "one.json", value)
    assert read_sealed(tmp_path / "one.json") == value


def test_each_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_sealed(path, {"loss": 0.25, "label": "x"})
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="checksum"):
            read_sealed(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sha256": ""}', '{"a": 1}\n'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(ValueError, match="checksum"):
        read_sealed(tmp_path / "one.json")
