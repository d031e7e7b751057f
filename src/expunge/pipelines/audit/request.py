"""`expunge audit`: the request, checked before any weight is read, as a study of finished models."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.audits import audit_registry, make_audit
from expunge.audits.run import DEFAULT_AUDITS
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import fingerprint
from expunge.data.examples import ExampleSet
from expunge.models.identity import model_identity
from expunge.models.load import load_tokenizer
from expunge.pipelines.output_folder import WORK, check_folder
from expunge.pipelines.study.config import FinishedModel, StudyConfig
from expunge.pipelines.study.finished_models import model_of
from expunge.pipelines.study.graph import StudyGraph, build_graph
from expunge.pipelines.study.resolve_task import benchmark_of
from expunge.pipelines.study.task_context import check_model, check_same_tokenizer

MODEL = "model"  # the label of the audited model
OPTIONS = {"unlearn": "MODEL", "retain": "--retain-model", "full": "--base"}  # the word that names a model, by its role
LEAST_ROWS = 4  # with fewer, an attack leaves too few to score
TOO_FEW = f"it trains on some of the rows to forget and scores others, so it needs at least {LEAST_ROWS} of them"
NEEDS_RETAIN = "without a retain model it has no number"
RETAIN_ROWS = 64  # retain rows for evaluation, unless data.args.retain_eval_rows is set
CONTENT = "answer_in_text"


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """A request of `expunge audit`.

    study: the settings of the model, the template and the rows (`benchmark=custom`). out: the output folder.
    retain_model: a model that never saw the rows. base: the model before unlearning. audits: names, or settings with a
    name; empty: the default audits.
    """

    study: StudyConfig
    out: Path
    retain_model: str | None = None
    base: str | None = None
    audits: tuple[str | Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class PreparedAudit:
    """A checked request. graph: its jobs. mark: the fingerprint of model and rows. not_run: reasons by audit."""

    request: AuditRequest
    graph: StudyGraph
    mark: str
    not_run: Mapping[str, str]

    @property
    def work(self) -> Path:
        """The folder of the jobs."""
        return self.request.out / WORK

    @property
    def roles(self) -> Mapping[str, FinishedModel]:
        """The models by role."""
        return {model.role: model for model in self.graph.study.finished_models}


def prepare_audit(request: AuditRequest, *, dry_run: bool = False) -> PreparedAudit:
    """Check the request, read the rows and plan the jobs. Raises ConfigError or DataError before weights are read.

    dry_run: write nothing in an existing output folder.
    """
    models = _models(request)
    for model in models:
        _check_source(request.study, model)
    audits = check_audit_names(request.audits or DEFAULT_AUDITS)
    study = _study(request, models)
    benchmark = benchmark_of(study)
    mark = _mark(request, benchmark.sets["forget"])
    check_folder(request.out, mark, noun="audit", parts="model or rows")
    own = load_tokenizer(str(study.model.tokenizer_source), study.model.tokenizer_args)
    for model in models[1:]:
        check_same_tokenizer(own, model.source, OPTIONS[model.role], study.model.tokenizer_args)
    entries, not_run = _entries(audits, len(benchmark.sets["forget_eval"]), request.retain_model)
    graph = _graph(dataclasses.replace(study, audits=tuple(entries)), request.out / WORK, dry_run=dry_run)
    return PreparedAudit(request, graph, mark, not_run)


def _graph(study: StudyConfig, work: Path, *, dry_run: bool) -> StudyGraph:
    """Return the graph of the study. A new output folder appears later, so checks of models note nothing in it."""
    if work.is_dir() and not dry_run:
        return build_graph(study)
    with tempfile.TemporaryDirectory() as place:
        graph = build_graph(dataclasses.replace(study, paths=dataclasses.replace(study.paths, store=place)))
    return dataclasses.replace(graph, study=dataclasses.replace(graph.study, paths=study.paths))


def _check_source(study: StudyConfig, model: FinishedModel) -> None:
    """Raise ConfigError for a wrong model, at the word that names it, with the nearest model folder here."""
    key = OPTIONS[model.role]
    try:
        check_model(model_of(study.model, model.source, model.revision), key=key)
    except ConfigError as error:
        text = str(error)
        text = text if text.startswith(key) else f"{key}: {text.removeprefix('model: ')}"
        folders = [path.parent.name for path in Path().glob("*/config.json")]
        near = nearest(model.source.rstrip("/"), folders).partition("?")
        hint = f"{near[0]}?" if near[1] and "did you mean" not in text else ""
        raise ConfigError(text + hint) from None


def check_audit_names(audits: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the audits as settings with a name. Raises ConfigError for a wrong name or setting."""
    entries = [{"name": entry} if isinstance(entry, str) else dict(entry) for entry in audits]
    known = audit_registry()
    for i, entry in enumerate(entries):
        name = entry.get("name")
        if name not in known:
            raise ConfigError(f"--audits: no audit named {name!r}{nearest(str(name), known)}")
        make_audit(entry, f"--audits[{i}]")
    return entries


def _models(request: AuditRequest) -> tuple[FinishedModel, ...]:
    model = request.study.model
    models = [FinishedModel(role="unlearn", label=MODEL, source=str(model.source), revision=model.model_args.revision)]
    if request.base is not None:
        models.append(FinishedModel(role="full", source=request.base))
    if request.retain_model is not None:
        models.append(FinishedModel(role="retain", source=request.retain_model))
    return tuple(models)


def _study(request: AuditRequest, models: tuple[FinishedModel, ...]) -> StudyConfig:
    """Return the study of the finished models: the user's settings, the store in the output folder, no audits yet."""
    study = request.study
    args = {"retain_eval_rows": RETAIN_ROWS, **study.data.args}
    metrics = tuple(dict.fromkeys((*study.eval.metrics, CONTENT)))
    paths = dataclasses.replace(study.paths, store=str(request.out / WORK), output_dir=str(request.out))
    return dataclasses.replace(
        study,
        name="audit",
        finished_models=models,
        data=dataclasses.replace(study.data, args=args),
        eval=dataclasses.replace(study.eval, metrics=metrics),
        paths=paths,
    )


def _entries(
    audits: Sequence[Mapping[str, Any]], n_forget: int, retain_model: str | None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the audits that can run, fitted to the number of rows, and the reason for each other one."""
    entries: list[dict[str, Any]] = []
    not_run: dict[str, str] = {}
    for entry in audits:
        name = str(entry["name"])
        spec = audit_registry()[name]
        fields: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(spec.cls)}
        trains = {"rows", "steps"} <= fields.keys()
        if retain_model is None and not spec.alone:
            not_run[name] = NEEDS_RETAIN
        elif trains and n_forget < LEAST_ROWS:
            not_run[name] = TOO_FEW
        elif trains and "rows" not in entry:
            entries.append({**entry, "rows": min(int(fields["rows"]), n_forget // 2)})
        else:
            entries.append(dict(entry))
    return entries, not_run


def _mark(request: AuditRequest, forget: ExampleSet) -> str:
    """Return the fingerprint of the model and the rows to forget. Other settings only add results to the folder."""
    model = request.study.model
    return fingerprint(
        {
            "model": model_identity(model),
            "rows": forget.fingerprint(),
        }
    )
