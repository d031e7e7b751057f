"""The output folder of a program that keeps its store in it: the folder belongs to one request and can be continued."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from expunge.core.errors import ConfigError, JobError
from expunge.core.files import read_sealed, write_sealed

WORK = ".expunge"
MARK, LOCK = "request.json", "lock"


def check_folder(out: Path, mark: str, *, noun: str, parts: str) -> None:
    """Raise ConfigError unless a folder is new, empty, or has a run of this request.

    Args:
        out: The output folder.
        mark: The fingerprint of the request.
        noun: The kind of the run, such as "erasure".
        parts: The parts of a request that the mark covers, such as "rows, model or settings".
    """
    if check_free(out):
        return
    if _stored_mark(out) != mark:
        raise ConfigError(
            f"--out: {out} contains another {noun} (other {parts}); name a new folder, or give the same {parts} to "
            "continue it"
        )


def check_free(out: Path) -> bool:
    """Return whether a folder is new or empty. Raises ConfigError unless it is so, or has a run of some request."""
    if not out.exists():
        above = next(p for p in out.absolute().parents if p.exists())
        if not above.is_dir():
            raise ConfigError(f"--out: {out} cannot be created: {above.name} is a file, not a folder")
        return True
    if not out.is_dir():
        raise ConfigError(f"--out: {out} is a file, not a folder")
    if _is_free(out):
        return True
    _stored_mark(out)
    return False


def _is_free(out: Path) -> bool:
    """Return whether a folder is empty, or has only the start of a run that was killed before it wrote its mark."""
    names = {path.name for path in out.iterdir()}
    if names != {WORK} or not (out / WORK).is_dir():
        return not names
    return all(path.name == LOCK or path.name.startswith(f".{MARK}.") for path in (out / WORK).iterdir())


def _stored_mark(out: Path) -> object:
    try:
        return read_sealed(out / WORK / MARK)["request"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"--out: {out} is not empty; name a new or empty folder") from None


@contextlib.contextmanager
def claimed_folder(out: Path, mark: str, settings: Mapping[str, Any], *, noun: str) -> Iterator[Path]:
    """Create an output folder, mark it as this request's, and lock it. Yields the folder of its store.

    Args:
        out: The output folder.
        mark: The fingerprint of the request.
        settings: The settings to store next to the mark, without rows.
        noun: The kind of the run.

    Raises:
        ConfigError: If the folder cannot be created, another process uses it, or another request has taken it since
            `check_folder`.
        JobError: If a file in it cannot be written.
    """
    work = out / WORK
    try:
        out.mkdir(parents=True, exist_ok=True)
        work.mkdir(mode=0o700, exist_ok=True)  # it contains the rows to forget
    except OSError as error:
        raise ConfigError(f"--out: cannot create {out}: {error.strerror}") from None
    lock = FileLock(work / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"--out: another process writes an {noun} to {out}") from None
    try:
        if not (work / MARK).exists():
            write_sealed(work / MARK, {"request": mark, "settings": settings})
        elif _stored_mark(out) != mark:
            raise ConfigError(f"--out: another process has written another {noun} to {out}; name a new folder")
        yield work
    except OSError as error:
        raise JobError(f"--out: cannot write under {out}: {error.strerror or error}") from error
    finally:
        lock.release()
