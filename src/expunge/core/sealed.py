"""JSON files with their own checksum: a changed byte is found when the file is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.files import write_text

CHECKSUM = "sha256"


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` by JSON whose last entry is the checksum of the text before it. `value` has at least one key."""
    body = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).removesuffix("\n}")
    write_text(path, body + _seal(body.encode()))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the value of a sealed file. Raises ValueError if a byte differs from those written, or OSError."""
    data = path.read_bytes()
    body = data[: -len(_seal(b""))]
    if data != body + _seal(body).encode():
        raise ValueError("its checksum is not the stored one")
    value: dict[str, Any] = json.loads(data)
    del value[CHECKSUM]
    return value


def _seal(body: bytes) -> str:
    return f',\n "{CHECKSUM}": "{hashlib.sha256(body).hexdigest()}"\n}}\n'
