"""Build a study's graph of jobs. All settings are checked here, before any weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint
from expunge.core.numbers import format_setting
from expunge.engine.job import Job
from expunge.methods.objective import objective
from expunge.pipelines.study.config import MethodEntry, StudyConfig, entry_label, unlearn_args
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.method_checks import (
    check_methods,
    check_part_names_of,
    compare_names,
    edit_of,
    wrapper_of,
)
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.task_config import TaskConfig
from expunge.pipelines.study.task_context import TaskContext, check_model
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs
from expunge.training.config import TrainArgs

if TYPE_CHECKING:
    from expunge.pipelines.audit_jobs.results import AuditEntry
    from expunge.pipelines.stories.jobs import StoryJobs


@dataclass(frozen=True)
class ModelNode:
    """One model of a study, with the jobs that train and measure it."""

    label: str
    role: str  # "full", "retain" or "unlearn"
    method: str | None
    settings: str
    train_seed: int
    seed: int | None
    model: Job | None  # None: the model of the settings, unchanged
    records: Job
    metrics: Job
    harness: Job | None = None


@dataclass(frozen=True)
class StudyGraph:
    """A study as jobs."""

    study: StudyConfig
    setting: TaskContext
    leaves: tuple[ModelNode, ...]
    cells: Mapping[str, StudyGraph] = field(
        default_factory=dict
    )  # of a grid, by name; `leaves` has the models of all cells
    axes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of each cell: axis -> its label
    audits: tuple[AuditEntry, ...] = ()
    stories: StoryJobs | None = None
    meta: Job | None = None

    @property
    def jobs(self) -> list[Job]:
        """The end jobs of the study, in the order of the report."""
        measured = [job for leaf in self.leaves for job in (leaf.metrics, leaf.harness) if job]
        others = [*(self.stories.jobs if self.stories else ()), *([self.meta] if self.meta else [])]
        return [*measured, *(audited.job for audited in self.audits), *others]


TrainingCache = dict[str, tuple[TrainingJobs, Mapping[str, str]]]  # by the fingerprint of the task


def build_graph(study: StudyConfig, cache: TrainingCache | None = None) -> StudyGraph:
    """Build a study's graph: base -> full, retain -> unlearn -> score -> metrics. Raises ConfigError or DataError.

    cache: rows and models of earlier studies, so that equal ones are read once.
    """
    if study.stories is not None:
        return _of_stories(study)
    if study.finished_models:
        return _of_finished(study, {} if cache is None else cache)
    check_methods(study)
    _check_extensions(study)
    maker, links = _maker(study, {} if cache is None else cache)
    check_part_names_of(study)
    setting = maker.setting
    start = maker.base() if study.model.scratch else None
    leaves: list[ModelNode] = []
    trained: dict[int, dict[str, Job]] = {}
    tags = {seed: f"-s{seed}" if len(study.seeds.train) > 1 else "" for seed in study.seeds.train}
    for seed, tag in tags.items():
        trained[seed] = {
            role: maker.fit(
                f"{role}{tag}",
                start,
                objective("finetune"),
                {"retain": getattr(setting.benchmark, f"{role}_sets")},
                dataclasses.replace(study.train, seed=seed),
            )
            for role in ("full", "retain")
            if getattr(setting.benchmark, f"{role}_sets")
        }
    # Attacks with reference models use the retain models of all training seeds.
    retained = {
        s: maker.records(f"retain{tags[s]}", m["retain"], m.get("full")) for s, m in trained.items() if "retain" in m
    }
    for seed, tag in tags.items():
        models = trained[seed]
        others = [job for s, job in retained.items() if s != seed]
        retain = None
        if "retain" in models:
            retain = _leaf(maker, f"retain{tag}", "retain", seed, models["retain"], models.get("full"), None, others)
        against = Baselines(models.get("full"), retain.metrics if retain else None, list(retained.values()))
        full = _leaf(maker, f"full{tag}", "full", seed, models.get("full"), *against)
        leaves += [dataclasses.replace(leaf, label=leaf.role) for leaf in (full, retain) if leaf]
        for unlearn_seed in study.seeds.unlearn:
            leaves += _forget(study, maker, links, against, seed, unlearn_seed, tag)
    audits, meta = _audits(study, maker, links, leaves) if study.audits else (), None
    if study.meta is not None:
        from expunge.pipelines.meta_evaluation.jobs import meta_job

        meta = meta_job(study, maker, start, leaves)
    return StudyGraph(study, setting, tuple(leaves), audits=audits, meta=meta)


def _check_extensions(study: StudyConfig) -> None:
    """Check the settings of audits and of meta-evaluation, if a study has them. Raises ConfigError."""
    if study.audits:
        from expunge.pipelines.audit_jobs.jobs import check_audits

        check_audits(study)
    if study.meta is not None:
        from expunge.pipelines.meta_evaluation.jobs import check_meta

        check_meta(study)


def _audits(
    study: StudyConfig,
    maker: TrainingJobs,
    links: Mapping[str, str],
    leaves: Sequence[ModelNode],
    finished: Mapping[str, TrainingJobs] | None = None,
) -> tuple[AuditEntry, ...]:
    """Return the audits of a study's models. finished: the jobs of finished models, by their names."""
    from expunge.pipelines.audit_jobs.jobs import audit_jobs, audited
    from expunge.pipelines.audit_jobs.results import AuditSubject

    benchmark = maker.setting.benchmark
    subjects = [
        AuditSubject(
            x.metrics.label,
            x.label,
            x.role,
            x.train_seed,
            x.seed,
            x.model,
            None if finished is None else finished[x.label],
        )
        for x in leaves
        if audited(x.label, links, benchmark.sets, benchmark.forget_set)
    ]
    return audit_jobs(study, maker, subjects)


