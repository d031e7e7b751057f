"""From a Study to its graph of jobs. All of it is checked here, before any weight is read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from expunge.core.errors import ConfigError, nearest
from expunge.methods.edits import edit_registry, make_edit
from expunge.methods.objective import objective
from expunge.study import work
from expunge.study.config import MethodEntry, Study, entry_label, unlearn_args
from expunge.study.job import Job
from expunge.study.maker import Maker, check_model, setting_of
from expunge.training.config import TrainArgs


@dataclass(frozen=True)
class Leaf:
    """One model of a study, with the jobs that make and measure it."""

    label: str
    role: str  # "full", "retain" or "unlearn"
    method: str | None
    settings: str
    train_seed: int
    seed: int | None
    model: Job
    records: Job
    metrics: Job


@dataclass(frozen=True)
class Graph:
    """A study as jobs."""

    study: Study
    setting: work.Setting
    leaves: tuple[Leaf, ...]

    @property
    def jobs(self) -> list[Job]:
        """What the study wants, in the order people read it."""
        return [leaf.metrics for leaf in self.leaves]


def build_graph(study: Study) -> Graph:
    """The graph of a study: base -> full, retain -> unlearn -> score -> metrics. Raises ConfigError or DataError."""
    check_model(study.model)
    check_methods(study)
    setting = setting_of(study)
    maker = Maker(setting, study.eval)
    start = maker.base() if study.model.scratch else None
    leaves: list[Leaf] = []
    for seed in study.seeds.train:
        tag = f"-s{seed}" if len(study.seeds.train) > 1 else ""
        models = {
            role: maker.fit(
                f"{role}{tag}",
                start,
                objective("finetune"),
                {"retain": getattr(setting.benchmark, f"{role}_sets")},
                dataclasses.replace(study.train, seed=seed),
            )
            for role in ("full", "retain")
        }
        retain = _leaf(maker, f"retain{tag}", "retain", seed, models["retain"], None)
        full = _leaf(maker, f"full{tag}", "full", seed, models["full"], retain.metrics)
        leaves += [dataclasses.replace(full, label="full"), dataclasses.replace(retain, label="retain")]
        for unlearn_seed in study.seeds.unlearn:
            leaves += _forget(study, maker, full.model, retain.metrics, seed, unlearn_seed, tag)
    return Graph(study, setting, tuple(leaves))


def check_methods(study: Study) -> None:
    """Every method's name, settings and training settings. Raises ConfigError."""
    seen: list[str] = []
    for i, entry in enumerate(study.methods):
        where = f"methods[{i}]"
        for name in entry.of:
            if name not in seen:
                raise ConfigError(f"{where}.of: no earlier method is labelled {name!r}{nearest(name, seen)}")
        seen.append(entry_label(entry))
        unlearn_args(study, i, 0)
        if entry.trainer not in edit_registry():
            if not objective(entry.trainer, entry.method_args, where=where).forgets:
                raise ConfigError(
                    f"{where}.trainer: {entry.trainer} does not unlearn; the full and the retain model (the "
                    "oracle) are in every study, so leave it out"
                )
            if entry.of:
                raise ConfigError(f"{where}.of: only an edit reads other methods' models, {entry.trainer} is a loss")
            continue
        make_edit(entry.trainer, entry.method_args, f"{where}.method")
        others = edit_registry()[entry.trainer].others
        if others == "model" and not entry.of:
            raise ConfigError(f"{where}.of: missing; {entry.trainer} merges earlier methods, name their labels")
        if others == "" and len(entry.of) > 1:
            raise ConfigError(f"{where}.of: {entry.trainer} edits one model, {len(entry.of)} were named")
        if others == "reinforced" and entry.of:
            raise ConfigError(f"{where}.of: {entry.trainer} trains its own second model; leave it out")


def _forget(study: Study, maker: Maker, full: Job, retain: Job, train_seed: int, seed: int, tag: str) -> list[Leaf]:
    """The unlearned models of one full model and one seed, in the order of the study's methods."""
    leaves: list[Leaf] = []
    made: dict[str, Job] = {}
    tag += f"-u{seed}" if len(study.seeds.unlearn) > 1 else ""
    for i, entry in enumerate(study.methods):
        label = entry_label(entry)
        args = unlearn_args(study, i, seed)
        if entry.trainer in edit_registry():
            made[label] = _edit(maker, entry, label + tag, full, made, args)
        else:
            benchmark = maker.setting.benchmark
            sides = {"forget": (benchmark.forget_set,), "retain": (benchmark.retain_set,)}
            made[label] = maker.fit(label + tag, full, objective(entry.trainer, entry.method_args), sides, args)
        leaf = _leaf(maker, label + tag, "unlearn", train_seed, made[label], retain)
        shown = ", ".join(f"{k}={v}" for k, v in sorted({**entry.method_args, **entry.args}.items()))
        leaves.append(dataclasses.replace(leaf, label=label, method=entry.trainer, settings=shown, seed=seed))
    return leaves


def _edit(maker: Maker, entry: MethodEntry, label: str, full: Job, made: dict[str, Job], args: TrainArgs) -> Job:
    """An edit's job: of the full model and its reinforced twin, of earlier methods' models, or of one model."""
    edit = make_edit(entry.trainer, entry.method_args)
    others = edit_registry()[entry.trainer].others
    if others == "reinforced":
        sides = {"retain": (maker.setting.benchmark.forget_set,)}
        return maker.edited(
            label, edit, full, [maker.fit(f"{label}-reinforced", full, objective("finetune"), sides, args)]
        )
    named = [made[name] for name in entry.of]
    return maker.edited(label, edit, named[0] if named and not others else full, named if others else [])


def _leaf(maker: Maker, name: str, role: str, train_seed: int, model: Job, retain: Job | None) -> Leaf:
    """A model with its records and metrics."""
    records = maker.records(name, model)
    return Leaf(
        label=name,
        role=role,
        method=None,
        settings="",
        train_seed=train_seed,
        seed=None,
        model=model,
        records=records,
        metrics=maker.metrics(name, records, retain),
    )
