"""From a Study to its graph of jobs. All of it is checked here, before any weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from expunge.benchmarks import Benchmark
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import fingerprint
from expunge.engine.job import Job
from expunge.methods.objective import objective
from expunge.methods.weight_edits import make_weight_edit, weight_edit_registry
from expunge.methods.weight_edits.merge import check_count
from expunge.pipelines.audit_jobs.jobs import audit_jobs, audited, check_audits
from expunge.pipelines.audit_jobs.results import AuditEntry, AuditSubject
from expunge.pipelines.meta_evaluation.jobs import check_meta, meta_job
from expunge.pipelines.stories.jobs import StoryJobs, story_jobs
from expunge.pipelines.study.config import MethodEntry, StudyConfig, TaskConfig, entry_label, unlearn_args
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.requests import with_requests
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.task_context import TaskContext, check_model
from expunge.pipelines.study.training_jobs import TrainingJobs
from expunge.report.table import format_setting
from expunge.training.config import TrainArgs
from expunge.training.phases import check_run


@dataclass(frozen=True)
class ModelNode:
    """One model of a study, with the jobs that make and measure it."""

    label: str
    role: str  # "full", "retain" or "unlearn"
    method: str | None
    settings: str
    train_seed: int
    seed: int | None
    model: Job | None  # None: the given model, as it is
    records: Job
    metrics: Job
    harness: Job | None = None


@dataclass(frozen=True)
class StudyGraph:
    """A study as jobs."""

    study: StudyConfig
    setting: TaskContext
    leaves: tuple[ModelNode, ...]
    cells: Mapping[str, StudyGraph] = field(default_factory=dict)  # of a grid, by name; `leaves` are those of all
    audits: tuple[AuditEntry, ...] = ()
    stories: StoryJobs | None = None
    meta: Job | None = None

    @property
    def jobs(self) -> list[Job]:
        """What the study wants, in the order people read it."""
        measured = [job for leaf in self.leaves for job in (leaf.metrics, leaf.harness) if job]
        told = [*(self.stories.jobs if self.stories else ()), *([self.meta] if self.meta else [])]
        return [*measured, *(audited.job for audited in self.audits), *told]


Rooms = dict[str, tuple[TrainingJobs, Mapping[str, str]]]  # by what they were made of


def build_graph(study: StudyConfig, rooms: Rooms | None = None) -> StudyGraph:
    """The graph of a study: base -> full, retain -> unlearn -> score -> metrics. Raises ConfigError or DataError.

    rooms: what was read for other studies; rows and model that are the same again are not read again.
    """
    if study.stories is not None:
        return _of_stories(study)
    check_methods(study)
    check_audits(study)
    check_meta(study)
    maker, links = _maker(study, {} if rooms is None else rooms)
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
    # The retain models of all training seeds are what attacks with reference models hold a model against.
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
    whole = setting.benchmark.forget_set
    subjects = [
        AuditSubject(x.metrics.label, x.label, x.role, x.train_seed, x.seed, x.model)
        for x in leaves
        if study.audits and audited(x.label, links, setting.benchmark.sets, whole)
    ]
    audits, meta = audit_jobs(study, maker, subjects), meta_job(study, maker, start, leaves)
    return StudyGraph(study, setting, tuple(leaves), audits=audits, meta=meta)


def _of_stories(study: StudyConfig) -> StudyGraph:
    """The graph of a study of stories, which reads no benchmark."""
    jobs = story_jobs(study)
    empty = Benchmark(name="stories", split="", sets={}, panel=(), full_sets=(), retain_sets=(), shown_set=None)
    return StudyGraph(study, TaskContext(empty, study.model, study.template_args), (), stories=jobs)


def _maker(study: StudyConfig, rooms: Rooms) -> tuple[TrainingJobs, Mapping[str, str]]:
    """The maker of a study's jobs, and its forget sets by the names of their requests."""
    own = {f.name: getattr(study, f.name) for f in dataclasses.fields(TaskConfig)}
    made_of = fingerprint({**own, "requests": study.requests})
    if made_of not in rooms:
        check_model(study.model)
        setting = resolve_task(study)
        source = ContextSource.of(study, setting)
        check_given(study, setting.benchmark)
        if study.data.request is not None:
            raise ConfigError("data.request: picks a part for `expunge unlearn`; a study takes `requests`")
        links: Mapping[str, str] = {"": setting.benchmark.forget_set}
        if study.requests != 1:
            setting, links = with_requests(setting, study.requests)
            source = source.then("requests", {"requests": study.requests}).holding(setting)
        rooms[made_of] = TrainingJobs(setting, study.eval, source), links
    return rooms[made_of]


class Baselines(NamedTuple):
    """What a model is held against: the full model (None: the given one), the retain model's metrics, all retain
    models' records."""

    full: Job | None
    retain: Job | None
    shadows: Sequence[Job]


def check_given(study: StudyConfig, benchmark: Benchmark) -> None:
    """Where a benchmark trains no full model, the given one stands for it: once. Raises ConfigError."""
    if benchmark.full_sets:
        return
    if len(study.seeds.train) > 1:
        raise ConfigError(f"seeds.train: benchmark={benchmark.name} trains no full model; leave it at one seed")