def _of_stories(study: StudyConfig) -> StudyGraph:
    """Return the graph of a study of stories, which reads no benchmark."""
    from expunge.pipelines.stories.jobs import story_jobs

    jobs = story_jobs(study)
    empty = Benchmark(name="stories", split="", sets={}, panel=(), full_sets=(), retain_sets=(), shown_set=None)
    return StudyGraph(study, TaskContext(empty, study.model, study.template_args), (), stories=jobs)


def _of_finished(study: StudyConfig, cache: TrainingCache) -> StudyGraph:
    """Return the graph of a study of finished models: each is scored, and compared with the retain model or its log."""
    from expunge.models.trial import try_model
    from expunge.pipelines.study.finished_models import derivation_args, in_report_order, model_of

    models = in_report_order(study.finished_models)
    configs = [model_of(study.model, model.source, model.revision) for model in models]
    for model, config in zip(models, configs, strict=True):
        check_model(config, runs_here=study.launch.kind == "local", key=f"finished_models: {model.name}: source")
        try_model(config, Path(study.paths.store))
        compare_names(study, config, [])
    study = dataclasses.replace(study, model=configs[0])
    _check_extensions(study)
    first, links = _maker(study, cache)
    log = None if study.retain_logs_path is None else Path(study.retain_logs_path).expanduser()
    full = next((model.source for model in models if model.role == "full"), None)
    retain: Job | None = None
    leaves: list[ModelNode] = []
    makers: dict[str, TrainingJobs] = {}
    for model, config in zip(models, configs, strict=True):
        setting = dataclasses.replace(first.setting, model=config)
        source = first.source.then("finished", derivation_args(config)).holding(setting)
        maker = makers[model.name] = TrainingJobs(setting, study.eval, source)
        records = maker.records(model.name, None, None if model.role == "full" else full)
        reference = retain if log is None and model.role == "unlearn" else None
        metrics = maker.metrics(model.name, records, reference, retain_file=log)
        unlearned = model.role == "unlearn"
        harness = maker.harness(model.name, None)
        method = model.name if unlearned else None
        leaves.append(ModelNode(model.name, model.role, method, "", 0, None, None, records, metrics, harness))
        if model.role == "retain":
            retain = metrics
    if study.audits:
        _check_tokenizers(makers)
    audits = _audits(study, first, links, leaves, makers) if study.audits else ()
    return StudyGraph(study, first.setting, tuple(leaves), audits=audits)


