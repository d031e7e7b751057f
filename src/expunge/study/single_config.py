"""The settings of a single job: `expunge train`, `unlearn` and `eval`. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.study.config import TaskConfig

Mode = Literal["train", "unlearn", "eval"]


@strict
@dataclass(frozen=True, kw_only=True)
class MergePart:
    """One of several runs that are merged: what it changes in the trainer's settings."""

    label: str
    args: Mapping[str, Any] = field(default_factory=dict)
    method_args: Mapping[str, Any] = field(default_factory=dict)


@strict
@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """The edit that makes one model of several: ties, dare, linear or magnitude_prune."""

    handler: str = "ties"
    method_args: Mapping[str, Any] = field(default_factory=dict)


@strict
@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The method, its training settings and its own settings. parts, merge: several runs from the same model in place
    of one, and the edit that merges them."""

    handler: str = "finetune"
    args: Mapping[str, Any] = field(default_factory=dict)
    method_args: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[MergePart, ...] = ()
    merge: MergeConfig | None = None

    def __post_init__(self) -> None:
        if (self.merge is None) != (not self.parts):
            raise ValueError("merge needs parts, the runs it makes one model of, and parts need merge")
        labels = [part.label for part in self.parts]
        if len(set(labels)) != len(labels):
            raise ValueError("parts: two have the same label")


@strict
@dataclass(frozen=True, kw_only=True)
class SinglePaths:
    """Where things go; `output_dir` is saves/<mode>/<task_name> unless given."""

    output_dir: str | None = None
    store: str = "saves/store"


@strict
@dataclass(frozen=True, kw_only=True)
class SingleJob(TaskConfig):
    """One job, in the vocabulary of OpenUnlearning's experiments."""

    mode: Mode
    task_name: str
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    train_split: str = "full"
    retain_logs_path: str | None = None
    paths: SinglePaths = field(default_factory=SinglePaths)

    @property
    def output_dir(self) -> Path:
        """Where the user finds the result."""
        return Path(self.paths.output_dir or f"saves/{self.mode}/{self.task_name}")
