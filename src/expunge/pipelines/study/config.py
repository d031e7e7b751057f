"""A study as settings. This module does not import torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from expunge.benchmarks.api import BenchmarkConfig
from expunge.benchmarks.extras import EXTRAS
from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError, nearest
from expunge.core.files import check_place
from expunge.core.names import check_folder_name, check_name
from expunge.core.outputs import check_output, named_paths
from expunge.data.template import Template
from expunge.data.world.generate import WorldConfig
from expunge.engine.launch import LaunchConfig
from expunge.evaluation.config import Generation
from expunge.models.config import ModelConfig
from expunge.models.identity import pinned
from expunge.models.options import with_options
from expunge.pipelines.meta_evaluation.config import MetaEvaluationConfig
from expunge.pipelines.stories.config import StoriesStudy
from expunge.pipelines.study.finished_models import FinishedModel, check_finished
from expunge.training.config import MOST_SEED, SelectionRule, TrainArgs


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
    as a plugin's. A family is measured on the forget and the retain examples; it declares the records it reads.
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
        for name in self.extras:
            if name not in EXTRAS:
                raise ValueError(f"extras: no group of metrics named {name!r}{nearest(name, EXTRAS)}")
        if self.sampling.temperature == 0:
            raise ValueError("sampling: temperature must be above 0, greedy samples are all the same")


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


@strict
@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One unlearning method of a study: its name, its settings, and its changes to the study's `unlearn`."""

    trainer: str
    """The name of a method, a weight edit (task_vector, ...) or a wrapper (in_context, ...): `expunge list methods`."""
    method_args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method itself."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Training settings of this method, on top of the study's `unlearn`."""
    label: str | None = None
    """The name in reports. None: the method's name with its settings."""
    from_models: tuple[str, ...] = ()
    """Labels of the earlier methods whose models a weight edit or UNDO reads; written as `from`."""
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Lists of values for keys of method_args or args, `{method_args.beta: [0.1, 0.5]}`. The entry stands for their
    product.
    """
    search: Mapping[str, Any] = field(default_factory=dict)
    """The search space of a sweep for such keys."""


@strict
@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A search for each method's settings under an equal budget, on a part of the evaluation examples.

    Trials read the selection part (`eval.split`). The report reads the other part. With `requests`, a trial is the
    whole chain, and its last model is judged.
    """

    trials: int = 0
    """Trials of each method, in each cell of a grid. 0: no sweep."""
    sampler: Literal["grid", "random", "tpe"] = "random"
    """grid (all values, so trials must be as many), random, or tpe (needs expunge[optuna])."""
    space: Mapping[str, Any] = field(default_factory=dict)
    """Keys of method_args or args, each with a list of values or a range {low, high, log, whole}. A method's own
    `search` has precedence.
    """
    seed: int = 0
    """The seed of the sampler."""
    rule: SelectionRule = field(default_factory=SelectionRule)
    """Which trial is chosen."""

    def __post_init__(self) -> None:
        if self.rule.formula is not None:
            raise ValueError("rule.formula chooses checkpoints of a run; a sweep needs rule.utility and rule.forget")
        if self.trials > 100_000:
            raise ValueError("trials must be at most 100000")
        if self.trials < 0:
            raise ValueError("trials must be at least 0 (0: no sweep)")


Keep = Literal["all", "best", "last", "none"]


@strict
@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """Which weights of unlearned models stay when the study is done. Not part of any job's key."""

    keep_weights: Keep = "all"
    """Whose weights stay: all, those of the best or the last model of each method, or none."""