def _check_tokenizers(makers: Mapping[str, TrainingJobs]) -> None:
    """Raise ConfigError if two of the models that audits compare have different tokenizers."""
    marks = {name: maker.tokenizer_mark() for name, maker in makers.items()}
    first = next(iter(marks))
    other = next((name for name, mark in marks.items() if mark != marks[first]), None)
    if other is not None:
        raise ConfigError(
            f"audits: the finished models {first} and {other} have different tokenizers; their losses per token are "
            "not comparable"
        )


def _maker(study: StudyConfig, cache: TrainingCache) -> tuple[TrainingJobs, Mapping[str, str]]:
    """Return the training jobs of a study, and its forget sets by the names of their requests."""
    cache_key = fingerprint({"task": task_fields(study), "requests": study.requests})
    if cache_key not in cache:
        check_model(study.model, runs_here=study.launch.kind == "local")
        setting = resolve_task(study, Path(study.paths.store))
        check_given(study, setting.benchmark)
        source = ContextSource.of(study, setting)
        if study.data.request is not None:
            raise ConfigError("data.request: selects a part for `expunge unlearn`; in a study set `requests`")
        if study.model.tokenizer_source is not None:
            from expunge.models.trial import try_model

            try_model(study.model, Path(study.paths.store))  # after the checks that need no time
        links: Mapping[str, str] = {"": setting.benchmark.forget_set}
        if study.requests != 1:
            from expunge.pipelines.study.requests import with_requests

            setting, links = with_requests(setting, study.requests)
            source = source.then("requests", {"requests": study.requests}).holding(setting)
        cache[cache_key] = TrainingJobs(setting, study.eval, source), links
    return cache[cache_key]


def task_fields(study: StudyConfig) -> dict[str, Any]:
    """Return the settings of a study that decide its examples, model and measurements."""
    return {f.name: getattr(study, f.name) for f in dataclasses.fields(TaskConfig)}


class Baselines(NamedTuple):
    """The comparisons of a model: full model (None: that of the settings), retain metrics, all retain records."""

    full: Job | None
    retain: Job | None
    shadows: Sequence[Job]


def check_given(study: StudyConfig, benchmark: Benchmark) -> None:
    """Raise ConfigError for several training seeds if the benchmark trains no full model."""
    if benchmark.full_sets:
        return
    if len(study.seeds.train) > 1:
        raise ConfigError(f"seeds.train: benchmark={benchmark.name} trains no full model; leave it at one seed")


