"""The keys of a configuration and their types, read from the config dataclasses.

The command line and the config files are checked against this schema before torch is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from expunge.core.decode import resolved
from expunge.core.errors import USUAL_NAMES, ConfigError, nearest, nearest_name
from expunge.core.fingerprints import canonical
from expunge.data.template import Template
from expunge.models.options import KINDS
from expunge.training.config import TrainArgs

# Keys whose dataclass field is a plain mapping (or absent), and the class that checks the mapping later.
NESTED: Mapping[str, type[Any]] = {"unlearn": TrainArgs, "trainer.args": TrainArgs, "model.template_args": Template}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "run": ("study", "model", "profile"),
    "train": ("experiment", "model", "trainer", "profile"),
    "unlearn": ("experiment", "model", "trainer", "profile"),
    "eval": ("experiment", "model", "trainer", "profile"),
}
MOST_PLACES = 4  # keys of one name in a hint
HIDDEN = ("template_args",)  # written as model.template_args
# Names of a user's own files by the sides of the data, and the word to type for each.
OWN_FILES: Mapping[str, str] = {
    "data.forget": "forget=FILE",
    "data.retain": "retain=FILE",
    "data.holdout": "data.args.holdout=FILE",
}


def root_of(mode: str) -> type[Any]:
    """Return the dataclass of a command's configuration: a study, or a single job."""
    if mode == "run":
        from expunge.pipelines.study.config import StudyConfig

        return StudyConfig
    from expunge.pipelines.study.single_config import SingleJob

    return SingleJob


def hint_of(mode: str, key: str) -> Any:
    """Return the type of a dotted key, `Any` for a key below a free mapping, or None for an unknown key."""
    hint: Any = root_of(mode)
    path: list[str] = []
    for part in key.split("."):
        path.append(part)
        special = NESTED.get(".".join(path))
        if special is not None and (path[0] != "unlearn" or mode == "run"):
            hint = special
        elif len(path) == 1 and part in HIDDEN:
            return None
        else:
            hint = _child(hint, part)
        if hint is None or hint is Any:
            break
    if hint is None and path[0] == "model" and len(path) == 3 and path[1] in KINDS:
        return Any  # `with_options` checks it, because the model decides which names there are
    if path[:2] == ["data", "args"] and len(path) == 3:
        return _benchmark_hint(path[2])
    return hint


def _child(hint: Any, part: str) -> Any:
    for member in members(hint):
        if dataclasses.is_dataclass(member):
            child = _hints(member).get(part)  # type: ignore[arg-type]  # a class is hashable
            if child is not None:
                return child
        elif get_origin(member) in (Mapping, dict):
            return get_args(member)[-1]
        elif member in (Mapping, dict, Any):
            return Any
    return None


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone; None is left out."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(m for arg in get_args(hint) if arg is not type(None) for m in members(arg))
    return (resolved(hint),)


def optional(hint: Any) -> bool:
    """Return whether the type allows null."""
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def is_text(hint: Any) -> bool:
    """Return whether every value of the type is text (or null); such a value is used unchanged."""

    def text(member: Any) -> bool:
        if get_origin(member) is Literal:
            return all(isinstance(value, str) for value in get_args(member))
        return member is str or member is Path

    return hint is not None and hint is not Any and all(text(member) for member in members(hint))


def item_hint(hint: Any) -> Any:
    """Return the type of a list's items, or None for a type that holds no list."""
    for member in members(hint):
        if get_origin(member) in (tuple, list, Sequence):
            return get_args(member)[0] if get_args(member) else Any
    return None


def unknown_key(mode: str, key: str, *, where: str = "") -> str:
    """Return one line for an unknown key, with the nearest right key."""
    if key in OWN_FILES:
        return f"{where}{key}: unknown key; for a file of your own, write benchmark=custom {OWN_FILES[key]}"
    parts = key.split(".")
    right: list[str] = []
    for part in parts[:-1]:
        if hint_of(mode, ".".join([*right, part])) is None:
            break
        right.append(part)
    prefix = ".".join(right)
    if right or len(parts) == 1:
        names = [f"{prefix}.{k}" if prefix else k for k in keys_of(mode, prefix)]
        if not right:
            names = sorted({*names, *GROUPS[mode]})
        if not right and not nearest_name(key, names) and (places := _places(mode, key)):
            return f"{where}{key}: unknown key; did you mean {places}?"
        last = parts[-1] if len(parts) == len(right) + 1 and parts[-1] not in USUAL_NAMES else ""
        if right and last and (places := _places(mode, last, near=prefix)):
            return f"{where}{key}: unknown key; did you mean {places}?"
        return f"{where}{key}: unknown key{nearest(key, names)}"
    return f"{where}{key}: unknown key{nearest(key, list(flat(tree_of(mode))), similar=True)}"


