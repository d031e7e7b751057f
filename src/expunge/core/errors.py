"""Errors that a user can act on: one line each, with the problem, the place, and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExpungeError(Exception):
    """Base of every error that is printed as one line, without a traceback. The exit code is `exit_code`."""

    exit_code = 1


class UserError(ExpungeError):
    """Wrong input (a key, a value, a file, a row), detected before any weight is read. Exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """A wrong key or value in a configuration."""


class DataError(UserError):
    """A wrong file or row."""


class JobError(ExpungeError):
    """A job that started and could not finish: a loss that is not finite, a missing parent, a full disk."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint for a wrong name: "; did you mean 'X'?" if one is near, and the allowed names if they are few."""
    names = sorted(str(a) for a in allowed)
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.55)
    hint = f"; did you mean '{by_lower[close[0]]}'?" if close else ""
    if not names:
        return hint
    listed = ", ".join(names) if len(names) <= 24 else ", ".join(names[:24]) + f", ... ({len(names)} in all)"
    return f"{hint} (allowed: {listed})"
