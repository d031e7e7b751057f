"""Identity of artifacts: configuration, data and parents count; location, time and device do not.

A fingerprint is the SHA-256 of canonical JSON. A value without a stable form raises; nothing is hashed through `str()`.

The key of a job covers the inputs of its work, and the releases of libraries. Code that changes without a new release
(a patched library, a tokenizer that reads a clock) gives other outputs under the same key. `note` takes the digest of
an output under that of its inputs. `comparing` collects the notes of a job and compares them with those of its parents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import functools
import hashlib
import hmac
import itertools
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import Any

from expunge.core.errors import JobError

Digests = dict[str, list[str]]
"""Digest of the inputs -> [name of the output, digest of the output, the job that computed it first]."""
_current: ContextVar[tuple[Digests, str] | None] = ContextVar("current", default=None)


def canonical(value: Any) -> Any:
    """Convert a value to plain JSON types in one stable form. Raises TypeError for others (paths, objects, sets)."""
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, dict):  # dicts and lists come early, because plans have millions of them
        return _canonical_mapping(value)
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"a fingerprint cannot cover the number {value}")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, enum.Enum):
        return canonical(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {name: getattr(value, name) for name in _names(type(value))}
        later = _later(type(value))
        return {name: canonical(v) for name, v in fields.items() if name not in later or v != later[name]}
    if isinstance(value, Mapping):
        return _canonical_mapping(value)
    raise TypeError(f"a fingerprint cannot cover a {type(value).__name__}: {value!r}")


def _canonical_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError("a fingerprint covers mappings with text keys only")
    return {key: canonical(value[key]) for key in sorted(value)}


_PLAIN = frozenset({str, int, bool})  # tested first, because most values have these types


@functools.cache
def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


LATER = {"later": True}
"""The metadata of a field that was added after results were stored: at its default, it adds nothing to a key."""


@functools.cache
def _later(cls: type[Any]) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(cls) if f.metadata.get("later")}


def fingerprint(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(_text(canonical(value)).encode()).hexdigest()


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def keyed_sha256(secret: str, text: str) -> str:
    """Return HMAC-SHA256 (64 hex digits) of a text under a secret in hex digits: nobody without it can test a guess."""
    return hmac.new(bytes.fromhex(secret), text.encode(), hashlib.sha256).hexdigest()


def fingerprint_rows(rows: Iterable[Any], fields: Mapping[str, Any] | None = None) -> str:
    """Return `fingerprint(rows)`, or `fingerprint({**fields, "rows": rows})`, in bounded memory.

    rows: values of plain JSON types, in canonical form but for the order of keys.
    """
    before, after = ("[", "]")
    if fields is not None:
        before, after = _text({**canonical(fields), "rows": []}).split('"rows":[]')
        before, after = f'{before}"rows":[', f"]{after}"
    digest = hashlib.sha256(before.encode())
    remaining, comma = iter(rows), ""
    while block := list(itertools.islice(remaining, _BLOCK)):
        digest.update((comma + _text(block)[1:-1]).encode())
        comma = ","
    digest.update(after.encode())
    return digest.hexdigest()


_BLOCK = 1024  # rows whose text is in memory at a time


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes. Raises OSError, also for a device (it may have no end) and a pipe (no writer)."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a file")
    return open(path, "rb")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes. Raises OSError, as `open_regular` does."""
    with open_regular(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def folder_sha256(folder: Path, names: Iterable[str]) -> str:
    """Return the fingerprint of some files of a folder: their names and contents, not the folder's location."""
    return fingerprint({name: file_sha256(folder / name) for name in names})


@contextlib.contextmanager
def comparing(earlier: Iterable[Mapping[str, list[str]]], job: str) -> Iterator[Digests]:
    """Collect the notes of a block. Yields them, with the earlier ones.

    Args:
        earlier: The digests of the job's parents.
        job: The job, for the notes of the block.

    Raises:
        JobError: Equal inputs gave different outputs, in the parents or in the block.
    """
    digests: Digests = {}
    for one in earlier:
        for inputs, values in one.items():
            _add(digests, inputs, values)
    token = _current.set((digests, job))
    try:
        yield digests
    finally:
        _current.reset(token)


def is_comparing() -> bool:
    """Return whether `note` has an effect here: a job runs."""
    return _current.get() is not None


def note(name: str, inputs: str, output: str) -> None:
    """Compare the digest of an output with earlier ones of the same inputs. Raises JobError if it differs.

    Args:
        name: A name of the output for the error, such as "token ids of forget (answer)".
        inputs: The digest of all that determines the output.
        output: The digest of the output.
    """
    current = _current.get()
    if current is not None:
        _add(current[0], inputs[:16], [name, output[:16], current[1]])


def difference(one: list[str], other: list[str]) -> str | None:
    """Return a sentence about the different outputs of two notes of the same inputs; None if they are equal."""
    if one[1] == other[1]:
        return None
    return (
        f"the {one[0]} in {one[2]} differ from those in {other[2]}, though all that should determine them is equal. A "
        "library or the tokenizer's code has changed without a new release"
    )


def _add(digests: Digests, inputs: str, values: list[str]) -> None:
    message = difference(values, digests.setdefault(inputs, values))
    if message:
        raise JobError(f"{message}. Restore it, or compute all results with the present code (paths.store=NEW_FOLDER)")
