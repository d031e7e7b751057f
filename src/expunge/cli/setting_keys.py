"""The keys of all settings, with the documentation of their fields."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.cli.field_docs import class_doc
from expunge.cli.schema import HIDDEN, NESTED, item_hint, members, root_of
from expunge.core.fingerprints import canonical

COMMANDS = {"run": "expunge run, plan", "train": "expunge train, unlearn, eval"}


@dataclass(frozen=True)
class KeyInfo:
    """One key: its type and default as source text, its documentation, and the commands that read it."""

    key: str
    annotation: str
    default: str
    doc: str
    commands: tuple[str, ...]
    defined: str


@functools.cache
def all_keys() -> Mapping[str, list[KeyInfo]]:
    """Return every key of a study and of a single job."""
    out: dict[str, list[KeyInfo]] = {}
    for mode, commands in COMMANDS.items():
        for info in _walk(root_of(mode), "", mode, commands):
            same = next((i for i, old in enumerate(out.get(info.key, [])) if old.defined == info.defined), None)
            if same is None:
                out.setdefault(info.key, []).append(info)
            else:
                old = out[info.key][same]
                out[info.key][same] = dataclasses.replace(old, commands=(*old.commands, *info.commands))
    return out


def _walk(cls: type[Any], prefix: str, mode: str, commands: str) -> Iterator[KeyInfo]:
    for field in dataclasses.fields(cls):
        key = f"{prefix}{field.metadata.get('key', field.name)}"
        if key in HIDDEN:
            continue
        yield _info(cls, field, key, commands)
        hint = NESTED[key] if key in NESTED and (mode == "run") == (key == "unlearn") else _field_hint(cls, field.name)
        hint = NESTED.get(key, hint) if key == "trainer.args" else hint
        for member in members(hint):
            if dataclasses.is_dataclass(member):
                yield from _walk(member, f"{key}.", mode, commands)  # type: ignore[arg-type]  # a class
        for member in members(item_hint(hint)) if item_hint(hint) is not None else ():
            if dataclasses.is_dataclass(member):
                yield from _walk(member, f"{key}[].", mode, commands)  # type: ignore[arg-type]  # a class
    if prefix == "model.":
        yield from _walk(NESTED["model.template_args"], "model.template_args.", mode, commands)


def _field_hint(cls: type[Any], name: str) -> Any:
    from typing import get_type_hints

    return get_type_hints(cls)[name]


def _info(cls: type[Any], field: dataclasses.Field[Any], key: str, commands: str) -> KeyInfo:
    annotation, doc, defined = str(field.type), "", cls.__name__
    for base in cls.__mro__:
        doc_record = class_doc(base) if dataclasses.is_dataclass(base) else None
        if doc_record is not None and field.name in doc_record.fields:
            annotation, doc = doc_record.fields[field.name].annotation, doc_record.fields[field.name].doc
            defined = f"{doc_record.name} in {doc_record.path}"
            break
    default = ""
    if field.default is not dataclasses.MISSING:
        default = value_text(canonical(field.default))
    elif field.default_factory is not dataclasses.MISSING:
        value = canonical(field.default_factory())
        default = value_text(value) if not isinstance(value, dict) or not value else "a group of keys"
    return KeyInfo(key, annotation, default, doc, (commands,), defined)


def value_text(value: Any) -> str:
    """Return a value as a text of settings."""
    return value if isinstance(value, str) and value.strip() == value != "" else json.dumps(value, ensure_ascii=False)
