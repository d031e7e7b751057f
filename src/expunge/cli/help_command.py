"""`expunge help KEY` and `expunge config`: what a key means, and what a command's settings come to."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from expunge.cli.field_docs import class_doc, config_classes
from expunge.cli.schema import GROUPS, HIDDEN, NESTED, ROOTS, hint_of, item_hint, members
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import canonical

COMMANDS = {"run": "expunge run, plan", "train": "expunge train, unlearn, eval"}
# Groups of keys whose fields depend on a choice: the folder with their classes, and where the choice is listed.
CHOSEN = {
    "data.args": ("benchmarks", "benchmarks"),
    "trainer.method_args": ("methods", "methods"),
}


@dataclass(frozen=True)
class KeyInfo:
    """One key: its type and default as source text, its documentation, and the commands that read it."""

    key: str
    annotation: str
    default: str
    doc: str
    commands: tuple[str, ...]
    defined: str


def show_key(name: str | None) -> int:
    """Print a key's page, or all groups of keys. Raises ConfigError with the nearest names for an unknown key."""
    known = all_keys()
    if name is None:
        for key, infos in known.items():
            if "." not in key:
                print(f"{key:22} {_first_sentence(infos[0].doc)}")
        print("\nexpunge help KEY shows one key, or all keys of a group, such as: expunge help train.learning_rate")
        return 0
    wanted = name.partition("=")[0].lstrip("+~")
    found = (
        known.get(wanted)
        or _chosen(wanted)
        or [
            i
            for key, infos in known.items()
            if wanted in (key.rpartition(".")[2], key.replace("[]", ""))
            for i in infos
        ]
        or [info for group in CHOSEN for info in _chosen(f"{group}.{wanted}")][:12]
    )
    if not found:
        raise ConfigError(f"help: no key {wanted!r}{nearest(wanted, [*known, *GROUPS['run'], *GROUPS['train']])}")
    for i, info in enumerate(found):
        print("\n" * (i > 0) + _page(info))
    for key in (k for k in known if k.startswith((f"{wanted}.", f"{wanted}[]."))):
        if key.removeprefix(wanted).lstrip(".[]").count(".") == 0:
            print(f"  {key:40} {_first_sentence(known[key][0].doc)}")
    return 0


def _page(info: KeyInfo) -> str:
    lines = [info.key, f"  type:    {info.annotation}", f"  default: {info.default or 'required'}"]
    if info.doc:
        lines.append(f"  {info.doc}")
    return "\n".join([*lines, f"  read by: {'; '.join(info.commands)}", f"  defined: {info.defined}"])


def _first_sentence(text: str) -> str:
    head, stop, _ = text.partition(". ")
    return head + (stop.strip() if stop else "")


@functools.cache
def all_keys() -> Mapping[str, list[KeyInfo]]:
    """Return every key of a study and of a single job."""
    out: dict[str, list[KeyInfo]] = {}
    for mode, commands in COMMANDS.items():
        for info in _walk(ROOTS[mode], "", mode, commands):
            same = next((i for i, old in enumerate(out.get(info.key, [])) if old.defined == info.defined), None)
            if same is None:
                out.setdefault(info.key, []).append(info)
            else:
                old = out[info.key][same]
                out[info.key][same] = dataclasses.replace(old, commands=(*old.commands, *info.commands))
    return out


def _walk(cls: type[Any], prefix: str, mode: str, commands: str) -> Iterator[KeyInfo]:
    for field in dataclasses.fields(cls):
        name = {"from_models": "from"}.get(field.name, field.name)
        key = f"{prefix}{name}"
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
        made = class_doc(base) if dataclasses.is_dataclass(base) else None
        if made is not None and field.name in made.fields:
            annotation, doc = made.fields[field.name].annotation, made.fields[field.name].doc
            defined = f"{made.name} in {made.path}"
            break
    default = ""
    if field.default is not dataclasses.MISSING:
        default = _plain(canonical(field.default))
    elif field.default_factory is not dataclasses.MISSING:
        value = canonical(field.default_factory())
        default = _plain(value) if not isinstance(value, dict) or not value else "a group of keys"
    return KeyInfo(key, annotation, default, doc, (commands,), defined)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() == value != "" else json.dumps(value, ensure_ascii=False)


def _chosen(key: str) -> list[KeyInfo]:
    """The pages of a key whose meaning depends on the benchmark or the method: one for each class that has it."""
    group, _, name = key.rpartition(".")
    if group not in CHOSEN:
        return []
    folder, command = CHOSEN[group]
    return [
        KeyInfo(key, f.annotation, f.default, f.doc, (f"see expunge {command}",), f"{c.name} in {c.path}")
        for c in config_classes(folder)
        if (f := c.fields.get(name)) is not None
    ]


def show_config(mode: str, overrides: Sequence[str], *, docs: bool) -> int:
    """Print the settings of a command as YAML, which runs again as it is. docs: each key with its documentation."""
    from expunge.cli.compose import check, single_tree
    from expunge.pipelines.study.single_config import escaped

    made = check(mode, overrides)
    tree = made.tree if mode == "run" else single_tree(mode, overrides)[0]
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    sys.stdout.write("\n".join(_yaml(escaped(tree), mode, "", docs)) + "\n")
    return 0


def _yaml(tree: Mapping[str, Any], mode: str, prefix: str, docs: bool) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        full = f"{prefix}{key}"
        if docs and hint_of(mode, full) is not Any and (infos := all_keys().get(full)) and infos[0].doc:
            yield f"{indent}# {infos[0].doc}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{yaml.safe_dump(key, allow_unicode=True).splitlines()[0]}:"
            yield from _yaml(value, mode, f"{full}." if "." not in key else f"{prefix}_.", docs)
        else:
            text = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=10**6).rstrip("\n")
            yield from (f"{indent}{line}" for line in text.split("\n"))