def _forget(
    study: StudyConfig,
    maker: TrainingJobs,
    links: Mapping[str, str],
    against: Baselines,
    train_seed: int,
    seed: int,
    tag: str,
) -> list[ModelNode]:
    """Return the unlearned models of one full model and one seed, in the order of the study's methods.

    links: the forget sets by the names of their requests, in order. Each model of a chain starts from the one before;
    `models` contains the last.
    """
    full = against.full
    leaves: list[ModelNode] = []
    models: dict[str, Job] = {}
    tag += f"-u{seed}" if len(study.seeds.unlearn) > 1 else ""
    for i, entry in enumerate(study.methods):
        label = entry_label(entry)
        args = unlearn_args(study, i, seed)
        shown = ", ".join(f"{k}={format_setting(v)}" for k, v in sorted({**entry.method_args, **entry.args}.items()))
        wrapper, spec = wrapper_of(entry), edit_of(entry)
        merges = spec is not None and not spec.statistics
        model = models[entry.from_models[0]] if entry.from_models and not merges else full
        for k, (link, rows) in enumerate(_links_of(entry, links).items()):
            name = f"{label}@{link}" if link else label
            later = tuple(links.values())[k + 1 :] if study.keep_later_requests else ()
            if wrapper is not None:
                model = _wrap(maker.forgetting(rows) if rows else maker, entry, name + tag, model, full, args)
            elif merges:
                model = _edit(maker, entry, name + tag, model, rows, models, args)
            elif spec is not None:
                from expunge.methods.weight_edits import make_weight_edit

                edit = make_weight_edit(entry.trainer, entry.method_args)
                retain_sets = (maker.setting.benchmark.retain_set, *later)
                model = maker.forgetting(rows).edited_with_statistics(name + tag, edit, model, retain_sets)
            else:
                sides = {"forget": (rows,), "retain": (maker.setting.benchmark.retain_set, *later)}
                loss = objective(entry.trainer, entry.method_args)
                retain = against.retain.parents["records"] if against.retain else None
                watched = maker.to_watch(retain) if args.evaluate.on else None
                model = maker.forgetting(rows).fit(name + tag, model, loss, sides, args, retain=watched)
            leaf = _leaf(maker, name + tag, "unlearn", train_seed, model, *against)
            leaves.append(dataclasses.replace(leaf, label=name, method=entry.trainer, settings=shown, seed=seed))
        if model is not None:
            models[label] = model
    return leaves


def _links_of(entry: MethodEntry, links: Mapping[str, str]) -> Mapping[str, str]:
    """Return the links of an entry's chain: one for each request, or one for an entry that reads all or none."""
    wrapper, edit = wrapper_of(entry), edit_of(entry)
    if wrapper is not None and wrapper.helper == "method":
        return {"": ""}
    return links if edit is None or edit.others == "reinforced" or edit.statistics else {"": ""}


def _edit(
    maker: TrainingJobs,
    entry: MethodEntry,
    label: str,
    model: Job | None,
    rows: str,
    models: Mapping[str, Job],
    args: TrainArgs,
) -> Job:
    """Return the job of a weight edit, with the models that it reads."""
    from expunge.methods.weight_edits import make_weight_edit, weight_edit_registry

    edit = make_weight_edit(entry.trainer, entry.method_args)
    others = weight_edit_registry()[entry.trainer].others
    if others == "reinforced":
        return maker.edited(label, edit, model, [maker.forgetting(rows).reinforced(label, model, args)])
    named = [models[name] for name in entry.from_models]
    return maker.edited(label, edit, named[0] if named and not others else model, named if others else [])


def _wrap(
    maker: TrainingJobs, entry: MethodEntry, label: str, model: Job | None, full: Job | None, args: TrainArgs
) -> Job:
    """Return the job of a wrapped model, with the helpers that it reads."""
    from expunge.models.wrapper_api import make_wrapper, wrapper_registry

    rule = make_wrapper(entry.trainer, entry.method_args)
    if model is not None and wrapper_registry()[entry.trainer].helper == "method":
        return maker.wrapped(label, rule, full, {"unlearned": model})
    return maker.wrapped(label, rule, model, maker.helpers(label, wrapper_registry()[entry.trainer].helper, full, args))


def _leaf(
    maker: TrainingJobs,
    name: str,
    role: str,
    train_seed: int,
    model: Job | None,
    full: Job | None,
    retain: Job | None,
    shadows: Sequence[Job],
) -> ModelNode:
    """Return a model with its records and metrics."""
    records = maker.records(name, model, full)
    return ModelNode(
        label=name,
        role=role,
        method=None,
        settings="",
        train_seed=train_seed,
        seed=None,
        model=model,
        records=records,
        metrics=maker.metrics(name, records, retain, shadows=shadows),
        harness=maker.harness(name, model),
    )
