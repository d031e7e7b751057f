"""A keyed commitment to the forgotten rows. The card and the report carry it; the key stays with the owner.

commitment = HMAC-SHA256(key, canonical JSON of the rows), with a random key of 256 bits. Without the key nobody can
test a guess of the rows. With it, the owner can prove which rows a model had to forget.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import re
import secrets
from pathlib import Path

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import canonical, keyed_sha256, open_regular
from expunge.data.examples import ExampleSet

KEY_FILE = "erasure_key.json"
CARD = "README.md"
FIELD = "erasure_commitment"
MOST_BYTES = 10_000_000  # of a card or a key file
_HEX = re.compile("[0-9a-f]{64}")
_IN_CARD = re.compile(rf"^{FIELD}: ([0-9a-f]{{64}})$", re.MULTILINE)


def commit(key: str, rows: ExampleSet) -> str:
    """Return the commitment to the questions and answers of some rows, in their order."""
    contents = [[row.question, canonical(row.answers)] for row in rows]
    text = json.dumps(contents, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return keyed_sha256(key, text)


def own_key(folder: Path) -> str:
    """Return the key of an erasure's folder. Creates the file at the first call, readable for its owner alone."""
    path = folder / KEY_FILE
    if path.exists():
        return read_key(path)
    contents = {"key": secrets.token_hex(32), "algorithm": "HMAC-SHA256", "keep": "private; do not publish this file"}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(contents, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return contents["key"]


def read_key(path: Path) -> str:
    """Return the key of a key file. Raises ConfigError."""
    try:
        contents = json.loads(_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise ConfigError(f"--key: {path} cannot be read: {reason}; name the {KEY_FILE} of the erasure") from None
    key = contents.get("key") if isinstance(contents, dict) else None
    if not isinstance(key, str) or _HEX.fullmatch(key) is None:
        raise ConfigError(f"--key: {path} contains no key of 64 hex digits; name the {KEY_FILE} of the erasure")
    return key


def stated_commitment(model: Path) -> str:
    """Return the commitment in the card of a model folder. Raises ConfigError."""
    try:
        text = _text(model / CARD)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--verify-commitment: {model / CARD} cannot be read: {reason}") from None
    line = _IN_CARD.search(text)
    if line is None:
        raise ConfigError(f"--verify-commitment: {model / CARD} has no line {FIELD}; `expunge erase` writes one")
    return line[1]


def _text(path: Path) -> str:
    """Return the text of a file of ordinary size; a device such as /dev/zero has no end. Raises OSError, ValueError."""
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {MOST_BYTES} bytes")
    return data.decode()


def matches(model: Path, key: Path, rows: ExampleSet) -> bool:
    """Return whether a model's card commits to exactly these rows under this key."""
    return hmac.compare_digest(stated_commitment(model), commit(read_key(key), rows))
