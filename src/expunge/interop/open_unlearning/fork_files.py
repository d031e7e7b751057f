"""The files of a fork of OpenUnlearning: its experiments, and groups of settings over the files that they include."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.core.decode import below_key, merge
from expunge.core.errors import ConfigError, nearest
from expunge.core.yaml_text import read_yaml

MODES = {"unlearn": "unlearn", "finetune": "train", "eval": "eval"}
PACKAGE = re.compile(r"#\s*@package\s+(\S+)")  # the line that gives the key of a file's settings


def experiments(folder: Path) -> dict[str, Path]:
    """Return the experiments of a fork by name. folder: the fork, or its configs. Raises ConfigError."""
    configs = configs_of(folder)
    files = sorted((configs / "experiment").rglob("*.yaml"))
    names = {str(path.relative_to(configs / "experiment").with_suffix("")): path for path in files}
    return {name: path for name, path in names.items() if name.split("/")[0] in MODES}


def experiment_tree(
    present: Mapping[str, Path], name: str, above: tuple[str, ...]
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return the groups that an experiment chooses and its settings, over the experiments that it includes.

    above: the experiments that include this one. Raises ConfigError.
    """
    if name in above or name not in present:
        raise ConfigError(f"experiment {above[-1]}: defaults: {name}: no other experiment of the fork")
    entries, body = read_file(present[name])
    groups: dict[str, str | None] = {}
    tree: dict[str, Any] = {}
    for entry in entries:
        if entry == "_self_":
            tree = merge(tree, below_key(package_of(present[name], "") or "", body))
        elif isinstance(entry, str):
            other = entry.removeprefix("/experiment/").removesuffix(".yaml")
            if other not in present and not entry.startswith("/"):  # Hydra itself looks in the folder experiment alone
                other = f"{name.rpartition('/')[0]}/{other}"
            more, below = experiment_tree(present, other, (*above, name))
            groups |= more
            tree = merge(tree, below)
    return {**groups, **overrides(entries)}, tree


def read_file(path: Path) -> tuple[list[Any], dict[str, Any]]:
    """Return the entries of a file's `defaults`, and its settings, whose place is the entry `_self_`.

    A file without this entry has its settings over those of its `defaults`, as in Hydra. Raises ConfigError.
    """
    body = read_yaml(path, "")
    entries = body.pop("defaults", None)
    entries = list(entries) if isinstance(entries, list) else []
    return entries if "_self_" in entries else [*entries, "_self_"], body


def package_of(path: Path, group: str) -> str | None:
    """Return the key of a file's settings that its `# @package` line gives; None without this line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := PACKAGE.match(line.strip()):
            return match[1].replace("_group_", group.replace("/", ".")).removeprefix("_global_").removeprefix(".")
        if line.strip() and not line.lstrip().startswith("#"):
            break
    return None


def configs_of(folder: Path) -> Path:
    """Return the folder of a fork's configuration files. Raises ConfigError if there is none."""
    for place in (folder, folder / "configs"):
        if (place / "experiment").is_dir():
            return place
    raise ConfigError(f"import openunlearning: {folder} has no folder configs/experiment; name the fork or its configs")


def overrides(entries: Any) -> dict[str, str | None]:
    """Return the groups that a file's `defaults` choose, by name; None for a group without a file."""
    out: dict[str, str | None] = {}
    for entry in entries if isinstance(entries, list) else ():
        for key, value in entry.items() if isinstance(entry, dict) else ():
            out[str(key).removeprefix("override").strip().lstrip("/")] = None if value is None else str(value)
    return out


def composed(
    configs: Path, group: str, name: str, *,
    package: str | None = None, default: str | None = None, above: tuple[Path, ...] = (), absent: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return the whole tree of a file of a group and of the files that its `defaults` name, in Hydra's order.

    package: the key of the file's settings, which replaces that of its `# @package` line. default: that key for a file
    without this line; None for the group's name. above: the files that include this one. absent: whether files may be
    absent. Raises ConfigError.
    """
    path = configs / group / f"{name.removesuffix('.yaml')}.yaml"
    if path in above:
        raise ConfigError(f"{path}: its defaults include it again, by {above[-1].stem}")
    if absent and not path.is_file():
        return {}
    if not path.is_file():
        raise ConfigError(f"{group}: no file {path}{nearest(name, [p.stem for p in path.parent.glob('*.yaml')])}")
    entries, body = read_file(path)
    package = package_of(path, group) if package is None else package
    if package is None:
        package = group.replace("/", ".") if default is None else default
    tree: dict[str, Any] = {}
    for entry in entries:
        if entry == "_self_":
            tree = merge(tree, below_key(package, body))
            continue
        for other, file, key, explicit in _included(entry, group, package):
            below = composed(configs, other, file, package=explicit, default=key, above=(*above, path), absent=absent)
            tree = merge(tree, below)
    return tree


def _included(entry: Any, group: str, package: str) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield the group and the name of each file of an entry, the key of its settings, and the key after `@`, if any."""
    files: dict[str, Any] = {}
    if isinstance(entry, str):
        path, _, inner = entry.partition("@")
        folder, _, name = path.rpartition("/")
        files[f"{folder}@{inner}"] = name
    elif isinstance(entry, dict):
        files = {str(k).removeprefix("optional").strip(): v for k, v in entry.items()}
    for word, names in files.items():
        if word.startswith("override "):
            continue
        folder, _, inner = word.partition("@")
        relative = ".".join(part for part in folder.split("/") if part not in ("", ".", ".."))
        other = folder.strip("/") if folder.startswith("/") else posixpath.normpath(posixpath.join(group, folder))
        explicit = None
        if inner:
            inner = inner.replace("_here_", "").replace("_group_", relative)
            explicit = inner.removeprefix("_global_").strip(".") if "_global_" in inner else _joined(package, inner)
        for name in names if isinstance(names, list) else [names]:
            if isinstance(name, str) and name != "???":
                yield other, name, _joined(package, relative), explicit


def _joined(*keys: str) -> str:
    return ".".join(key.strip(".") for key in keys if key.strip("."))
