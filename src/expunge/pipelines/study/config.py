"""A study as settings. This module does not import torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.core.decode import TypeOnUse, decode, strict
from expunge.core.errors import ConfigError
from expunge.core.names import check_folder_name, check_name
from expunge.engine.launch import LaunchConfig
from expunge.pipelines.study.task_config import TaskConfig, check_places, decode_task
from expunge.training.config import MOST_SEED, TrainArgs
from expunge.training.evaluate_args import SelectionRule

if TYPE_CHECKING:
    from expunge.pipelines.meta_evaluation.config import MetaEvaluationConfig
    from expunge.pipelines.stories.config import StoriesStudy
else:
    MetaEvaluationConfig = TypeOnUse("expunge.pipelines.meta_evaluation.config", "MetaEvaluationConfig")
    StoriesStudy = TypeOnUse("expunge.pipelines.stories.config", "StoriesStudy")


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
    from_models: tuple[str, ...] = field(default=(), metadata={"key": "from"})
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
    sampler: Literal["grid", "random", "bisect", "tpe"] = "random"
    """grid (all values, so trials must be as many); random; bisect (one range, as in `expunge erase`: halved between
    trials that are too weak and too strong); or tpe (needs expunge[optuna]).
    """
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
class FinishedModel:
    """A finished model of a study: its role and its source."""

    role: Literal["full", "retain", "unlearn"]
    """full (learned all rows), retain (never saw the forget rows) or unlearn. At most one is full and one retain."""
    source: str
    """A model folder or hub id."""
    revision: str | None = None
    """The branch, tag or commit of a hub id. None: main."""
    label: str | None = None
    """The name in reports. None: the role, for a full or retain model; an unlearned model needs one."""

    @property
    def name(self) -> str:
        """The name in reports."""
        return self.label or self.role


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
        if study.methods[i].label in ("full", "retain"):
            raise ConfigError(f"methods[{i}].label: {label!r} is the {label} model in results; give another label")
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
    if study.finished_models or study.retain_logs_path is not None:
        from expunge.pipelines.study.finished_models import check_finished

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
