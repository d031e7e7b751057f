"""Settings that studies and single jobs share. This module does not import torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from expunge.benchmarks.api import BenchmarkConfig
from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError, nearest
from expunge.core.files import check_place
from expunge.core.names import check_name
from expunge.core.outputs import check_output, named_paths
from expunge.data.template import Template
from expunge.data.world import WorldConfig
from expunge.evaluation.config import Generation
from expunge.models.config import ModelConfig
from expunge.models.identity import pinned
from expunge.models.options import with_options

FRONT_END = "expunge.cli.compose"  # reads YAML files and words; imported when a study or a job is loaded


@strict
@dataclass(frozen=True, kw_only=True)
class LmEval:
    """Tasks of lm-evaluation-harness, run on every model next to the benchmark's own metrics."""

    tasks: tuple[str | Mapping[str, Any], ...] = ()
    """Names of tasks, such as arc_easy; none by default. A group of keys with the name as `task` changes the settings
    of a task, or defines one.
    """
    num_fewshot: int | None = None
    """Solved examples before each question. None: each task's own number."""
    batch_size: int = 16
    """Examples of one forward pass. It changes the speed only."""
    apply_chat_template: bool = False
    """Whether prompts go through the model's chat template."""
    system_instruction: str | None = None
    """A system message before each prompt."""
    limit: float | None = None
    """At most so many questions of a task, or a share of them if below 1. None: all."""
    include_path: str | None = None
    """A folder of your own task definitions."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if not isinstance(task, str) and not isinstance(task.get("task"), str):
                raise ValueError("tasks must be names, or groups of keys with a name as `task`")
        if len(set(self.names)) != len(self.tasks):
            raise ValueError("tasks must be different ones")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ValueError("num_fewshot must be at least 0")
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.limit is not None and self.limit <= 0:
            raise ValueError("limit must be a number > 0")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(task if isinstance(task, str) else str(task["task"]) for task in self.tasks)


@dataclass(frozen=True, kw_only=True)
class EvalSplit:
    """The evaluation examples that are read: all, or one of two parts that share no question."""

    part: Literal["all", "selection", "report"] = "all"
    share: float = 0.5
    seed: int = 0


@strict
@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Metrics, and the generation of their texts."""

    truth_ratio: Literal["geometric", "arithmetic"] = "geometric"
    """How the probabilities of several wrong answers are averaged. Change it only to compare with published numbers."""
    generation: Generation = field(default_factory=Generation)
    """Generation of the texts that ROUGE and similar metrics read."""
    lm_eval: LmEval = field(default_factory=LmEval)
    """Tasks of lm-evaluation-harness."""
    compat: Literal["clean", "openunlearning"] = "clean"
    """openunlearning: its extraction strength, its truth ratio of collapsed models, and its privleak without a retain
    model. `profile=openunlearning` sets it.
    """
    extras: tuple[str, ...] = ()
    """Groups of metrics next to the benchmark's own: see `expunge list metrics`."""
    metrics: tuple[str, ...] = ()
    """Names of the benchmark's metrics to measure, in place of all of them, and of metric families that join it, such
    as a plugin's. A family is measured on the forget and the retain examples, or on each set of a benchmark that lacks
    one of the two; it declares the records it reads.
    """
    sampling: Generation = field(default_factory=lambda: Generation(temperature=1.0, samples=8))
    """Generation of the several samples a question that leak@k reads."""
    embedder: str | None = None
    """A folder or hub id of a sentence encoder, for semantic similarity. None: no such metric."""
    judge: Mapping[str, Any] = field(default_factory=dict)
    """The judge of the metric `judgement`: {rules: {...}}, {classifier: FOLDER}, {http: {...}} or {model: {...}}, as in
    docs/judges.md. Empty: no such metric.
    """
    original: str | None = None
    """The model that agreement compares with, in `expunge eval`. None: no such metric."""
    split: Literal["all", "selection", "report"] = "all"
    """Which evaluation examples are read: all, or one of two parts that share no question. Choose settings by
    selection, and report the other.
    """
    split_share: float = 0.5
    """The share of each set's questions that is in the selection part."""
    split_seed: int = 0
    """The seed that decides which questions are in the selection part."""

    @property
    def rows(self) -> EvalSplit:
        """The evaluation examples that are read."""
        return EvalSplit(part=self.split, share=self.split_share, seed=self.split_seed)

    def __post_init__(self) -> None:
        if not 0 < self.split_share < 1:
            raise ValueError("split_share must be a number between 0 and 1")
        self._check_extras()
        if self.sampling.temperature == 0:
            raise ValueError("sampling: temperature must be above 0, greedy samples are all the same")

    def _check_extras(self) -> None:
        if not self.extras:
            return
        from expunge.benchmarks.extras import EXTRAS

        for name in self.extras:
            if name not in EXTRAS:
                raise ValueError(f"extras: no group of metrics named {name!r}{nearest(name, EXTRAS)}")


