"""Read config files, shipped ones and a user's own, by the same rules.

A file is YAML with a list `defaults` (optional): other files to lay below it, and `override /GROUP: NAME` to choose a
model or a trainer. A NAME is a shipped file; NAME.yaml is a file, relative to the file that names it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.cli.environment import variable
from expunge.cli.field_docs import shipped_methods
from expunge.cli.schema import GROUPS, hint_of, item_hint, members, tree_of, unknown_key
from expunge.cli.words import Verbatim
from expunge.core.errors import ConfigError, nearest
from expunge.core.renamed import rename_tree
from expunge.core.trees import merge
from expunge.core.yaml_text import read_yaml
from expunge.methods.api import registry

CONF = Path(__file__).resolve().parent.parent / "conf"
METHOD_KEYS = ("handler", "method_args")
# Keys of an experiment with settings by the name of the chosen method or model.
CHOSEN = {"trainers": "trainer", "models": "model"}
# Groups of other projects' files, and their replacements here.
_BENCHMARK = "the key benchmark names the data and the metrics"
OTHER_GROUPS = {
    "data": _BENCHMARK,
    "eval": _BENCHMARK,
    "collator": "padding is never read",
    "hydra": "paths.output_dir sets the place of the result",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SUFFIXES = (".yaml", ".yml")
MOST_REFERENCES = 1_000_000


@functools.cache
def shipped(group: str) -> tuple[str, ...]:
    """Return the names of the shipped files of a group."""
    folder = CONF / group
    return tuple(str(p.relative_to(folder).with_suffix("")) for p in sorted(folder.rglob("*.yaml")))


def options(group: str) -> list[str]:
    """Return the names that a group offers: shipped files (without parts of others), and the methods for `trainer`."""
    whole = [name for name in shipped(group) if not name.rpartition("/")[2].startswith("_")]
    return [*whole, *(method_settings() if group == "trainer" else ())]


def _other_shape(name: str) -> str:
    """Return the way to run a weight edit or a wrapper, which no single job trains; "" for any other name."""
    from expunge.methods.weight_edits import weight_edit_registry
    from expunge.models.wrapper_api import wrapper_registry

    if name in wrapper_registry():
        return "; it is a wrapper: name it in `methods` of a study (`expunge run`), or call expunge.wrap in Python"
    return (
        "; it is a weight edit: name it in `methods` of a study (`expunge run`)"
        if name in weight_edit_registry()
        else ""
    )


def method_settings() -> Mapping[str, frozenset[str]]:
    """Return every method's name and aliases, those of plugins included, each with its own settings."""
    settings = dict(shipped_methods())
    for name in [name for name in registry() if name not in settings]:
        spec = registry()[name]
        settings |= dict.fromkeys((name, *spec.aliases), frozenset(f.name for f in dataclasses.fields(spec.cls)))
    return settings


@dataclass
class ConfigFile:
    """One file of the composition. near: its folder for a user's own file, None for a shipped one."""

    group: str
    name: str
    path: Path
    near: Path | None
    tree: dict[str, Any]
    entries: list[Any] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The file's name in errors."""
        return str(self.path) if self.near is not None else f"{self.group}={self.name}"


def open_file(mode: str, group: str, name: str, near: Path | None, notes: list[str]) -> ConfigFile:
    """Find and read a file of a group, with the words of earlier releases renamed. Raises ConfigError.

    model=FOLDER and model=OWNER/NAME stand for a file that names this source alone.
    """
    if group == "model" and _is_source(name):
        return ConfigFile(group, name, Path(name), None, {"model_args": {"pretrained_model_name_or_path": name}})
    path, own = _find(group, name, near)
    tree = read_yaml(path, group)
    entries = tree.pop("defaults", None) or []
    file = ConfigFile(group, name, path, path.parent if own else None, tree, entries)
    if not isinstance(entries, list):
        raise ConfigError(f"{file.label}: defaults: expected a list, got {entries!r}")
    wrong = [entry for entry in entries if not isinstance(entry, str | dict)]
    if wrong:
        raise ConfigError(f"{file.label}: defaults: expected a name or `override /GROUP: NAME`, got {wrong[0]!r}")
    place = "" if group in ("study", "experiment") else group
    file.tree = rename_tree(mode, tree, place, notes)
    _canonical_form(mode, file)
    return file


def _is_source(name: str) -> bool:
    """Return whether a name is a folder of a model or a hub id, and not a file or a shipped name."""
    from expunge.models.config import ADAPTER, looks_local

    if name.endswith(SUFFIXES) or name in shipped("model"):
        return False
    folder = Path(name).expanduser()
    if looks_local(name):
        return any((folder / file).is_file() for file in ("config.json", ADAPTER))
    return HUB_ID.fullmatch(name) is not None


