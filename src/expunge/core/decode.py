"""Strict decoding: convert a plain mapping to a frozen dataclass, or raise an error of one line.

pydantic does the work. Unknown keys are errors with the nearest right name, and every error has its full key, such as
`train.learning_rate`. A number may be a text ("1e-5" is one in YAML 1.1); true and false are not numbers, nan and inf
are errors, and 1.5 is not a whole number. `merge` and `leaves` work on nested mappings of settings.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, Union, get_args, get_type_hints

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from expunge.core.errors import ConfigError, nearest

T = TypeVar("T")

MOST_WHOLE, MOST_REAL = 2**53, 1e30  # no setting needs more; loops and arrays of such sizes never end

STRICT = ConfigDict(extra="forbid", strict=False)


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


class TypeOnUse:
    """The type of a field whose dataclass is imported when a value of it is decoded: `section: TypeOnUse(...) | None`.

    So a configuration has rare sections, and a run without them does not import their modules.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def resolved(self) -> type[Any]:
        """Import the module, and return the dataclass."""
        cls: type[Any] = getattr(importlib.import_module(self._module), self._name)
        return cls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Create an object of the dataclass. `typing` accepts only types that can be called."""
        return self.resolved()(*args, **kwargs)

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007  # an instance has no `|` of its own

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: _adapter(self.resolved()).validate_python(value)  # type: ignore[arg-type]  # as below
        )


def resolved(hint: Any) -> Any:
    """Return the dataclass of a `TypeOnUse`, and any other type unchanged."""
    return hint.resolved() if isinstance(hint, TypeOnUse) else hint


class GroupError(ConfigError, ValueError):
    """An error of `__post_init__`: a ValueError as well, so that pydantic reports the key of a group within a group.

    reason: the text of `__post_init__`, such as "beta must be a number > 0".
    """

    def __init__(self, cls: type[Any], reason: str, values: Mapping[str, Any]) -> None:
        super().__init__(_of_field(cls.__name__, cls, reason, values))
        self.reason = reason


def strict(cls: type[T]) -> type[T]:
    """Make a class reject unknown keys and values of a wrong type; a class decorator above `@dataclass`.

    The constructor converts as `decode` does. Both raise ConfigError with the name of the field, also for a ValueError
    of `__post_init__`, whose text starts with that name.
    """
    cls.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    assign: Callable[..., None] = cls.__init__

    @functools.wraps(assign)
    def init(self: T, *args: Any, **values: Any) -> None:
        try:
            assign(self, *args, **{name: _field_value(cls, name, value) for name, value in values.items()})
        except ValueError as error:
            raise GroupError(cls, str(getattr(error, "reason", error)), values) from None

    cls.__init__ = init  # type: ignore[method-assign,assignment]  # pydantic sets the fields without the constructor
    return cls


@functools.cache
def _fields(cls: type[Any]) -> Mapping[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


@functools.cache
def _field_adapter(cls: type[Any], name: str) -> tuple[Any, TypeAdapter[Any]]:
    hint = get_type_hints(cls)[name]
    return hint, TypeAdapter(hint)


def _field_value(cls: type[Any], name: str, value: Any) -> Any:
    """Return the value of a field in the field's type. Raises ConfigError."""
    known = _fields(cls)  # type: ignore[arg-type]  # a class is hashable
    if name in known and value is known[name].default:
        return value
    where = f"{cls.__name__}.{name}"
    if name not in known:
        raise ConfigError(f"{where}: unknown key{nearest(name, known)}")
    hint, adapter = _field_adapter(cls, name)  # type: ignore[arg-type]  # a class is hashable
    return _validated(hint, adapter, value, where)