@strict
@dataclass(frozen=True, kw_only=True)
class SeedsConfig:
    """Seeds of training and of unlearning; a study runs their product."""

    train: tuple[int, ...] = (0,)
    """Seeds of the target and the retain model."""
    unlearn: tuple[int, ...] = (0,)
    """Seeds of unlearning."""

    def __post_init__(self) -> None:
        for key in ("train", "unlearn"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{key} must be a list of different seeds")
            if not all(0 <= seed < MOST_SEED for seed in values):
                raise ValueError(f"{key} must be whole numbers from 0 to 2**32 - 1")


@strict
@dataclass(frozen=True, kw_only=True)
class StudyPaths:
    """Folders of results. Not part of any job's key."""

    store: str = "saves/store"
    """The folder of all stored results; studies share it."""
    output_dir: str | None = None
    """The folder of the report. None: saves/study/NAME."""

    def __post_init__(self) -> None:
        for key in ("store", "output_dir"):
            check_folder_name(getattr(self, key), key)


@strict
@dataclass(frozen=True, kw_only=True)
class StudyConfig(TaskConfig):
    """A study: target and retain model, unlearning by each method, evaluation, metrics, report."""

    name: str
    """The study's name, and its folder under saves/study."""
    requests: int | Mapping[str, tuple[int, int]] = 1
    """Requests to forget, one after the other: a number of consecutive parts, or rows by name, `{spring: [0, 20]}`
    (from 0, the end left out). Each method is then a chain of models.
    """
    keep_later_requests: bool = False
    """Whether a link of the chain also retains the rows that later links will forget."""
    train: TrainArgs = field(default_factory=TrainArgs)
    """Training of the target and the retain model."""
    unlearn: Mapping[str, Any] = field(default_factory=dict)
    """Training settings of all unlearning methods, by the keys of `train`."""
    methods: tuple[MethodEntry, ...] = ()
    """The unlearning methods: names, or entries with settings."""
    finished_models: tuple[FinishedModel, ...] = ()
    """Finished models to measure, each with role and source. The study then trains nothing, and `model` gives their
    template and their dtype.
    """
    retain_logs_path: str | None = None
    """Results of a retain model, such as TOFU_EVAL.json. `finished_models` are compared with them in place of the
    listed retain model.
    """
    audits: tuple[str | Mapping[str, Any], ...] = ()
    """Attacks that try to recover forgotten data: names, or groups of keys with a `name`. See `expunge list audits`."""
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    """Seeds of training and of unlearning."""
    meta: MetaEvaluationConfig | None = None
    """Which metrics to trust, over pools of models with and without the knowledge. None: off."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Axes of settings; the study stands for all their combinations, its cells."""
    grid_names: Literal["settings", "numbers"] = "settings"
    """How cells and models are named: by their settings, or by numbers."""
    grid_cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of single cells by their names, on top of the axes."""
    stories: StoriesStudy | None = None
    """The stories protocol, which has neither benchmark nor methods. None: an ordinary study."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """A search for each method's settings."""
    store: RetentionConfig = field(default_factory=RetentionConfig)
    """Which weights stay when the study is done."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """Where the jobs run."""
    paths: StudyPaths = field(default_factory=StudyPaths)
    """Where results are written."""

    @property
    def output_dir(self) -> Path:
        """The folder of the report."""
        return Path(self.paths.output_dir or f"saves/study/{self.name}")


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


def check_places(task: TaskConfig, output_dir: Path, store: Path) -> None:
    """Raise ConfigError if the output folder or the store is an input, a file, or one the other."""
    inputs = named_paths(task)
    for key, place in (("paths.output_dir", output_dir), ("paths.store", store)):
        check_place(place, key)
        check_output(place, key, inputs, writable=False)
    if output_dir.absolute() == store.absolute():
        raise ConfigError(f"paths.output_dir: {output_dir} is the store (paths.store); name another folder")


def decode_study(tree: Mapping[str, Any]) -> StudyConfig:
    """Decode a plain mapping as a study. Raises ConfigError."""
    study = decode_task(StudyConfig, _with_python_names(tree))
    _check_study(study)
    spread = [expanded for i, entry in enumerate(study.methods) for expanded in entries_of(entry, f"methods[{i}]")]
    study = dataclasses.replace(study, methods=tuple(spread))
    check_name(study.name, "name", nested=True)
    check_places(study, study.output_dir, Path(study.paths.store))
    labels = [entry_label(m) for m in study.methods]
    for i, label in enumerate(labels):
        check_name(label, f"methods[{i}].label", nested=True)
        if labels.count(label) > 1:
            raise ConfigError(f"methods: two have the label {label!r}; give one another `label`")
    for name in study.requests if isinstance(study.requests, Mapping) else ():
        check_name(name, "requests", nested=True)
    decode(TrainArgs, dict(study.unlearn), where="unlearn")
    for i in range(len(study.methods)):
        unlearn_args(study, i, 0)
    return study


def _with_python_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree with `from_models` for methods[].from (`from` is a Python keyword), and names as entries."""
    entries = tree.get("methods")
    if not isinstance(entries, list | tuple):
        return dict(tree)
    entries = [{"trainer": e} if isinstance(e, str) else e for e in entries]
    named = [{**e, "from_models": e["from"]} if isinstance(e, Mapping) and "from" in e else e for e in entries]
    return {
        **tree,
        "methods": [{k: v for k, v in e.items() if k != "from"} if isinstance(e, Mapping) else e for e in named],
    }


def _check_study(study: StudyConfig) -> None:
    """Check values that depend on several keys. Raises ConfigError."""
    if not study.name.strip() or study.name in (".", "..") or "/" in study.name:
        raise ConfigError(f"name: must be the name of a folder under saves/study, without a slash, got {study.name!r}")
    for key, seed in (("train", study.train.seed), ("unlearn", study.unlearn.get("seed", 0))):
        if seed:
            raise ConfigError(f"{key}.seed: seeds are an axis of the study; list them in seeds.{key}")
    check_finished(study)


def entries_of(entry: MethodEntry, where: str) -> list[MethodEntry]:
    """Expand an entry with a grid, in the order of its keys; the last key changes fastest."""
    if not entry.grid:
        return [entry]
    for key, values in entry.grid.items():
        group, _, name = key.partition(".")
        if group not in ("method_args", "args") or not name:
            raise ConfigError(f"{where}.grid.{key}: must begin with method_args. or args., such as method_args.beta")
        if not values:
            raise ConfigError(f"{where}.grid.{key}: no values are listed")
    expanded = []
    for combination in itertools.product(*entry.grid.values()):
        changes = dict(zip(entry.grid, combination, strict=True))
        own: dict[str, Any] = {"method_args": entry.method_args, "args": entry.args}
        for key, value in changes.items():
            own = with_value(own, key, value)
        shown = {} if entry.label else dict(entry.method_args)
        shown |= {key.rpartition(".")[2]: value for key, value in changes.items()}
        label = f"{entry.label or entry.trainer}({','.join(f'{k}={v}' for k, v in shown.items())})"
        expanded.append(dataclasses.replace(entry, **own, label=label, grid={}))
    return expanded


def with_value(tree: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of the tree with a dotted key set. A mapping is merged into the present one."""
    first, _, rest = key.partition(".")
    out, there = dict(tree), tree.get(first)
    if rest:
        out[first] = with_value(there if isinstance(there, Mapping) else {}, rest, value)
    elif isinstance(value, Mapping) and isinstance(there, Mapping):
        merged = dict(there)
        for name, part in value.items():
            merged = with_value(merged, str(name), part)
        out[first] = merged
    else:
        out[first] = value
    return out


def unlearn_args(study: StudyConfig, index: int, seed: int) -> TrainArgs:
    """Return the training settings of one method: the study's `unlearn`, changed by the method's `args`."""
    entry = study.methods[index]
    decode(TrainArgs, dict(study.unlearn), where="unlearn")
    if "seed" in entry.args:
        raise ConfigError(f"methods[{index}].args.seed: seeds are an axis of the study; list them in seeds.unlearn")
    merged = {**study.unlearn, **entry.args, "seed": seed}
    return decode(TrainArgs, merged, where=f"methods[{index}].args")


def entry_label(entry: MethodEntry) -> str:
    """Return the label, or the method's name with its settings."""
    if entry.label:
        return entry.label
    settings = ",".join(f"{k}={v}" for k, v in sorted(entry.method_args.items()))
    return f"{entry.trainer}({settings})" if settings else entry.trainer
