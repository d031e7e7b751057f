from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from expunge.core.errors import ConfigError
from expunge.core.files import check_place, sweep_parts, whole_folder, write_bytes, write_json, write_parts, write_text


def everything(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "er" / "a.txt", "é")
    assert (tmp_path / "deep/er/a.txt").read_bytes() == "é".encode()
    write_bytes(tmp_path / "deep/er/a.txt", b"new")
    assert (tmp_path / "deep/er/a.txt").read_bytes() == b"new"
    assert everything(tmp_path) == {"deep", "deep/er", "deep/er/a.txt"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_bytes(tmp_path / "a", b"old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert everything(tmp_path) == {"a"}


def test_json_is_readable_and_refuses_nan_before_it_touches_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"k": [1, None, "é"]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"k": [1, None, "é"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"k": [1, None, "é"]}


def test_a_folder_appears_when_the_block_ends_not_before(tmp_path: Path) -> None:
    target = tmp_path / "kind" / "made"
    with whole_folder(target) as part:
        (part / "sub").mkdir()
        (part / "sub/a").write_text("x")
        assert not target.exists()
        assert part.parent == target.parent  # so that the rename stays on one file system
    assert everything(tmp_path) == {"kind", "kind/made", "kind/made/sub", "kind/made/sub/a"}


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), whole_folder(tmp_path / "made") as part:
        (part / "a").write_text("x")
        raise RuntimeError("midway")
    assert everything(tmp_path) == set()


def test_a_folder_that_is_there_already_is_kept(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/old").write_text("old")
    with pytest.raises(FileExistsError, match="appeared"), whole_folder(tmp_path / "made") as part:
        (part / "new").write_text("new")
    assert everything(tmp_path) == {"made", "made/old"}


def test_sweeping_removes_only_what_attempts_at_this_folder_left(tmp_path: Path) -> None:
    for name in (".made.1234abcd.part", ".other.1234abcd.part", "made"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("x")
    sweep_parts(tmp_path / "made")
    assert {p.name for p in tmp_path.iterdir()} == {".other.1234abcd.part", "made"}


@pytest.mark.parametrize("place", ["loop", "loop/x", "absent", "absent/y"])
def test_a_link_to_nothing_cannot_be_a_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "absent").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"^paths\.store: .* is a link to nothing"):
        check_place(tmp_path / place, "paths.store")


@pytest.mark.parametrize("fill", ["file", "folder"])
def test_a_full_disk_is_reported_with_the_path(tmp_path: Path, fill: str) -> None:
    """A write error of the system has no path: /dev/full gives one without a full disk."""

    def parts() -> Iterator[bytes]:
        yield b"first"
        with open("/dev/full", "wb") as full:
            full.write(b"second")
            full.flush()

    with pytest.raises(OSError, match="No space left on device") as error:
        if fill == "file":
            write_parts(tmp_path / "out", parts())
        else:
            with whole_folder(tmp_path / "out"):
                list(parts())
    assert error.value.filename == str(tmp_path / "out") and list(tmp_path.iterdir()) == []
