"""A study as settings. Importing this loads no torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from expunge.benchmarks.extras import EXTRAS
from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError, nearest
from expunge.data.template import Template
from expunge.data.world import WorldConfig
from expunge.engine.launch import LaunchConfig
from expunge.evaluation.config import Generation
from expunge.models.config import ModelConfig
from expunge.study.meta_evaluation.config import MetaEvaluationConfig
from expunge.study.stories.config import StoriesStudy
from expunge.training.config import MOST_SEED, SelectionRule, TrainArgs


@strict
@dataclass(frozen=True, kw_only=True)
class LmEval:
    """Tasks of lm-evaluation-harness, asked of every model beside the benchmark's own metrics; none by default.

    Settings by its own names: num_fewshot (None: each task's own), limit (questions of a task, or a share below 1),
    include_path (a folder of your own tasks). batch_size changes the speed only.
    """

    tasks: tuple[str, ...] = ()
    num_fewshot: int | None = None
    batch_size: int = 16
    apply_chat_template: bool = False
    system_instruction: str | None = None
    limit: float | None = None
    include_path: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks must be different ones")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ValueError("num_fewshot must be at least 0")
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.limit is not None and self.limit <= 0:
            raise ValueError("limit must be a number > 0")


@strict
@dataclass(frozen=True, kw_only=True)
class EvalSplit:
    """Which evaluation rows are read: all, or one of two parts that share no question, to choose settings by one and
    report the other. share: of each set's questions, how many are in the selection part; seed: which."""

    part: Literal["all", "selection", "report"] = "all"
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError("share must be a number between 0 and 1")


@strict
@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured, and how texts are generated.

    extras: groups of metrics beside the benchmark's own (`benchmarks.extras`). sampling: the several samples a question
    that leak@k reads. embedder: a folder or hub id of a sentence encoder, for similarity. original: the model that
    agreement compares with, where `expunge eval` measures one model. rows: all of them, or a part.
    """

    truth_ratio: Literal["geometric", "arithmetic"] = "geometric"
    generation: Generation = field(default_factory=Generation)
    lm_eval: LmEval = field(default_factory=LmEval)
    extras: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    """Names of metric families that join the benchmark's metrics, such as a plugin's. Each is measured on the forget
    and the retain examples; the family declares the records it reads."""
    sampling: Generation = field(default_factory=lambda: Generation(temperature=1.0, samples=8))
    embedder: str | None = None
    original: str | None = None
    rows: EvalSplit = field(default_factory=EvalSplit)

    def __post_init__(self) -> None:
        for name in self.extras:
            if name not in EXTRAS:
                raise ValueError(f"extras: no group of metrics named {name!r}{nearest(name, EXTRAS)}")
        if self.sampling.temperature == 0:
            raise ValueError("sampling: temperature must be above 0, greedy samples are all the same")


@strict
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where rows come from. `root`: a local folder or a hub id, in place of the benchmark's own hub id.

    refusals: a text file, one refusal a line, in place of the built-in ones. background: full and retain models also
    learn TOFU's real-author and world-fact answers, in place of the pretraining that a model from scratch lacks (the
    embedded world always does so with its own). request: `2/4` unlearns only the second of four consecutive parts of
    the forget rows (`expunge unlearn`; a study has `requests`). args: settings of one benchmark alone, as
    `expunge benchmarks NAME` says.
    """

    root: str | None = None
    request: str | None = None
    refusals: str | None = None
    background: bool = False
    world: WorldConfig = field(default_factory=WorldConfig)
    args: Mapping[str, Any] = field(default_factory=dict)


@strict
@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What a study and a single job share: the benchmark and its split, the data, the model and the evaluation.

    A split that is not named is the benchmark's own default. forget, retain: files of rows, for `benchmark=custom`.
    """

    benchmark: str = "world"
    forget_split: str | None = None
    retain_split: str | None = None
    holdout_split: str | None = None
    data_split: str | None = None
    forget: str | None = None
    retain: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    template_args: Template = field(default_factory=Template)
    eval: EvalConfig = field(default_factory=EvalConfig)


@strict
@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One unlearning method of a study: its name, its settings, and what it changes in the study's `unlearn`.

    trainer may also name an edit (task_vector, ties, noise, ...); `of` then lists the labels of the earlier methods
    whose models it reads. UNDO is a loss that goes on from an earlier method's model, which `of` names.

    grid: lists of values for keys of method_args or args, `{method_args.beta: [0.1, 0.5]}`; the entry stands for their
    product, each labelled with its values. search: where a sweep looks for values of such keys.
    """

    trainer: str
    method_args: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    of: tuple[str, ...] = ()
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)


