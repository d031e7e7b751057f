"""Sealed JSON files: each changed bit is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expunge.core.files import check_sealed_folder, read_note, read_sealed, seal_folder, write_note, write_sealed
from expunge.core.fingerprints import file_sha256


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


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    """A pipe has no writer, and /dev/zero has no end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_sealed, file_sha256):
            with pytest.raises(OSError, match="not a file"):
                read(path)


def test_each_change_of_a_sealed_folder_is_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    seal_folder(tmp_path)
    check_sealed_folder(tmp_path)
    (tmp_path / "b").write_text("B")
    with pytest.raises(ValueError, match=r"^b is damaged: its checksum is not the stored one$"):
        check_sealed_folder(tmp_path)
    (tmp_path / "b").unlink()
    with pytest.raises(ValueError, match=r"^b is missing$"):
        check_sealed_folder(tmp_path)
    (tmp_path / "b").write_text("b")
    (tmp_path / "c").write_text("c")
    with pytest.raises(ValueError, match=r"^c is not in checksums.json$"):
        check_sealed_folder(tmp_path)
    (tmp_path / "c").unlink()
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(ValueError, match=r"^checksums.json is missing$"):
        check_sealed_folder(tmp_path)


def test_a_note_is_that_of_its_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_note(tmp_path / name, {"fact": name})
    write_sealed(tmp_path / "no note", {"fact": "x"})
    assert read_note(tmp_path / "one") == {"fact": "one"}
    (tmp_path / "two").replace(tmp_path / "one")
    for name in ("one", "no note"):
        with pytest.raises(ValueError, match="under another name"):
            read_note(tmp_path / name)
