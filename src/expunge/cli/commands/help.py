"""`expunge help WORD` and `expunge config`: the page of a key, a command or a name, and the settings of a command."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from expunge.cli.field_docs import config_classes
from expunge.cli.lists import entry_lines, wrapped
from expunge.cli.schema import GROUPS, hint_of
from expunge.cli.setting_keys import KeyInfo, all_keys, value_text
from expunge.core.decode import leaves
from expunge.core.errors import USUAL_NAMES, ConfigError, nearest
from expunge.core.renamed import rename_key
from expunge.core.terminal import complain, say

# Groups of keys whose fields depend on a choice: folders of their classes, and the list of the choices.
CHOSEN: Mapping[str, tuple[tuple[str, ...], str]] = {
    "data.args": (("benchmarks", "data/procedural"), "benchmarks"),
    "trainer.method_args": (("methods", "models/wrappers"), "methods"),
    "trainer.args.grad_transform_args": (("methods/grad_transforms",), "methods"),
    "audits[]": (("audits",), "audits"),
}
# Other places of a key: settings of one method, search spaces, grids, and files that settle by method or model.
PLACES = (
    (r"(methods\[\]|trainer\.parts\[\]|trainer\.merge)\.method_args\.", "trainer.method_args."),
    (r"(methods\[\]|trainer\.parts\[\])\.args\.", "trainer.args."),
    (r"methods\[\]\.(grid|search)\.|sweep\.space\.", "methods[]."),
    (r"(meta\.relearn|meta\.variations\[\]|stories\.recover)\.", "trainer.args."),
    (r"trainers(\.[\w-]+)?(\.|$)", "trainer."),
    (r"models(\.[\w.-]+?)?(\.(?=\w+_args\b)|$)", "model."),
    (r"grid\.", ""),
    (r"(methods\[\]\.search\..*|sweep\.space\..*)\.(low|high|log)$", r"\1"),
    (r"(methods|audits|trainer\.parts|meta\.variations)\.", r"\1[]."),
    (r"(audits)\[\]\.name$", r"\1"),
    (r"(model|trainer)\.$", r"\1"),
)
WORDS = {  # words that name a file of settings
    "study": "a shipped study, or a file of your own: see expunge list studies",
    "experiment": "a shipped experiment, or a file of your own: see expunge list experiments",
}
FREE = ("Mapping", "Any")  # types of a group whose keys this package does not name
PASSED_ON = ("model.model_args", "model.tokenizer_args")  # they accept settings of transformers, too


def show_key(name: str | None) -> int:
    """Print the page of a key, a command or a name, or all groups of keys. Raises ConfigError for an unknown one."""
    known = all_keys()
    if name is None:
        for key, infos in known.items():
            if "." not in key:
                for line in entry_lines(key, _first_sentence(infos[0].doc)):
                    say(line)
        say("\nOne key, or all keys of a group:              expunge help train.learning_rate")
        say("A command, a method, a metric or another name: expunge help erase")
        return 0
    notes: list[str] = []
    key_name = rename_key("run", name.partition("=")[0].lstrip("+~"), notes)
    for note in notes:
        complain(f"note: {note}")
    matches = (
        pages_of(key_name)
        or [
            i
            for key, infos in known.items()
            if key_name in (key.rpartition(".")[2], key.replace("[]", ""))
            for i in infos
        ]
        or [info for group in CHOSEN for info in _choice_pages(f"{group}.{key_name}")][:12]
    )
    if not matches and key_name in WORDS:
        say(f"{key_name}\n  {WORDS[key_name]}")
        return 0
    inside = [key for key in known if key.startswith((f"{key_name}.", f"{key_name}[]."))]
    usual = USUAL_NAMES.get(key_name.lower())
    if not matches and not inside and usual in {key.rpartition(".")[2] for key in known}:
        complain(f"note: {key_name} is called {usual} here")
        return show_key(usual)
    if not matches and not inside:
        return _show_other(name, key_name, [*known, *GROUPS["run"], *GROUPS["train"]])
    for i, info in enumerate(matches):
        say("\n" * (i > 0) + _page(info))
    for key in inside:
        if key.removeprefix(key_name).lstrip(".[]").count(".") == 0:
            for line in entry_lines(key, _first_sentence(known[key][0].doc)):
                say(line)
    if name in _commands():
        say(f"\nThe command of this name: expunge {name} --help")
    if name not in known:
        _show_lists(name)
    return 0


def _show_lists(name: str) -> None:
    """Print which lists have an entry of this name, next to the keys that end in it."""
    from expunge.cli.arguments import LISTS
    from expunge.cli.catalogue import names_of

    for what in LISTS:
        if name in names_of(what):
            say(f"\nIn the list of {what}: expunge list {what} {name}")


def _commands() -> Mapping[str, argparse.ArgumentParser]:
    """Return the parser of each command, by name."""
    from expunge.cli.arguments import build_parser
    from expunge.cli.parser import commands_of

    return commands_of(build_parser(""))


def _show_other(word: str, key: str, keys: Sequence[str]) -> int:
    """Print the help of a command, or the page of a listed name. Raises ConfigError with the names nearest to `key`."""
    from expunge.cli.arguments import LISTS
    from expunge.cli.catalogue import names_of, reported_number, show

    commands = _commands()
    if word in commands:
        commands[word].print_help()
        return 0
    names = {what: names_of(what) for what in LISTS}
    for what, listed in names.items():
        if word in listed:
            return show(what, word, as_json=False)
    if reported_number(word) is not None:
        return show("metrics", word, as_json=False)
    known = [*keys, *commands, *(name for listed in names.values() for name in listed)]
    raise ConfigError(f"help: no key, command or name {key!r}{nearest(key, known, similar=True)}")


def pages_of(key: str) -> list[KeyInfo]:
    """Return the pages of a dotted key, wherever it stands, or of the group of free keys that it is in."""
    names = _names_of(key)
    for name in names:
        if pages := all_keys().get(name) or _choice_pages(name):
            return pages
    groups = [name.rpartition(".")[0] for name in names]
    if any(group in CHOSEN or group == "trainer.args" for group in groups):
        return []  # their keys are listed, so another key is an error
    listed = {key.rpartition(".")[0] for key in all_keys()} - set(PASSED_ON)
    for name, group in zip(names, groups, strict=True):
        if group in listed and group not in names:
            continue
        pages = pages_of(group.removesuffix("[]")) if group else []
        passed_on = group in PASSED_ON and hint_of("train", name) is not None
        if passed_on or any(free in info.annotation for info in pages for free in FREE):
            return pages
    return []


def _names_of(key: str) -> list[str]:
    """Return a dotted key and its names at the other places where the same settings stand (`PLACES`, grids)."""
    names = [key]
    for name in names:  # grows: a new name may have other places of its own
        moved = [re.sub(f"^{place}", other, name) for place, other in PLACES]
        if key.startswith("grid.") and "." in name:  # an axis has a name, and values with names
            moved.append(name.partition(".")[2])
        names += [other for other in dict.fromkeys(moved) if other not in names]
    return names


def _page(info: KeyInfo) -> str:
    lines = [info.key, f"  type:    {info.annotation}", f"  default: {info.default or 'required'}"]
    if info.doc:
        lines += wrapped(info.doc, "  ", "  ")
    for head, text in (("read by: ", "; ".join(info.commands)), ("defined: ", info.defined)):
        lines += wrapped(text, f"  {head}", "    ")
    return "\n".join(lines)


def _first_sentence(text: str) -> str:
    head, stop, _ = text.partition(". ")
    return head + (stop.strip() if stop else "")


def _choice_pages(key: str) -> list[KeyInfo]:
    """Return the pages of a key that depends on the benchmark or the method, one for each class that has it."""
    group, _, name = key.rpartition(".")
    if group not in CHOSEN:
        return []
    folders, command = CHOSEN[group]
    return [
        KeyInfo(key, f.annotation, f.default, f.doc, (f"see expunge list {command}",), f"{c.name} in {c.path}")
        for folder in folders
        for c in config_classes(folder)
        if (f := c.fields.get(name)) is not None
    ]


def show_config(mode: str, overrides: Sequence[str], *, docs: bool) -> int:
    """Print the settings of a command as YAML, ready to run again. docs: add the documentation of each key."""
    from expunge.cli.compose import settings
    from expunge.pipelines.study.single_config import escaped

    composed = settings(mode, overrides)
    for note in composed.notes:
        complain(f"note: {note}")
    sys.stdout.write("\n".join(_yaml(escaped(composed.tree), mode, "", docs)) + "\n")
    return 0


def show_difference(mode: str, overrides: Sequence[str], profile: str) -> int:
    """Print the settings that a profile changes, `key: now -> with the profile`. profile: its name."""
    from expunge.cli.compose import options, settings

    name = profile.removeprefix("profile").removeprefix("=") or options("profile")[0]
    own = [word for word in overrides if not word.startswith("profile=")]
    now, then = (dict(leaves(settings(mode, words).tree)) for words in (own, [*own, f"profile={name}"]))
    for key in then:
        if now.get(key) != then[key]:
            say(f"{key}: {value_text(now.get(key))} -> {value_text(then[key])}")
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
