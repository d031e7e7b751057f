"""Find and read config files: shipped ones, and a user's own by the same rules.

A file is YAML with a list `defaults` (optional): other files to lay below it, and `override /GROUP: NAME` to choose a
model or a trainer. A NAME is a shipped file; NAME.yaml is a file, relative to the file that names it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.cli.field_docs import shipped_methods
from expunge.cli.schema import GROUPS
from expunge.core.errors import ConfigError, nearest
from expunge.core.renamed import rename_tree
from expunge.core.yaml_text import read_yaml
from expunge.methods.api import registry

CONF = Path(__file__).resolve().parent.parent / "conf"

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

SUFFIXES = (".yaml", ".yml")


@functools.cache
def shipped(group: str) -> tuple[str, ...]:
    """Return the names of the shipped files of a group."""
    folder = CONF / group
    return tuple(str(p.relative_to(folder).with_suffix("")) for p in sorted(folder.rglob("*.yaml")))


def whole_files(group: str) -> list[str]:
    """Return the names of the shipped files of a group that a user types: without parts of others."""
    return [name for name in shipped(group) if not name.rpartition("/")[2].startswith("_")]


def options(group: str) -> list[str]:
    """Return the names that a group offers: shipped files, and the methods for `trainer`."""
    return [*whole_files(group), *(method_settings() if group == "trainer" else ())]


# Names of methods in papers and in TOFU's own code, and the words to type.
SHORT_NAMES: Mapping[str, str] = {
    "ga": "GradAscent",
    "grad_ascent": "GradAscent",
    "gd": "GradDiff",
    "grad_diff": "GradDiff",
}


def other_method(name: str) -> str:
    """Return the words for a method's short name, or for a method that is no loss; "" for any other name."""
    if words := SHORT_NAMES.get(name.lower()):
        return f"; write trainer={words}"
    from expunge.training.in_memory.method_kinds import other_kind

    kind = other_kind(name)
    return f"; {kind}" if kind else ""


def fork_hint(group: str, name: str) -> str:
    """Return the words to type for a name that only a fork of OpenUnlearning may have; "" for any other name."""
    bare = name.removesuffix(".yaml")
    if group == "experiment" and bare.split("/")[0] in ("unlearn", "eval", "finetune") and "/" in bare:
        return (
            f". If a fork of OpenUnlearning has it: expunge import openunlearning FORK --experiment {bare} "
            "--out mine.yaml, then experiment=mine.yaml"
        )
    if group == "model" and "lora" in name.lower():
        return ". For adapters, name the base model, and write trainer.args.lora.r=N"
    return ". A method of your own is a plugin: --plugin FILE.py" if group == "trainer" else ""


def _refuse_fork(group: str, path: Path) -> None:
    """Raise ConfigError for a file below the configs of OpenUnlearning or of a fork, which have other keys."""
    for folder in path.resolve().parents:
        if (folder / "trainer" / "finetune.yaml").is_file() and (folder / "experiment").is_dir():
            name = path.resolve().relative_to(folder / group).with_suffix("") if group == "experiment" else "NAME"
            raise ConfigError(
                f"{group}: {path} is a file of OpenUnlearning or a fork; write expunge import openunlearning {folder} "
                f"--experiment {name} --out mine.yaml, then experiment=mine.yaml, which has its trainers and models"
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
    if group == "model" and not own and near is None and (Path(name) / "config.json").is_file():
        notes.append(
            f"model={name}: the model of this name that comes with the package; for the folder: model=./{name}"
        )
    if own and group != "study":
        _refuse_fork(group, path)
    tree = read_yaml(path, group)
    entries = tree.pop("defaults", None) or []
    file = ConfigFile(group, name, path, path.parent if own else None, tree, entries)
    if not isinstance(entries, list):
        raise ConfigError(f"{file.label}: defaults: expected a list, got {entries!r}")
    wrong = [entry for entry in entries if not isinstance(entry, str | dict)]
    if wrong:
        raise ConfigError(f"{file.label}: defaults: expected a name or `override /GROUP: NAME`, got {wrong[0]!r}")
    place = "" if group in ("study", "experiment") else group
    try:
        file.tree = rename_tree(mode, tree, place, notes)
    except ConfigError as error:
        raise ConfigError(f"{file.label}: {error}") from None
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
    if not name:
        raise ConfigError(f"{group}=: no name after the sign{nearest('', options(group))}")
    if not name.endswith(SUFFIXES):
        if bare in shipped(group):
            return CONF / group / f"{bare}.yaml", False
        sibling = near / f"{name}.yaml" if near is not None else None
        if sibling is not None and sibling.is_file():
            return sibling, True
        hint = (other_method(name) if group == "trainer" else "") or nearest(name, options(group))
        if Path(f"{name}.yaml").is_file():
            hint = f"; to read your file, write {group}={name}.yaml"
        elif group == "model" and (os.sep in name or Path(name).expanduser().is_dir()):
            hint = (
                "; this folder has no config.json" if Path(name).expanduser().is_dir() else "; there is no such folder"
            )
        raise ConfigError(f"{group}: no {group} named {name!r}{hint}{fork_hint(group, name)}")
    path = Path(name).expanduser()
    for place in [near / path] if near is not None else []:
        if place.is_file():
            return place, True
    if path.is_file():
        return path, True
    if bare in shipped(group):
        return CONF / group / f"{bare}.yaml", False
    if path.exists():
        raise ConfigError(f"{group}: {path} is no file; name a YAML file")
    folder = path.parent
    names = [str(folder / p.name) for p in folder.glob("*.y*ml")] if folder.is_dir() else []
    hint = nearest(str(path), [*names, *options(group)])
    raise ConfigError(f"{group}: no file {path}{hint}{fork_hint(group, name)}")


def study_hint(name: str) -> str:
    """Return a hint for a name that is no study: a file of the user's of this name, or the nearest name."""
    if os.path.isfile(f"{name}.yaml"):  # False for a name that is too long
        return f"; did you mean '{name}.yaml'?"
    return nearest(name, [*options("study"), *sorted(p.name for p in Path().glob("*.y*ml"))])


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