def decode(cls: type[T], data: Mapping[str, Any], *, where: str = "") -> T:
    """Turn a plain mapping into the frozen dataclass `cls`.

    `where` is the key of the mapping (the prefix of each key in an error). Raises ConfigError with one line.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or cls.__name__}: expected a group of keys, got {data!r}")
    decoded: T = _validated(cls, _adapter(cls), data, where)  # type: ignore[arg-type]  # a class is hashable
    return decoded


def _validated(hint: Any, adapter: TypeAdapter[Any], value: Any, where: str) -> Any:
    """Return a value in the type of its hint. Raises ConfigError."""
    plain = _plain(value, where)
    try:
        decoded = adapter.validate_python(plain)
    except ValidationError as error:
        raise ConfigError(_explain(hint, error, plain, where)) from None
    _refuse_odd_numbers(plain, decoded, where)
    return decoded


def field_names(cls: type[Any]) -> list[str]:
    """Return the keys that a dataclass accepts. The key of a field that Python forbids as a name is in its metadata."""
    return [f.metadata.get("key", f.name) for f in dataclasses.fields(cls)]


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{_join(where, str(key))}: a key must be text, got {key!r}")
        return {k: _plain(v, _join(where, k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _refuse_odd_numbers(raw: Any, decoded: Any, where: str) -> None:
    """Raise ConfigError for values that pydantic accepts: True as the number 1, and numbers that are not finite."""
    if isinstance(raw, bool) and not isinstance(decoded, bool):
        raise ConfigError(f"{where}: should be a number, got {raw!r}")
    if isinstance(decoded, float) and not math.isfinite(decoded):
        raise ConfigError(f"{where}: should be a finite number, got {raw!r}")
    if isinstance(decoded, int | float) and abs(decoded) > (MOST_WHOLE if isinstance(decoded, int) else MOST_REAL):
        raise ConfigError(f"{where}: is out of range, got {raw!r:.40}")
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            _refuse_odd_numbers(
                value, decoded[key] if isinstance(decoded, Mapping) else getattr(decoded, key), _join(where, key)
            )
    elif isinstance(raw, list):
        for i, (value, item) in enumerate(zip(raw, decoded, strict=False)):
            _refuse_odd_numbers(value, item, f"{where}[{i}]")


UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
KINDS = {  # types of pydantic's problems; its own words name types of Python, but users write YAML
    "dataclass_type": "should be a group of keys",
    "dict_type": "should be a group of keys",
    "mapping_type": "should be a group of keys",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
}
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def _explain(cls: type[Any], error: ValidationError, data: Any, where: str) -> str:
    # An unknown key first: a misspelt key without default is also a missing one, and the spelling is the cause.
    problem = min(error.errors(include_url=False), key=lambda p: p["type"] not in UNKNOWN)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    path = _keys(problem["loc"], data, last_is_absent=problem["type"] in MISSING)
    key = where
    for part in path:
        key = f"{key}[{part}]" if isinstance(part, int) else _join(key, part)
    if problem["type"] in UNKNOWN:
        owner = _owner(cls, path[:-1])
        return f"{key}: unknown key{nearest(str(path[-1]), field_names(owner) if owner else ())}{more}"
    if problem["type"] in MISSING:
        return f"{key}: missing{more}"
    message, shown = problem["msg"].removeprefix("Value error, ").removeprefix("Input "), problem["input"]
    if problem["type"].endswith(("_parsing", "_from_float")):
        message = message.partition(",")[0]  # the rest describes how pydantic reads numbers
    message = KINDS.get(problem["type"], message)
    if problem["type"] == "value_error" and isinstance(shown, Mapping):
        message = str(getattr(problem["ctx"]["error"], "reason", message))
        return _of_field(key, cls, message, shown) + more
    if problem["type"] in ("list_type", "tuple_type") and isinstance(shown, str | int | float):
        more = f"; write [{shown!r}]{more}"
    return f"{key or cls.__name__}: {message}, got {shown!r}{more}"


def _of_field(key: str, cls: type[Any], message: str, values: Mapping[str, Any]) -> str:
    """Return the line of an error of `__post_init__`, which sees the whole group and names the field first.

    key: the key of the group. message: such as "beta must be ...". values: the group.
    """
    named, _, rest = message.partition(" ")
    named = named.removesuffix(":")
    if named not in values:
        return f"{key or cls.__name__}: {message}"  # the whole group would hide the message
    return f"{_join(key, named)}: {rest}, got {values[named]!r}"


def _keys(loc: tuple[int | str, ...], data: Any, *, last_is_absent: bool) -> list[int | str]:
    """Return the user's keys on the path to a problem: pydantic's `loc` without the names of union members."""
    path: list[int | str] = []
    for i, part in enumerate(loc):
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        elif not (last_is_absent and i == len(loc) - 1):
            continue
        path.append(part)
    return path


def _owner(cls: Any, path: list[int | str]) -> Any:
    """Return the dataclass at a path of keys; None if it is unknown."""
    for part in path:
        if dataclasses.is_dataclass(cls) and isinstance(part, str):
            hint = get_type_hints(cls).get(part)
        else:
            # the values of a mapping, the items of a list or of a tuple[X, ...]
            hint = next((a for a in reversed(get_args(cls)) if a is not ...), None)
        candidates = [resolved(one) for one in (hint, *get_args(hint))]
        cls = next((c for c in candidates if dataclasses.is_dataclass(c)), hint)
        if get_args(hint) and getattr(hint, "__origin__", None) in (dict, list, tuple, Mapping):
            cls = hint
    return cls if dataclasses.is_dataclass(cls) else None


def merge(below: Any, above: Any) -> Any:
    """Return a new tree: groups of keys are joined, any other value of `above` replaces the one below."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        out = {**below}
        for key, value in above.items():
            out[key] = merge(out[key], value) if key in out else value
        return out
    return above


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each entry that is no group of keys; an empty group is an entry."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_at(tree: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return the value of a dotted key; `default` for a key that the tree does not have."""
    here: Any = tree
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return default
        here = here[part]
    return here


def below_key(key: str, value: Any) -> Any:
    """Return a value below a dotted key, as nested dictionaries; the empty key is the top."""
    for part in reversed(key.split(".") if key else ()):
        value = {part: value}
    return value
