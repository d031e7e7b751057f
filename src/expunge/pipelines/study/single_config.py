"""The settings of a single job: `expunge train`, `unlearn` and `eval`. This module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from expunge.core.decode import strict
from expunge.core.fingerprints import canonical
from expunge.core.names import check_folder_name
from expunge.core.renamed import rename_tree
from expunge.pipelines.study.task_config import TaskConfig, decode_task

Mode = Literal["train", "unlearn", "eval"]


@strict
@dataclass(frozen=True, kw_only=True)
class MergePart:
    """One of several runs that are merged."""

    label: str
    """The name of the run."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Training settings, on top of the trainer's."""
    method_args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method, on top of the trainer's."""


@strict
@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """The weight edit that merges several models into one."""

    handler: str = "ties"
    """ties, dare, linear or magnitude_prune."""
    method_args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the edit."""


@strict
@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The method, its training settings and its own settings."""

    handler: str = "finetune"
    """The method's name: see `expunge list methods`."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Training settings, by the names of transformers' TrainingArguments."""
    method_args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method itself."""
    parts: tuple[MergePart, ...] = ()
    """Several runs from the same model in place of one."""
    merge: MergeConfig | None = None
    """The edit that merges the parts. None: one run."""

    def __post_init__(self) -> None:
        if (self.merge is None) != (not self.parts):
            raise ValueError("merge needs parts, the runs to merge into one model, and parts need merge")
        labels = [part.label for part in self.parts]
        if len(set(labels)) != len(labels):
            raise ValueError("parts: two have the same label")


@strict
@dataclass(frozen=True, kw_only=True)
class SinglePaths:
    """Where results are written."""

    output_dir: str | None = None
    """The folder of the result. None: the folder task_name in `parent`."""
    parent: str | None = None
    """The folder that contains the folder task_name. None: saves/MODE."""
    store: str = "saves/store"
    """The folder of all stored results."""

    def __post_init__(self) -> None:
        for key in ("store", "output_dir", "parent"):
            check_folder_name(getattr(self, key), key)


@strict
@dataclass(frozen=True, kw_only=True)
class SingleJob(TaskConfig):
    """One job, in the vocabulary of OpenUnlearning's experiments."""

    mode: Mode
    """The command: train, unlearn or eval."""
    task_name: str
    """The name of the result's folder."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """The method and its settings."""
    train_split: str = "full"
    """The examples that `expunge train` learns: full, retain, forget or a split's name."""
    retain_logs_path: str | None = None
    """The EVAL.json of a retain model, which forget quality compares with. None: no such metrics."""
    paths: SinglePaths = field(default_factory=SinglePaths)
    """Where results are written."""

    @property
    def output_dir(self) -> Path:
        """The folder of the result."""
        return Path(self.paths.output_dir or f"{self.paths.parent or f'saves/{self.mode}'}/{self.task_name}")


def config_text(job: SingleJob) -> str:
    """Return a job's settings as the YAML of a config.yaml: `experiment=config.yaml` runs the same job again."""
    tree = canonical(job)
    tree["model"]["template_args"] = tree.pop("template_args")
    return yaml.safe_dump(escaped(tree), sort_keys=False, allow_unicode=True)


def read_config(tree: Mapping[str, Any], changed: Mapping[str, Sequence[str] | None] | None = None) -> SingleJob:
    """Return the job of a config.yaml's tree, also of one that an earlier release wrote. Raises ConfigError.

    changed: lists that replace those of `eval` in the file, such as `extras` and `metrics`; None keeps the file's.
    """
    settings = rename_tree(str(tree.get("mode", "eval")), _unescaped(tree), "", [])
    template = settings.pop("template_args", None)
    if template is not None and isinstance(settings.get("model"), dict):
        settings["model"] = {**settings["model"], "template_args": template}
    named = {key: list(names) for key, names in (changed or {}).items() if names is not None}
    if named:
        settings["eval"] = {**(settings.get("eval") or {}), **named}
    return decode_task(SingleJob, settings)


def escaped(value: Any) -> Any:
    r"""Return the tree with `${` in texts as `\${`: config files replace `${key}` by a value."""
    return _texts(value, lambda text: text.replace("${", "\\${"))


def _unescaped(value: Any) -> Any:
    return _texts(value, lambda text: text.replace("\\${", "${"))


def _texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _texts(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [_texts(v, change) for v in value]
    return change(value) if isinstance(value, str) else value