def _places(mode: str, name: str, *, near: str = "") -> str:
    """Return the full keys that end in a name, to choose from: "'train.seed' or 'unlearn.seed'"; "" without one.

    near: a group; if such keys are in it, they are the only ones.
    """
    full = [key for key in flat(tree_of(mode)) if key.rpartition(".")[2] == USUAL_NAMES.get(name, name)]
    if near:
        inner = [f"{near}.{of}.{name}" for of in keys_of(mode, near) if name in keys_of(mode, f"{near}.{of}")]
        full = inner or [key for key in full if key.startswith(f"{near}.")] or full
    return " or ".join(f"'{key}'" for key in sorted(full, key=lambda key: key.count("."))[:MOST_PLACES])


def check_tree(mode: str, tree: Mapping[Any, Any], label: str, *, prefix: str = "") -> None:
    """Raise ConfigError for a key that is unknown, or a list in place of a group of keys (or the reverse)."""
    where = f"{label}: " if label else ""
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}{prefix}{key}: a key must be text, got {key!r}")
        full = f"{prefix}{key}"
        hint = hint_of(mode, full)
        if hint is None:
            raise ConfigError(unknown_key(mode, full, where=where))
        if isinstance(value, Mapping):
            if item_hint(hint) is not None and not _takes_keys(hint):
                raise ConfigError(f"{where}{full}: expected a list, got {value!r}")
            if _has_fields(hint):
                check_tree(mode, value, label, prefix=f"{full}.")
        elif isinstance(value, list) and item_hint(hint) is None and _takes_keys(hint):
            raise ConfigError(f"{where}{full}: expected a group of keys, got {value!r}")


def _takes_keys(hint: Any) -> bool:
    return any(dataclasses.is_dataclass(m) or get_origin(m) in (Mapping, dict) for m in members(hint))


def _has_fields(hint: Any) -> bool:
    return hint is not Any and any(dataclasses.is_dataclass(m) for m in members(hint))


def keys_of(mode: str, prefix: str) -> list[str]:
    """Return the keys directly below a dotted key; empty where the keys are free."""
    hint = hint_of(mode, prefix) if prefix else root_of(mode)
    names: list[str] = []
    for member in members(hint):
        if dataclasses.is_dataclass(member):
            names += [f.name for f in dataclasses.fields(member) if prefix or f.name not in HIDDEN]
    if prefix == "model":
        names.append("template_args")
    return names


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a tree."""
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")


@functools.cache
def _defaults(mode: str) -> dict[str, Any]:
    if mode == "run":
        tree: dict[str, Any] = canonical(root_of(mode)(name="study"))
        tree["unlearn"] = canonical(TrainArgs())
        del tree["name"]
    else:
        tree = canonical(root_of(mode)(mode="eval", task_name="task"))
        for key in ("mode", "trainer", "task_name"):
            del tree[key]
    tree["model"]["template_args"] = tree.pop("template_args")
    return tree


def tree_of(mode: str) -> dict[str, Any]:
    """Return a new tree of the defaults: all known keys with plain values; no model group, no trainer."""
    copied: dict[str, Any] = _copy(_defaults(mode))
    return copied


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _benchmark_hint(name: str) -> Any:
    """Return the type of `data.args.NAME`, from the benchmarks' settings; text only if all benchmarks declare text."""
    from expunge.cli.field_docs import annotations_of

    annotations = annotations_of("benchmarks", name)
    text = {"str", "str | None", "Path", "Path | None"}
    if annotations and annotations <= text:
        return str | None if any("None" in f for f in annotations) else str
    return Any