@strict
@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A search for each method's settings, off unless `trials` says how many each method has: as many for all, of as
    many steps, in each cell of a grid. The rule reads the selection part of the evaluation rows alone (`eval.rows`),
    the report the other part. Where there are `requests`, a trial is the whole chain, and its last model is judged.

    space: keys of method_args or args, each with a list of values or a range {low, high, log, whole}; a method's own
    `search` is laid over it. sampler: grid (all values, so trials must be as many), random, or tpe (Optuna's; needs
    expunge[optuna]). rule: which trial is chosen, of the panel's metrics.
    """

    trials: int = 0
    sampler: Literal["grid", "random", "tpe"] = "random"
    space: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    rule: SelectionRule = field(default_factory=SelectionRule)

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise ValueError("trials must be at least 0 (0: no sweep)")


Keep = Literal["all", "best", "last", "none"]


@strict
@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """What stays of the unlearned models' weights when the study is done, as `expunge gc --keep` says. No part of any
    artifact's identity."""

    weights: Keep = "all"


@strict
@dataclass(frozen=True, kw_only=True)
class SeedsConfig:
    """Seeds of training (full and retain) and of unlearning, separately; a study runs their product."""

    train: tuple[int, ...] = (0,)
    unlearn: tuple[int, ...] = (0,)

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
    """Where things go. They are no part of any artifact's identity."""

    store: str = "saves/store"
    output_dir: str | None = None


@strict
@dataclass(frozen=True, kw_only=True)
class StudyConfig(TaskConfig):
    """full -> retain -> unlearn (each method) -> score -> metrics -> report.

    requests: the forget rows come in several requests, one after the other: a number of consecutive parts, or the rows
    of each by name, `{spring: [0, 20], summer: [20, 40]}` (from 0; the end is left out). Each method is then a chain of
    models. keep_later_requests: a link also retains the rows that later links will forget. audits: what is tried on
    each unlearned model and on its two controls to bring the forgotten back: names, or groups of keys with a `name`; of
    a chain, on its last model. meta: which metrics are to be trusted, over pools of models with and without the
    knowledge (`study.meta_evaluation`).

    grid: the study stands for several, its cells: the product of some axes (`study.grid`). grid_names: what cells and
    models are called by: their settings, or numbers (experiment_0, full_0, retain_0, forget_0). grid_cells: settings of
    some cells alone, by their names, laid over those of their axes: `{forget05: {unlearn.num_train_epochs: 3}}`.

    stories: the study is the stories protocol (`study.stories`), which has neither benchmark nor methods.
    """

    name: str
    requests: int | Mapping[str, tuple[int, int]] = 1
    keep_later_requests: bool = False
    train: TrainArgs = field(default_factory=TrainArgs)
    unlearn: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[MethodEntry, ...] = ()
    audits: tuple[str | Mapping[str, Any], ...] = ()
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    meta: MetaEvaluationConfig | None = None
    grid: Mapping[str, Any] = field(default_factory=dict)
    grid_names: Literal["settings", "numbers"] = "settings"
    grid_cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stories: StoriesStudy | None = None
    sweep: SweepConfig = field(default_factory=SweepConfig)
    keep: RetentionConfig = field(default_factory=RetentionConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    paths: StudyPaths = field(default_factory=StudyPaths)

    @property
    def output_dir(self) -> Path:
        """Where the report goes."""
        return Path(self.paths.output_dir or f"saves/study/{self.name}")


T = TypeVar("T", bound=TaskConfig)


def decode_task(cls: type[T], tree: Mapping[str, Any]) -> T:
    """A plain mapping as a Study or a single job, every key checked. `model.template_args` is the template's place."""
    given = tree.get("model") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"model: expected a group of keys, got {given!r}")
    model = dict(given)
    template = decode(Template, model.pop("template_args", None) or {}, where="model.template_args")
    return dataclasses.replace(decode(cls, {**tree, "model": model}), template_args=template)