def _find(group: str, name: str, near: Path | None) -> tuple[Path, bool]:
    """Return the path of a file, and whether it is a user's own. Raises ConfigError with the nearest name."""
    bare = name.removesuffix(".yaml").removesuffix(".yml")
    if not name.endswith(SUFFIXES):
        if bare in shipped(group):
            return CONF / group / f"{bare}.yaml", False
        sibling = near / f"{name}.yaml" if near is not None else None
        if sibling is not None and sibling.is_file():
            return sibling, True
        hint = (_other_shape(name) if group == "trainer" else "") or nearest(name, options(group))
        if Path(f"{name}.yaml").is_file():
            hint = f"; to read your file, write {group}={name}.yaml"
        elif group == "model" and (os.sep in name or Path(name).expanduser().is_dir()):
            hint = (
                "; this folder has no config.json" if Path(name).expanduser().is_dir() else "; there is no such folder"
            )
        raise ConfigError(f"{group}: no {group} named {name!r}{hint}")
    path = Path(name).expanduser()
    for place in [near / path] if near is not None else []:
        if place.is_file():
            return place, True
    if path.is_file():
        return path, True
    if bare in shipped(group):
        return CONF / group / f"{bare}.yaml", False
    folder = path.parent
    names = [str(folder / p.name) for p in folder.glob("*.y*ml")] if folder.is_dir() else []
    raise ConfigError(f"{group}: no file {path}{nearest(str(path), [*names, *shipped(group)])}")


def _canonical_form(mode: str, file: ConfigFile) -> None:
    """Convert the forms of a saved config.yaml or a short file to the canonical form of the tree."""
    tree = file.tree
    if file.group not in ("study", "experiment"):
        return
    if "template_args" in tree:  # its place in earlier releases
        own = tree.pop("template_args")
        model = tree.setdefault("model", {})
        if isinstance(model, dict) and isinstance(own, dict):
            tree["model"] = {**model, "template_args": {**own, **(model.get("template_args") or {})}}
    if tree.get("profile", "") is None:
        del tree["profile"]
    for group in ("model", "trainer", "profile"):
        if group in GROUPS[mode] and isinstance(tree.get(group), str):
            file.entries = [*file.entries, {f"override /{group}": tree.pop(group)}]
    if file.near is not None and mode != "run" and tree.get("mode", mode) != mode:
        raise ConfigError(f"{file.label}: mode: this file is for `expunge {tree['mode']}`, not `expunge {mode}`")
    if file.near is not None and mode != "run" and "methods" in tree and "trainer" not in tree:
        raise ConfigError(f"{file.label}: a study, which lists `methods`: expunge run study={file.name}")


