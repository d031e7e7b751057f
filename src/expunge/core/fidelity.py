"""How an entry was checked: the badge of a method, a metric, an audit or a benchmark."""

from __future__ import annotations

from typing import Literal

from expunge.core.errors import ConfigError, nearest

Fidelity = Literal["", "formula", "code", "reading", "files", "schema"]

BADGES: dict[str, str] = {
    "": "own definition",
    "formula": "paper formula checked by hand",
    "code": "checked by hand; equals another implementation's numbers",
    "reading": "our reading, unconfirmed",
    "files": "read from the released files",
    "schema": "read from the published schema",
}


def badge(fidelity: str) -> str:
    """Return the text of a badge. Raises ConfigError for an unknown one."""
    if fidelity not in BADGES:
        raise ConfigError(f"fidelity: no badge named {fidelity!r}{nearest(fidelity, BADGES)}")
    return BADGES[fidelity]