def decode_study(tree: Mapping[str, Any]) -> StudyConfig:
    """A plain mapping as a Study. Raises ConfigError."""
    study = decode_task(StudyConfig, tree)
    _check_study(study)
    spread = [made for i, entry in enumerate(study.methods) for made in entries_of(entry, f"methods[{i}]")]
    study = dataclasses.replace(study, methods=tuple(spread))
    labels = [entry_label(m) for m in study.methods]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"methods: two are labelled {label!r}; give one a `label` of its own")
    return study


def _check_study(study: StudyConfig) -> None:
    """What one key alone cannot tell. Raises ConfigError."""
    if not study.name.strip() or study.name in (".", "..") or "/" in study.name:
        raise ConfigError(f"name: must be the name of a folder under saves/study, without a slash, got {study.name!r}")
    for key, seed in (("train", study.train.seed), ("unlearn", study.unlearn.get("seed", 0))):
        if seed:
            raise ConfigError(f"{key}.seed: seeds are an axis of the study; list them in seeds.{key}")


def entries_of(entry: MethodEntry, where: str) -> list[MethodEntry]:
    """The entries that one with a grid stands for, in the order of its keys, the last changing fastest."""
    if not entry.grid:
        return [entry]
    for key, values in entry.grid.items():
        group, _, name = key.partition(".")
        if group not in ("method_args", "args") or not name:
            raise ConfigError(f"{where}.grid.{key}: must begin with method_args. or args., such as method_args.beta")
        if not values:
            raise ConfigError(f"{where}.grid.{key}: no values are listed")
    made = []
    for chosen in itertools.product(*entry.grid.values()):
        changes = dict(zip(entry.grid, chosen, strict=True))
        own: dict[str, Any] = {"method_args": entry.method_args, "args": entry.args}
        for key, value in changes.items():
            own = with_value(own, key, value)
        shown = {} if entry.label else dict(entry.method_args)
        shown |= {key.rpartition(".")[2]: value for key, value in changes.items()}
        label = f"{entry.label or entry.trainer}({','.join(f'{k}={v}' for k, v in shown.items())})"
        made.append(dataclasses.replace(entry, **own, label=label, grid={}))
    return made


def with_value(tree: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The tree with a dotted key set; a mapping is laid over the one that is there. The given tree stays as it is."""
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
    """The training settings of one method: the study's `unlearn`, changed by the method's `args`."""
    entry = study.methods[index]
    decode(TrainArgs, dict(study.unlearn), where="unlearn")
    if "seed" in entry.args:
        raise ConfigError(f"methods[{index}].args.seed: seeds are an axis of the study; list them in seeds.unlearn")
    merged = {**study.unlearn, **entry.args, "seed": seed}
    return decode(TrainArgs, merged, where=f"methods[{index}].args")


def entry_label(entry: MethodEntry) -> str:
    """The given label, or the method's name with its settings."""
    if entry.label:
        return entry.label
    settings = ",".join(f"{k}={v}" for k, v in sorted(entry.method_args.items()))
    return f"{entry.trainer}({settings})" if settings else entry.trainer
