"""Replace the references of a configuration: `${key}` and `${oc.env:NAME}`.

Variables are off by default, because results and reports would show the value of a secret.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from expunge.cli.words import Verbatim
from expunge.core.decode import value_at
from expunge.core.errors import ConfigError, nearest

ALLOW_ENV = "EXPUNGE_ALLOW_ENV"
MOST_REFERENCES = 1_000_000

_ABSENT = object()
REFERENCE = re.compile(r"(\\?)\$\{([^{}]*)\}")


Elsewhere = Callable[[str], tuple[Mapping[str, Any], str]]


def resolve(tree: dict[str, Any], elsewhere: Elsewhere | None = None) -> dict[str, Any]:
    r"""Return the tree with `${key}` replaced by that key's value and `${oc.env:NAME}` by a variable.

    `\${` stands for the characters `${`. Words of the command line for text keys stay unchanged.
    elsewhere: of an absent key, a tree that may have it, such as one with defaults, and its present name.
    Raises ConfigError for a reference to nothing, and for a value `???` that was not given.
    """
    out: dict[str, Any] = _Resolver(tree, elsewhere).value(tree, "")
    return out


class _Resolver:
    """Replaces the references of one tree. Counts characters, because references can multiply."""

    def __init__(self, root: Mapping[str, Any], elsewhere: Elsewhere | None) -> None:
        self._root, self._elsewhere = root, elsewhere
        self._size = 0

    def value(self, value: Any, key: str, depth: int = 0) -> Any:
        """Return a value without references. Raises ConfigError."""
        if isinstance(value, Mapping):
            return {k: self.value(v, f"{key}.{k}" if key else str(k), depth) for k, v in value.items()}
        if isinstance(value, list):
            return [self.value(v, f"{key}[{i}]", depth) for i, v in enumerate(value)]
        if depth:
            self._size += 1 + len(str(value))
            if self._size > MOST_REFERENCES:
                raise ConfigError(f"{key}: its references multiply to more than {MOST_REFERENCES} characters")
        if isinstance(value, Verbatim):
            return str(value)
        if value == "???":
            raise ConfigError(f"{key}: missing; give {key}=...")
        if not isinstance(value, str) or "${" not in value:
            return value
        if depth > 20:
            raise ConfigError(f"{key}: {value!r} refers to itself")
        whole = REFERENCE.fullmatch(value)
        if whole is not None and not whole[1]:
            return self.value(self._referred(whole[2], key), key, depth + 1)

        def text(match: re.Match[str]) -> str:
            if match[1]:
                return f"${{{match[2]}}}"
            value = self.value(self._referred(match[2], key), key, depth + 1)
            if isinstance(value, Mapping):
                raise ConfigError(
                    f"{key}: ${{{match[2]}}} refers to a group{nearest(match[2], _names(match[2], value))}"
                )
            if value is None:
                raise ConfigError(f"{key}: ${{{match[2]}}} has no value; give {match[2]}=... or {key}=...")
            return str(value)

        return REFERENCE.sub(text, value)

    def _referred(self, name: str, key: str) -> Any:
        if name.startswith("oc.env:"):
            return Verbatim(_variable(name, key))
        here = value_at(self._root, name, _ABSENT)
        if here is _ABSENT and self._elsewhere is not None:
            here = value_at(*self._elsewhere(name), _ABSENT)
        if here is _ABSENT:
            raise ConfigError(f"{key}: ${{{name}}} refers to no key{nearest(name, self._root)}")
        if here == "???":
            raise ConfigError(f"{name}: missing; give {name}=...")
        return here


def _names(group: str, tree: Mapping[str, Any]) -> list[str]:
    return [f"{group}.{key}" for key, value in tree.items() if not isinstance(value, Mapping)]


def _variable(reference: str, key: str) -> str:
    """Return the value of `oc.env:NAME` or `oc.env:NAME,default`. Raises ConfigError unless the user allows it."""
    name, comma, default = reference.removeprefix("oc.env:").partition(",")
    if os.environ.get(ALLOW_ENV) != "1":
        raise ConfigError(
            f"{key}: ${{{reference}}} reads the environment, which is off; pass --allow-env, or set {ALLOW_ENV}=1"
        )
    if name not in os.environ and not comma:
        raise ConfigError(f"{key}: the environment has no variable {name}")
    return os.environ.get(name, default)


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
