"""Atomic files: written next to their target, flushed to disk, and renamed. A sealed file has its own checksum."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import file_sha256, open_regular

CHECKSUM = "sha256"
CHECKSUMS = "checksums.json"  # in a sealed folder: the checksums of its other files
READ, READ_WRITE = 0o444, 0o666
NOTE = "note"  # in a note: the name of its file
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of a file until one of the two is written


def check_place(folder: Path, key: str, *, writable: bool = False) -> None:
    """Raise ConfigError if a folder cannot exist at a path, or (`writable`) cannot be written there."""
    try:
        above = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {str(folder)!r:.80}: {getattr(error, 'strerror', None) or error}") from None
    if not above.exists():
        raise ConfigError(f"{key}: {folder} cannot be a folder: {above} is a link to nothing; name a folder")
    if not above.is_dir():
        raise ConfigError(f"{key}: {folder} cannot be a folder: {above} is a file; name a folder")
    if writable and not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {folder} cannot be written: no permission in {above}; name another folder")


def write_bytes(path: Path, data: bytes, allowed: int | None = None) -> None:
    """Replace `path` by `data` atomically; a reader sees the old file or the new one. allowed: as in `write_parts`."""
    write_parts(path, (data,), allowed)


def write_parts(path: Path, parts: Iterable[bytes], allowed: int | None = None) -> None:
    """Replace `path` atomically by parts, one after the other, for data that does not fit into memory at once.

    allowed: the permissions that the file may have, as in `set_modes`; None: the default permissions of new files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with _naming(path), open(temporary, "wb") as f:
            for part in parts:
                f.write(part)
            if allowed is not None:
                os.fchmod(f.fileno(), path.parent.stat().st_mode & allowed)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by UTF-8 text, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by JSON, as `write_bytes` does. Raises ValueError for NaN: the caller writes it as null."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def set_modes(folder: Path, allowed: int = READ_WRITE) -> None:
    """Make all files of a folder as readable as the folder itself, so that texts and weights have equal modes.

    Libraries choose different modes for the files that they write.

    Args:
        folder: The folder.
        allowed: The permissions that files may have: READ or READ_WRITE.
    """
    mode = folder.stat().st_mode & allowed
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o7777 != mode:
            file.chmod(mode)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add a path to a disk error of the block that names none: the system does not, if a write fails."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def whole_folder(
    path: Path, allowed: int = READ_WRITE, *, before_rename: Callable[[], None] | None = None
) -> Iterator[Path]:
    """Yield a fresh folder to fill; it becomes `path` only if the block ends without an error.

    allowed: the permissions of its files (`set_modes`). before_rename: the last check; its error leaves no folder.

    Raises FileExistsError if `path` exists when the block ends. A killed process leaves a folder whose name starts with
    a dot and ends in `.part`; `sweep_parts` removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    handle = os.open(part, os.O_RDONLY)  # while it is open, no other folder has its number
    try:
        with _naming(path):
            yield part
        set_modes(part, allowed)
        for file in part.rglob("*"):
            if file.is_file():
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        if path.exists():
            raise FileExistsError(f"{path} appeared while it was being written")
        if before_rename is not None:
            before_rename()
        if not os.path.samestat(part.stat(), os.fstat(handle)):
            raise FileNotFoundError(errno.ENOENT, "another process has removed the unfinished folder", str(part))
        os.rename(part, path)
        _sync_folder(path.parent)
    finally:
        os.close(handle)
        shutil.rmtree(part, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Create the same file under another name of the store: a hard link, or a copy across file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def clone(source: Path, target: Path) -> None:
    """Copy a file to a new name. File systems that can do so share its blocks until one of the two is written."""
    with open(source, "rb") as read, open(target, "xb") as write:
        try:
            import fcntl

            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except ImportError:
            shutil.copyfileobj(read, write, 2**20)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            shutil.copyfileobj(read, write, 2**20)


def unfinished_parts(path: Path) -> list[Path]:
    """Return the folders that killed attempts at `path` have left. The caller holds the lock on `path`."""
    return sorted(path.parent.glob(f".{path.name}.*.part"))


def sweep_parts(path: Path, leftovers: Iterable[Path] | None = None) -> None:
    """Remove leftovers of earlier, killed attempts at `path`. The caller holds the lock on `path`.

    leftovers: `unfinished_parts` from before the caller last checked its lock, if it can lose the lock: a folder of its
    successor is not among them. None: those of now.
    """
    for leftover in unfinished_parts(path) if leftovers is None else leftovers:
        hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        with contextlib.suppress(OSError):
            os.rename(leftover, hidden)  # a process that still fills the folder must not publish a part of it
            shutil.rmtree(hidden, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove a folder in one step for readers."""
    hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_lines(values: Iterable[Any]) -> str:
    """Return the values as JSON lines."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def write_sealed(path: Path, value: Mapping[str, Any], allowed: int = READ) -> None:
    """Replace `path` by JSON whose last entry is the checksum of the text before it. `value` has at least one key.

    allowed: the permissions that the file may have, as in `write_parts`.
    """
    body = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).removesuffix("\n}")
    write_bytes(path, (body + _seal(body.encode())).encode(), allowed)


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the value of a sealed file. Raises ValueError if a byte differs from those written, or OSError."""
    with open_regular(path) as file:
        data = file.read()
    body = data[: -len(_seal(b""))]
    if data != body + _seal(body).encode():
        raise ValueError("its checksum is not the stored one")
    value: dict[str, Any] = json.loads(data)
    del value[CHECKSUM]
    return value


def write_note(path: Path, value: Mapping[str, Any]) -> None:
    """Write a sealed file that also holds its own name, because its name stands for its subject."""
    write_sealed(path, {NOTE: path.name, **value})


def read_note(path: Path) -> dict[str, Any]:
    """Return the value of a note. Raises ValueError if it is damaged, or was written under another name, or OSError."""
    value = read_sealed(path)
    if value.pop(NOTE, None) != path.name:
        raise ValueError("it was written under another name")
    return value


def _seal(body: bytes) -> str:
    return f',\n "{CHECKSUM}": "{hashlib.sha256(body).hexdigest()}"\n}}\n'


def seal_folder(folder: Path) -> None:
    """Write the checksums of all files of a folder next to them, as the last file of the folder."""
    write_sealed(folder / CHECKSUMS, {"files": {p.name: file_sha256(p) for p in sorted(folder.iterdir())}})


def check_sealed_folder(folder: Path) -> None:
    """Raise ValueError if a file of a sealed folder was changed, added or removed since `seal_folder`, or OSError."""
    try:
        sums = read_sealed(folder / CHECKSUMS).get("files", {})
    except FileNotFoundError:
        raise ValueError(f"{CHECKSUMS} is missing") from None
    except ValueError as error:
        raise ValueError(f"{CHECKSUMS} is damaged: {error}") from None
    for name in sorted({*sums, *(p.name for p in folder.iterdir())} - {CHECKSUMS}):
        if not (folder / name).exists():
            raise ValueError(f"{name} is missing")
        if name not in sums:
            raise ValueError(f"{name} is not in {CHECKSUMS}")
        if file_sha256(folder / name) != sums[name]:
            raise ValueError(f"{name} is damaged: its checksum is not the stored one")
