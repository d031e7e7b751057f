"""The output folder of an erasure or an audit: whose it is, and who may write to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from expunge.core.errors import ConfigError, JobError
from expunge.pipelines.output_folder import WORK, check_folder, claimed_folder


def check(out: Path, mark: str = "a") -> None:
    check_folder(out, mark, noun="audit", parts="model or rows")


def test_a_new_or_empty_folder_is_free_and_a_file_is_not(tmp_path: Path) -> None:
    check(tmp_path / "new" / "deep")
    check(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"^--out: .*file is a file, not a folder$"):
        check(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"cannot be created: file is a file"):
        check(tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match=r"is not empty; name a new or empty folder$"):
        check(tmp_path)


def test_a_claimed_folder_belongs_to_its_request(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claimed_folder(out, "a", {"model": "m"}, noun="audit") as work:
        assert work == out / WORK and work.stat().st_mode & 0o777 == 0o700
    check(out)
    with pytest.raises(ConfigError, match=r"contains another audit \(other model or rows\)"):
        check(out, "b")
    (out / WORK / "request.json").unlink()
    (out / WORK / "request.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not empty"):
        check(out)


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    (tmp_path / WORK).mkdir()
    with (
        FileLock(tmp_path / WORK / "lock"),
        pytest.raises(ConfigError, match="another process writes an audit to"),
        claimed_folder(tmp_path, "a", {}, noun="audit"),
    ):
        pytest.fail("the folder is locked")


def test_a_failed_write_is_a_line_and_frees_the_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(JobError, match=r"^--out: cannot write under .*: No space left on device$"),
        claimed_folder(tmp_path, "a", {}, noun="audit"),
    ):
        raise OSError(28, "No space left on device")
    with claimed_folder(tmp_path, "a", {}, noun="audit"):
        check(tmp_path)


def test_a_folder_that_another_request_took_in_the_meantime_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check(out, "b")  # an erasure then asks the model, which takes minutes
    with claimed_folder(out, "a", {}, noun="erasure"):
        pass
    with (
        pytest.raises(ConfigError, match="another process has written another erasure to"),
        claimed_folder(out, "b", {}, noun="erasure"),
    ):
        pytest.fail("the folder belongs to another request")
    check(out, "a")


def test_a_run_that_was_killed_before_its_mark_leaves_the_folder_free(tmp_path: Path) -> None:
    work = tmp_path / WORK
    work.mkdir()
    (work / "lock").touch()
    (work / ".request.json.0a1b2c3d.tmp").touch()
    check(tmp_path)
    with claimed_folder(tmp_path, "a", {}, noun="audit"):
        check(tmp_path, "a")
    (work / "request.json").unlink()
    (work / "score").mkdir()
    with pytest.raises(ConfigError, match="is not empty"):
        check(tmp_path)