class Composition:
    """The files of one command, laid over each other in the order of their `defaults`.

    choices: the group choices of the command line, which win over every file's. notes: messages for the user.
    """

    def __init__(self, mode: str, choices: Mapping[str, str | None]) -> None:
        self.mode = mode
        self.notes: list[str] = []
        self.choices: dict[str, str | None] = dict(choices)
        self.near: dict[str, Path | None] = {}
        self.tree: dict[str, Any] = {}
        self.user_keys: set[str] = set()
        self.bare_model = False
        self.profile_word = "profile" in choices
        self._fallback: dict[str, str | None] = {}
        self._open: list[Path] = []

    def run(self) -> dict[str, Any]:
        """Return the tree of the files, before any word of the command line. Raises ConfigError."""
        top = read_yaml(CONF / f"{self.mode}.yaml", self.mode)
        entries = [e for e in top.pop("defaults") if isinstance(e, dict)]
        self._fallback = {group: name for entry in entries for group, name in entry.items()}
        main = GROUPS[self.mode][0]
        name = self.choices.get(main, self._fallback.get(main))
        if name == "???":
            raise ConfigError(f"{main}: missing; give {main}=NAME or {main}=FILE.yaml{nearest('', options(main))}")
        file = open_file(self.mode, main, name, None, self.notes) if name else None
        if file is not None:
            self._collect(file)
        self.tree = tree_of(self.mode)
        self._merge_groups()
        self._merge_profile(after=False)
        if file is not None:
            self._merge_file(file)
            if self.mode == "run":
                self.tree.setdefault("name", file.path.stem)
        self._merge_profile(after=True)
        self.tree = merge(self.tree, top)
        return self.tree

    def _collect(self, file: ConfigFile) -> None:
        """Record the model and trainer that a file chooses, the including file before its included files."""
        for entry in file.entries:
            if isinstance(entry, dict):
                self._choose(entry, file)
        trainer = file.tree.get("trainer")
        own = trainer.get("handler") if isinstance(trainer, dict) else None
        if isinstance(trainer, dict) and isinstance(own, str) and self.choices.setdefault("trainer", own) != own:
            file.tree["trainer"] = {k: v for k, v in trainer.items() if k not in METHOD_KEYS}
        if file.near is not None and "model" not in self.choices:
            model = file.tree.get("model")
            self.bare_model |= isinstance(model, dict) and _names_model(model)
        with self._within(file):
            for included in self._included(file):
                self._collect(included)

    def _choose(self, entry: Mapping[Any, Any], file: ConfigFile) -> None:
        for key, name in entry.items():
            words = str(key).split()
            group = words[-1].lstrip("/").partition("@")[0]
            top = group.partition("/")[0]
            if group not in GROUPS[self.mode][1:]:
                if top in OTHER_GROUPS:
                    self.notes.append(f"{file.label}: defaults: {key} has no effect: {OTHER_GROUPS[top]}")
                    continue
                raise ConfigError(f"{file.label}: defaults: no group {group!r}{nearest(group, GROUPS[self.mode][1:])}")
            if name is not None and not isinstance(name, str):
                raise ConfigError(f"{file.label}: defaults: {key}: expected a name, got {name!r}")
            if group not in self.choices:
                self.choices[group] = name
                self.near[group] = file.near

    def _included(self, file: ConfigFile) -> Iterator[ConfigFile]:
        for entry in file.entries:
            if isinstance(entry, str) and entry != "_self_":
                yield self._include(entry, file)

    def _include(self, entry: str, file: ConfigFile) -> ConfigFile:
        group, name, near = file.group, entry, file.near
        if entry.startswith("/") and not Path(entry).is_file():
            group, _, name = entry[1:].partition("/")
            if group != file.group:
                raise ConfigError(f"{file.label}: defaults: {entry} is no {file.group}")
            near = None
        included = open_file(self.mode, group, name, near, [])
        if included.path in self._open:
            raise ConfigError(f"{file.label}: defaults: {entry} includes itself")
        return included

    def _within(self, file: ConfigFile) -> _Opened:
        return _Opened(self._open, file.path)

    def _merge_groups(self) -> None:
        for group in GROUPS[self.mode][1:-1]:
            name = self.choices.get(group, None if group == "model" and self.bare_model else self._fallback.get(group))
            if name is None:
                if group == "trainer":
                    raise ConfigError(f"trainer: missing; give trainer=NAME{nearest('', options('trainer'))}")
                continue
            if group == "trainer" and not name.endswith(SUFFIXES):
                self._merge_trainer(name, {})
                continue
            file = open_file(self.mode, group, name, self.near.get(group), self.notes)
            own = self._group_tree(file)
            if group == "trainer":
                handler = own.pop("handler", None)
                if not isinstance(handler, str):
                    raise ConfigError(f"{file.label}: handler: missing; name the method{nearest('', options(group))}")
                self._merge_trainer(handler, own)
            else:
                self.tree = merge(self.tree, {group: own})

    def _merge_profile(self, *, after: bool) -> None:
        """Lay the chosen profile over the tree: before the files if a file names it, `after` them for a word.

        A study has the profile's training settings in `train` and `unlearn`, and its method settings in each method.
        """
        name = self.choices.get("profile")
        if name is None:
            return
        own = dict(open_file(self.mode, "profile", name, self.near.get("profile"), []).tree)
        if self.mode == "run":
            trainer = own.pop("trainer", {})
            own |= {"train": trainer.get("args", {}), "unlearn": trainer.get("args", {})}
            if after:
                entries = self.tree.get("methods") or ()
                methods = [self._with_profile(entry, trainer.get("method_args", {})) for entry in entries]
                self.tree = {**self.tree, "methods": methods}
        if after == self.profile_word:
            self.tree = {**merge(self.tree, own), "profile": name}

    @staticmethod
    def _with_profile(entry: Any, settings: Mapping[str, Any]) -> Any:
        """Return a method of a study over the profile's settings of methods. A weight edit has none of them."""
        entry = {"trainer": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or entry.get("trainer") not in method_settings():
            return entry
        return merge({"method_args": settings}, entry)

    def _group_tree(self, file: ConfigFile) -> dict[str, Any]:
        """Return a model's or a trainer's file over the files it includes."""
        below: dict[str, Any] = {}
        with self._within(file):
            for included in self._included(file):
                below = merge(below, self._group_tree(included))
        check_tree(self.mode, file.tree, file.label if file.near is not None else "", prefix=f"{file.group}.")
        return merge(below, file.tree)

    def _merge_trainer(self, name: str, own: Mapping[str, Any]) -> None:
        from expunge.core.fingerprints import canonical
        from expunge.training.config import TrainArgs

        if name not in method_settings():
            raise ConfigError(
                f"trainer: no trainer named {name!r}{_other_shape(name) or nearest(name, options('trainer'))}"
            )
        node = {"handler": name, "args": canonical(TrainArgs()), "method_args": {}}
        self.tree = merge(self.tree, {"trainer": merge(node, own)})

    def _merge_file(self, file: ConfigFile) -> None:
        """Lay a study or an experiment over the tree, its included files first (or at the place of `_self_`)."""
        entries = [e for e in file.entries if isinstance(e, str)]
        if "_self_" not in entries:
            entries.append("_self_")
        with self._within(file):
            for entry in entries:
                if entry == "_self_":
                    plain = {k: v for k, v in file.tree.items() if k not in CHOSEN}
                    check_tree(self.mode, plain, file.label if file.near is not None else "")
                    self._merge_chosen(file)
                    own = {k: v for k, v in plain.items() if k != "trainer"}
                    if "trainer" in file.tree:
                        override = self.choices.get("trainer")
                        own["trainer"] = {
                            k: v for k, v in file.tree["trainer"].items() if k != "handler" or not override
                        }
                    self.tree = merge(self.tree, own)
                    if file.near is not None:
                        self.user_keys |= set(_leaves(file.tree))
                else:
                    self._merge_file(self._again(entry, file))

    def _merge_chosen(self, file: ConfigFile) -> None:
        """Lay a file's settings of the chosen method and the chosen model over the tree (`trainers`, `models`)."""
        for key, group in CHOSEN.items():
            name = self.choices.get(group, self._fallback.get(group))
            own = (file.tree.get(key) or {}).get(name)
            if own:
                check_tree(self.mode, own, file.label, prefix=f"{group}.")
                self.tree = merge(self.tree, {group: own})

    def _again(self, entry: str, file: ConfigFile) -> ConfigFile:
        """Return an included file as after `_collect`: without the settings of a method that is not selected."""
        included = self._include(entry, file)
        trainer = included.tree.get("trainer")
        if isinstance(trainer, dict) and trainer.get("handler", self.choices.get("trainer")) != self.choices.get(
            "trainer"
        ):
            included.tree["trainer"] = {k: v for k, v in trainer.items() if k not in METHOD_KEYS}
        return included


class _Opened:
    """Marks a file as open while its included files are read, so that a circle is an error."""

    def __init__(self, opened: list[Path], path: Path) -> None:
        self._opened, self._path = opened, path

    def __enter__(self) -> None:
        self._opened.append(self._path)

    def __exit__(self, *_: object) -> None:
        self._opened.pop()


def _names_model(model: Mapping[str, Any]) -> bool:
    """Return whether settings of a model identify it: by a preset, a folder or a hub id."""
    args = model.get("model_args")
    named = isinstance(args, dict) and args.get("pretrained_model_name_or_path")
    return bool(model.get("preset") or named)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


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
    import dataclasses
    from typing import get_origin

    return any(dataclasses.is_dataclass(m) or get_origin(m) in (Mapping, dict) for m in members(hint))


def _has_fields(hint: Any) -> bool:
    import dataclasses

    return hint is not Any and any(dataclasses.is_dataclass(m) for m in members(hint))


REFERENCE = re.compile(r"(\\?)\$\{([^{}]*)\}")


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    r"""Return the tree with `${key}` replaced by that key's value and `${oc.env:NAME}` by a variable.

    `\${` stands for the characters `${`. Words of the command line for text keys stay unchanged.
    Raises ConfigError for a reference to nothing, and for a value `???` that was not given.
    """
    out: dict[str, Any] = _Resolver(tree).value(tree, "")
    return out


class _Resolver:
    """Replaces the references of one tree. Counts characters, because references can multiply."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
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
            return self.value(_referred(whole[2], self._root, key), key, depth + 1)

        def text(match: re.Match[str]) -> str:
            if match[1]:
                return f"${{{match[2]}}}"
            return str(self.value(_referred(match[2], self._root, key), key, depth + 1))

        return REFERENCE.sub(text, value)


def _referred(name: str, root: Mapping[str, Any], key: str) -> Any:
    if name.startswith("oc.env:"):
        return Verbatim(variable(name, key))
    here: Any = root
    for part in name.split("."):
        if not isinstance(here, Mapping) or part not in here:
            raise ConfigError(f"{key}: ${{{name}}} refers to no key{nearest(name, root)}")
        here = here[part]
    if here == "???":
        raise ConfigError(f"{name}: missing; give {name}=...")
    return here
