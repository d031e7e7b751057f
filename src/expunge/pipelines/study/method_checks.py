"""The checks of a study's methods: names, settings, and the names of the model's parts in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from expunge.core.errors import ConfigError, nearest
from expunge.core.names import PartName, names_in
from expunge.methods.api import registry as losses
from expunge.methods.objective import objective
from expunge.pipelines.study.config import MethodEntry, StudyConfig, entry_label, unlearn_args
from expunge.training.config import TrainArgs
from expunge.training.phases import check_run, names_of_args, part_names

if TYPE_CHECKING:
    from expunge.methods.weight_edits import WeightEditSpec
    from expunge.models.config import ModelConfig
    from expunge.models.wrapper_api import WrapperSpec


def check_methods(study: StudyConfig) -> None:
    """Check every method's name, settings and training settings. Raises ConfigError."""
    seen: list[str] = []
    wrappers: list[str] = []
    for i, entry in enumerate(study.methods):
        where = f"methods[{i}]"
        for name in entry.from_models:
            if name not in seen:
                raise ConfigError(f"{where}.from: no earlier method has the label {name!r}{nearest(name, seen)}")
            if name in wrappers:
                raise ConfigError(
                    f"{where}.from: {name} is a wrapper and has no weights of its own; name another method"
                )
        seen.append(entry_label(entry))
        args = unlearn_args(study, i, 0)
        if study.requests != 1 and "@" in seen[-1]:
            raise ConfigError(f"{where}.label: {seen[-1]!r} has an @, which names the models of requests")
        if wrapper_of(entry):
            wrappers.append(seen[-1])
            _check_wrapper(study, entry, where)
        elif edit := edit_of(entry):
            _check_edit(entry, edit, where)
        else:
            _check_loss(entry, args, where)


def check_part_names_of(study: StudyConfig) -> None:
    """Raise ConfigError if a setting names a module, a parameter or a layer that the model of a study lacks."""
    names = names_of_args(study.train, "train")
    for i, entry in enumerate(study.methods):
        where, args = f"methods[{i}]", unlearn_args(study, i, 0)
        if wrapper_of(entry):
            from expunge.models.wrapper_api import make_wrapper

            names += names_in(make_wrapper(entry.trainer, entry.method_args), f"{where}.method_args")
        elif edit_of(entry):
            from expunge.methods.weight_edits import make_weight_edit

            names += names_in(make_weight_edit(entry.trainer, entry.method_args), f"{where}.method_args")
        else:
            names += part_names(objective(entry.trainer, entry.method_args), args, where)
            continue
        names += names_of_args(args, f"{where}.args")
    if study.meta is not None:
        from expunge.pipelines.meta_evaluation.jobs import meta_part_names

        names += meta_part_names(study)
    compare_names(study, study.model, names)


def compare_names(study: StudyConfig, model: ModelConfig, names: list[PartName]) -> None:
    """Raise ConfigError if one of the names, or one in the settings of a study's audits, is no part of a model."""
    if study.audits:
        from expunge.pipelines.audit_jobs.jobs import check_audits

        names += [name for i, audit in enumerate(check_audits(study)) for name in names_in(audit, f"audits[{i}]")]
    if names:
        from expunge.models.trial import check_part_names

        check_part_names(model, Path(study.paths.store), names)


def wrapper_of(entry: MethodEntry) -> WrapperSpec | None:
    """Return the wrapper that an entry names. The names of losses are no wrappers, so they import none."""
    if entry.trainer in losses():
        return None
    from expunge.models.wrapper_api import wrapper_registry

    return wrapper_registry().get(entry.trainer)


def edit_of(entry: MethodEntry) -> WeightEditSpec | None:
    """Return the weight edit that an entry names. The names of losses are no edits, so they import none."""
    if entry.trainer in losses():
        return None
    from expunge.methods.weight_edits import weight_edit_registry

    return weight_edit_registry().get(entry.trainer)


def _check_wrapper(study: StudyConfig, entry: MethodEntry, where: str) -> None:
    from expunge.models.wrapper_api import make_wrapper, wrapper_registry

    make_wrapper(entry.trainer, entry.method_args, f"{where}.method")
    if len(entry.from_models) > 1:
        raise ConfigError(f"{where}.from: {entry.trainer} wraps one model; {len(entry.from_models)} are listed")
    spec = wrapper_registry()[entry.trainer]
    if spec.helper == "method" and not entry.from_models:
        raise ConfigError(f"{where}.from: missing; {entry.trainer} reads an unlearned model; name an earlier method")
    if study.requests != 1 and spec.helper != "method":
        raise ConfigError(f"{where}.trainer: {entry.trainer} wraps a model once; use it with requests=1")
    if entry.args and spec.helper in ("", "method"):
        raise ConfigError(f"{where}.args: {entry.trainer} trains nothing; leave args out")


def _check_loss(entry: MethodEntry, args: TrainArgs, where: str) -> None:
    if entry.trainer not in losses():
        from expunge.training.in_memory.method_kinds import other_kind

        if kind := other_kind(entry.trainer):
            raise ConfigError(f"{where}: no loss named {entry.trainer!r}; {kind}")
    loss = objective(entry.trainer, entry.method_args, where=where)
    if not loss.forgets:
        raise ConfigError(
            f"{where}.trainer: {entry.trainer} does not unlearn; every study trains the full and the "
            "retain model, so leave it out"
        )
    chained = loss.spec.teacher == "start"
    if entry.from_models and not chained:
        raise ConfigError(f"{where}.from: only a weight edit reads other methods' models; {entry.trainer} is a loss")
    if chained and len(entry.from_models) != 1:
        raise ConfigError(f"{where}.from: {entry.trainer} starts from one earlier method's model; name its label")
    check_run(loss, args, f"{where}.args")


def _check_edit(entry: MethodEntry, spec: WeightEditSpec, where: str) -> None:
    from expunge.methods.weight_edits import make_weight_edit
    from expunge.methods.weight_edits.merge import check_count

    edit = make_weight_edit(entry.trainer, entry.method_args, f"{where}.method")
    if spec.statistics and entry.args:
        raise ConfigError(f"{where}.args: {entry.trainer} trains nothing; leave args out")
    if spec.others == "model" and not entry.from_models:
        raise ConfigError(f"{where}.from: missing; {entry.trainer} merges earlier methods; name their labels")
    if spec.others == "model":
        check_count(getattr(edit, "weights", None), len(entry.from_models), f"{where}.method_args.")
    if spec.others == "" and len(entry.from_models) > 1:
        raise ConfigError(f"{where}.from: {entry.trainer} edits one model; {len(entry.from_models)} are listed")
    if spec.others == "reinforced" and entry.from_models:
        raise ConfigError(f"{where}.from: {entry.trainer} trains its own second model; leave it out")
