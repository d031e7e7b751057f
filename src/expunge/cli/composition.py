"""Lay the config files of one command over each other, in the order of their `defaults`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.cli.config_files import (
    CONF,
    SUFFIXES,
    ConfigFile,
    fork_hint,
    method_settings,
    open_file,
    options,
    other_method,
    shipped,
)
from expunge.cli.schema import GROUPS, check_tree, tree_of
from expunge.core.decode import merge
from expunge.core.errors import ConfigError, nearest
from expunge.core.yaml_text import read_yaml

METHOD_KEYS = ("handler", "method_args")

IDENTITY = ("pretrained_model_name_or_path", "revision")  # keys of model_args and tokenizer_args

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


class Composition:
    """The files of one command, laid over each other in the order of their `defaults`.

    choices: the group choices of the command line, which win over every file's. other_model: a model to use in place of
    the files' choice. files_model: that choice, if it was replaced. notes: messages for the user.
    """

    def __init__(self, mode: str, choices: Mapping[str, str | None], *, other_model: str | None = None) -> None:
        self.mode, self._other_model = mode, other_model
        self.files_model: str | None = None
        self.notes: list[str] = []
        self.choices: dict[str, str | None] = dict(choices)
        self.near: dict[str, Path | None] = {}
        self.tree: dict[str, Any] = {}
        self.user_keys: set[str] = set()
        self.written_keys: set[str] = set()  # those of a file with all settings, as commands write it: nobody's choice
        self.bare_model = False
        self.own_models: set[str] = set()  # models that a file describes itself, under `models`
        self.own_trainers: dict[str, str] = {}  # trainers that a file describes itself, under `trainers`: their methods
        self.profile_word = "profile" in choices
        self.model_word = choices.get("model") is not None
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
        if self._other_model is not None:
            self.files_model, self.choices["model"] = self.choices.get("model"), self._other_model
            self.near.pop("model", None)
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
        models = file.tree.get("models")
        self.own_models |= set(models) - set(shipped("model")) if isinstance(models, dict) else set()
        trainers = file.tree.get("trainers")
        for name, own in trainers.items() if isinstance(trainers, dict) else ():
            if name not in method_settings() and isinstance(own, dict) and isinstance(own.get("handler"), str):
                self.own_trainers.setdefault(name, own["handler"])
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
            if group == "model" and name in self.own_models:
                continue
            if name is None:
                if group == "trainer":
                    raise ConfigError(f"trainer: missing; give trainer=NAME{nearest('', options('trainer'))}")
                continue
            if group == "trainer" and not name.endswith(SUFFIXES):
                self._merge_trainer(self.own_trainers.get(name, name), {})
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
        tree: dict[str, Any] = merge(below, file.tree)
        return tree

    def _merge_trainer(self, name: str, own: Mapping[str, Any]) -> None:
        from expunge.core.fingerprints import canonical
        from expunge.training.config import TrainArgs

        if name not in method_settings():
            names = [*self.own_trainers, *options("trainer")]
            hint = other_method(name) or f"{nearest(name, names)}{fork_hint('trainer', name)}"
            raise ConfigError(f"trainer: no trainer named {name!r}{hint}")
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
                    replaced = self._named_source or (self.model_word and not _selects_model(file))
                    if replaced and isinstance(own.get("model"), Mapping):
                        own["model"] = _without_identity(own["model"])
                    self.tree = merge(self.tree, own)
                    if file.near is not None:
                        self.user_keys |= (own_keys := set(_leaves(file.tree)))
                        if set(tree_of(self.mode)) - set(GROUPS[self.mode]) <= set(file.tree):
                            self.written_keys |= own_keys
                else:
                    self._merge_file(self._again(entry, file))

    @property
    def _named_source(self) -> bool:
        """Whether the word `model=` names a folder or a hub id, which no file's settings replace."""
        name = self.choices.get("model") if self.model_word else None
        return name is not None and not name.endswith(SUFFIXES) and name not in {*options("model"), *self.own_models}

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


def _selects_model(file: ConfigFile) -> bool:
    """Return whether a file selects a model in its defaults: then its own settings count, as in OpenUnlearning."""
    keys = [str(key) for entry in file.entries if isinstance(entry, dict) for key in entry]
    return any(key.split()[-1].lstrip("/").partition("@")[0] == "model" for key in keys)


def _without_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file's model, without its identity: the word `model=` names another model."""
    own = {key: value for key, value in model.items() if key != "preset"}
    for group in ("model_args", "tokenizer_args"):
        if isinstance(own.get(group), Mapping):
            own[group] = {key: value for key, value in own[group].items() if key not in IDENTITY}
    return own


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