def check_methods(study: StudyConfig) -> None:
    """Every method's name, settings and training settings. Raises ConfigError."""
    seen: list[str] = []
    for i, entry in enumerate(study.methods):
        where = f"methods[{i}]"
        for name in entry.from_models:
            if name not in seen:
                raise ConfigError(f"{where}.from: no earlier method is labelled {name!r}{nearest(name, seen)}")
        seen.append(entry_label(entry))
        args = unlearn_args(study, i, 0)
        if study.requests != 1 and "@" in seen[-1]:
            raise ConfigError(f"{where}.label: {seen[-1]!r} holds an @, which names the links where there are requests")
        if entry.trainer not in weight_edit_registry():
            chosen = objective(entry.trainer, entry.method_args, where=where)
            if not chosen.forgets:
                raise ConfigError(
                    f"{where}.trainer: {entry.trainer} does not unlearn; the full and the retain model (the "
                    "oracle) are in every study, so leave it out"
                )
            chained = chosen.spec.teacher == "start"
            if entry.from_models and not chained:
                raise ConfigError(f"{where}.from: only an edit reads other methods' models, {entry.trainer} is a loss")
            if chained and len(entry.from_models) != 1:
                raise ConfigError(
                    f"{where}.from: {entry.trainer} goes on from one earlier method's model, name its label"
                )
            check_run(chosen, args, f"{where}.args")
            continue
        edit = make_weight_edit(entry.trainer, entry.method_args, f"{where}.method")
        others = weight_edit_registry()[entry.trainer].others
        if others == "model" and not entry.from_models:
            raise ConfigError(f"{where}.from: missing; {entry.trainer} merges earlier methods, name their labels")
        if others == "model":
            check_count(getattr(edit, "weights", None), len(entry.from_models), f"{where}.method_args.")
        if others == "" and len(entry.from_models) > 1:
            raise ConfigError(f"{where}.from: {entry.trainer} edits one model, {len(entry.from_models)} were named")
        if others == "reinforced" and entry.from_models:
            raise ConfigError(f"{where}.from: {entry.trainer} trains its own second model; leave it out")


def _forget(
    study: StudyConfig,
    maker: TrainingJobs,
    links: Mapping[str, str],
    against: Baselines,
    train_seed: int,
    seed: int,
    tag: str,
) -> list[ModelNode]:
    """The unlearned models of one full model and one seed, in the order of the study's methods.

    links: the forget sets by the names of their requests, in order. Each model of a chain starts from the one before;
    `made` holds the last.
    """
    full = against.full
    leaves: list[ModelNode] = []
    made: dict[str, Job] = {}
    tag += f"-u{seed}" if len(study.seeds.unlearn) > 1 else ""
    for i, entry in enumerate(study.methods):
        label = entry_label(entry)
        args = unlearn_args(study, i, seed)
        shown = ", ".join(f"{k}={format_setting(v)}" for k, v in sorted({**entry.method_args, **entry.args}.items()))
        model = (
            made[entry.from_models[0]] if entry.from_models and entry.trainer not in weight_edit_registry() else full
        )
        for k, (link, rows) in enumerate(_links_of(entry, links).items()):
            name = f"{label}@{link}" if link else label
            later = tuple(links.values())[k + 1 :] if study.keep_later_requests else ()
            if entry.trainer in weight_edit_registry():
                model = _edit(maker, entry, name + tag, model, rows, made, args)
            else:
                sides = {"forget": (rows,), "retain": (maker.setting.benchmark.retain_set, *later)}
                chosen = objective(entry.trainer, entry.method_args)
                retain = against.retain.parents["records"] if against.retain else None
                watched = maker.to_watch(retain) if args.evaluate.on else None
                model = maker.forgetting(rows).fit(name + tag, model, chosen, sides, args, retain=watched)
            leaf = _leaf(maker, name + tag, "unlearn", train_seed, model, *against)
            leaves.append(dataclasses.replace(leaf, label=name, method=entry.trainer, settings=shown, seed=seed))
        if model is not None:
            made[label] = model
    return leaves


def _links_of(entry: MethodEntry, links: Mapping[str, str]) -> Mapping[str, str]:
    """The links of an entry's chain: one for each request, or a single one if the entry trains on no forget rows."""
    edit = weight_edit_registry().get(entry.trainer)
    return links if edit is None or edit.others == "reinforced" else {"": ""}


def _edit(
    maker: TrainingJobs,
    entry: MethodEntry,
    label: str,
    model: Job | None,
    rows: str,
    made: Mapping[str, Job],
    args: TrainArgs,
) -> Job:
    """An edit's job: of a model and its twin reinforced on some rows, of earlier methods' models, or of one model."""
    edit = make_weight_edit(entry.trainer, entry.method_args)
    others = weight_edit_registry()[entry.trainer].others
    if others == "reinforced":
        return maker.edited(label, edit, model, [maker.forgetting(rows).reinforced(label, model, args)])
    named = [made[name] for name in entry.from_models]
    return maker.edited(label, edit, named[0] if named and not others else model, named if others else [])


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
    """A model with its records and metrics."""
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
