"""`${oc.env:NAME}` in config files: off by default, because results and reports would show the value of a secret."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from expunge.core.errors import ConfigError

ALLOW_ENV = "EXPUNGE_ALLOW_ENV"


@contextlib.contextmanager
def environment_readable(allowed: bool) -> Iterator[None]:
    """Let config files read the environment during a command, as `--allow-env` does."""
    before = os.environ.get(ALLOW_ENV)
    try:
        if allowed:
            os.environ[ALLOW_ENV] = "1"
        yield
    finally:
        if allowed:
            os.environ.pop(ALLOW_ENV, None)
            os.environ.update({} if before is None else {ALLOW_ENV: before})


def variable(reference: str, key: str) -> str:
    """Return the value of `oc.env:NAME` or `oc.env:NAME,default`. Raises ConfigError unless the user allows it."""
    name, comma, default = reference.removeprefix("oc.env:").partition(",")
    if os.environ.get(ALLOW_ENV) != "1":
        raise ConfigError(
            f"{key}: ${{{reference}}} reads the environment, which is off; pass --allow-env, or set {ALLOW_ENV}=1"
        )
    if name not in os.environ and not comma:
        raise ConfigError(f"{key}: the environment has no variable {name}")
    return os.environ.get(name, default)