@strict
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where examples come from."""

    root: str | None = None
    """A local folder or a hub id, in place of the benchmark's own hub id."""
    request: str | None = None
    """`2/4` unlearns only the second of four consecutive parts of the forget examples (`expunge unlearn`; a study has
    `requests`).
    """
    refusals: str | None = None
    """A text file with one refusal a line, in place of the built-in ones."""
    alternates: str | None = None
    """A file with other answers to the forget questions, which methods such as DPO train towards: a column `question`
    and a list of texts.
    """
    alternate_key: str = "alternate"
    """The column of `alternates` with the texts."""
    background: bool = False
    """Whether target and retain models also learn TOFU's real-author and world-fact answers. Use it for models from
    scratch, which lack that pretraining.
    """
    world: WorldConfig = field(default_factory=WorldConfig)
    """The embedded world of `benchmark=world`."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of one benchmark alone: see `expunge list benchmarks NAME`."""


@strict
@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Settings of studies and single jobs: the benchmark and its split, the data, the model and the evaluation."""

    benchmark: str = "world"
    """The benchmark's name: see `expunge list benchmarks`."""
    forget_split: str | None = None
    """The split to forget. None: the benchmark's default."""
    retain_split: str | None = None
    """The split to retain. None: the benchmark's default."""
    holdout_split: str | None = None
    """The split that no model has seen, for membership attacks. None: the benchmark's default."""
    data_split: str | None = None
    """The data set of a benchmark that has several, such as News or Books of MUSE."""
    forget: str | None = None
    """A file of examples to forget, for `benchmark=custom`."""
    retain: str | None = None
    """A file of examples to retain, for `benchmark=custom`. None: plain facts that come with the package."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where examples come from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model to load, or the preset to build."""
    template_args: Template = field(default_factory=Template)
    """How a question and an answer become text; written as `model.template_args`."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """The metrics and their generation."""
    profile: str | None = None
    """The name of a set of settings below your own, such as openunlearning: its losses, averages, steps and metrics."""


T = TypeVar("T", bound=TaskConfig)


def decode_task(cls: type[T], tree: Mapping[str, Any]) -> T:
    """Decode a plain mapping as a study or a single job. Raises ConfigError for a wrong key or value."""
    model_tree = tree.get("model") or {}
    if not isinstance(model_tree, Mapping):
        raise ConfigError(f"model: expected a group of keys, got {model_tree!r}")
    model = with_options(model_tree)
    template = decode(Template, model.pop("template_args", None) or {}, where="model.template_args")
    task = decode(cls, {**tree, "model": model})
    task = dataclasses.replace(task, template_args=template, model=pinned(task.model))
    for key in ("forget_split", "retain_split", "holdout_split", "data_split"):
        if getattr(task, key) is not None:
            check_name(getattr(task, key), key, nested=True)  # a split names a file
    return task


def benchmark_config(task: TaskConfig) -> BenchmarkConfig:
    """Return the benchmark settings of a task."""
    return BenchmarkConfig(
        root=task.data.root,
        forget_split=task.forget_split,
        retain_split=task.retain_split,
        holdout_split=task.holdout_split,
        data_split=task.data_split,
        forget=task.forget,
        retain=task.retain,
        background=task.data.background,
        truth_ratio=task.eval.truth_ratio,
        world=task.data.world,
        args=task.data.args,
    )


def check_places(task: TaskConfig, output_dir: Path, store: Path) -> None:
    """Raise ConfigError if the output folder or the store is an input, a file, or one the other."""
    inputs = named_paths(task)
    for key, place in (("paths.output_dir", output_dir), ("paths.store", store)):
        check_place(place, key)
        check_output(place, key, inputs, writable=False)
    if output_dir.absolute() == store.absolute():
        raise ConfigError(f"paths.output_dir: {output_dir} is the store (paths.store); name another folder")
