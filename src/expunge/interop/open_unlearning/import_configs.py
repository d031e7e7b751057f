"""Import of a fork of OpenUnlearning: an experiment of its configs folder becomes an experiment file of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from expunge.core.errors import ConfigError, nearest
from expunge.core.trees import leaves, merge
from expunge.core.yaml_text import read_yaml
from expunge.interop.open_unlearning.words import translate

WHOLE_REFERENCE = re.compile(r"\$\{[^{}]*\}")
MODES = {"unlearn": "unlearn", "finetune": "train", "eval": "eval"}
HANDLERS = {"FinetuneTrainer": "finetune"}
DROPPED = ("mode", "task_name", "trainer.args.report_to")  # the command, the user and the package's log have these


@dataclass(frozen=True)
class ImportedExperiment:
    """One experiment: its name, its command, its settings, and the settings that cannot be carried, with reasons."""

    name: str
    mode: str
    tree: Mapping[str, Any]
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """Return the experiment file, with the notes as comments."""
        head = [f"OpenUnlearning's experiment {self.name}, for `expunge {self.mode}`.", *self.notes]
        return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(dict(self.tree), sort_keys=False, width=110)


def experiments(folder: Path) -> dict[str, Path]:
    """Return the experiments of a fork by name. folder: the fork, or its configs. Raises ConfigError."""
    configs = _configs(folder)
    files = sorted((configs / "experiment").rglob("*.yaml"))
    names = {str(path.relative_to(configs / "experiment").with_suffix("")): path for path in files}
    return {name: path for name, path in names.items() if name.split("/")[0] in MODES}


def import_experiment(folder: Path, name: str, methods: frozenset[str]) -> ImportedExperiment:
    """Return an experiment of a fork. methods: the names of the known methods. Raises ConfigError."""
    known = experiments(folder)
    name = name.removesuffix(".yaml")
    if name not in known:
        raise ConfigError(f"--experiment: no experiment named {name!r}{nearest(name, known)}")
    configs = _configs(folder)
    own = read_yaml(known[name], "")
    groups = _overrides(own.pop("defaults", None) or [])
    mode = MODES[name.split("/")[0]]
    tree: dict[str, Any] = {"trainer": _with_defaults(configs, "trainer", groups.get("trainer", "finetune"))}
    model = groups.get("model")
    if model:
        tree["model"] = _with_defaults(configs, "model", model)
    return _Carried(name, mode, groups, merge(tree, own)).result(methods)


def _configs(folder: Path) -> Path:
    for place in (folder, folder / "configs"):
        if (place / "experiment").is_dir():
            return place
    raise ConfigError(f"import openunlearning: {folder} has no folder configs/experiment; name the fork or its configs")


def _overrides(entries: Any) -> dict[str, str]:
    """Return the groups that a file's `defaults` choose, by name."""
    out = {}
    for entry in entries if isinstance(entries, list) else ():
        for key, value in entry.items() if isinstance(entry, dict) else ():
            out[str(key).removeprefix("override").strip().lstrip("/")] = str(value)
    return out


def _with_defaults(configs: Path, group: str, name: str) -> dict[str, Any]:
    """Return a file of a group over the files that its `defaults` name. Raises ConfigError."""
    path = configs / group / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        raise ConfigError(f"{group}: no file {path}{nearest(name, [p.stem for p in path.parent.glob('*.yaml')])}")
    own = read_yaml(path, "")
    below: dict[str, Any] = {}
    for entry in own.pop("defaults", None) or []:
        if isinstance(entry, str) and entry != "_self_":
            below = merge(below, _with_defaults(configs, group, entry))
    tree: dict[str, Any] = merge(below, own)
    return tree


@dataclass
class _Carried:
    """The settings of one experiment while they are carried over, as words."""

    name: str
    mode: str
    groups: Mapping[str, str]
    tree: Mapping[str, Any]

    def result(self, methods: frozenset[str]) -> ImportedExperiment:
        """Return the experiment with the settings that can be carried."""
        tree = dict(self.tree)
        handler = tree["trainer"].pop("handler", "finetune")
        handler = HANDLERS.get(handler, handler)
        notes = []
        if handler not in methods and self.mode != "eval":
            notes.append(
                f"trainer={handler}: a class of the fork; write it as a method in a plugin (see examples/own_loss.py)"
            )
        if self.mode == "eval":
            tree.pop("trainer")
        values = {key: value for key, value in leaves(tree) if not _refers(value) and key not in DROPPED}
        if self._benchmark() == "wmdp":
            values.pop("eval.lm_eval.tasks", None)  # the benchmark has the same questions
        words, refused = self._translated(values)
        out: dict[str, Any] = {"benchmark": self._benchmark()}
        for word in words:
            key, _, text = word.partition("=")
            value = values[key] if key in values and _text(values[key]) == text else yaml.safe_load(text)
            _set_key(out, key, value)
        if self.mode != "eval":
            out["trainer"] = {"handler": handler, **out.get("trainer", {})}
            args = out["trainer"].setdefault("args", {})
            args["whole_steps"] = True
            if (args.get("evaluate") or {}).get("every"):
                args["evaluate"]["panel"] = "full"
        model_args = out.get("model", {}).get("model_args", {})
        if model_args.get("dtype") == "bfloat16":
            model_args["dtype"] = "auto"
        task = self.tree.get("task_name")
        if isinstance(task, str) and task != "???":
            out["task_name"] = task
        return ImportedExperiment(self.name, self.mode, out, (*notes, *refused))

    def _benchmark(self) -> str:
        suite = self.groups.get("eval", "tofu")
        corpus = self.groups.get("data/datasets@data.forget", "").startswith("WMDP")
        return "wmdp" if suite == "lm_eval" and (corpus or "wmdp" in self.name) else suite

    def _translated(self, values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Return the words of the values, and a note for each that cannot be carried."""
        sets = [f"{key}={value}" for key, value in self.groups.items() if key.startswith("data/datasets@")]
        words = [*sets, *(f"{key}={_text(value)}" for key, value in values.items())]
        family = self._benchmark()
        context = [
            f"experiment={self.name.split('/')[0]}/{family}/default",
            f"trainer={self.groups.get('trainer', '')}",
        ]
        carried, refused = [], []
        for word in words:
            rest = [other for other in words if other != word]
            try:
                new, _ = _one(word, [*context, *rest], self.mode)
                carried += [w for w in new if w not in carried]
            except ConfigError as error:
                refused.append(f"not carried: {error}")
        return carried, refused


def _one(word: str, others: list[str], mode: str) -> tuple[list[str], list[str]]:
    """Translate one word in the context of the others."""
    return translate([word], mode, context=others)


def _refers(value: Any) -> bool:
    """Return whether a value is another key's, which is carried itself, or a value that the user must give."""
    return isinstance(value, str) and (value == "???" or WHOLE_REFERENCE.fullmatch(value) is not None)


def _text(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, list)
        else str(value)
    )


def _set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    for part in parts:
        tree = tree.setdefault(part, {})
    tree[last] = value
