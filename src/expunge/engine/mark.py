"""The mark of a shown folder: the job that it shows, under a secret of the store.

A key is a plain hash that covers the rows to forget. Whoever has a key and the other rows can test each guess of a row.
So a folder that may be published contains no key, but `HMAC-SHA256(secret, key)`. The secret stays in the store.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import re
import secrets
from enum import Enum
from pathlib import Path

from expunge.core.errors import JobError
from expunge.core.files import read_sealed, write_sealed
from expunge.core.fingerprints import keyed_sha256

MARK = ".expunge-key"
SECRET = ".secret"  # in a store: the folder of its secret
_FORM = re.compile(r"store ([0-9a-f]{16}) job ([0-9a-f]{64})")
_PLAIN = re.compile(r"[0-9a-f]{64}( [0-9a-f]{64})*")  # of earlier versions: the keys themselves
_UNKNOWN = "store unknown"  # of a store without a secret, which could not be written


class MarkState(Enum):
    """The state of a folder's mark: of this job, of it as a plain key, of another store, or of another job."""

    SAME = "same"
    PLAIN = "plain"
    OTHER_STORE = "other store"
    OTHER_JOB = "other job"


def write_mark(root: Path, key: str) -> str:
    """Return the mark of a job with this key in the store at `root`. Creates the secret of the store if it has none."""
    secret = _secret(root) or _new_secret(root)
    return _UNKNOWN if secret is None else _mark(secret, key)


def mark_state(text: str, root: Path, key: str) -> MarkState:
    """Compare a folder's mark with a job of the store at `root`. Raises JobError if the secret is damaged."""
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return MarkState.PLAIN if text == key else MarkState.OTHER_JOB
    match = _FORM.fullmatch(text)
    if match is None:
        return MarkState.OTHER_STORE if text == _UNKNOWN else MarkState.OTHER_JOB
    secret = _secret(root)
    if secret is None or match[1] != _name(secret):
        return MarkState.OTHER_STORE
    return MarkState.SAME if hmac.compare_digest(text, _mark(secret, key)) else MarkState.OTHER_JOB


def commitment(text: str) -> str:
    """Return the keyed part of a mark, which may be published; "" for a mark that has none."""
    match = _FORM.fullmatch(text.strip())
    return match[2] if match else ""


def _mark(secret: str, key: str) -> str:
    return f"store {_name(secret)} job {keyed_sha256(secret, key)}"


def _name(secret: str) -> str:
    """Return a name of a store that is the same wherever the store lies."""
    return hashlib.sha256(f"name {secret}".encode()).hexdigest()[:16]


def _secret(root: Path) -> str | None:
    """Return the secret of a store, or None if it has none."""
    file = root / SECRET / "secret.json"
    try:
        return str(read_sealed(file)["secret"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise JobError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError):
        raise JobError(f"{file} is damaged; remove it: no result depends on it, but shown folders need it") from None


def _new_secret(root: Path) -> str | None:
    """Write a new secret, unless another process has just done so, and return the present one; None without access."""
    folder = root / SECRET
    temporary = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_sealed(temporary, {"secret": secrets.token_hex(32), "use": "marks of shown folders; do not publish it"})
        try:
            os.link(temporary, folder / "secret.json")
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(temporary, folder / "secret.json")
    except PermissionError:
        return None
    except OSError as error:
        if error.errno == errno.EROFS:
            return None
        raise JobError(f"cannot write under {folder}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return _secret(root)
