"""The record of a finished job: a sealed file with the job's key, its files and the proofs of its parents.

A proof is the fingerprint of a key, the checksums of the files, and the parents' proofs. So the proofs of the last jobs
of a study cover all results that they were computed from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import JobError
from expunge.core.files import read_sealed, write_sealed
from expunge.core.fingerprints import fingerprint

RECORD = "job.json"
LEFTOVER = f".{RECORD}.*.tmp"  # a record that a killed process did not finish
DIGESTS = (
    "digests"  # outputs that must be equal in jobs of equal inputs (`core.fingerprints`), those of parents included
)
_OF_ROWS = ("key", "parents", "excluded_from_key", "chain", DIGESTS)
_HASH = re.compile("([0-9a-f]{16}|[0-9a-f]{64})")  # those of this package; a commit of a hub has 40 digits
LOGS = ".jsonl"  # logs contain times, so the same job computed again writes others
Record = dict[str, Any]


def read_record(path: Path) -> Record | None:
    """Return a job's record, or None if there is none.

    Raises JobError if it cannot be read, was changed, or has another key than its fields give.
    """
    try:
        record = read_sealed(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise JobError(
            f"{path} is damaged, or was written by an earlier version; move its folder away and run again"
        ) from None
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror or error}") from None
    if "key" not in record or record["key"] != _own_key(record):
        raise JobError(f"{path} is damaged: its key is not that of its fields; move its folder away and run again")
    return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a job's record, read-only as all files of the store. The caller holds the job's lease.

    Removes the unfinished records of killed processes.
    """
    for leftover in path.parent.glob(LEFTOVER):
        leftover.unlink(missing_ok=True)
    write_sealed(path, record)


def public_record(record: Mapping[str, Any]) -> Record:
    """Return a record without hashes of rows, for a folder that may be published with its model.

    The keys, the proofs of the parents and the digests of token ids cover the rows, so they would confirm a guess. The
    checksums of logs cover losses of the rows, and texts.
    """
    public = {name: value for name, value in record.items() if name not in _OF_ROWS}
    files = {name: sums for name, sums in record.get("files", {}).items() if not name.endswith(LOGS)}
    own = {"identity": _without_hashes(record["identity"]), "full": "the record in the store has all fields"}
    return public | own | ({"files": files} if "files" in record else {})


def _without_hashes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_hashes(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_hashes(one) for one in value]
    return "not shown" if isinstance(value, str) and _HASH.fullmatch(value) else value


def _own_key(record: Mapping[str, Any]) -> str | None:
    """Return the key by the record's fields, as `Job.key` computes it; None for a record without these fields."""
    try:
        parents = {role: key for role, key in record["parents"].items() if role not in record["excluded_from_key"]}
        return fingerprint({"kind": record["kind"], "identity": record["identity"], "parents": parents})
    except (KeyError, TypeError, AttributeError):
        return None


def proof(record: Mapping[str, Any]) -> str:
    """Return the proof of a result. It stays the same if `expunge gc` removes files or a job computes them again."""
    files = {**record["files"], **record.get("made_again", {}).get("before", {})}
    sums = {name: sha for name, (sha, _) in files.items() if not name.endswith(LOGS)}
    return fingerprint({"key": record["key"], "files": sums, "chain": record["chain"]})
