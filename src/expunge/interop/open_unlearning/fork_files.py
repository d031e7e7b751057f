"""The files of a fork of OpenUnlearning: its experiments, and groups of settings over the files that they include."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.decode import merge
from expunge.core.errors import ConfigError, nearest
from expunge.core.yaml_text import read_yaml

EVALUATORS = {"TOFUEvaluator": "tofu", "MUSEEvaluator": "muse", "LMEvalEvaluator": "lm_eval"}
MODES = {"unlearn": "unlearn", "finetune": "train", "eval": "eval"}


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
    body = read_yaml(present[name], "")
    entries = body.pop("defaults", None) or []
    groups: dict[str, str | None] = {}
    below: dict[str, Any] = {}
    for entry in entries:
        if isinstance(entry, str) and entry != "_self_":
            other = entry.removeprefix("/experiment/").removesuffix(".yaml")
            if other not in present and not entry.startswith("/"):  # Hydra itself looks in the folder experiment alone
                other = f"{name.rpartition('/')[0]}/{other}"
            more, tree = experiment_tree(present, other, (*above, name))
            groups |= more
            below = merge(below, tree)
    return {**groups, **overrides(entries)}, merge(below, body)


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


def suite_file(configs: Path, name: str) -> dict[str, Any]:
    """Return a file of the group eval; nothing if the fork has none of this name."""
    path = configs / "eval" / f"{name}.yaml"
    return read_yaml(path, "") if path.is_file() else {}


def suite_of(suite: Mapping[str, Any], name: str) -> str:
    """Return the suite of metrics that a file of the group eval is for, by its class; its own name otherwise."""
    return EVALUATORS.get(str(suite.get("handler")), name)


def metrics_of(suite: Mapping[str, Any]) -> list[str]:
    """Return the metrics that a file of the group eval lists."""
    lists = [names for entry in suite.get("defaults") or [] if isinstance(entry, dict) for names in entry.values()]
    return [str(name) for each in lists if isinstance(each, list) for name in each]


def with_defaults(configs: Path, group: str, name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a file of a group over the files that its `defaults` name. above: the files that include this one.

    Raises ConfigError.
    """
    path = configs / group / f"{name.removesuffix('.yaml')}.yaml"
    if name in above:
        raise ConfigError(f"{path}: its defaults include it again, by {above[-1]}")
    if not path.is_file():
        raise ConfigError(f"{group}: no file {path}{nearest(name, [p.stem for p in path.parent.glob('*.yaml')])}")
    own = read_yaml(path, "")
    below: dict[str, Any] = {}
    for entry in own.pop("defaults", None) or []:
        if isinstance(entry, str) and entry != "_self_":
            below = merge(below, with_defaults(configs, group, entry, (*above, name)))
    tree: dict[str, Any] = merge(below, own)
    return tree
